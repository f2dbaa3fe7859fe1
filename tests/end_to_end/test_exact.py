"""The same losses, gradients and weights on 1, 2 and 4 processes, whatever is switched on.

Each run is the real trainer on real fleet processes over gloo, with the same global batches of a
drawn caption or tag sentence, several positives a row, every kind of pair, and dropout where
micro-batches fix its masks.
"""

import numpy as np
import pytest

from tests.support.exact_runs import RUNS, argument, worst, write
from tests.support.paths import SCRIPTS
from tests.support.processes import launch

SCRIPT = SCRIPTS / "exact_step.py"
EXACT = 1e-5
PROCESSES = {
    1: ["plain", "dropout", "merged", "lamb"],
    2: list(RUNS),
    4: ["plain", "chunked", "ring", "dropout", "sharded2", "sharded3", "all", "all_ring"],
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """(run, processes) -> what exact_step.py wrote."""
    folder = tmp_path_factory.mktemp("exact")
    config = write(folder)
    for processes, names in PROCESSES.items():
        runs = [argument(name) for name in names]
        launch(processes, folder, SCRIPT, str(config), str(folder), *runs)
    return lambda name, processes: dict(np.load(folder / f"{name}-{processes}.npz"))


@pytest.mark.parametrize("name,processes", [(name, n) for n in (2, 4) for name in PROCESSES[n]])
def test_many_processes_are_one(found, name, processes):
    reference, _ = RUNS[name]
    error, where = worst(found(reference, 1), found(name, processes))
    assert error <= EXACT, where


def test_dropout_is_there_and_is_compared(found):
    error, _ = worst(found("plain", 1), found("dropout", 1))
    assert error > EXACT
