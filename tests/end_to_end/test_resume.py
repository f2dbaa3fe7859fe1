"""Whenever a run is killed, `--resume auto` goes on as if nothing had happened, to the last bit."""

import itertools
import json
import random
import shutil
import time
from collections import Counter
from pathlib import Path

import pytest

from ernie_vil2.checkpoints import layout, store
from ernie_vil2.checkpoints.verify import verify
from tests.support.killed_runs import Kill, Runs
from tests.support.shapes import write_run

STEPS = 9
RECORDS, BATCH = 64, 24  # so the third batch is of two epochs, and the eighth ends the third epoch
MICRO = "DataLoader.Train.micro_batch_size=10"  # what is left of a batch is a smaller one
WORKERS = "DataLoader.Train.num_workers=2"
MERGE = "Distributed.gradient_merge=2"
RECOMPUTE = ("Arch.Image.recompute=true", "Arch.Text.recompute=true")
SHARDED = "Distributed.sharding=2"
UNEQUAL = ("Global.save_interval=2", "Global.eval_interval=3")  # the best is saved besides
# name -> processes and what is switched on
VARIANTS = {
    "plain": (1, []),
    "all": (1, [WORKERS, MICRO, MERGE, *RECOMPUTE, *UNEQUAL]),
    "two": (2, [WORKERS, MICRO]),
    "two, all": (2, [WORKERS, MICRO, MERGE, *RECOMPUTE, SHARDED]),
}


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    every_step = {"save_interval": 1, "eval_interval": 2, "keep_checkpoints": 2, "max_steps": STEPS}
    return write_run(
        tmp_path_factory.mktemp("data"),
        Global={**every_step, "epochs": 99, "sample_views": 0},
        EMA={"decay": 0.9},
        # a larger epsilon, since Adam's first steps would follow the sign of gradients near zero
        Optimizer={"epsilon": 0.01},
        LRScheduler={"learning_rate": 0.01, "warmup_steps": 2},
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory, config):
    """`runs(output, *overrides, ...)`: one attempt, as Runs makes it."""
    attempts = Runs(tmp_path_factory.mktemp("attempts"))

    def run(output, *overrides, processes=1, kill=None):
        batch = f"DataLoader.Train.global_batch_size={BATCH}"
        argv = ["-c", config, "--resume", "auto", "-o", batch, *overrides]
        return attempts(output, argv, processes, kill)

    return run


def ended_well(attempt):
    assert attempt.code == 0, attempt.log
    return attempt


def metrics(output: Path) -> list:
    """(step, {name: value}) of each line, without those that tell of time."""
    lines = map(json.loads, (output / "metrics.jsonl").read_text().splitlines())
    of_time = {"step", "time", "train/pairs_per_second", "train/data_wait"}
    return [(x["step"], {k: v for k, v in x.items() if k not in of_time}) for x in lines]


def assert_same(output: Path, whole: Path, steps=range(1, STEPS + 1), rotated=True) -> None:
    """Every file of every checkpoint that is kept, byte for byte, and all that was logged.

    rotated: the last attempt saved, and so dropped what one killed amid its rotation had left.
    """
    kept, expected = output / "checkpoints", whole / "checkpoints"
    names, expected_names = ({path.name for path in f.iterdir()} for f in (kept, expected))
    assert names == expected_names or (not rotated and names > expected_names)
    assert not any(name.startswith(".") for name in names)
    for link in ("latest", "best"):
        assert (kept / link).resolve().name == (expected / link).resolve().name
    for path in (kept / path.name for path in layout.checkpoints(expected)):
        assert verify(path) == []
        assert store.read_state(path) == store.read_state(expected / path.name)
        files = sorted(path.glob("*.safetensors"))
        assert len(files) >= 2
        for file in files:
            assert file.read_bytes() == (expected / path.name / file.name).read_bytes(), file
    reference = metrics(whole)
    for line in metrics(output):  # of steps done twice too
        assert line in reference
    assert [x for x in reference if x[0] in steps and x not in metrics(output)] == []


def assert_same_records(attempt, reference) -> None:
    for step, batches in attempt.records.items():
        assert batches == reference.records[step], step


# -- Killed at random ------------------------------------------------------------------------------


def kills(reference, rng: random.Random):
    """Without end: all phases in turn, at random calls and ranks, and random times between."""
    phases = sorted({phase for calls in reference.calls for phase in calls})
    rng.shuffle(phases)
    # these twice in a round, and first
    for number, phase in enumerate(itertools.cycle(["writing", "rotating", *phases])):
        how = {"group": rng.random() < 0.5, "grace": rng.choice([0, rng.uniform(0, 0.3)])}
        if number % 2 == 0:
            seconds = rng.uniform(0, 0.5 * reference.seconds)
            yield Kill(rng.randrange(len(reference.calls)), seconds=seconds, **how)
        rank = rng.choice([r for r, calls in enumerate(reference.calls) if phase in calls])
        # of the first third, since most attempts begin later in the run
        yield Kill(rank, phase, rng.randint(1, 1 + reference.calls[rank][phase] // 3), **how)


@pytest.mark.parametrize(
    "variant,count",
    [
        ("all", 3),
        ("two, all", 3),
        pytest.param("two", 6, marks=pytest.mark.slow),
        *(pytest.param(v, 20, marks=pytest.mark.slow) for v in VARIANTS if v != "two"),
    ],
)
def test_killed_at_random_moments(runs, tmp_path, variant, count):
    processes, overrides = VARIANTS[variant]
    whole = tmp_path / "whole"
    reference = ended_well(runs(whole, *overrides, processes=processes))
    assert set(reference.records) == set(range(1, STEPS + 1))
    planned = kills(reference, random.Random(f"{variant} {count}"))
    hits: Counter = Counter()
    kill = next(planned)
    for number in itertools.count():
        output = tmp_path / f"output{number}"
        while True:
            done = sum(hits.values()) >= count
            attempt = runs(output, *overrides, processes=processes, kill=None if done else kill)
            assert_same_records(attempt, reference)
            if attempt.phase is None:
                break
            hits[attempt.phase] += 1
            kill = next(planned)
        ended_well(attempt)
        assert_same(output, whole, rotated=bool(attempt.records))
        if done:
            break
        kill.number, kill.seconds = 1, 0  # the run was over before
    print(f"{variant}: {sum(hits.values())} kills in {number + 1} runs: {dict(hits)}")
    if count >= 20:
        phases = {phase for calls in reference.calls for phase in calls}
        assert phases <= hits.keys() and len(phases) == 8
        assert any(phase.startswith("by the clock") for phase in hits)


@pytest.mark.slow
def test_a_rank_does_not_wait_for_the_shard_of_a_dead_one(runs, tmp_path):
    """Its own writer would, for ten minutes, after the collective at which it failed."""
    kill = Kill(rank=1, phase="writing", number=2, grace=60)
    begun = time.monotonic()
    attempt = runs(tmp_path / "output", SHARDED, processes=2, kill=kill)
    assert attempt.phase == "writing" and time.monotonic() - begun < 50, attempt.log
    assert "rank 1 within 10 s" in attempt.log and "Traceback" in attempt.log


# -- At every position -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(runs, tmp_path_factory):
    """An uninterrupted run with all its checkpoints: output_dir and what Runs tells of it."""
    output = tmp_path_factory.mktemp("whole") / "output"
    return output, ended_well(runs(output, "Global.keep_checkpoints=99"))


def resumable(whole: Path, step: int, output: Path) -> Path:
    """A copy of the run as it was when it was killed after `step`."""
    for path in layout.checkpoints(whole / "checkpoints"):
        if layout.step_of(path) <= step:
            shutil.copytree(path, output / "checkpoints" / path.name)
    return output


def test_the_run_that_is_compared_with_is_right(whole):
    records = whole[1].records
    stream = [index for step in range(1, 9) for index in records[step][0]]
    epochs = [stream[start : start + RECORDS] for start in range(0, len(stream), RECORDS)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(RECORDS))] * 3
    assert epochs[0] != epochs[1] != epochs[2]
    losses = [values["train/loss"] for _, values in metrics(whole[0]) if "train/loss" in values]
    assert len(set(losses)) == STEPS


@pytest.mark.parametrize(
    "step",
    [2, 3, 5, 8],
    ids=["before a batch of two epochs", "after it", "amid an epoch", "after an epoch"],
)
def test_from_a_position_of_the_data(runs, whole, tmp_path, step):
    output = resumable(whole[0], step, tmp_path / "output")
    attempt = ended_well(runs(output, "Global.keep_checkpoints=99"))
    assert list(attempt.records) == list(range(step + 1, STEPS + 1))
    assert_same_records(attempt, whole[1])
    assert_same(output, whole[0], steps=attempt.records)


def test_killed_between_a_checkpoint_and_the_end_of_its_evaluation(runs, whole, tmp_path):
    output = resumable(whole[0], 7, tmp_path / "output")
    attempt = runs(output, "Global.keep_checkpoints=99", kill=Kill(phase="amending"))
    assert attempt.phase == "amending", attempt.log
    newest = store.find_latest(output / "checkpoints")
    assert layout.step_of(newest) == 8 and store.read_state(newest)["evaluated_at"] == 6
    ended_well(runs(output, "Global.keep_checkpoints=99"))
    assert_same(output, whole[0], steps=[8, 9])


# -- On another number of processes ----------------------------------------------------------------


@pytest.mark.parametrize("sharding,several", [("null", 2), ("2", 2), ("2", 4)])
def test_on_one_several_and_one_processes(runs, tmp_path, sharding, several):
    """Four are two models, each shared by two."""
    overrides = ["DataLoader.Train.micro_batch_size=2", f"Distributed.sharding={sharding}"]
    degrees = [] if several == 2 else ["Distributed.dp_degree=2", "Distributed.sharding_degree=2"]
    whole, output = tmp_path / "whole", tmp_path / "output"
    reference = ended_well(runs(whole, *overrides))
    # two calls a step, the optimizer's and the average's: in the fourth step, the third, and never
    legs = [
        (1, Kill(phase="stepping", number=7)),
        (several, Kill(phase="stepping", number=5)),
        (1, None),
    ]
    begun = []
    for processes, kill in legs:
        own = degrees if processes > 1 else []
        attempt = runs(output, *overrides, *own, processes=processes, kill=kill)
        assert attempt.code == (-9 if kill else 0), attempt.log
        assert_same_records(attempt, reference)
        assert f"{kill and kill.phase}" == f"{attempt.phase}"
        begun.append(min(attempt.records))
        newest = store.find_latest(output / "checkpoints")
        shards = min(processes, 2) if sharding == "2" else 1
        assert len(layout.training_files(newest)) == shards
    assert 1 == begun[0] < begun[1] < begun[2] < STEPS
    expected = dict(x for x in metrics(whole) if "train/loss" in x[1])
    found = [x for x in metrics(output) if "train/loss" in x[1]]
    assert {step for step, _ in found} == set(expected)
    for step, values in found:
        for name, value in values.items():
            if not name.endswith("accuracy"):  # near-equal logits may change places
                # of six digits, after steps whose sums ran in another order
                assert value == pytest.approx(expected[step][name], rel=2e-5), (step, name)


def test_other_global_batches_are_refused(runs, whole, tmp_path):
    output = resumable(whole[0], 3, tmp_path / "output")
    per_process = [
        "DataLoader.Train.global_batch_size=null",
        f"DataLoader.Train.batch_size={BATCH}",
    ]
    for processes, overrides in [
        (1, ["DataLoader.Train.global_batch_size=16"]),
        (1, [MERGE]),
        (2, per_process),
    ]:
        attempt = runs(output, *overrides, processes=processes)
        assert attempt.code == 2
        errors = [line for line in attempt.log.splitlines() if line.startswith("error: ")]
        assert len(errors) == processes and "Traceback" not in attempt.log
        for part in (
            f"was trained with {BATCH} pairs a global batch and gradient_merge 1",
            f"DataLoader.Train.global_batch_size={BATCH} Distributed.gradient_merge=1",
        ):
            assert part in errors[0]
    assert len(layout.checkpoints(output / "checkpoints")) == 3  # and nothing is lost
