"""An export as a function, which Python programs call as the command does."""

import paddle
import pytest

from ernie_vil2.artefact.folder import Artefact
from ernie_vil2.config.load import load_config
from ernie_vil2.errors import UserError
from ernie_vil2.export.pipeline import Options, export_model
from ernie_vil2.weights.ours import save_checkpoint
from tests.support.shapes import write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A configuration's path, and a checkpoint of its model."""
    from ernie_vil2.models.dual_encoder import build_model

    folder = tmp_path_factory.mktemp("run")
    config = write_run(folder)
    model = build_model(load_config(config).Arch)
    save_checkpoint(model, folder / "checkpoint", transform={"eval": "clip"})
    return config, folder / "checkpoint"


def test_what_it_returns_and_says(run, tmp_path, capsys):
    path, checkpoint = run
    said: list = []
    on_paddle2 = paddle.__version__ < "3"
    options = Options(
        prompts=["{} here"],
        preprocess=True,
        tensorrt=3 if on_paddle2 else 0,
        paddlenlp_names=True,
    )
    (tmp_path / "link").symlink_to("exported")
    target = export_model(
        checkpoint, load_config(path), tmp_path / "link", options, say=said.append
    )
    assert target == tmp_path / "exported"
    artefact = Artefact.open(target)
    assert artefact.prompts == ["{} here"] and artefact.preprocess
    assert artefact.preprocessing == "clip"  # as the checkpoint says
    assert "paddlenlp/get_image_features.pdiparams" in artefact.files
    assert artefact.golden_made == {"device": "cpu", "precision": "float32, TF32 off"}
    if on_paddle2:
        assert artefact.tensorrt == {"max_batch": 3, "max_len": artefact.max_len}
        assert "TensorRT: shapes of up to 3 images or texts" in said[1]
        # and such a folder is an export, which another one may replace
        export_model(checkpoint, load_config(path), tmp_path / "link", say=said.append)
        assert Artefact.open(target).tensorrt == {}
    assert said[0].startswith("fp32: largest difference from the model ")
    assert said[-1] == f"exported to {tmp_path / 'link'}"
    assert capsys.readouterr().out == ""


def test_an_unknown_precision(run, tmp_path):
    path, checkpoint = run
    with pytest.raises(UserError, match=r'^no precision "int4"'):
        export_model(checkpoint, load_config(path), tmp_path / "new", Options(["int4"]))
    assert list(tmp_path.iterdir()) == []


def test_a_precision_needs_a_set_to_compare_on(run, tmp_path):
    path, checkpoint = run
    config = load_config(path, ["DataLoader.Eval=null"])
    with pytest.raises(UserError, match=r"mine\.yaml has no DataLoader\.Eval to compare fp16 with"):
        export_model(
            checkpoint, config, tmp_path / "new", Options(["fp16"]), config_name="mine.yaml"
        )
    assert list(tmp_path.iterdir()) == []
