"""Training in mixed precision: bfloat16 on a CPU, with products rounded as a GPU's are."""

import math
from unittest import mock

import numpy as np
import paddle
import pytest

from ernie_vil2.checkpoints.training_state import optimizer_tensors
from ernie_vil2.files.safetensors import LazyTensors, write_safetensors
from tests.support.halves import half_trainer, scaler_on_cpu
from tests.support.shapes import write_run
from tests.support.training_runs import assert_same

LEVELS = ("O0", "O1", "O2")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def start(config, tmp_path):
    """Level and overrides -> a trainer with a folder of its own, closed at the end."""
    trainers = []

    def start(level, *overrides, resume=None, out="out"):
        folder = f"Global.output_dir={tmp_path / out}"
        trainers.append(
            half_trainer(config, f"AMP.level={level}", folder, *overrides, resume=resume)
        )
        return trainers[-1]

    yield start
    for trainer in trainers:
        trainer.close()


def first_step(trainer):
    """Losses, the norm, gradients, embeddings of the first step, which is not applied."""
    batches = next(trainer.batches())
    stepper = trainer.stepper
    losses = stepper.gradients(batches, [trainer.stream.dropout_seeds(0)])
    norm = stepper.clip()
    gradients = {n: p.grad for n, p in stepper.parallel.owned.items() if p.grad is not None}
    trainer.objective.eval()
    with stepper.averaged(), paddle.no_grad():
        batch = batches[0][0]
        embeds = trainer.objective.embed(batch["pixel_values"], batch["input_ids"])
    return losses, norm, gradients, embeds


def cosine(a, b):
    a, b = (x.numpy().astype("float64").ravel() for x in (a, b))
    return a @ b / math.sqrt((a @ a) * (b @ b))


@pytest.mark.parametrize(
    "level,ways", [("O1", []), ("O2", []), ("O2", ["DataLoader.Train.micro_batch_size=4"])]
)
def test_a_step_is_nearly_that_of_float32(start, level, ways):
    exact_losses, exact_norm, exact_gradients, exact_embeds = first_step(start("O0", *ways))
    losses, norm, gradients, embeds = first_step(start(level, *ways))
    for tensor in (losses["loss"], norm, *gradients.values(), *embeds.values()):
        assert tensor.dtype == paddle.float32
    assert float(losses["loss"]) == pytest.approx(float(exact_losses["loss"]), rel=0.01)
    assert float(norm) == pytest.approx(float(exact_norm), rel=0.05)
    assert gradients.keys() == exact_gradients.keys()
    flat = [
        paddle.concat([g[n].reshape([-1]) for n in sorted(g)]) for g in (gradients, exact_gradients)
    ]
    assert 0.999 < cosine(*flat) < 1 - 1e-9  # and something was rounded
    for view, rows in embeds.items():
        assert (1 - (rows * exact_embeds[view]).sum(-1)).max() <= 1e-4
        np.testing.assert_allclose(rows.norm(axis=-1).numpy(), 1, atol=1e-6)
        assert not np.array_equal(rows.numpy(), exact_embeds[view].numpy())


def test_what_is_half_under_o2(start):
    trainer = start("O2")
    kinds = {n: str(p.dtype).split(".")[-1] for n, p in trainer.objective.named_parameters()}
    full = {name for name, kind in kinds.items() if kind == "float32"}
    assert "model.temperature" in full and all(
        "norm" in n or "ln_pre" in n or "temperature" in n for n in full
    )
    assert {kinds[n] for n in kinds.keys() - full} == {"bfloat16"}
    assert all(p.dtype == paddle.float32 for p in trainer.stepper.parallel.owned.values())


def test_thirty_steps_reach_the_loss_of_float32(start):
    reached = {}
    for level in LEVELS:
        trainer = start(level, out=level)
        losses = []
        for _, batches in zip(range(30), trainer.batches()):
            losses.append(float(trainer.step(batches)[0]["loss"]))
        reached[level] = sum(losses[-5:]) / 5
        assert reached[level] < 0.85 * losses[0]
    for level in ("O1", "O2"):
        assert reached[level] == pytest.approx(reached["O0"], rel=0.03)


@pytest.mark.parametrize("level", LEVELS)
def test_evaluation_in_mid_run_and_suspects(start, level):
    """Rows are float32 and normalised at every level, and the bad record is found at each."""
    trainer = start(level, "EMA.decay=0.5")
    batches = trainer.batches()
    trainer.step(next(batches))
    seen = []
    embed = trainer.evaluator.embed
    trainer.evaluator.embed = lambda *args: seen.append(embed(*args)) or seen[-1]
    trainer.evaluate()
    for rows in (seen[0].image_embeds, seen[0].text_embeds):
        assert rows.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(rows.astype("f8"), axis=1), 1, atol=1e-6)
    step = next(batches)
    pixels = trainer.objective.normalise(step[0][0]["pixel_values"])
    pixels[3] = float("nan")  # normalised ones are taken as they are
    step[0][0]["pixel_values"] = pixels
    assert trainer.stepper.suspects(step) == [int(step[0][0]["index"][3])]


def tensors(trainer):
    """All that a resume has to bring back, as arrays."""
    stepper = trainer.stepper
    found = {f"weight.{n}": t for n, t in trainer.objective.state_dict().items()}
    found.update({f"owned.{n}": t for n, t in stepper.parallel.owned.items()})
    found.update(
        {f"average.{n}": t for n, t in (stepper.ema.average if stepper.ema else {}).items()}
    )
    found.update(optimizer_tensors(stepper.optimizer, trainer.objective))
    return {n: t.astype("float32").numpy() for n, t in found.items()}


def run(trainer, steps):
    for _, batches in zip(range(steps), trainer.batches()):
        trainer.step(batches)
    return trainer


def saved(trainer):
    trainer.save()
    trainer.checkpoints.wait()
    return trainer.checkpoints.last


@pytest.mark.parametrize("ways", [[], ["EMA.decay=0.5", "Optimizer.freeze=[image]"]])
def test_masters_are_what_is_saved_and_resumed(start, ways):
    through = run(start("O2", *ways), 4)
    half_way = run(start("O2", *ways, out="resumed"), 2)
    folder = saved(half_way)
    written = dict(LazyTensors([folder / "model.safetensors"]))
    assert {a.dtype for a in written.values()} == {np.dtype("float32")}
    rounded = [n for n, a in written.items() if a.ndim > 1 and not (a.view("u4") & 0xFFFF).any()]
    assert rounded == []  # no tensor is one of halves, a frozen one neither
    if not ways:
        for name, master in half_way.stepper.parallel.owned.items():
            assert np.array_equal(written[name[len("model.") :]], master.numpy())

    resumed = start("O2", *ways, out="resumed", resume="auto")
    assert resumed.progress.step == 2
    before, after = tensors(half_way), tensors(resumed)
    run(resumed, 2)
    assert_same(before, after)
    assert_same(tensors(through), tensors(resumed))


@pytest.mark.parametrize("first,then", [("O2", "O0"), ("O0", "O2"), ("O2", "O1")])
def test_a_checkpoint_of_one_level_is_anothers(start, first, then):
    before = run(start(first, out="run"), 2)
    saved(before)
    after = start(then, out="run", resume="auto")
    one, other = (
        {n: t for n, t in tensors(x).items() if n[:6] != "weight"} for x in (before, after)
    )
    assert_same(one, other)
    losses, _ = after.step(next(after.batches()))
    assert math.isfinite(float(losses["loss"]))


@pytest.mark.parametrize("ways", [[], ["EMA.decay=0.5"]])
def test_an_old_checkpoint_of_o2_gives_its_masters(start, ways):
    """As releases before wrote it: rounded weights, and masters and moments under other names."""
    before = run(start("O2", *ways, out="run"), 2)
    folder = saved(before)
    halves = before.stepper.parallel.masters.halves
    files = {n: dict(LazyTensors([folder / f"{n}.safetensors"])) for n in ("model", "training")}
    of_training = {} if ways else {"model": "model."}
    for file, prefix in {"training": "", **of_training}.items():
        for name, value in files[file].items():
            if prefix + name in halves:
                files[file][name] = (value.view("u4") & 0xFFFF0000).view("f4")
    for name in halves:
        for key in [k for k in files["training"] if k.startswith(f"{name}|")]:
            old = key.replace("|", "|fp32_master_0_")
            files["training"][old] = files["training"].pop(key)
        files["training"][f"{name}|master"] = before.stepper.parallel.owned[name].numpy()
    for name, content in files.items():
        write_safetensors(folder / f"{name}.safetensors", content)
    after = start("O2", *ways, out="new")
    after.restore(folder)
    assert_same(tensors(before), tensors(after))


@pytest.fixture
def scaler():
    """A maker of scalers that work on a CPU."""
    yield scaler_on_cpu
    mock.patch.stopall()


@pytest.mark.parametrize("level", ["O0", "O2"])
def test_an_overflow_skips_the_step_and_halves_the_scale(start, scaler, level):
    trainer = start(level, out="run")
    stepper = trainer.stepper
    plain = start(level, out="plain")
    for each, stretch in ((trainer, 1024.0), (plain, 1.0)):
        each.stepper.scaler = scaler(stretch) if each is trainer else each.stepper.scaler
        each.step(next(each.batches()))
    scaled = tensors(trainer)
    for name, value in tensors(plain).items():
        np.testing.assert_allclose(value, scaled[name], rtol=1e-4, atol=1e-7, err_msg=name)

    weights_before, scale = tensors(trainer), float(stepper.scaler._scale)
    holder = next(iter(stepper.parallel.owned.values()))
    clip = stepper.clip
    batches = trainer.batches()

    def overflow():
        """As a gradient does that float16 cannot hold: it is infinite before it is unscaled."""
        holder.grad = paddle.full_like(holder, float("inf"))
        stepper.scaler._optimizer_states.clear()
        stepper.parallel.unscale(stepper.scaler, stepper.optimizer)
        return clip()

    stepper.clip = overflow
    trainer.step(next(batches))
    stepper.clip = clip
    assert trainer.faults.total == 0
    assert float(stepper.scaler._scale) == scale / 2
    for name, value in tensors(trainer).items():
        if not name.startswith("average"):
            assert np.array_equal(value, weights_before[name]), name

    saved(trainer)
    again = start(level, out="run", resume="auto")
    again.stepper.scaler = scaler(1.0)
    again.stepper.load_state_dict(trainer.state_dict())
    assert float(again.stepper.scaler._scale) == scale / 2

    # a step that is skipped for its loss says nothing of the scale, and the next one is as any
    counted = stepper.scaler.state_dict()
    stepper.gradients(next(batches), [trainer.stream.dropout_seeds(2)])
    stepper.skip()
    assert stepper.scaler.state_dict() == counted
    trainer.step(next(batches))
    assert not any(
        np.array_equal(v, weights_before[n])
        for n, v in tensors(trainer).items()
        if "qkv.weight" in n
    )
