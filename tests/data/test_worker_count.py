"""The number of reading processes where none is configured."""

import logging

import pytest

from ernie_vil2 import distributed, runtime
from ernie_vil2.data.worker_count import worker_count


@pytest.mark.parametrize(
    "gpu,cores,processes,count",
    [
        (True, 26, 2, 12),
        (True, 96, 8, 11),
        (True, 256, 8, 16),  # at most
        (True, 4, 1, 3),
        (True, 8, 8, 1),  # at least
        (True, 2, 4, 1),
        (False, 64, 1, 2),
        (False, 1, 4, 2),
    ],
)
def test_cores_are_shared_beside_a_gpu(gpu, cores, processes, count, monkeypatch, logged):
    logged.set_level(logging.INFO, "ernie_vil2")
    monkeypatch.setattr(distributed, "on_gpu", lambda: gpu)
    monkeypatch.setattr(runtime, "usable_cores", lambda: cores)
    monkeypatch.setenv("PADDLE_LOCAL_SIZE", str(processes))
    assert worker_count(None, "DataLoader.Train") == count
    (line,) = logged.messages
    assert line.startswith(f"DataLoader.Train.num_workers is null: {count} worker(s)")
    assert worker_count(0, "DataLoader.Eval") == 0 and worker_count(5, "DataLoader.Eval") == 5
    assert len(logged.messages) == 1
