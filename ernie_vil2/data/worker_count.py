"""How many processes read the data of a run."""

from __future__ import annotations

import logging

from ernie_vil2 import distributed, runtime

log = logging.getLogger("ernie_vil2")

_BESIDE_A_GPU = 16  # at most: a worker holds two batches, and the disk has an end too
_ON_A_CPU = 2  # whose cores have the model to compute


def worker_count(asked: int | None, section: str) -> int:
    """`asked` or, where that is None, what this process's share of the cores is good for.

    Beside a GPU all of the share but one core, which feeds the GPU: 1 to 16.

    Args:
        asked: `num_workers` of the configuration.
        section: whose it is, for the log.
    """
    if asked is not None:
        return asked
    cores, processes = runtime.usable_cores(), runtime.launched_here()
    count = _ON_A_CPU
    if distributed.on_gpu():
        count = min(max(1, cores // processes - 1), _BESIDE_A_GPU)
    log.info(
        "%s.num_workers is null: %d worker(s) for each of %d process(es) on %d usable cores",
        section,
        count,
        processes,
        cores,
    )
    return count
