"""ONNX programs give the trained model's embeddings for every shape, or nobody gets them."""

import shutil
import sys

import numpy as np
import onnx
import paddle
import pytest

from ernie_vil2.artefact.folder import Artefact
from ernie_vil2.errors import UserError
from ernie_vil2.export import onnx as export_onnx
from ernie_vil2.export.programs import export

on_paddle2 = pytest.mark.skipif(paddle.__version__ >= "3", reason="paddle2onnx 1.3 reads .pdmodel")


@pytest.fixture(scope="module")
def folder(tiny_artefact, tmp_path_factory):
    target = tmp_path_factory.mktemp("onnx")
    export_onnx.to_onnx(tiny_artefact / "fp32", target)
    return target


@on_paddle2
def test_any_batch_and_length(folder, tiny_model):
    rng = np.random.default_rng(0)
    image, text = (export_onnx.session(folder / f"{tower}.onnx", 1) for tower in ("image", "text"))
    for batch in (1, 2, 5):
        pixels = rng.normal(size=[batch, 3, 16, 16]).astype("float32")
        expected = tiny_model.encode_image(paddle.to_tensor(pixels)).numpy()
        np.testing.assert_allclose(image(pixels), expected, atol=1e-6)
        for length in (1, 3, 8):
            ids = rng.integers(1, 15, [batch, length])
            ids[0, (length + 1) // 2 :] = 0
            expected = tiny_model.encode_text(paddle.to_tensor(ids)).numpy()
            np.testing.assert_allclose(text(ids), expected, atol=1e-6)


@on_paddle2
def test_golden_vectors(folder, tiny_artefact):
    differences = export_onnx.check_onnx(folder, Artefact.open(tiny_artefact))
    assert set(differences) == {"image", "text"}
    assert max(differences.values()) < 1e-6


@on_paddle2
def test_another_models_program_is_refused(folder, tiny_artefact, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    model = onnx.load(tmp_path / "text.onnx")
    tensor = max(
        (node.attribute[0].t for node in model.graph.node if node.op_type == "Constant"),
        key=lambda t: len(t.raw_data),
    )
    values = onnx.numpy_helper.to_array(tensor)
    tensor.CopyFrom(
        onnx.numpy_helper.from_array(
            values + np.linspace(0, 1, values.shape[-1], dtype="float32"), tensor.name
        )
    )
    onnx.save(model, tmp_path / "text.onnx")
    with pytest.raises(UserError, match=r"text.onnx gives other embeddings .* expected at most 1e"):
        export_onnx.check_onnx(tmp_path, Artefact.open(tiny_artefact))


@on_paddle2
@pytest.mark.parametrize(
    "tower,feed,shape",
    [
        ("image", "pixel_values", ["batch", 3, 16, 16]),
        ("text", "input_ids", ["batch", "length"]),
    ],
)
def test_names_and_operators(folder, tower, feed, shape):
    model = onnx.load(folder / f"{tower}.onnx")
    described = [
        (value.name, [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim])
        for value in (*model.graph.input, *model.graph.output)
    ]
    assert described == [(feed, shape), (f"{tower}_embeds", ["batch", 12])]
    assert model.opset_import[0].version == export_onnx.OPSET
    assert "LayerNormalization" in {node.op_type for node in model.graph.node}


@on_paddle2
def test_the_word_embeddings_are_there_once(folder, tiny_model):
    (table,) = (p for n, p in tiny_model.named_parameters() if "word_embeddings" in n)
    model = onnx.load(folder / "text.onnx")
    shapes = [n.attribute[0].t.dims for n in model.graph.node if n.op_type == "Constant"]
    assert shapes.count(table.shape) == 1


@on_paddle2
def test_image_program_of_bytes(tiny_model, tiny_artefact, tmp_path):
    artefact = Artefact.open(tiny_artefact)
    exported = export(tiny_model, artefact.tokenizer(), tmp_path / "bytes", preprocess=True)
    export_onnx.to_onnx(exported.folder / "fp32", tmp_path / "onnx")
    differences = export_onnx.check_onnx(tmp_path / "onnx", exported)
    assert max(differences.values()) < 2e-6


def test_programs_of_paddle_3(tmp_path):
    (tmp_path / "image.json").touch()
    with pytest.raises(UserError, match=r"image.pdmodel is missing.*export ONNX with Paddle 2\.6"):
        export_onnx.to_onnx(tmp_path, tmp_path / "onnx")


def test_too_large_for_one_file(tmp_path):
    (tmp_path / "image.pdmodel").touch()
    with open(tmp_path / "image.pdiparams", "wb") as file:
        file.truncate(3 * 2**30)  # takes no room on the disk
    with pytest.raises(UserError, match=r"has 3\.0 GiB: one ONNX file holds at most 2 GiB"):
        export_onnx.to_onnx(tmp_path, tmp_path / "onnx")


def test_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"ONNX needs onnxruntime .*: pip install .*paddle2onnx"):
        export_onnx.session("any.onnx")
