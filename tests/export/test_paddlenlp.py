"""The programs under PaddleNLP's names: its deploy script's inputs and outputs, and read again."""

import json

import numpy as np
import paddle
import pytest

from ernie_vil2 import cli
from ernie_vil2.artefact.folder import Artefact
from ernie_vil2.config.load import load_config
from ernie_vil2.errors import UserError
from ernie_vil2.export.paddlenlp import write_programs
from ernie_vil2.models.dual_encoder import build_model
from ernie_vil2.weights.ours import save_checkpoint
from tests.support.shapes import write_run
from tools import eval as eval_tool
from tools import export as export_tool


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A configuration, its model, the model's checkpoint and the folder of its export."""
    folder = tmp_path_factory.mktemp("names")
    config = write_run(folder)
    paddle.seed(0)
    model = build_model(load_config(config).Arch)
    model.eval()
    save_checkpoint(model, folder / "ours", folder / "vocab.txt")
    argv = ["-c", config, "-w", folder / "ours", "--save-dir", folder / "exported"]
    argv = [*map(str, argv), "--paddlenlp-names", "--preprocess"]
    assert cli.run(export_tool.main, argv) == 0
    assert cli.run(export_tool.main, argv) == 0  # such a folder is an export, which is replaced
    return config, model, folder / "ours", folder / "exported"


def test_names_inputs_and_features_that_are_not_normalised(exported):
    """As export_model.py writes them, float pixels also where our own program takes uint8."""
    _, model, _, folder = exported
    artefact = Artefact.open(folder)
    assert {name for name in artefact.files if name.startswith("paddlenlp/")} >= {
        "paddlenlp/get_image_features.pdiparams",
        "paddlenlp/get_text_features.pdiparams",
    }
    rng = np.random.default_rng(0)
    pixels = paddle.to_tensor(rng.normal(size=[3, 3, 32, 32]).astype("float32"))
    ids = paddle.to_tensor([[1, 7, 2, 0], [1, 5, 6, 2]])
    for name, spec, given, tower, projection in (
        ("image", "pixel_values", pixels, model.image_tower, model.image_projection),
        ("text", "input_ids", ids, model.text_tower, model.text_projection),
    ):
        program = paddle.jit.load(str(folder / "paddlenlp" / f"get_{name}_features"))
        assert program._input_spec()[0].name == spec
        found = program(given).numpy()
        np.testing.assert_allclose(found, projection(tower(given)).numpy(), atol=1e-5)
        assert np.abs(np.linalg.norm(found, axis=1) - 1).max() > 0.01


def test_their_folder_is_evaluated_as_the_model_itself(exported, tmp_path):
    config, _, checkpoint, folder = exported
    reports = []
    for weights in (checkpoint, folder / "paddlenlp"):
        argv = ["-c", config, "-w", weights, "--out", tmp_path, "--examples", "0"]
        assert cli.run(eval_tool.main, [*map(str, argv)]) == 0
        report = json.loads((tmp_path / "report.json").read_text())
        reports.append({key: report[key] for key in report if key != "weights"})
    assert reports[0] == reports[1]


def test_images_of_another_size_are_one_line(exported, tmp_path, capsys):
    config, _, _, folder = exported
    argv = ["-c", config, "-w", folder / "paddlenlp", "--out", tmp_path]
    sizes = ["-o", "Transform.size=48", "Arch.Image.img_size=48"]
    assert cli.run(eval_tool.main, [*map(str, argv), *sizes]) == 2
    assert "takes images of 32 x 32 pixels: set Transform.size" in capsys.readouterr().err


def test_programs_that_are_not_the_model_are_refused(exported, tmp_path):
    """And damaged ones are one line when they are read."""
    config, _, _, folder = exported
    paddle.seed(1)
    other = build_model(load_config(config).Arch)
    other.eval()
    (tmp_path / "golden.npz").write_bytes((folder / "golden.npz").read_bytes())
    (tmp_path / "vocab.txt").write_bytes((folder / "vocab.txt").read_bytes())
    artefact = Artefact.open(folder)
    draft = Artefact(**{**fields(artefact), "folder": tmp_path, "files": {}})
    with pytest.raises(UserError, match="give other embeddings than the trained model"):
        write_programs(other, draft)
    (tmp_path / "paddlenlp" / "get_text_features.pdiparams").write_bytes(b"nothing")
    argv = ["-c", config, "-w", tmp_path / "paddlenlp", "--out", tmp_path / "eval"]
    assert cli.run(eval_tool.main, [*map(str, argv)]) == 2


def fields(artefact: Artefact) -> dict:
    return {name: value for name, value in vars(artefact).items() if not name.startswith("_")}
