"""Checkpoints are whole or absent, and training goes on from them exactly."""

import json

import numpy as np
import paddle
import pytest

from ernie_vil2 import checkpoint
from ernie_vil2.config import load_config
from ernie_vil2.errors import UserError


class Objective(paddle.nn.Layer):
    """As the trainer's: a model and a loss with a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.model = paddle.nn.Sequential(paddle.nn.Linear(3, 4), paddle.nn.BatchNorm1D(4))
        self.loss = paddle.nn.Linear(4, 1)


def trained(steps: int):
    paddle.seed(1)
    objective = Objective()
    scheduler = paddle.optimizer.lr.LambdaDecay(0.1, lambda step: 1 / (1 + step))
    optimizer = paddle.optimizer.AdamW(scheduler, parameters=objective.parameters())
    for _ in range(steps):
        step(objective, optimizer, scheduler)
    return objective, optimizer, scheduler


def step(objective, optimizer, scheduler):
    x = paddle.arange(12, dtype="float32").reshape([4, 3])
    objective.loss(objective.model(x)).square().mean().backward()
    optimizer.step()
    optimizer.clear_grad()
    scheduler.step()


@pytest.fixture
def write(tmp_path):
    (tmp_path / "vocab.txt").write_text("a")

    def write(objective, optimizer, number, **options):
        return checkpoint.write_checkpoint(
            tmp_path / "checkpoints",
            objective,
            optimizer,
            None,
            {"step": number},
            load_config("configs/base.yaml"),
            str(tmp_path / "vocab.txt"),
            **options,
        )

    return write


def test_restored_training_goes_on_exactly(write):
    objective, optimizer, scheduler = trained(3)
    path = write(objective, optimizer, 3)
    paddle.nn.Linear(2, 2)  # shifts the names that Paddle counts up
    other, other_optimizer, other_scheduler = trained(0)
    other_scheduler.step(3)
    checkpoint.restore(path, other, other_optimizer, other_scheduler, None)
    for run in ((objective, optimizer, scheduler), (other, other_optimizer, other_scheduler)):
        step(*run)
    for name, value in objective.state_dict().items():
        assert np.array_equal(value.numpy(), other.state_dict()[name].numpy()), name


def test_links_and_rotation(write, tmp_path):
    objective, optimizer, _ = trained(1)
    for number in range(1, 6):
        write(objective, optimizer, number, best=number == 2, keep=2)
    folder = tmp_path / "checkpoints"
    assert sorted(p.name for p in folder.iterdir()) == [
        "best",
        "latest",
        "step_00000002",
        "step_00000004",
        "step_00000005",
    ]
    assert (folder / "best").resolve().name == "step_00000002"
    assert checkpoint.find_latest(folder) == folder / "step_00000005"


def test_a_write_that_dies_leaves_the_older_one(write, tmp_path, monkeypatch):
    objective, optimizer, _ = trained(1)
    write(objective, optimizer, 1)

    def die(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(checkpoint.os, "rename", die)
    with pytest.raises(OSError):
        write(objective, optimizer, 2)
    folder = tmp_path / "checkpoints"
    assert checkpoint.find_latest(folder) == folder / "step_00000001"
    assert (folder / "latest").resolve().name == "step_00000001"
    monkeypatch.undo()
    assert write(objective, optimizer, 2) == checkpoint.find_latest(folder)
    assert not list(folder.glob(".writing*"))


def test_amend(write, tmp_path):
    path = write(*trained(1)[:2], 1)
    assert checkpoint.amend(tmp_path / "checkpoints", {"step": 1, "best": 0.5}, best=True) == path
    assert checkpoint.read_state(tmp_path / "checkpoints" / "best")["best"] == 0.5


def test_put_aside(write, tmp_path):
    folder = tmp_path / "checkpoints"
    assert checkpoint.put_aside(folder) is None
    for number in (1, 2):
        write(*trained(1)[:2], number)
        assert checkpoint.put_aside(folder).name == f"checkpoints.{number}"


def test_mistakes(write, tmp_path):
    with pytest.raises(UserError, match=r"state\.json"):
        checkpoint.read_state(tmp_path)
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        checkpoint.read_state(tmp_path)
    objective, optimizer, scheduler = trained(1)
    path = write(objective, optimizer, 1)
    assert json.loads((path / "state.json").read_text()) == {"step": 1}
    objective.model = paddle.nn.Linear(3, 5)
    with pytest.raises(UserError, match="another model"):
        checkpoint.restore(path, objective, optimizer, scheduler, None)
