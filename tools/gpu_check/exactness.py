"""Do N processes compute what one computes? Losses, gradients and weights of whole steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from benchmarks.common import launch

from tests.support import exact_runs
from tools.gpu_check.rows import Row, Setting, at_most

_EXACT = 1e-5
# Sums of bfloat16 numbers in another order: half of 2^-8, the distance of two neighbours, and as
# much again for a second rounding.
_HALF = 4e-3
_O2 = ("AMP.level=O2", "AMP.dtype=bfloat16")
_HALVED = ("dropout", "merged", "sharded2", "all")
_REHEARSED = ("chunked", "ring", "dropout", "sharded1", "sharded2", "sharded3", "all")


def float32(setting: Setting) -> Iterator[Row]:
    """Each of the runs, TensorFloat-32 off."""
    names = list(exact_runs.RUNS) if setting.on_gpu else _REHEARSED
    yield from _compared(setting, names, _EXACT)


def half(setting: Setting) -> Iterator[Row]:
    """Weights, activations and gradients in bfloat16, with float32 masters."""
    yield from _compared(setting, _HALVED, _HALF, *_O2)


def _compared(setting: Setting, names: Sequence[str], bound: float, *more: str) -> Iterator[Row]:
    """A row for each run: on all processes against its reference on one.

    With one GPU both are on one process: then chunks, ring, micro-batches and recompute are judged,
    and no collective.
    """
    level = "O2" if more else "O0"
    folder = setting.path / level
    folder.mkdir()
    config = exact_runs.write(folder, Global={"device": setting.device, "sample_views": 0})
    # micro-batches of 4 are the same on all numbers of processes, and so are dropout's masks
    batch = max(16, 4 * setting.processes)
    references = dict.fromkeys(exact_runs.RUNS[name][0] for name in names)
    wanted = {1: list(references), setting.processes: names}
    if setting.processes == 1:
        wanted = {1: list(dict.fromkeys([*references, *names]))}
    for processes, these in wanted.items():
        launch(
            processes, folder / f"logs{processes}", "tools.gpu_check.exactness", "steps",
            gpus=setting.gpus, config=str(config), folder=str(folder),
            wanted=[exact_runs.argument(name, batch, *more) for name in these],
        )  # fmt: skip
    for name in names:
        reference = exact_runs.RUNS[name][0]
        if (reference, setting.processes) == (name, 1):
            continue
        pair = _read(folder, reference, 1), _read(folder, name, setting.processes)
        error, where = exact_runs.worst(*pair)
        title = f"{level}, {name}: {setting.processes} process(es) against 1"
        yield at_most(title, error, bound, f"of {len(pair[0])} numbers and tensors; {where}")


def _read(folder: Path, name: str, processes: int) -> dict:
    return dict(np.load(folder / f"{name}-{processes}.npz"))


def steps(config: str, folder: str, wanted: list[str]) -> None:
    """In the processes: the steps of each run."""
    from tests.support.scripts import exact_step

    exact_step.main(config, folder, *wanted)


CHECKS = {"float32": float32, "O2": half}
