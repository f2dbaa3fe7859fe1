"""Runs of the trainer that the parts compare: small sets of drawn shapes, small or base towers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tests.support.shapes import write_run
from tools.gpu_check.rows import Setting

_BASE = {"Arch": {"embed_dim": None, "Image": {}, "Text": {}}, "Transform": {"size": 224}}


def write(setting: Setting, name: str, *, base: bool = False, **sections) -> Path:
    """The data, vocabulary and configuration of a run in a folder of that name; returns the YAML.

    Args:
        base: the towers of configs/base.yaml on a GPU, for which a CPU has no time.
        sections: of the configuration, over those of `write_run`.
    """
    folder = setting.path / name
    folder.mkdir()
    if base and setting.on_gpu:
        sections = {**_BASE, "Tokenizer": {"max_len": 48}, **sections}
    settings = {"device": setting.device, "sample_views": 0, **sections.pop("Global", {})}
    return write_run(folder, Global=settings, **sections)


def trainer(config: Path, name: str, overrides: Sequence[str] = (), resume: str | None = None):
    """A trainer that writes to a folder of that name beside the configuration.

    On a CPU, which has no bfloat16 products, those of mixed precision are rounded as a GPU's.
    """
    from ernie_vil2 import distributed
    from ernie_vil2.config.load import load_config
    from ernie_vil2.training.trainer import Trainer
    from tests.support.halves import round_products

    there = f"Global.output_dir={config.parent / name}"
    loaded = load_config(config, [*overrides, there])
    distributed.init(loaded.Global.device)
    made = Trainer(loaded, resume=resume)
    if not distributed.on_gpu() and loaded.AMP.level != "O0":
        round_products(made.objective)
    return made


class Found(NamedTuple):
    """Of a trainer's first step, all float32 arrays.

    Attributes:
        embeds: view -> [N, D], in eval mode and before the step.
        gradients: name -> of the owned parameters, before clipping.
        dtypes: of "temperature", "loss" and "norm".
    """

    embeds: dict[str, np.ndarray]
    loss: float
    gradients: dict[str, np.ndarray]
    dtypes: dict[str, str]


def first_step(trained) -> Found:
    """The numbers of a trainer's first step, which is not applied."""
    import paddle

    stepper = trained.stepper
    batches = next(trained.batches())
    embeds = _embeds(trained, batches[0])
    seeds = [trained.stream.dropout_seeds(number) for number in range(len(batches))]
    for _ in range(40):  # float16 may overflow at first, which lowers the loss scale
        losses = stepper.gradients(batches, seeds)
        owned = stepper.parallel.owned.items()
        gradients = {n: _array(p.grad) for n, p in owned if p.grad is not None}
        norm = stepper.clip()
        if bool(paddle.isfinite(norm)) or not stepper.scaler.is_enable():
            break
        stepper.apply()  # the scaler lets the weights be
    stepper.skip()  # which clears the gradients
    dtypes = {
        "temperature": trained.objective.model.temperature,
        "loss": losses["loss"],
        "norm": norm,
    }
    return Found(
        embeds,
        float(losses["loss"]),
        gradients,
        {name: str(tensor.dtype).rpartition(".")[2] for name, tensor in dtypes.items()},
    )


def _embeds(trained, batch: Sequence[Mapping]) -> dict[str, np.ndarray]:
    import paddle

    trained.objective.eval()
    with trained.stepper.averaged(), paddle.no_grad():
        found = trained.objective.embed(batch[0]["pixel_values"], batch[0]["input_ids"])
    return {view: _array(embeds) for view, embeds in found.items()}


def _array(tensor) -> np.ndarray:
    return tensor.astype("float32").numpy().copy()


def peak(action: Callable[[], object]) -> int:
    """Bytes that a GPU holds at most, to be asked once a process; on a CPU those of `action` alone.

    Paddle 2.6 cannot set a GPU's peak back. A CPU does it twice, so that what the first one keeps
    does not count.
    """
    import paddle
    from benchmarks.common import extra_memory

    if not paddle.get_device().startswith("gpu"):
        action()
        return extra_memory(action)
    action()
    return paddle.device.cuda.max_memory_allocated()


def train(argv: list[str]) -> int:
    """`tools/train.py` in a launched process; a mistake is an error here."""
    from ernie_vil2.commands import train

    return train.main(argv)


def metrics(folder: Path, name: str) -> dict[int, float]:
    """Step -> value of a run's metric."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text("utf-8").splitlines())
    return {line["step"]: line[name] for line in lines if name in line}


def joined(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """All numbers of arrays by name, float64, in one row."""
    return np.concatenate([arrays[name].ravel().astype("float64") for name in sorted(arrays)])
