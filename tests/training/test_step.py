"""One optimizer step, in its parts."""

import numpy as np
import pytest

from ernie_vil2.config.load import load_config
from ernie_vil2.training.trainer import Trainer
from tests.support.shapes import write_run


@pytest.fixture
def trainer(tmp_path):
    config = write_run(tmp_path, EMA={"decay": 0.9})
    trainer = Trainer(load_config(config, ["Optimizer.clip_norm=0.01"]))
    yield trainer
    trainer.close()


def weights(trainer) -> dict:
    return {name: t.numpy() for name, t in trainer.objective.state_dict().items()}


def changed(before: dict, after: dict) -> set:
    return {name for name in before if not np.array_equal(before[name], after[name])}


def test_a_step_in_parts_is_the_trainers(trainer, tmp_path):
    batches = next(trainer.batches())
    losses = trainer.stepper.gradients(batches, [trainer.stream.dropout_seeds(0)])
    norm = trainer.stepper.clip()
    gradients = [p.grad for p in trainer.stepper.parallel.owned.values() if p.grad is not None]
    total = np.sqrt(sum(float((g.astype("float64") ** 2).sum()) for g in gradients))
    assert float(norm) > 0.01 and total == pytest.approx(0.01, rel=1e-3)
    trainer.stepper.apply()

    whole = Trainer(trainer.config)
    found, stop = whole.step(next(whole.batches()))
    whole.close()
    assert not stop and float(found["loss"]) == float(losses["loss"])
    assert not changed(weights(whole), weights(trainer))
    assert whole.stepper.ema.updates == trainer.stepper.ema.updates == 1


def test_a_skipped_step_changes_nothing_but_the_schedule(trainer):
    before, rate = weights(trainer), trainer.stepper.scheduler.get_lr()
    trainer.stepper.gradients(next(trainer.batches()), [trainer.stream.dropout_seeds(0)])
    trainer.stepper.skip()
    assert not changed(before, weights(trainer))
    assert trainer.stepper.scheduler.get_lr() > rate
    assert all(p.grad is None or not p.grad.any() for p in trainer.objective.parameters())


def test_suspects_are_those_that_are_not_finite_or_all(trainer):
    batches = next(trainer.batches())
    everybody = batches[0][0]["index"].tolist()
    assert trainer.stepper.suspects(batches) == everybody
    pixels = trainer.objective.normalise(batches[0][0]["pixel_values"])
    pixels[3] = float("nan")  # normalised ones are taken as they are
    batches[0][0]["pixel_values"] = pixels
    assert trainer.stepper.suspects(batches) == [everybody[3]]


def test_save_and_restore_bring_back_weights_and_numbers(trainer):
    batches = trainer.batches()
    trainer.step(next(batches))
    trainer.save()
    trainer.checkpoints.wait()
    before, state = weights(trainer), trainer.state_dict()
    trainer.step(next(batches))
    assert changed(before, weights(trainer)) and trainer.state_dict() != state
    trainer.restore(trainer.checkpoints.last)
    assert not changed(before, weights(trainer)) and trainer.state_dict() == state
