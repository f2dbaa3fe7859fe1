"""How fast, and is there room? Figures of a run on these processes, and what bounds it."""

from __future__ import annotations

import contextlib
import math
import resource
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable

import paddle

from ernie_vil2 import distributed
from ernie_vil2.distributed import groups
from ernie_vil2.distributed.ring import Ring
from ernie_vil2.doctor.checks import need, need_processes, slowest
from ernie_vil2.doctor.trial import Failed, Row, Trial, together
from ernie_vil2.training.build import trainable
from ernie_vil2.training.plan import Plan

_WARM_UP, _MEASURED = 2, 5  # repetitions of what is timed ...
_LIMIT = 20.0  # ... or fewer, so that they take about so many seconds
_CPU_STEP = 5.0  # seconds that a timed step should take on a CPU, with as few records as that needs
_BUFFER = 2**26  # numbers that are reduced at a time


def gather_speed(trial: Trial) -> Row:
    """Of the gather of a batch's embeddings, and of its backward; with Loss.ring, of its hops.

    The hops are no part of what a step waits for: it computes meanwhile.
    """
    need_processes(trial)
    plan, objective = trial.trainer.plan, trial.objective
    shape = [plan.rows, len(objective.loss.views), objective.model.embed_dim]
    own = paddle.zeros(shape)
    if objective.loss.ring:
        forward = timed(lambda: deque(Ring().blocks([own]), maxlen=0))
        backward = 2 * forward  # blocks, and gradients
    else:
        everyone = paddle.zeros([trial.world * shape[0], *shape[1:]])
        forward = timed(lambda: distributed.all_gather(own))
        backward = timed(lambda: distributed.reduce_scatter(everyone))
        trial.gathers = plan.merge * (forward + backward)
    received = (trial.world - 1) * math.prod(shape) * 4
    times = f"{forward * 1e3:.1f} ms forward, {backward * 1e3:.1f} ms backward"
    text = f"{shape} float32 a process, {received / 1e6:.3g} MB received"
    return Row(f"{received / forward / 1e9:.3g} GB/s", f"{times}: {text}")


def reduction_speed(trial: Trial) -> Row:
    """Of what a step moves of all gradients and, where sharded, of weights."""
    need_processes(trial)
    parameters = trainable(trial.trainer.objective).values()
    numbers = sum(math.prod(p.shape) for p in parameters)
    stage = trial.trainer.config.Distributed.sharding
    dtype = max(parameters, key=lambda p: math.prod(p.shape)).dtype
    buffer = paddle.zeros([min(numbers, _BUFFER)], dtype)

    group, replicas = groups.sharding(), groups.replicas()
    degree, models = len(group.ranks), len(replicas.ranks)
    share = buffer[: buffer.shape[0] // degree]

    def move() -> None:
        if stage is None:
            return distributed.all_reduce_(buffer)
        distributed.reduce_(buffer, group.ranks[0], group.handle)
        if models > 1:
            distributed.all_reduce_(share, replicas.handle)
        for _ in range(2 if stage == 3 else 1):
            distributed.broadcast_(buffer, group.ranks[0], group.handle)

    seconds = timed(move)
    trial.reduction = numbers / buffer.shape[0] * seconds
    size = buffer.shape[0] * buffer.element_size()
    sent = {None: 2 * (trial.world - 1) / trial.world, 3: 3}.get(stage, 2)  # see docs/scaling.md
    sent += 2 * (models - 1) / models / degree
    kind = "all-reduce" if stage is None else "reduction and broadcast"
    text = f"{trial.reduction * 1e3:,.1f} ms for {kind} of {numbers:,} numbers"
    sample = f", from a sample of {size / 1e6:,.0f} MB" if numbers > buffer.shape[0] else ""
    return Row(f"{sent * size / seconds / 1e9:.3g} GB/s", text + sample)


def data_speed(trial: Trial) -> Row:
    """Of reading and augmenting, with nothing else going on."""
    trainer, workers = trial.trainer, trial.trainer.stream.workers
    rows = min(trainer.plan.rows, 32)
    warm_up = max(_WARM_UP, workers)  # they begin together, so their first batches come in a burst
    count = warm_up + max(_MEASURED, 2 * workers)
    stream = trial.stream(Plan(rows, micro=rows, merge=1))

    def read() -> float:
        times = [time.perf_counter()]
        with contextlib.closing(stream.batches(0, count)) as batches:
            for _ in batches:
                times.append(time.perf_counter())
                if times[-1] - times[0] > _LIMIT:
                    break
        times = times[warm_up:] if len(times) > warm_up + 1 else times
        return (len(times) - 1) * rows / (times[-1] - times[0])

    rate = min(distributed.all_gather_objects(together(read)))
    trial.data = trainer.plan.records / rate
    text = f"{rate:,.0f} records/s a process, with {workers} workers each"
    return Row(f"{rate * trial.world:,.0f} pairs/s", text)


def step_speed(trial: Trial) -> Row:
    """Of steps whose data lies in memory; on a CPU with few records, where all take long."""
    need(trial.small_step)
    run, plan = trial.trainer.plan, trial.trainer.plan
    if not distributed.on_gpu():
        affordable = int(trial.plan.records * _CPU_STEP / trial.small_step)
        rows = min(run.rows, max(trial.plan.rows, affordable))
        plan = Plan(rows, min(run.micro, rows), merge=1)
    marks = [0.0]

    def step() -> None:
        trial.step(batches, plan, mark)
        marks[0] = time.perf_counter() - marks[0]

    def mark() -> None:
        marks[0] = time.perf_counter()

    batches = trial.load(plan)
    seconds = timed(step)
    share = plan.records / run.records
    fixed = slowest(marks[0])  # clipping and update take as long for any number of records
    moving = trial.reduction + trial.gathers * plan.merge / run.merge
    trial.computation = max(seconds - moving - fixed, 0.01 * seconds) / share + fixed
    whole = f"; a step of the run has {run.records}" if share < 1 else ""
    text = f"{seconds:.3g} s a step of {plan.records} records a process{whole}"
    return Row(f"{plan.records * trial.world / seconds:,.1f} pairs/s", text)


def expected_speed(trial: Trial) -> Row:
    """What the figures above make of the run, and which of them bounds it."""
    need(trial.computation and trial.data)
    trainer = trial.trainer
    communication = trial.gathers + trial.reduction
    parts = {"computation": trial.computation, "communication": communication, "data": trial.data}
    seconds = trial.computation + communication
    # a GPU computes while the host reads; on a CPU both share the cores
    seconds = max(seconds, trial.data) if distributed.on_gpu() else seconds + trial.data
    rate = trainer.plan.records * trial.world / seconds
    each = ", ".join(f"{name} {part:.3g}" for name, part in parts.items())
    bound = max(parts, key=lambda name: parts[name])
    epoch = _duration(trainer.stream.steps_per_epoch * seconds)
    run = _duration(trainer.total_steps * seconds)
    return Row(
        f"{rate:,.1f} pairs/s",
        f"bound by {bound} (seconds a step: {each}); an epoch {epoch}, "
        f"all {trainer.total_steps} steps {run}, without evaluation",
    )


def memory(trial: Trial) -> Row:
    """Peaks so far, of the process that took most."""
    unit = 1 if sys.platform == "darwin" else 1024
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    host = max(distributed.all_gather_objects(host))
    if not distributed.on_gpu():
        return Row(f"{host / 1e9:.2f} GB", "of a process on the host, without its workers")
    peak = max(distributed.all_gather_objects(paddle.device.cuda.max_memory_allocated()))
    total = paddle.device.cuda.get_device_properties().total_memory
    text = f"of the GPU's {total / 1e9:.1f} GB; on the host {host / 1e9:.2f} GB without workers"
    return Row(f"{peak / 1e9:.2f} GB", text)


def disk(trial: Trial) -> Row:
    """Room for the checkpoints that will be kept."""
    need(trial.checkpoint_bytes)
    every, steps = trial.trainer.config.Global, trial.trainer.total_steps
    saved = 1 + (steps // every.save_interval if every.save_interval else 0)
    kept = every.keep_checkpoints + 1  # and the best
    if every.keep_every and every.save_interval:
        kept += steps // math.lcm(every.keep_every, every.save_interval)
    count = min(kept, saved) + 1  # and the one that is being written
    wanted = count * trial.checkpoint_bytes
    free = shutil.disk_usage(trial.trainer.output).free
    text = f"{free / 1e9:,.1f} GB free for {count} checkpoints of {wanted / 1e9:,.2f} GB together"
    if free < wanted:
        raise Failed(f"{text}: make room, or lower Global.keep_checkpoints")
    return Row("pass", text)


def timed(action: Callable[[], object]) -> float:
    """Mean time of an action on the slowest process; all run it equally often."""

    def once() -> float:
        start = time.perf_counter()
        action()
        if distributed.on_gpu():
            paddle.device.cuda.synchronize()
        return time.perf_counter() - start

    for _ in range(_WARM_UP):
        last = slowest(once())
        if last > _LIMIT / 2:
            return last
    count = max(1, min(_MEASURED, int(_LIMIT / last)))
    return slowest(sum(once() for _ in range(count)) / count)


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.1f} seconds"
