"""Is what is served what was trained, on the device, in each precision?"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from benchmarks.common import run_apart

from ernie_vil2 import processor
from ernie_vil2.artefact.golden import cosines
from tools.gpu_check import runs
from tools.gpu_check.part import reason
from tools.gpu_check.rows import NEEDS_GPU, NotRun, Row, Setting, at_least, at_most, failed, not_run

_EXACT, _TF32 = 1e-5, 1e-3  # largest difference of L2-normalised float32 embeddings
_COSINE = 0.999
_RECALL = 0.05  # of 16 pictures and texts: one that moves is 3 % of a mean recall at 1
_BUILD = 1.0  # seconds: a run takes milliseconds, TensorRT's build of an engine half a minute
_STEPS, _BATCH = 30, 16
_APART = "tools.gpu_check.inference"
_NO_TF32 = {"NVIDIA_TF32_OVERRIDE": "0"}
# Towers as wide as base's, that export and load within the part's time.
_MIDDLE = {
    "Arch": {
        "embed_dim": None,
        "Image": {"depth": 3},
        "Text": {"num_hidden_layers": 3, "vocab_size": 64, "max_position_embeddings": 64},
    }
}


def served(setting: Setting) -> Iterator[Row]:
    """Train a little, export, and compare each precision with the trained model in float32."""
    sections = _MIDDLE if setting.on_gpu else {}
    steps = {"max_steps": _STEPS, "eval_interval": 0}
    config = runs.write(setting, "run", base=True, Global=steps, **sections)
    found = {"config": str(config)}
    run_apart("tools.gpu_check.runs", "train", argv=["-c", str(config)])
    precisions = [name for name in _precisions(setting) if _missing(setting, name) is None]
    said = run_apart(_APART, "export", precisions=precisions, variables=_NO_TF32, **found)
    yield at_most("export: fp32 against the model", said["difference"], _EXACT)
    run_apart(_APART, "expect", variables=_NO_TF32, **found)
    yield from _exact(setting, found)
    for name in _precisions(setting)[1:]:
        lacking = _missing(setting, name)
        if lacking:
            yield not_run(name, lacking)
        else:
            yield from _rounded(setting, name, found)


def _precisions(setting: Setting) -> list[str]:
    return ["fp32", "fp16", "bf16"]


def _missing(setting: Setting, precision: str) -> str | None:
    """Why a precision cannot run here, if it cannot."""
    if precision == "fp16" and not setting.on_gpu:
        return f"{NEEDS_GPU}: float16 has no kernels on a CPU"
    if precision == "bf16" and not setting.on_gpu:
        lacking = processor.missing("bf16", processor.flags())
        return f"this CPU has no bf16: {' '.join(lacking)}" if lacking else None
    return None


def _exact(setting: Setting, found: dict) -> Iterator[Row]:
    for title, variables, bound in (
        ("fp32, TensorFloat-32 off", _NO_TF32, _EXACT),
        ("fp32, TensorFloat-32 on", {}, _TF32),
    ):
        if variables == {} and not setting.on_gpu:
            yield not_run(title, NEEDS_GPU)
            continue
        here = {**found, "device": setting.device, "precision": "fp32"}
        result = run_apart(_APART, "compare", variables=variables, **here)
        yield at_most(f"{title}: largest difference", result["difference"], bound)
        yield at_most(f"{title}: recall, difference", result["recall"], _RECALL)


def _rounded(setting: Setting, precision: str, found: dict) -> Iterator[Row]:
    here = {**found, "device": setting.device, "precision": precision}
    try:
        result = run_apart(_APART, "compare", **here)
    except RuntimeError as error:
        yield failed(precision, reason(str(error)))
        return
    yield at_least(f"{precision}: cosine", result["cosine"], _COSINE)
    yield at_most(f"{precision}: recall, difference", result["recall"], _RECALL)


def tensorrt(setting: Setting) -> Iterator[Row]:
    """fp16 through TensorRT, with no build after the first runs."""
    setting.need_gpu()
    config = setting.path / "run" / "run.yaml"
    if not (config.parent / "expected.npz").exists():
        raise NotRun("needs the export above, which failed")
    here = {"config": str(config), "device": setting.device, "precision": "fp16"}
    try:
        result = run_apart(_APART, "compare", tensorrt=True, **here)
    except RuntimeError as error:
        if "libnvinfer.so is not found" in str(error):
            raise NotRun("needs TensorRT's library: docs/serving.md says which") from None
        raise
    yield at_least("TensorRT, fp16: cosine", result["cosine"], _COSINE)
    yield at_most("TensorRT, fp16: recall, difference", result["recall"], _RECALL)
    yield at_most("TensorRT, fp16: slowest run after warm-up, s", result["slowest"], _BUILD)


# -- in the processes ------------------------------------------------------------------------------


def export(config: str, precisions: list[str]) -> dict:
    """Export to FOLDER/exported; returns the "difference" of its golden vectors on the CPU."""
    import paddle

    from ernie_vil2.commands import export as command
    from ernie_vil2.serving.predictor import Predictor

    folder = Path(config).parent
    target = folder / "exported"
    options = ["-c", config, "-w", str(folder / "out"), "--save-dir", str(target)]
    # of 16 records one that moves is 3 % of a recall
    options += ["--max-recall-drop", "0.1", "--precision", *precisions]
    if paddle.__version__ < "3":
        options += ["--tensorrt", str(_BATCH)]  # its shapes
    command.main(options)
    return {"difference": max(Predictor(target, verify=False).verify().values())}


def expect(config: str) -> None:
    """Write the trained model's embeddings of the test set, by Paddle's autograd kernels."""
    import paddle

    from ernie_vil2 import distributed
    from ernie_vil2.config.load import load_config
    from ernie_vil2.evaluation.trained import load_trained

    loaded = load_config(config)
    distributed.init(loaded.Global.device)
    folder = Path(config).parent
    model, tokenizer = load_trained(folder / "out", loaded)
    images, texts = _records(config)
    from ernie_vil2.data.transforms import eval_transform

    size, mean, std = (loaded.Transform[key] for key in ("size", "mean", "std"))
    transform = eval_transform(size, mean, std)
    pixels = np.stack([transform(image) for image in images])
    with paddle.no_grad():
        embeds = model.encode_image(paddle.to_tensor(pixels)).numpy()
        text_embeds = model.encode_text(paddle.to_tensor(tokenizer(texts))).numpy()
    np.savez(folder / "expected.npz", image=embeds, text=text_embeds)


def compare(config: str, device: str, precision: str, tensorrt: bool = False) -> dict:
    """How far the exported model is from `expect`: difference, cosine, recall; slowest later run.

    The first run of all is with all records; later ones with fewer are timed.
    """
    from ernie_vil2.evaluation.retrieval import evaluate_retrieval
    from ernie_vil2.serving.predictor import Predictor

    folder = Path(config).parent
    predictor = Predictor(
        folder / "exported",
        precision,
        device,
        batch_size=_BATCH,
        tensorrt=tensorrt,
        verify=False,
        tensorrt_cache=folder / "engines",
    )
    images, texts = _records(config)
    found = {"image": predictor.encode_image(images), "text": predictor.encode_text(texts)}
    slowest = 0.0
    for count in (1, 3, len(images) // 2):
        start = time.perf_counter()
        predictor.encode_image(images[:count])
        predictor.encode_text(texts[:count])
        slowest = max(slowest, time.perf_counter() - start)
    expected = np.load(folder / "expected.npz")
    recalls = [
        evaluate_retrieval(each["image"], each["text"], range(len(texts)), bootstrap=0)
        for each in (found, expected)
    ]
    return {
        "difference": max(float(np.abs(x - expected[tower]).max()) for tower, x in found.items()),
        "cosine": min(float(cosines(x, expected[tower]).min()) for tower, x in found.items()),
        "recall": abs(recalls[0]["mean_recall"] - recalls[1]["mean_recall"]),
        "slowest": slowest,
    }


def _records(config: str) -> tuple[list[bytes], list[str]]:
    """Pictures and captions of the test set."""
    from ernie_vil2.config.load import load_config
    from ernie_vil2.data.formats.build import build_reader

    reader = build_reader(**load_config(config).DataLoader.Eval.dataset)
    records = [reader[number] for number in range(len(reader))]
    return [record.image for record in records], [record.captions[0] for record in records]


CHECKS = {"inference": served, "TensorRT": tensorrt}
