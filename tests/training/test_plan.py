"""How many records go into a batch and a step."""

import pytest

from ernie_vil2 import distributed
from ernie_vil2.config.load import load_config
from ernie_vil2.errors import UserError
from ernie_vil2.training.plan import Plan


def plan(*overrides: str) -> Plan:
    return Plan.of(load_config("configs/base.yaml", overrides))


def test_a_plan_of_a_configuration(monkeypatch):
    batch = "DataLoader.Train.batch_size=16"
    assert plan(batch) == Plan(rows=16, micro=16, merge=1)
    assert plan(batch, "DataLoader.Train.micro_batch_size=5").micro == 5
    assert plan(batch, "DataLoader.Train.micro_batch_size=50").micro == 16
    assert plan(batch, "Distributed.gradient_merge=3").records == 48
    as_two = (batch, "DataLoader.Train.micro_batch_size=10", "Distributed.as_two=true")
    assert plan(*as_two) == Plan(rows=16, micro=8, merge=1, parts=2)
    with pytest.raises(UserError, match="a batch has 15 records: expected an even number"):
        plan(*as_two, "DataLoader.Train.batch_size=15")
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    assert plan(*as_two) == Plan(rows=16, micro=10, merge=1)
    monkeypatch.setattr(distributed, "world_size", lambda: 4)
    with pytest.raises(UserError, match="4 processes train: expected one or two"):
        plan(*as_two)
    assert plan("DataLoader.Train.global_batch_size=64").rows == 16
    with pytest.raises(UserError, match=r"is 65, which 4 processes .*: expected a multiple of 4"):
        plan("DataLoader.Train.global_batch_size=65")
