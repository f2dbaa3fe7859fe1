"""Does a run that was cut in two end where the whole one ends?"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from benchmarks.common import launch, worst_tensor

from ernie_vil2.files.safetensors import read_safetensors
from tests.support import exact_runs
from tools.gpu_check import runs
from tools.gpu_check.rows import Row, Setting, at_most

_HALF, _ALL = 10, 20  # steps
_EXACT = 1e-5  # GPUs add up in no fixed order; on a CPU all bits agree


def ends(setting: Setting) -> Iterator[Row]:
    """20 steps against 10 and 10, on the same processes and on others, under other sharding."""
    world = setting.processes
    other = world // 2 or 1
    folder = setting.path
    config = exact_runs.write(
        folder,
        Global={
            "device": setting.device,
            "sample_views": 0,
            "max_steps": _ALL,
            "save_interval": _HALF,
            "eval_interval": 0,
        },
        EMA={"decay": 0.9},
    )
    whole = _run(setting, config, "whole", world, 2 if world > 1 else None)
    middle = whole / "checkpoints" / f"step_{_HALF:08d}"
    again = _run(setting, config, "again", world, 2 if world > 1 else None, middle)
    bound = _EXACT if setting.on_gpu else 0.0
    yield from _compared(f"{_HALF} + {_HALF} steps on {world}", whole, again, bound)
    stage = 3 if other > 1 else None
    moved = _run(setting, config, "moved", other, stage, middle)
    on = f"{_HALF} + {_HALF} steps on {world}, then {other}, sharding {stage or 'none'}"
    yield from _compared(on, whole, moved, _EXACT)


def _run(
    setting: Setting,
    config: Path,
    name: str,
    processes: int,
    stage: int | None,
    resume: Path | None = None,
) -> Path:
    """A run's folder."""
    output = config.parent / name
    options = ["-c", str(config), "-o", f"Global.output_dir={output}"]
    batch = max(16, 4 * setting.processes)
    options += [f"DataLoader.Train.global_batch_size={batch}", exact_runs.MICRO]
    options += [f"Distributed.sharding={stage or 'null'}"]
    if resume:  # a copy, since a run owns its folder
        there = output / "checkpoints" / resume.name
        shutil.copytree(resume, there)
        options += ["--resume", "auto"]
    launch(
        processes, config.parent / f"logs-{name}", "tools.gpu_check.runs", "train",
        gpus=setting.gpus, argv=options,
    )  # fmt: skip
    first = min(runs.metrics(output, "train/loss"))
    expected = _HALF + 1 if resume else 1
    if first != expected:
        raise RuntimeError(f"the run {name} begins at step {first}: expected {expected}")
    return output


def _compared(title: str, whole: Path, other: Path, bound: float) -> Iterator[Row]:
    """Weights, and what the optimizer and the averages hold, whichever process wrote it."""
    for kind in ("model", "training"):
        expected, found = (_tensors(each, kind) for each in (whole, other))
        error = worst_tensor(found, expected)
        yield at_most(f"{title}: {kind}", error, bound, f"{len(found)} tensors")


def _tensors(run: Path, kind: str) -> dict:
    files = (run / "checkpoints" / f"step_{_ALL:08d}").glob(f"{kind}*.safetensors")
    return {name: x for file in sorted(files) for name, x in read_safetensors(file).items()}


CHECKS = {"resume": ends}
