"""Does the device compute the losses right? Every path and kind against float64 in NumPy."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.loss_errors import errors

from ernie_vil2 import distributed
from tools.gpu_check.rows import Row, Setting, at_most

_EXACT = 1e-5  # largest error as a share of the largest number; no TensorFloat-32
_SIZES = {"gpu": (256, 4096, 768, [256, 1024]), "cpu": (16, 64, 32, [16, 24])}


def losses(setting: Setting) -> Iterator[Row]:
    """Plain and in chunks, each kind of pair and of positives: loss and all its gradients.

    There are more columns than rows, as on one of several ranks, so chunks have no positives for
    the kind with one.
    """
    distributed.init(setting.device)
    rows, count, dim, chunks = _SIZES[setting.device]
    for found in errors(rows, count, dim, chunks):
        worst = {k: v for k, v in found.items() if k not in ("targets", "path")}
        where = max(worst, key=lambda name: worst[name])
        title = f"{found['targets']}, {found['path']}"
        yield at_most(title, worst[where], _EXACT, f"of {', '.join(worst)}: largest of {where}")


# The loss whose columns travel from rank to rank, Loss.ring, needs several: exactness.py.
CHECKS = {"losses against float64": losses}
