"""Training goes on from a checkpoint exactly, whoever wrote it."""

import os
import threading

import numpy as np
import paddle
import pytest

from ernie_vil2.checkpoints import layout, store
from ernie_vil2.checkpoints import writer as checkpoint_writer
from ernie_vil2.checkpoints.training_state import collect, optimizer_tensors, restore
from ernie_vil2.checkpoints.verify import verify
from ernie_vil2.checkpoints.writer import CheckpointWriter
from ernie_vil2.config.load import load_config
from ernie_vil2.errors import UserError
from ernie_vil2.files.safetensors import LazyTensors, snapshot
from ernie_vil2.training.ema import EMA


class Objective(paddle.nn.Layer):
    """As the trainer's: a model and a loss with a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.model = paddle.nn.Sequential(paddle.nn.Linear(3, 4), paddle.nn.BatchNorm1D(4))
        self.loss = paddle.nn.Linear(4, 1)


class Run:
    """A training of an `Objective`, after some steps."""

    def __init__(self, steps: int, ema: bool = False):
        paddle.seed(1)
        self.objective = Objective()
        self.scheduler = paddle.optimizer.lr.LambdaDecay(0.1, lambda step: 1 / (1 + step))
        self.optimizer = paddle.optimizer.AdamW(
            self.scheduler, parameters=self.objective.parameters()
        )
        named = dict(self.objective.model.named_parameters())
        self.ema = EMA(named, 0.5) if ema else None
        self.step(steps)

    def step(self, times: int = 1):
        for _ in range(times):
            x = paddle.arange(12, dtype="float32").reshape([4, 3])
            self.objective.loss(self.objective.model(x)).square().mean().backward()
            self.optimizer.step()
            self.optimizer.clear_grad()
            self.scheduler.step()
            if self.ema:
                self.ema.update()

    def collect(self):
        return collect(self.objective, self.optimizer, self.ema and self.ema.average)

    def restore(self, path, names=None):
        step = store.read_state(path)["step"]
        self.scheduler.step(step)
        restore(path, self.objective, self.optimizer, self.scheduler, self.ema, names)
        if self.ema:
            self.ema.updates = step
        return self

    def tensors(self):
        weights, training = self.collect()
        return snapshot({**{f"weights.{name}": t for name, t in weights.items()}, **training})


def assert_equal(run, other):
    run, other = run.tensors(), other.tensors()
    assert set(run) == set(other)
    for name, value in run.items():
        assert np.array_equal(value, other[name]), name


@pytest.fixture
def new_writer(tmp_path):
    (tmp_path / "vocab.txt").write_text("a")

    def new_writer(**options):
        config = load_config("configs/base.yaml")
        return CheckpointWriter(
            tmp_path / "checkpoints", config, str(tmp_path / "vocab.txt"), **options
        )

    return new_writer


@pytest.fixture
def write(new_writer):
    writer = new_writer()

    def write(run, step):
        writer.save(*run.collect(), {"step": step})
        writer.wait()
        return writer.last

    return write


@pytest.mark.parametrize("ema", [False, True])
def test_restored_training_goes_on_exactly(write, ema):
    run = Run(3, ema)
    path = write(run, 3)
    paddle.nn.Linear(2, 2)  # shifts the names that Paddle counts up
    other = Run(0, ema).restore(path)
    run.step(2)
    other.step(2)
    assert_equal(run, other)


def test_a_run_that_has_gone_astray_is_rolled_back(write):
    run = Run(3)
    path = write(run, 3)
    run.step(2)
    run.restore(path)
    assert not run.optimizer._accumulators_holder  # else a second copy of all moments stays
    run.step(2)
    assert_equal(run, Run(5))


def test_saved_again_before_the_first_step(write):
    """The steps after a resume may all be skipped."""
    first = write(Run(3), 3)
    second = write(Run(0).restore(first), 4)
    other = Run(0)
    other.restore(second)
    other.scheduler.step(3)
    other.step(2)
    assert_equal(Run(5), other)


def test_averages_are_the_weights_to_use(write):
    run = Run(3, ema=True)
    path = write(run, 3)
    weights = LazyTensors([path / "model.safetensors"])
    assert np.array_equal(weights["0.weight"], run.ema.average["0.weight"].numpy())
    assert not np.array_equal(weights["0.weight"], run.objective.model[0].weight.numpy())


def test_later_steps_do_not_change_what_is_written(new_writer, monkeypatch):
    go_on, written = threading.Event(), checkpoint_writer.write_safetensors

    def write_later(*arguments):
        assert go_on.wait(20)
        return written(*arguments)

    monkeypatch.setattr(checkpoint_writer, "write_safetensors", write_later)
    writer, run, state = new_writer(), Run(3), {"step": 3, "list": [1]}
    writer.save(*run.collect(), state)
    run.step(2)
    state["list"].append(2)
    go_on.set()
    writer.wait()
    other = Run(0).restore(writer.last)
    assert store.read_state(writer.last)["list"] == [1]
    assert_equal(Run(3), other)


def test_shards_of_two_processes_merge(new_writer):
    run = Run(3)
    weights, training = run.collect()
    names = sorted(n for n, p in run.objective.named_parameters() if not p.stop_gradient)
    owned = [set(names[0::2]), set(names[1::2])]
    # A rank's optimizer has state of what it owns; rank 0 adds what all have.
    shards = [
        {n: t for n, t in training.items() if ("|" in n and n.split("|")[0] in own) or n in common}
        for own, common in zip(owned, ({n for n in training if "|" not in n}, set()))
    ]
    options = {"world_size": 2, "sharded": True, "token": "t", "time_limit": 20}
    other_rank = snapshot(shards[1])
    pid = os.fork()
    if pid == 0:
        writer = new_writer(rank=1, **options)
        writer.save(None, other_rank, {"step": 3})
        writer.close()
        os._exit(writer.failed)
    writer = new_writer(rank=0, **options)
    writer.save(weights, shards[0], {"step": 3})
    writer.close()
    assert os.waitpid(pid, 0)[1] == 0
    assert verify(writer.last) == []
    assert [path.name for path in layout.training_files(writer.last)] == [
        "training-00001-of-00002.safetensors",
        "training-00002-of-00002.safetensors",
    ]
    other = Run(0).restore(writer.last)  # by one process
    part = Run(0).restore(writer.last, names=owned[0])  # as one of some
    keys = optimizer_tensors(part.optimizer, part.objective)
    assert {key.split("|")[0] for key in keys} == owned[0]
    run.step(2)
    other.step(2)
    assert_equal(run, other)


def test_what_learns_only_now_begins_as_at_a_first_step(write):
    """Beside what goes on: Paddle wants the state of all parameters, or of none."""

    def freeze(run, frozen):
        for parameter in run.objective.loss.parameters():
            parameter.stop_gradient = frozen

    before, fresh = Run(0), Run(0)
    freeze(before, True)
    before.step(3)
    run = Run(0)
    run.restore(write(before, 3))
    for name, array in snapshot(before.objective.state_dict()).items():
        fresh.objective.state_dict()[name].set_value(array)
    fresh.scheduler.step(3)
    for resumed in (run, fresh):
        resumed.step()
    names = [name for name in optimizer_tensors(run.optimizer, run.objective) if "loss" in name]
    assert len(names) == 8  # two moments and two corrections, of weight and bias
    own, expected = (snapshot(optimizer_tensors(r.optimizer, r.objective)) for r in (run, fresh))
    for name in names:
        assert np.array_equal(own[name], expected[name]), name


def test_a_checkpoint_of_another_model(write):
    run = Run(1)
    path = write(run, 1)
    run.objective.model = paddle.nn.Linear(3, 5)
    with pytest.raises(UserError, match="another model"):
        run.restore(path)
