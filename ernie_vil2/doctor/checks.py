"""Is it right? Checks that a run computes and keeps what it should."""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Mapping

import paddle

from ernie_vil2 import distributed
from ernie_vil2.checkpoints.verify import verify
from ernie_vil2.doctor.trial import Failed, Row, Skipped, Trial, digest, together
from ernie_vil2.tf32 import full_float32
from ernie_vil2.training.build import trainable
from ernie_vil2.training.runlog import versions

# Largest relative errors. On a GPU float32 products are not TensorFloat-32 in this check, but sums
# come in any order; its figure was never calibrated on one.
_TOLERANCE = {"cpu": 1e-5, "gpu": 1e-4, "half": 5e-2}


def same_start(trial: Trial) -> Row:
    """All processes have the same configuration, packages and weights."""
    facts = {
        **versions(),
        "device": "gpu" if distributed.on_gpu() else "cpu",
        "configuration": digest([str(trial.trainer.config).encode()]),
        "weights": digest(sorted(v.encode() for v in trial.weight_digests().values())),
    }
    everyone = distributed.all_gather_objects((socket.gethostname(), facts))
    _, main = everyone[0]
    other = [name for name in {**main, **facts} if main.get(name) != facts.get(name)]
    if other:
        name = other[0]
        raise Failed(f"{name}: {facts.get(name)}, on rank 0 {main.get(name)}; in all {len(other)}")
    hosts = len({host for host, _ in everyone})
    text = f"configuration, weights, {len(facts) - 3} versions; {facts['device']}"
    return Row("pass", f"{text}, {trial.world} process(es) on {hosts} host(s)")


def different_data(trial: Trial) -> Row:
    """The ranks' records are disjoint and together the global batch, by plan and as read."""
    trainer = trial.trainer
    order, alone = trainer.stream.order(), trial.stream_alone(trainer.plan).order()
    shares = distributed.all_gather_objects([order.indices(b).tolist() for b in (0, 1)])
    trial.load_small()
    # a later batch may meet the next epoch, and a mixture that of a small source in its first one
    once = all(epochs <= 1 for epochs in trainer.stream.source_epochs(1).values())
    for batch in (0, 1):
        planned = [index for share in shares for index in share[batch]]
        if batch == 0 and once and len(set(planned)) < len(planned):
            twice = len(planned) - len(set(planned))
            raise Failed(f"of a global batch's {len(planned)} records {twice} are read twice")
        if planned != alone.indices(batch).tolist():
            raise Failed(f"the ranks' records are not those of global batch {batch}")
    own, whole = (
        [[_content(part) for part in batch] for batch in batches]
        for batches in (trial.batches, trial.alone)
    )
    everyone = distributed.all_gather_objects((own, whole))
    if whole != everyone[0][1]:
        raise Failed("the data set's content is other than on rank 0")
    for batch, expected in enumerate(whole):
        if expected != [content for own, _ in everyone for content in own[batch]]:
            raise Failed("what the ranks read is not what one process reads")
    records = trial.plan.records * trial.world
    text = f"global batches of {trainer.stream.global_batch} records are disjoint and whole"
    return Row("pass", f"{text}; {records} records read as one process reads them")


def gather(trial: Trial) -> Row:
    """Rank r's rows land at r B, and a row's gradient is the sum of all ranks'."""
    need_processes(trial)
    rank, rows = distributed.rank(), 3
    own = paddle.arange(rank * rows, (rank + 1) * rows, dtype="float32").unsqueeze(1)
    own.stop_gradient = False
    everyone = distributed.all_gather_with_gradient(own)  # [B, 1] -> [WB, 1]
    place = paddle.arange(trial.world * rows, dtype="float32").unsqueeze(1)
    ((rank + 1) * place * everyone).sum().backward()
    if everyone.tolist() != place.tolist():
        raise Failed(f"the rows of all ranks come as {everyone.flatten().tolist()}")
    expected = own.detach() * (trial.world * (trial.world + 1) / 2)
    if not own.grad.allclose(expected):
        found, right = own.grad.flatten().tolist(), expected.flatten().tolist()
        raise Failed(f"gradients come back as {found} instead of {right}")
    return Row("pass", "rows in order of rank, gradients summed over ranks")


def gradients(trial: Trial) -> Row:
    """Loss and gradients of the run's own step are those of one process."""
    need(trial.batches)
    trainer = trial.trainer
    with full_float32():  # it is for the collectives to be exact, whatever the run allows products
        loss_alone, alone = trial.gradients_alone()
        # float16 may overflow at first, which lowers the loss scale
        for _ in range(20 if trial.stepper.scaler.is_enable() else 1):
            losses, found = trial.small_step_kept()
            if math.isfinite(float(losses["gradient_norm"])):
                break
    loss = distributed.mean([float(losses["loss"])])[0]
    errors = {"loss": _relative(abs(loss - loss_alone), abs(loss_alone))}
    norms = {name: float(gradient.norm()) for name, gradient in alone.items()}
    norm = max(distributed.all_gather_objects(math.hypot(*norms.values())))
    for name, gradient in alone.items():
        error = float((found[name] - gradient).norm()) if name in found else math.inf
        # a gradient that is nearly zero, as of a bias before a softmax, is rounding noise; so is a
        # temperature's in part, as a small sum of large terms
        errors[name] = _relative(error, norms[name] + 0.1 * norm)
    worst = max(errors, key=lambda name: errors[name])
    error, worst = max(distributed.all_gather_objects((errors[worst], worst)))
    precision = "gpu" if distributed.on_gpu() else "cpu"
    limit = _TOLERANCE[precision if trainer.config.AMP.level == "O0" else "half"]
    text = f"largest relative error {error:.1e} of {limit:g} allowed, in {worst}"
    if not error <= limit:
        raise Failed(text)
    return Row("pass", f"{text}; {trial.plan.rows} of {trainer.plan.rows} records a process")


def logit_scale(trial: Trial) -> Row:
    """Temperatures above their bound are brought back by a step, and go on learning."""
    need(trial.batches)
    highest = trial.trainer.config.Loss.logit_scale["max"]
    scales = {n: p for n, p in trainable(trial.objective).items() if "temperature" in n}
    for parameter in scales.values():
        parameter.set_value(paddle.full_like(parameter, math.log(highest) + 1))
    trial.small_step_kept()
    after = {name: math.exp(float(p)) for name, p in scales.items()}
    start = time.perf_counter()
    _, found = trial.small_step_kept()
    trial.small_step = slowest(time.perf_counter() - start)
    if not scales:
        raise Skipped("no temperature is learnable")
    free = [f"{name} is {x:.4g}" for name, x in after.items() if x > highest * (1 + 1e-5)]
    if free:
        raise Failed(f"set to {highest * math.e:.4g} and stepped, {free[0]}: max is {highest:g}")
    if all(pair.temperature is not None for pair in trial.objective.loss.pairs):
        scales.pop("model.temperature", None)  # no pair uses it
    mine = scales.keys() & trial.stepper.parallel.owned.keys()
    stuck = [n for n in mine if n not in found or float(found[n].abs().max()) == 0]
    if stuck:
        raise Failed(f"{stuck[0]} gets no gradient at its bound")
    text = f"brought back to {max(after.values()):.4g}, max is {highest:g}"
    return Row("pass", f"{text}, and gets its gradient there")


def checkpoint_round_trip(trial: Trial) -> Row:
    """A checkpoint is written, whole, and brings everything back bit for bit."""
    need(trial.batches)
    trainer = trial.trainer
    seen = distributed.all_gather_objects(trainer.output.is_dir())
    if not all(seen):
        raise Failed(f"rank {seen.index(False)} does not see output_dir, which all have to share")
    start = time.perf_counter()
    trainer.save()
    together(trainer.checkpoints.wait)
    seconds = slowest(time.perf_counter() - start)
    folder = distributed.all_gather_objects(trainer.checkpoints.last)[0]
    if folder is None:
        raise Failed("it was not written, for the reason that the warning gives")
    problems = verify(folder) if distributed.is_main() else None
    problems = distributed.all_gather_objects(problems)[0]
    if problems:
        raise Failed(problems[0])
    before = trial.state_digests()
    trial.step(trial.batches, trial.plan)  # so that there is something to bring back
    assert trial.state_digests() != before, "a step changes something"
    together(lambda: trainer.restore(folder))
    after = trial.state_digests()
    other = [n for n in {**before, **after} if before.get(n) != after.get(n)]
    if other:
        raise Failed(f"{len(other)} of {len(before)} tensors come back other, as {other[0]}")
    size = sum(path.stat().st_size for path in folder.iterdir())
    trial.checkpoint_bytes = size
    text = f"{len(before)} tensors and numbers bit for bit; {size / 1e6:,.1f} MB in {seconds:.1f} s"
    return Row("pass", f"{text}, {size / seconds / 1e6:,.0f} MB/s")


def need(what) -> None:
    """Skip a check that builds on one which gave nothing."""
    if not what:
        raise Skipped("needs what a check above did not give")


def need_processes(trial: Trial) -> None:
    """Skip what one process does not do."""
    if trial.world == 1:
        raise Skipped("one process")


def slowest(seconds: float) -> float:
    """The longest of all processes' times."""
    return max(distributed.all_gather_objects(seconds))


def _content(part: Mapping) -> str:
    return digest(part[key].numpy().tobytes() for key in ("pixel_values", "input_ids"))


def _relative(error: float, size: float) -> float:
    if math.isnan(error):
        return math.inf
    return error / size if size else math.inf if error else 0.0
