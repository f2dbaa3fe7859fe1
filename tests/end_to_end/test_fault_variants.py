"""Faults in the data of runs of two processes, in all ways to train."""

import pytest

from tests.support.faulty_runs import Runs, broken_data, check_broken_data

VARIANTS = {
    "sharding1": ["Distributed.sharding=1", "EMA.decay=0.9"],
    "sharding2": ["Distributed.sharding=2"],
    "sharding3": ["Distributed.sharding=3", "EMA.decay=0.9"],
    "micro": ["DataLoader.Train.micro_batch_size=3", "DataLoader.Train.num_workers=1"],
    "merge": ["Distributed.gradient_merge=2", "Optimizer.name=Lamb"],
    "all": [
        "Distributed.sharding=2",
        "DataLoader.Train.micro_batch_size=5",
        "Distributed.gradient_merge=2",
        "Arch.Image.recompute=true",
        "Loss.chunk=4",
        "EMA.decay=0.9",
    ],
}


@pytest.fixture(scope="module")
def variants(tmp_path_factory) -> Runs:
    folder = tmp_path_factory.mktemp("variants")
    plan = [
        broken_data(name, folder, *overrides, merge=merge_of(overrides))
        for name, overrides in VARIANTS.items()
    ]
    return Runs(folder, plan)


def merge_of(overrides: list) -> int:
    return 2 if "Distributed.gradient_merge=2" in overrides else 1


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_nan_spike_and_rollback_in_all_ways_to_train(variants, name):
    check_broken_data(variants, name, merge_of(VARIANTS[name]))
