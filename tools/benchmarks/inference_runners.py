"""In the processes of `bench.py inference`: what makes the model, and what runs it."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHORTEST, LONGEST = 8, 20  # tokens of the texts, [CLS] and [SEP] among them
_TINY = {
    "embed_dim": None,
    "Image": {"img_size": 32, "patch_size": 16, "embed_dim": 64, "depth": 2, "num_heads": 1},
    "Text": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1},
}
_BASE = {
    "embed_dim": None,
    "Image": {"name": "CLIP_vit_base_patch16_224"},
    "Text": {"name": "ernie-3.0-base-zh"},
}


# -- making the model ------------------------------------------------------------------------------


def prepare(folder: str, weights: str | None, config: str | None, tiny: bool) -> dict:
    """Write FOLDER/model, an artefact in all precisions of this CPU with ONNX programs, and
    FOLDER/paddlenlp for its ErnieViLModel.

    Returns `{"precisions": [...], "missing": {name of a runner: why it cannot run}}`.
    """
    import numpy as np
    from benchmarks.inference_tables import ONNX, OURS, PEER

    from ernie_vil2 import processor
    from ernie_vil2.data.tokenize import Tokenizer
    from ernie_vil2.errors import UserError
    from ernie_vil2.export.onnx import session, to_onnx
    from ernie_vil2.export.programs import export
    from ernie_vil2.export.quantize import quantize
    from ernie_vil2.weights.paddlenlp import save_paddlenlp
    from ernie_vil2.weights.vocabulary import own_vocabulary

    folder, missing = Path(folder), {}
    model = _model(weights, config, tiny)
    vocabulary = own_vocabulary(weights) if weights else {}
    if not vocabulary:
        vocabulary = {"vocab_file": _vocabulary(folder, model.text_tower.vocab_size)}
    artefact = export(model, Tokenizer(**vocabulary), folder / "model")
    try:
        save_paddlenlp(model, folder / "paddlenlp")
    except UserError as error:
        missing[PEER] = str(error)
    try:
        to_onnx(artefact.folder / "fp32", artefact.folder / "onnx")
        session(artefact.folder / "onnx" / "text.onnx")
    except UserError as error:
        missing[ONNX] = str(error)

    loose = {"min_cosine": 0.0}  # what a precision costs is tools/export.py's to measure
    reason = processor.why_not("bf16", processor.flags())
    if reason is None:
        artefact.precisions["bf16"] = loose
    else:
        missing[f"{OURS}, bf16"] = reason
    try:
        rng = np.random.default_rng(0)
        batches = {
            "image": [images(rng, 8, artefact.image_size)],
            "text": [texts(rng, 8, model.text_tower.vocab_size)],
        }
        for tower, batch in batches.items():
            quantize(artefact.folder / "fp32", artefact.folder / "int8", tower, batch)
        artefact.precisions["int8"] = loose
    except UserError as error:
        missing[f"{OURS}, int8"] = str(error)
    artefact.save()
    return {"precisions": list(artefact.precisions), "missing": missing}


def _model(weights, config, tiny):
    import paddle

    from ernie_vil2.models.dual_encoder import build_model
    from ernie_vil2.weights.load import load

    if weights:
        return load(weights, config)
    arch = _BASE
    if tiny:
        arch = {key: {**_BASE[key], **node} if node else node for key, node in _TINY.items()}
    paddle.seed(0)
    model = build_model(arch)
    model.eval()
    return model


def _vocabulary(folder: Path, size: int) -> str:
    """So many tokens, most of them Chinese characters, each of which is a token of a text."""
    tokens = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]"]
    tokens += [chr(0x4E00 + number) for number in range(min(20000, size - len(tokens)))]
    tokens += [f"word{number}" for number in range(size - len(tokens))]
    path = folder / "vocab.txt"
    path.write_text("\n".join(tokens), encoding="utf-8")
    return str(path)


def images(rng, batch: int, size: int):
    """float32 [batch, 3, size, size]."""
    return rng.standard_normal([batch, 3, size, size], "float32")


def texts(rng, batch: int, vocab_size: int):
    """int64 [batch, 20] of 8 to 20 tokens, padded with 0."""
    ids = rng.integers(5, vocab_size, [batch, LONGEST])
    for row, length in zip(ids, rng.integers(SHORTEST, LONGEST + 1, batch)):
        row[length:] = 0
    return ids


# -- running it ------------------------------------------------------------------------------------
# Each gives functions {"image": float32 [B, 3, S, S] -> [B, D], "text": int64 [B, L] -> [B, D]}.


def predictor(folder: str, precision: str) -> dict[str, Callable]:
    from ernie_vil2.serving.predictor import Predictor

    loaded = Predictor(folder, precision, batch_size=64)
    return {"image": loaded.embed_pixels, "text": loaded.embed_ids}


def onnx(folder: str) -> dict[str, Callable]:
    from ernie_vil2 import runtime
    from ernie_vil2.export.onnx import session

    programs, threads = Path(folder) / "onnx", runtime.usable_cores()
    return {tower: session(programs / f"{tower}.onnx", threads) for tower in ("image", "text")}


def paddlenlp(folder: str) -> dict[str, Callable]:
    import paddle
    from paddlenlp.transformers import ErnieViLModel

    model = ErnieViLModel.from_pretrained(str(Path(folder).parent / "paddlenlp"))
    model.eval()

    def embed(features):
        @paddle.no_grad()
        def run(array):
            return features(paddle.to_tensor(array)).numpy()

        return run

    return {"image": embed(model.get_image_features), "text": embed(model.get_text_features)}


def measure(
    functions: dict, sizes: dict, tower: str, batch: int, seconds: float, padding: str = "longest"
) -> dict:
    """`{"seconds": [...]}` of runs of one batch, for about `seconds` of them, after one to warm up.

    padding: of texts: "longest" of the batch, or "max_length" of PaddleNLP's tokenizer.
    """
    import numpy as np

    rng = np.random.default_rng(batch)
    if tower == "image":
        data = images(rng, batch, sizes["image_size"])
    else:
        data = texts(rng, batch, sizes["vocab_size"])
        data = np.ascontiguousarray(data[:, : (data != 0).sum(1).max()])
        if padding == "max_length":
            data = np.pad(data, [(0, 0), (0, _max_length() - data.shape[1])])
    functions[tower](data)
    times: list[float] = []
    while sum(times) < seconds:
        start = time.perf_counter()
        functions[tower](data)
        times.append(time.perf_counter() - start)
    return {"seconds": times}


def _max_length() -> int:
    from paddlenlp.transformers import ErnieViLTokenizer

    return ErnieViLTokenizer.max_model_input_sizes["ernie_vil-2.0-base-zh"]


def _answer(kind: str, folder: str, *precision: str) -> None:
    """Load a runner of an artefact, then do what each line of standard input asks for."""
    from ernie_vil2.artefact.folder import Artefact

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer

    def say(**content):
        print(json.dumps(content), file=answers, flush=True)

    artefact = Artefact.open(folder)
    vocab_size = artefact.tokenizer().vocab_size
    sizes = {"image_size": artefact.image_size, "vocab_size": vocab_size}
    loaders = {"predictor": predictor, "onnx": onnx, "paddlenlp": paddlenlp}
    try:
        functions = loaders[kind](folder, *precision)
    except Exception as error:
        say(error=f"{type(error).__name__}: {error}")
        return
    say(ready=True)
    for line in sys.stdin:
        try:
            say(**measure(functions, sizes, **json.loads(line)))
        except Exception as error:
            say(error=f"{type(error).__name__}: {error}")


def _start(folder: str, precision: str) -> None:
    from ernie_vil2.serving.predictor import Predictor

    Predictor(folder, precision)
    print("ready", flush=True)


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "tools")]
    from ernie_vil2 import runtime

    runtime.prepare()
    _start(*sys.argv[2:]) if sys.argv[1] == "start" else _answer(*sys.argv[1:])
