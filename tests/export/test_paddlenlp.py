"""The programs under PaddleNLP's names: its deploy script's inputs and outputs, and read again."""

import json
import shutil
from dataclasses import replace

import numpy as np
import paddle
import pytest

from ernie_vil2 import cli
from ernie_vil2.artefact.folder import Artefact
from ernie_vil2.errors import UserError
from ernie_vil2.export import place
from ernie_vil2.export.paddlenlp import write_programs
from ernie_vil2.models.dual_encoder import build_model
from ernie_vil2.weights.ours import save_checkpoint
from tests.support.shapes import write_run
from tools import eval as eval_tool


def draft(tiny_artefact, folder) -> Artefact:
    """A copy of an export that is still being made."""
    return replace(Artefact.open(shutil.copytree(tiny_artefact, folder)), files={})


@pytest.fixture(scope="module")
def exported(tiny_artefact, tiny_model, tmp_path_factory):
    artefact = draft(tiny_artefact, tmp_path_factory.mktemp("names") / "exported")
    assert write_programs(tiny_model, artefact) < 1e-5
    artefact.save()
    return artefact.folder


def test_names_inputs_and_features_that_are_not_normalised(exported, tiny_model):
    """As its export_model.py writes them; and the folder is an export, which one may replace."""
    assert {name for name in Artefact.open(exported).files if "/get_" in name} >= {
        "paddlenlp/get_image_features.pdiparams",
        "paddlenlp/get_text_features.pdiparams",
    }
    assert place.find(exported) == exported
    rng = np.random.default_rng(0)
    pixels = paddle.to_tensor(rng.normal(size=[3, 3, 16, 16]).astype("float32"))
    ids = paddle.to_tensor([[1, 7, 2, 0], [1, 5, 6, 2]])
    for name, spec, given, tower, projection in (
        ("image", "pixel_values", pixels, tiny_model.image_tower, tiny_model.image_projection),
        ("text", "input_ids", ids, tiny_model.text_tower, tiny_model.text_projection),
    ):
        program = paddle.jit.load(str(exported / "paddlenlp" / f"get_{name}_features"))
        assert program._input_spec()[0].name == spec
        expected = tower(given) if projection is None else projection(tower(given))
        found = program(given).numpy()
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5, atol=1e-5)
        assert np.abs(np.linalg.norm(found, axis=1) - 1).max() > 0.01


def test_their_folder_is_evaluated_as_the_model_itself(exported, tiny_model, tmp_path, capsys):
    config = write_run(tmp_path, Metric={"bootstrap": 0})
    save_checkpoint(tiny_model, tmp_path / "ours", exported / "vocab.txt")
    fixed = [f"Tokenizer.vocab_file={exported / 'vocab.txt'}", "Tokenizer.max_len=8"]
    shared = ["-c", config, "--out", tmp_path / "eval", "--examples", "0", "-o", *fixed]
    arch = ["Arch=" + json.dumps(tiny_model.arch)]

    def report(weights, size) -> dict | None:
        argv = [*shared, *arch, f"Transform.size={size}", "-w", weights]
        if cli.run(eval_tool.main, [*map(str, argv)]):
            return None
        report = json.loads((tmp_path / "eval" / "report.json").read_text())
        return {key: value for key, value in report.items() if key != "weights"}

    expected = report(tmp_path / "ours", 16)
    assert expected is not None and report(exported / "paddlenlp", 16) == expected
    capsys.readouterr()
    arch = ["Arch.Image.img_size=48"]
    assert report(exported / "paddlenlp", 48) is None
    assert "takes images of 16 x 16 pixels: set Transform.size" in capsys.readouterr().err


def test_programs_that_are_not_the_model_are_refused(tiny_artefact, tiny_model, tmp_path):
    paddle.seed(1)
    other = build_model(tiny_model.arch)
    other.eval()
    with pytest.raises(UserError, match="give other embeddings than the trained model"):
        write_programs(other, draft(tiny_artefact, tmp_path / "draft"))


def test_damaged_programs_are_one_line(exported, tmp_path, capsys):
    folder = shutil.copytree(exported / "paddlenlp", tmp_path / "programs")
    (folder / "get_text_features.pdiparams").write_bytes(b"nothing")
    argv = ["-c", write_run(tmp_path), "-w", folder, "-o", "Transform.size=16"]
    assert cli.run(eval_tool.main, [*map(str, argv), "Arch.Image.img_size=16"]) == 2
    assert "get_text_features cannot be loaded by Paddle" in capsys.readouterr().err
