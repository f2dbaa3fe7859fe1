"""The same losses, gradients and weights on 1, 2 and 4 processes, whatever is switched on.

Each run is the real trainer on real fleet processes over gloo, with the same global batches of a
drawn caption or tag sentence, several positives a row, every kind of pair, and dropout where
micro-batches fix its masks.
"""

import numpy as np
import pytest

from tests.support.exact_runs import HALF_RUNS, RUNS, argument, worst, write
from tests.support.paths import SCRIPTS
from tests.support.processes import launch
from tests.support.training_runs import write_base

SCRIPT = SCRIPTS / "exact_step.py"
EXACT = 1e-5
PROCESSES = {
    1: ["plain", "dropout", "merged", "lamb", "lora", "half", "half_merged"],
    2: [*RUNS, *HALF_RUNS],
    4: ["plain", "chunked", "ring", "dropout", "sharded2", "sharded3", "all", "all_ring"],
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """(run, processes) -> what exact_step.py wrote."""
    folder = tmp_path_factory.mktemp("exact")
    config = write(folder)
    base = write_base(config, folder / "base")
    for processes, names in PROCESSES.items():
        runs = [argument(name, base=base) for name in names]
        launch(processes, folder, SCRIPT, str(config), str(folder), *runs)
    return lambda name, processes: dict(np.load(folder / f"{name}-{processes}.npz"))


@pytest.mark.parametrize(
    "name,processes", [(name, n) for n in (2, 4) for name in PROCESSES[n] if name in RUNS]
)
def test_many_processes_are_one(found, name, processes):
    reference, _ = RUNS[name]
    error, where = worst(found(reference, 1), found(name, processes))
    assert error <= EXACT, where


@pytest.mark.parametrize("name", HALF_RUNS)
def test_half_precision_weights_are_shared_too(found, name):
    """Micro-batches are the same rows, so what bfloat16 rounds is: but for numbers between two."""
    reference, _ = HALF_RUNS[name]
    one, other = found(reference, 1), found(name, 2)
    assert one.keys() == other.keys()
    for key, expected in one.items():
        if "/accuracy/" not in key:
            error = np.linalg.norm(expected - other[key])
            assert error <= 1e-3 * np.linalg.norm(expected) + 1e-6, (key, error)


def test_half_precision_is_there(found):
    error, _ = worst(found("dropout", 1), found("half", 1))
    assert error > EXACT


def test_dropout_is_there_and_is_compared(found):
    error, _ = worst(found("plain", 1), found("dropout", 1))
    assert error > EXACT
