"""The shapes for TensorRT are those that the programs have on the least and the largest input."""

import re
import shutil

import paddle
import pytest

from ernie_vil2.artefact.folder import Artefact
from ernie_vil2.data.tokenize import Tokenizer
from ernie_vil2.errors import UserError
from ernie_vil2.export.programs import export
from ernie_vil2.export.tensorrt import collect_shapes

on_paddle2 = pytest.mark.skipif(paddle.__version__ >= "3", reason="Paddle 3 writes no .pdmodel")


def shapes(path) -> dict[str, tuple]:
    """Name -> (least, most frequent, largest) shape."""
    found = {}
    for block in path.read_text().split("shape_range_info {")[1:]:
        name = re.search(r'name: "(.*)"', block)[1]
        ends = (re.findall(rf"{end}_shape: (\d+)", block) for end in ("min", "opt", "max"))
        found[name] = tuple(tuple(map(int, end)) for end in ends)
    return found


@on_paddle2
@pytest.mark.parametrize("preprocess", [False, True])
def test_the_shapes_of_every_tensor(tiny_model, tiny_artefact, tmp_path, preprocess):
    tokenizer = Tokenizer(tiny_artefact / "vocab.txt", 8)
    artefact = export(tiny_model, tokenizer, tmp_path, preprocess=preprocess)
    collect_shapes(artefact, 5)
    artefact.save()
    artefact = Artefact.open(tmp_path)
    assert artefact.tensorrt == {"max_batch": 5, "max_len": 8}
    pixels = [16, 16, 3] if preprocess else [3, 16, 16]
    for tower, feed, least, largest in (
        ("image", "pixel_values", (1, *pixels), (5, *pixels)),
        ("text", "input_ids", (1, 1), (5, 8)),
    ):
        found = shapes(artefact.shapes(tower))
        assert found[feed] == (least, largest, largest)
        # whatever Paddle cuts out for TensorRT, the shapes of its inputs are there
        assert inputs(artefact.program(tower)[0]) <= set(found)
        # the embeddings, before and after they are normalised
        assert ((1, 12), (5, 12), (5, 12)) in found.values()


def inputs(program) -> set[str]:
    """What the operators of a program read."""
    paddle.enable_static()
    try:
        block = paddle.static.Program.parse_from_string(program.read_bytes()).global_block()
        ops = [op for op in block.ops if op.type not in ("feed", "fetch")]
        return {name for op in ops for name in op.input_arg_names}
    finally:
        paddle.disable_static()


@on_paddle2
def test_shapes_are_sealed_and_each_tower_has_its_own(tiny_artefact, tmp_path):
    folder = shutil.copytree(tiny_artefact, tmp_path / "model")
    artefact = Artefact.open(folder)
    with pytest.raises(UserError, match="has no shapes for TensorRT: export it with --tensorrt"):
        artefact.shapes("image")
    collect_shapes(artefact, 2)
    artefact.save()
    image, text = (Artefact.open(folder).shapes(tower) for tower in ("image", "text"))
    assert image != text and "pixel_values" not in text.read_text()
    image.write_text(text.read_text())
    with pytest.raises(UserError, match=r"tensorrt/image\.pbtxt is damaged or was changed"):
        Artefact.open(folder).shapes("image")


@pytest.mark.skipif(paddle.__version__ < "3", reason="Paddle 2 writes .pdmodel")
def test_programs_of_paddle_3(tiny_artefact):
    with pytest.raises(UserError, match=r"image\.json is a program of Paddle 3.*Paddle 2\.6"):
        collect_shapes(Artefact.open(tiny_artefact), 2)
