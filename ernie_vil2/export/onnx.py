"""ONNX programs from an exported model's, by paddle2onnx, and their proof by ONNX Runtime."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ernie_vil2.artefact.folder import TOWERS, Artefact
from ernie_vil2.errors import UserError

OPSET = 17  # the first with LayerNormalization: one kernel in every runtime, not nine operators
INSTALL = 'pip install "onnx<1.18" onnxruntime "paddle2onnx>=1.3,<2"'
_MOST = 2**31 - 2**24  # bytes of weights; protobuf's limit less room for the program itself
OUTPUTS = {"image": "image_embeds", "text": "text_embeds"}


def to_onnx(source: Path, target: Path) -> None:
    """Write `target/image.onnx` and `text.onnx` of the fp32 programs in `source`.

    `image`: `pixel_values` as the program takes them, [batch, ...] -> `image_embeds` float32
    [batch, D]. `text`: `input_ids` int64 [batch, length] -> `text_embeds` float32 [batch, D].
    Both for any batch, `text` for any length; L2-normalised.

    Raises:
        UserError: packages that are missing; programs of Paddle 3, which paddle2onnx 1.3 cannot
            read; a program above 2 GiB, which one ONNX file cannot hold.
    """
    source, target = Path(source), Path(target)
    for tower in TOWERS:
        if not (source / f"{tower}.pdmodel").is_file():
            raise UserError(
                f"{source / tower}.pdmodel is missing, and paddle2onnx reads no other: "
                "export ONNX with Paddle 2.6"
            )
        size = (source / f"{tower}.pdiparams").stat().st_size
        if size > _MOST:
            raise UserError(
                f"{source / tower}.pdiparams has {size / 2**30:.1f} GiB: one ONNX file holds at "
                "most 2 GiB; leave out --onnx"
            )
    paddle2onnx = _package("paddle2onnx")
    target.mkdir(parents=True, exist_ok=True)
    for tower in TOWERS:
        stem = source / tower
        converted = paddle2onnx.export(
            f"{stem}.pdmodel",
            f"{stem}.pdiparams",
            opset_version=OPSET,
            auto_upgrade_opset=False,
            verbose=False,
        )
        if not converted:  # the reason went to the log
            raise UserError(f"{stem}.pdmodel: paddle2onnx could not convert it to opset {OPSET}")
        (target / f"{tower}.onnx").write_bytes(_tidy(converted, tower))


def _tidy(converted: bytes, tower: str) -> bytes:
    """Multiply out constants that are products; give dimensions and the output their names."""
    onnx = _package("onnx")
    model = onnx.load_from_string(converted)
    graph = model.graph
    _fold_products(onnx, graph)
    (output,) = graph.output
    for node in graph.node:
        node.output[:] = [OUTPUTS[tower] if o == output.name else o for o in node.output]
    output.name = OUTPUTS[tower]
    for value, names in ((graph.input[0], ("batch", "length")), (output, ("batch",))):
        for dim, name in zip(value.type.tensor_type.shape.dim, names):
            if dim.dim_param:
                dim.dim_param = name
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _fold_products(onnx: ModuleType, graph: Any) -> None:
    """Constants of equal shape that are multiplied become one.

    paddle2onnx makes the padding's word embedding zero by a factor as large as the whole table,
    which is a fifth of the text program's file.
    """
    constants = {node.output[0]: node for node in graph.node if node.op_type == "Constant"}
    readers = Counter(name for node in graph.node for name in node.input)
    gone = []
    for node in graph.node:
        if node.op_type != "Mul" or not all(name in constants for name in node.input):
            continue
        factors = [constants[name] for name in node.input]
        tensors = [factor.attribute[0].t for factor in factors]
        if tensors[0].dims != tensors[1].dims or any(readers[name] > 1 for name in node.input):
            continue
        product = np.multiply(*map(onnx.numpy_helper.to_array, tensors))
        tensors[0].CopyFrom(onnx.numpy_helper.from_array(product, node.output[0]))
        factors[0].output[0] = node.output[0]
        gone += [node, factors[1]]
    for node in gone:
        graph.node.remove(node)


def check_onnx(folder: Path, artefact: Artefact, bound: float = 1e-5) -> dict[str, float]:
    """Run both ONNX programs on the artefact's golden images and texts.

    They go through together, one by one and, for texts, with more padding, so that a program that
    depends on the shape of its input shows.

    Returns:
        {"image", "text"}: the largest difference from the trained model's embeddings.

    Raises:
        UserError: onnxruntime is missing, or a difference above `bound`.
    """
    golden, transform = artefact.golden(), artefact.transform()
    ids = artefact.tokenizer()(golden.texts)
    pixels = np.stack([transform(image) for image in golden.images])
    shortest = ids[:, : max(1, int((ids != 0).sum(1).max()))]
    found = {
        "image": (golden.image_embeds, [pixels, *pixels[:, None]]),
        "text": (golden.text_embeds, [ids, shortest, *shortest[:, None]]),
    }
    differences = {}
    for tower, (expected, batches) in found.items():
        run = session(Path(folder) / f"{tower}.onnx")
        outputs = [run(batch) for batch in batches]
        alone = np.concatenate(outputs[-len(expected) :])
        together = outputs[: -len(expected)]
        differences[tower] = max(float(np.abs(y - expected).max()) for y in [alone, *together])
        if not differences[tower] <= bound:  # NaN too
            raise UserError(
                f"{folder}/{tower}.onnx gives other embeddings than the trained model (largest "
                f"difference {differences[tower]:.2g}, expected at most {bound}): leave out --onnx"
            )
    return differences


def session(path: Path, threads: int = 0) -> Callable[[np.ndarray], np.ndarray]:
    """The program of an ONNX file on the CPU, as a function from its input array to its output.

    Args:
        threads: 0 for one per core.
    """
    onnxruntime = _package("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    runner = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (name,) = (value.name for value in runner.get_inputs())
    return lambda array: runner.run(None, {name: array})[0]


def _package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"ONNX needs {name} ({error}): {INSTALL}") from None
