"""The same losses, gradients and weights on 1, 2 and 4 processes, whatever is switched on.

Each run is the real trainer on real fleet processes over gloo, with the same global batches of a
drawn caption or tag sentence, several positives a row, every kind of pair, and dropout where
micro-batches fix its masks.
"""

import numpy as np
import pytest

from tests.support.paths import SCRIPTS
from tests.support.processes import launch
from tests.support.shapes import write_run

SCRIPT = SCRIPTS / "exact_step.py"
PAIRS = [
    {"views": ["image1", "image2"], "weight": 1.0, "temperature": 0.2, "learnable": True},
    {"views": ["text1", "text2"], "weight": 0.5},
    {"views": ["image1", "text1"], "weight": 1.0, "loss": "sigmoid", "bias": -3.0},
    {"views": ["image2", "text2"], "weight": 2.0},
]
CHUNK, RING = "Loss.chunk=5", "Loss.ring=true"
MICRO, UNEVEN = (f"DataLoader.Train.micro_batch_size={size}" for size in (4, 3))
DRY = "Arch.Text.hidden_dropout_prob=0,Arch.Text.attention_probs_dropout_prob=0"
MERGE = "Distributed.gradient_merge=2"
RECOMPUTE = "Arch.Image.recompute=true,Arch.Text.recompute=true"
# name -> what is switched on
RUNS = {
    "plain": [DRY],
    "chunked": [DRY, CHUNK],
    "ring": [DRY, RING],
    "uneven": [DRY, UNEVEN],  # micro-batches of 3, 3 and 2 on two processes
    "dropout": [MICRO],
    "recompute": [MICRO, RECOMPUTE, CHUNK],
    "merged": [MICRO, MERGE],
    "lamb": [MICRO, "Optimizer.name=Lamb"],
    "lamb_sharded": [MICRO, "Optimizer.name=Lamb", "Distributed.sharding=2"],
    **{f"sharded{stage}": [MICRO, f"Distributed.sharding={stage}"] for stage in (1, 2, 3)},
    "all": [MICRO, MERGE, RECOMPUTE, CHUNK, "Distributed.sharding=3"],
    "all_ring": [MICRO, MERGE, RECOMPUTE, "Loss.chunk=3", RING, "Distributed.sharding=3"],
}
PROCESSES = {
    1: ["plain", "dropout", "merged", "lamb"],
    2: list(RUNS),
    4: ["plain", "chunked", "ring", "dropout", "sharded2", "sharded3", "all", "all_ring"],
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """(run, processes) -> what exact_step.py wrote."""
    folder = tmp_path_factory.mktemp("exact")
    config = write_run(
        folder,
        Loss={"pairs": PAIRS},
        Views={"draw": {"per": "sample"}},
        # a larger epsilon, since Adam's first steps would follow the sign of gradients near zero
        Optimizer={"epsilon": 0.01},
    )
    common = "DataLoader.Train.global_batch_size=16,Global.keep_checkpoints=1"
    for processes, names in PROCESSES.items():
        runs = [f"{name}={','.join([common, *RUNS[name]])}" for name in names]
        launch(processes, folder, SCRIPT, str(config), str(folder), *runs)
    return lambda name, processes: dict(np.load(folder / f"{name}-{processes}.npz"))


def assert_same(one: dict, other: dict) -> None:
    """Relative to each tensor's largest number; near zero, to that of all gradients."""
    assert one.keys() == other.keys()
    largest = max(np.abs(v).max() for k, v in one.items() if k.startswith("gradient/"))
    for name, expected in one.items():
        if "/accuracy/" in name:  # two near-equal logits of untrained towers change places
            assert abs(expected - other[name]) <= 0.2
            continue
        # a gradient that is nearly zero, as of a bias before a softmax, is rounding noise
        floor = 1e-6 * largest if not name.startswith("loss/") else 0
        error = np.abs(expected - other[name]).max()
        assert error <= 1e-5 * np.abs(expected).max() + floor, (name, error)


@pytest.mark.parametrize(
    "reference,name,processes",
    [
        *(("plain", "plain", n) for n in (2, 4)),
        *(("plain", name, n) for name in ("chunked", "ring") for n in (2, 4)),
        ("plain", "uneven", 2),
        *(("dropout", "dropout", n) for n in (2, 4)),
        ("dropout", "recompute", 2),
        ("dropout", "sharded1", 2),
        *(("dropout", f"sharded{stage}", n) for stage in (2, 3) for n in (2, 4)),
        ("merged", "merged", 2),
        *(("merged", name, n) for name in ("all", "all_ring") for n in (2, 4)),
        *(("lamb", name, 2) for name in ("lamb", "lamb_sharded")),
    ],
)
def test_many_processes_are_one(found, reference, name, processes):
    assert_same(found(reference, 1), found(name, processes))


def test_dropout_is_there_and_is_compared(found):
    with pytest.raises(AssertionError):
        assert_same(found("plain", 1), found("dropout", 1))
