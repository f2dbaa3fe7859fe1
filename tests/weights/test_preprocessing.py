"""A model is evaluated with what it was trained with: the choice travels with its weights."""

import shutil

import numpy as np
import pytest
import yaml

from ernie_vil2 import cli
from ernie_vil2.artefact.folder import Artefact
from ernie_vil2.config.load import load_config
from ernie_vil2.data.transforms import eval_pixels, eval_transform
from ernie_vil2.errors import UserError
from ernie_vil2.preprocessing import PREPROCESSINGS, preprocessing_of
from ernie_vil2.weights.conversion import convert
from ernie_vil2.weights.ours import save_checkpoint
from ernie_vil2.weights.preprocessing import choose_preprocessing, own_preprocessing
from tests.support.sealing import reseal
from tests.support.shapes import write_run
from tools import eval as eval_tool

CLIP, OFFICIAL = PREPROCESSINGS["clip"], PREPROCESSINGS["official"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A configuration, and its model as one that was trained for CLIP's pixels."""
    from ernie_vil2.models.dual_encoder import build_model

    folder = tmp_path_factory.mktemp("clip")
    config = write_run(folder)
    model = build_model(load_config(config).Arch)
    save_checkpoint(model, folder / "ours", folder / "vocab.txt", {"eval": "clip"})
    save_checkpoint(model, folder / "plain", folder / "vocab.txt")
    return folder


def test_the_weights_decide_unless_the_configuration_does(folder, logged):
    run, plain = folder / "run.yaml", load_config(folder / "run.yaml")
    assert choose_preprocessing(folder / "ours", plain) == CLIP
    assert choose_preprocessing(folder / "plain", plain) == OFFICIAL
    own = load_config(run, ["Transform.std=[0.5, 0.5, 0.5]"])
    assert choose_preprocessing(folder / "plain", own) == OFFICIAL._replace(std=(0.5, 0.5, 0.5))
    assert logged.text == ""
    squashed = load_config(run, ["Transform.eval=chinese_clip"])
    assert choose_preprocessing(folder / "ours", squashed).name == "chinese_clip"
    assert "chinese_clip with mean" in logged.text and "trained for clip with mean" in logged.text


def test_a_run_that_states_it_leaves_it_in_its_checkpoints(folder, tmp_path):
    """And one that does not, as all that were made before, asks for nothing."""
    for override, expected in (("Transform.eval=paddlenlp", "paddlenlp"), ("Global.seed=1", None)):
        (tmp_path / "model.safetensors").write_bytes(b"")
        load_config(folder / "run.yaml", [override]).dump(tmp_path / "config.yaml")
        assert own_preprocessing(tmp_path).get("eval") == expected


def test_a_name_that_this_version_lacks_is_one_line(folder, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "config.yaml").write_text("Transform: {eval: siglip}\n")
    with pytest.raises(UserError, match=r"Transform\.eval.*siglip.*official, paddlenlp"):
        own_preprocessing(tmp_path)


def test_it_travels_through_a_conversion(folder, tmp_path):
    """And through an export: tests/export/test_pipeline.py."""
    convert(str(folder / "ours"), "ernie_vil2", str(tmp_path / "again"))
    assert preprocessing_of(own_preprocessing(tmp_path / "again")) == CLIP


def test_servers_prepare_pictures_as_the_export_says(tiny_artefact, tmp_path):
    target = shutil.copytree(tiny_artefact, tmp_path / "model")

    def state(**image) -> None:
        content = yaml.safe_load((target / "inference.yml").read_text(encoding="utf-8"))
        content["image"].pop("preprocessing", None)
        content["image"].update(image)
        (target / "inference.yml").write_text(yaml.safe_dump(content, allow_unicode=True))
        reseal(target)

    image = np.random.default_rng(0).integers(0, 256, (50, 41, 3), np.uint8)
    for preprocess, make in ((False, eval_transform), (True, eval_pixels)):
        state(preprocessing="paddlenlp", preprocess=preprocess)
        found = Artefact.open(target).transform()(image)
        np.testing.assert_array_equal(found, make(16, name="paddlenlp")(image))
        assert not np.array_equal(found, make(16)(image))
    state()  # as exports before had it
    assert Artefact.open(target).preprocessing == "official"
    state(preprocessing="squash")
    with pytest.raises(UserError, match="preprocessing 'squash': expected one of official"):
        Artefact.open(target)


def test_an_evaluation_goes_by_it(folder, tmp_path):
    """The command embeds what the weights ask for, as it does when the configuration asks."""

    def features(weights, *overrides) -> str:
        argv = ["-c", folder / "run.yaml", "-w", folder / weights, "--out", tmp_path / "eval"]
        argv = [*map(str, argv), "--examples", "0", "--features", str(tmp_path / "a")]
        assert cli.run(eval_tool.main, [*argv, "-o", "Metric.bootstrap=0", *overrides]) == 0
        return (tmp_path / "a_imgs.img_feat.jsonl").read_text()

    by_weights = features("ours")
    assert by_weights == features("plain", "Transform.eval=clip")
    assert by_weights == features("ours", "Transform.eval=clip")
    assert by_weights != features("plain") == features("ours", "Transform.eval=official")
