"""Who shares a model out."""

import pytest

from ernie_vil2 import distributed
from ernie_vil2.config.load import load_config
from ernie_vil2.errors import UserError
from ernie_vil2.training.engine import sharding_engine
from tests.support.paths import ROOT


def engine(*overrides):
    return sharding_engine(load_config(ROOT / "configs/base.yaml", overrides))


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(distributed, "on_gpu", lambda: True)


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("optimizer", ["AdamW", "Lamb"])
def test_on_a_gpu_paddle_shares_out_what_it_can(gpu, stage, optimizer):
    run = [f"Distributed.sharding={stage}", f"Optimizer.name={optimizer}", "AMP.level=O1"]
    assert engine(*run) == "paddle"
    assert engine(*run, "Distributed.engine=ours") == "ours"


@pytest.mark.parametrize(
    "override,why",
    [
        ("Distributed.sharding=3", "stage 3 cuts tensors into slices"),
        ("DataLoader.Train.micro_batch_size=4", "lose gradients of DataLoader"),
        ("AMP.level=O2", "AMP.level is O2"),
    ],
)
def test_what_it_cannot_is_ours_or_one_line(gpu, override, why):
    run = ["Distributed.sharding=2", override]
    assert engine(*run) == "ours"
    with pytest.raises(UserError, match=why) as error:
        engine(*run, "Distributed.engine=paddle")
    assert "set it to ours or auto" in str(error.value) and "\n" not in str(error.value)


def test_on_a_cpu_it_is_ours():
    assert engine("Distributed.sharding=2") == "ours"
    with pytest.raises(UserError, match="needs a GPU"):
        engine("Distributed.sharding=2", "Distributed.engine=paddle")


def test_without_sharding_there_is_nothing_to_choose():
    assert engine("Distributed.engine=paddle") == "ours"
