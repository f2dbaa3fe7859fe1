"""Faults in real runs of two processes: each is injected, and the run goes on or ends as promised.

Three launches serve all of these tests; `faulty_train.py` breaks what they ask for.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from ernie_vil2.checkpoints import layout, store
from ernie_vil2.checkpoints.verify import verify
from ernie_vil2.errors import UserError
from ernie_vil2.files.safetensors import read_safetensors
from tests.support.paths import ROOT, SCRIPTS
from tests.support.processes import alive, may_mount, on_small_disk
from tests.support.shapes import write_run

HANG_TIMEOUT = 8


class Runs:
    """What a launch of a plan left behind, by the names of its runs."""

    def __init__(self, folder: Path, plan: list, disk: Path | None = None):
        self.folder = folder
        logs = folder / f"{plan[-1]['name']}.log"
        (folder / "plan.json").write_text(json.dumps(plan))
        command = [sys.executable, "-m", "paddle.distributed.launch", "--log_dir", str(logs)]
        command += ["--nproc_per_node", "2", str(SCRIPTS / "faulty_train.py")]
        command.append(str(folder / "plan.json"))
        environment = {**os.environ, "ERNIE_VIL2_TEST": "1"}
        environment.pop("OMP_NUM_THREADS", None)
        done = subprocess.run(
            [*(on_small_disk(disk) if disk else []), *command],
            cwd=folder, env=environment, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        self.ended = time.time()
        self.code = done.returncode
        self.logs = [(logs / f"workerlog.{rank}").read_text() for rank in (0, 1)]

    def output(self, name: str) -> Path:
        """The run's folder, or what was copied of it."""
        copied = self.folder / f"{name}.after"
        return copied if copied.exists() else self.folder / name

    def log(self, name: str, rank: int = 0) -> str:
        """What a rank printed in this run."""
        printed = self.logs[rank].split(f"=== {name} begins")[1]
        return printed.split(f"=== {name} ended")[0]

    def code_of(self, name: str) -> list:
        return [re.findall(f"=== {name} ended with code (.*)", log)[0] for log in self.logs]

    def notes(self, name: str, rank: int = 0) -> list:
        return lines(self.folder / f"{name}-{rank}.jsonl")

    def faults(self, name: str) -> list:
        return lines(self.output(name) / "faults.jsonl")

    def metrics(self, name: str) -> dict:
        return {line["step"]: line for line in lines(self.output(name) / "metrics.jsonl")}


def lines(path: Path) -> list:
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return [json.loads(x, parse_constant=refuse) for x in path.read_text("utf-8").splitlines()]


def fault(name: str, batch: int, rank: int | None = None, **arguments) -> dict:
    return {"fault": name, "batch": batch, "rank": rank, **arguments}


def stretch(*batches: int) -> list:
    return [fault("nan", batch, rank=0, row=0) for batch in batches]


def run(name: str, folder: Path, *overrides, faults=(), resume=None) -> dict:
    config = folder / "run.yaml"
    if not config.exists():
        write_run(folder)
    arguments = ["-c", str(config), "-o", f"Global.output_dir={folder / name}"]
    arguments += ["Global.epochs=1000", "DataLoader.Eval=null", "DataLoader.Train.batch_size=8"]
    arguments += ["Faults.skips=3", *overrides]
    arguments += ["--resume", resume] if resume else []
    return {"name": name, "arguments": arguments, "faults": list(faults)}


# A text tower without dropout, whose two equal texts cannot but match: a mismatch is a spike.
SPIKY = [
    "Faults.spike=1.5",
    "Arch.Text.hidden_dropout_prob=0.0",
    "Arch.Text.attention_probs_dropout_prob=0.0",
    "Arch.Text.initializer_range=0.3",
    "Views.draw.tags_prob=0.0",
    "Loss.logit_scale.init=100",
]


def broken_data(name: str, folder: Path, *overrides, merge: int = 1, faults=()) -> dict:
    """Of 40 steps, step 5 has a NaN, step 29 a spike, steps 34 to 36 are rolled back to step 30."""
    settings = ["Global.max_steps=40", "Global.save_interval=5", "Global.keep_checkpoints=9"]
    data = [
        fault("nan", 4 * merge, rank=1, row=2),
        fault("mismatch", 28 * merge),
        *stretch(33 * merge, 34 * merge, 35 * merge),
    ]
    return run(name, folder, *settings, *SPIKY, *overrides, faults=[*data, *faults])


def broken_disk(name: str, folder: Path, broken: list, whole: list) -> dict:
    """Of 28 steps, 5 to 15 are done without disk space; `broken` and `whole` take and give it."""
    # the checkpoint of step 14 is refused before space comes back, and 16 is the next
    copy = fault("copy_checkpoints", 15, rank=0, to=str(folder / f"{name}.checkpoints"))
    faults = [*broken, fault("damage", 4, rank=0), *stretch(7), *whole, copy, *stretch(16)]
    settings = ["Global.max_steps=28", "Global.save_interval=2", "Global.keep_checkpoints=2"]
    return run(name, folder, *settings, faults=faults)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Runs:
    folder = tmp_path_factory.mktemp("runs")
    workers = [
        fault("signal_worker", 8, rank=0, number=signal.SIGKILL),
        fault("signal_worker", 14, rank=1, number=signal.SIGSTOP),
    ]
    workers_settings = ["DataLoader.Train.num_workers=2", "DataLoader.Train.worker_timeout=2"]
    limited = [fault("limit_files", 4, size=0)], [fault("limit_files", 15, size=None)]
    cnn = "Arch.Image={name: PPLCNet_x0_25, img_size: 32, out_dim: 16}"
    return Runs(
        folder,
        [
            broken_data("data", folder),
            broken_data("workers", folder, *workers_settings, faults=workers),
            run("batch_norm", folder, cnn, faults=[fault("nan", 1, rank=1, row=5)]),
            broken_disk("limited", folder, *limited),
            run("nothing", folder, faults=stretch(0, 1, 2)),
            run(
                "exhausted",
                folder,
                "Global.max_steps=30",
                "Global.save_interval=5",
                "Faults.rollbacks=1",
                faults=stretch(7, 8, 9, 13, 14, 15),
            ),
        ],
    )


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> Runs:
    """A run on a disk that fills up, where one may be mounted, and one that is killed."""
    folder = tmp_path_factory.mktemp("killed")
    plan = [
        run(
            "killed",
            folder,
            "Global.max_steps=30",
            "Global.save_interval=5",
            "DataLoader.Train.num_workers=1",
            faults=[*stretch(7, 8, 9), fault("signal_rank", 12, number=signal.SIGKILL)],
        )
    ]
    disk = None
    if may_mount(folder):
        disk = folder / "full"
        disk.mkdir()
        full = [fault("fill_disk", 4, rank=0)], [fault("free_disk", 15, rank=0)]
        plan.insert(0, broken_disk("full", folder, *full))
    return Runs(folder, plan, disk)


@pytest.fixture(scope="module")
def resumed(killed) -> Runs:
    """The killed run again, with the same fault in its data; later on a rank hangs."""
    again = run(
        "resumed",
        killed.folder,
        f"Global.output_dir={killed.folder / 'killed'}",
        "Global.max_steps=30",
        "DataLoader.Train.num_workers=1",
        f"Distributed.hang_timeout={HANG_TIMEOUT}",
        faults=[*stretch(7, 8, 9), fault("signal_rank", 20, rank=1, number=signal.SIGSTOP)],
        resume="auto",
    )
    return Runs(killed.folder, [again])


# -- Bad data --------------------------------------------------------------------------------------


def check_broken_data(runs: Runs, name: str, merge: int = 1) -> None:
    assert runs.code_of(name) == ["0", "0"], runs.log(name)
    both = [runs.notes(name, rank) for rank in (0, 1)]
    assert [n["weights"] for n in both[0]] == [n["weights"] for n in both[1]]

    # each step is done over the batch behind the one before, but 34 to 36 go back to step 30
    steps = [*range(36), *range(30, 40)]
    assert [(n["step"], n["batch"]) for n in both[0]] == [
        (step, turn * merge) for turn, step in enumerate(steps)
    ]
    latest = store.find_latest(runs.output(name) / "checkpoints")
    state = store.read_state(latest)
    assert (state["step"], state["batch"]) == (40, 46 * merge)

    # a skipped step leaves the weights as they are, the others do not
    weights = [n["weights"] for n in both[0]]
    unchanged = [turn for turn in range(45) if weights[turn] == weights[turn + 1]]
    assert unchanged == [4, 28, 33, 34]
    assert weights[36] == weights[30]  # the stretch is rolled back

    # the file names the records: the one with NaN, or all of a global batch that matches badly
    shares = [[n["index"] for n in notes] for notes in both]
    rows = read_rows(runs.folder / "train.tsv")
    expected = [
        (4, [shares[1][4][2]]),
        (28, shares[0][28] + shares[1][28]),
        *((turn, [shares[0][turn][0]]) for turn in (33, 34, 35)),
    ]
    for found, (turn, indices) in itertools.zip_longest(runs.faults(name), expected):
        assert (found["step"], found["batch"]) == (turn + 1, turn * merge)
        assert [record["index"] for record in found["records"]] == indices
        for record in found["records"]:
            assert record["id"] == rows[record["index"]]
            assert record["source"].endswith(f"train.tsv:{record['index'] + 1}")
    nan, spike = runs.faults(name)[:2]
    assert nan["reason"] == "the loss is nan" and nan["loss"] is None
    assert re.search(r"the loss is .*, [\d.]+ times the usual", spike["reason"])
    assert spike["loss"] > 10 and math.isfinite(spike["gradient_norm"])

    # `lines` has seen no NaN in it
    metrics = runs.metrics(name)
    assert sorted(metrics) == sorted({*range(1, 41)} - {5, 29, 34, 35, 36} | {34, 35, 36})
    skipped = {step: metrics[step]["train/skipped_steps"] for step in (4, 6, 28, 30, 33, 40)}
    assert skipped == {4: 0, 6: 1, 28: 1, 30: 2, 33: 5, 40: 5}
    assert all(line["train/loss"] < 30 for line in metrics.values())


def read_rows(path: Path) -> list:
    return [line.split("\t")[1] for line in path.read_text().splitlines()]


def test_nan_spike_and_rollback(runs):
    check_broken_data(runs, "data")
    log = runs.log("data")
    assert re.findall(r"step (\d+) is skipped: the loss is", log) == ["5", "29", "34", "35", "36"]
    assert log.count("3 steps in a row failed up to step 36: back to") == 1


def test_batch_norm_does_not_remember_a_nan(runs):
    """Its running statistics are changed by the forward, before the loss can be judged."""
    assert runs.code_of("batch_norm") == ["0", "0"], runs.log("batch_norm")
    notes = runs.notes("batch_norm")
    assert [a["weights"] == b["weights"] for a, b in zip(notes, notes[1:])] == [
        False, True, False,
    ]  # fmt: skip
    (found,) = runs.faults("batch_norm")
    assert [r["index"] for r in found["records"]] == [runs.notes("batch_norm", 1)[1]["index"][5]]
    saved = read_safetensors(runs.output("batch_norm") / "checkpoints/latest/model.safetensors")
    assert any("_variance" in name for name in saved)
    assert all(np.isfinite(array).all() for array in saved.values())


@pytest.mark.parametrize("name", ["PPLCNet_x0_25", "EfficientNetB0"])
def test_batch_norms_of_both_kinds_are_known(tmp_path, name):
    """Paddle's two classes have no other base than Layer."""
    from ernie_vil2.config.load import load_config
    from ernie_vil2.data.tokenize import Tokenizer
    from ernie_vil2.training.build import batch_norms, build_objective, check_batch_norm

    arch = f"Arch.Image={{name: {name}, img_size: 32, out_dim: 16}}"
    config = load_config(write_run(tmp_path), [arch, "DataLoader.Train.micro_batch_size=4"])
    objective, _ = build_objective(config, Tokenizer(**config.Tokenizer))
    tensors = {key for key in objective.state_dict() if key.endswith("._variance")}
    assert {f"{key}._variance" for key in batch_norms(objective)} == tensors != set()
    with pytest.raises(UserError, match=r"micro_batch_size is 4, but .* normalises"):
        check_batch_norm(config, objective, 16)


@pytest.mark.parametrize(
    "name,why,step",
    [("nothing", "without a checkpoint", 3), ("exhausted", "after 1 rollbacks", 11)],
)
def test_a_run_that_diverges_ends_with_one_line(runs, name, why, step):
    assert runs.code_of(name) == ["1", "1"]
    for rank in (0, 1):
        log = runs.log(name, rank)
        (line,) = [x for x in log.splitlines() if "lower LRScheduler.learning_rate" in x]
        assert f"3 steps in a row failed up to step {step}, {why}" in line
        assert log.rstrip().endswith(line)
        assert "Traceback" not in log
    if name == "exhausted":  # the launch's last
        assert runs.code == 1
        assert len(runs.faults(name)) == 6
        assert runs.log(name).count("back to") == 1


# -- Worker processes ------------------------------------------------------------------------------


def test_dead_and_hung_workers_change_nothing(runs):
    """Beside all that is wrong with the data, one is killed and one stopped."""
    check_broken_data(runs, "workers")
    assert re.search(r"data worker .* died of signal 9 .*; restarted", runs.log("workers", 0))
    assert re.search(r"data worker .* gave nothing for 2 s; restarted", runs.log("workers", 1))
    for rank in (0, 1):
        assert strip(runs.notes("workers", rank)) == strip(runs.notes("data", rank))
    for file in ("model.safetensors", "training.safetensors"):
        disturbed, whole = (
            (runs.output(name) / "checkpoints" / "latest" / file).read_bytes()
            for name in ("workers", "data")
        )
        assert disturbed == whole


def strip(notes: list) -> list:
    """What has to be alike: which records, and weights to the last bit."""
    return [{k: n[k] for k in ("step", "batch", "index", "weights")} for n in notes]


# -- The disk --------------------------------------------------------------------------------------


def check_broken_disk(runs: Runs, name: str) -> None:
    assert runs.code_of(name) == ["0", "0"], runs.log(name)
    out = runs.output(name)

    # without space, what was there stays, and nothing else seems to be there
    copied = runs.folder / f"{name}.checkpoints"
    assert [p.name for p in layout.checkpoints(copied)] == ["step_00000002", "step_00000004"]
    assert not any(map(verify, layout.checkpoints(copied)))
    assert (copied / "latest").resolve().name == "step_00000004"

    # with space again, all goes on
    kept = layout.checkpoints(out / "checkpoints")
    assert [p.name for p in kept] == ["step_00000026", "step_00000028"]
    assert not any(map(verify, kept))
    assert store.read_state(kept[-1])["faults"]["total"] == 2

    metrics = runs.metrics(name)
    written = {1, 2, 3, 4, *range(18, 29)}
    assert written <= set(metrics) < {*range(1, 29)} - {8, 17}
    assert metrics[28]["train/skipped_steps"] == 2
    assert metrics[28]["train/bad_records"] == 1
    (seen,) = lines(out / "bad_records.jsonl")
    assert seen["source"].endswith("train.tsv:1")
    assert [found["step"] for found in runs.faults(name)] == [17]

    from visualdl import LogReader

    (record,) = (out / "vdl").iterdir()
    points = LogReader(file_path=str(record)).get_data("scalar", "train/loss")
    assert {point.id for point in points} >= written


def test_a_limit_on_files_leaves_the_run_alive(runs):
    """Neither output_dir nor stdout nor stderr, which are files here, take a byte."""
    check_broken_disk(runs, "limited")
    log = (runs.output("limited") / "train.log").read_text()
    assert "step 4: loss" in log and "step 28: loss" in log
    assert "Traceback" not in runs.log("limited") + log


def test_a_full_disk_leaves_the_run_alive(killed):
    if not (killed.folder / "full.after").exists():
        pytest.skip("unshare may not mount here")
    check_broken_disk(killed, "full")
    log = killed.log("full")
    space = "No space left on device"
    for step in (6, 10, 12, 14):
        said = f"checkpoint of step {step} is not written .*{space}.*; training goes on"
        assert re.search(f"{said}, step_00000004 is untouched", log)
    assert re.search(rf"not written: the metrics of step 14 \(.*{space}", log)
    assert re.search(rf"not written \(.*{space}\): .*the loss is nan.*train.tsv:", log)
    both = log + killed.log("full", 1)
    assert re.search(rf"cannot write .*bad_records.jsonl: {space}.*train.tsv:1", both)
    assert log.count("train.log are lost") == 1
    assert "Traceback" not in both


def test_what_is_appended_is_whole_or_not_at_all(tmp_path):
    """So that a file's other lines can still be read."""
    script = """
        import os, resource
        from ernie_vil2.files.durable import append
        from ernie_vil2.training.faults import Faults
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
        faults = Faults("lines", None, 1)
        for size in (60, 60, 10):
            try:
                faults.write(text="x" * size)
            except OSError as error:
                print(error)
    """
    done = python(script, cwd=tmp_path)
    assert [len(x["text"]) for x in lines(tmp_path / "lines")] == [60, 10]
    assert done.stdout.count("No space left") == 1


def test_a_full_disk_below_stdout_and_stderr(tmp_path):
    script = """
        import sys
        from pathlib import Path
        from tqdm import tqdm
        from ernie_vil2.training.runlog import log, start_logging
        start_logging(Path("out"), True)
        for _ in tqdm(range(1000), mininterval=0):
            log.info("x" * 99)
        print("x" * 99999)
        sys.exit(3)
    """
    with open("/dev/full", "w") as full:
        assert python(script, cwd=tmp_path, stdout=full, stderr=full, code=3)
    assert len((tmp_path / "out" / "train.log").read_text().splitlines()) == 1000


def python(script: str, code: int = 0, **options) -> subprocess.CompletedProcess:
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], env=environment, text=True, **options
    )
    assert done.returncode == code, done.stderr
    return done


# -- Dead and hung ranks ---------------------------------------------------------------------------


def test_after_a_rollback_and_kill_9_the_bad_stretch_is_not_met_again(killed, resumed):
    assert killed.code != 0
    before, after = killed.notes("killed"), resumed.notes("resumed")
    assert [(n["step"], n["batch"]) for n in before[-3:]] == [(5, 10), (6, 11), (7, 12)]
    assert [(n["step"], n["batch"]) for n in after] == [(i + 5, i + 10) for i in range(11)]
    for rank in (0, 1):
        repeated = strip(resumed.notes("resumed", rank))[:3]
        assert repeated == strip(killed.notes("killed", rank))[-3:]
    assert len(resumed.faults("killed")) == 3
    assert "is skipped" not in resumed.log("resumed")
    saved = store.find_latest(resumed.folder / "killed" / "checkpoints")
    assert store.read_state(saved)["faults"]["rollbacks"] == 1


def test_a_hung_rank_ends_the_run(resumed):
    log = resumed.log("resumed")
    assert 'rank 0 hangs: no progress in "step 16"' in log
    assert "Distributed.hang_timeout" in log
    assert resumed.code != 0
    assert resumed.ended - resumed.notes("resumed", 1)[-1]["time"] < HANG_TIMEOUT + 20


def test_no_process_is_left(killed, resumed):
    noted = [n for rank in (0, 1) for n in killed.notes("killed", rank)]
    noted += [n for rank in (0, 1) for n in resumed.notes("resumed", rank)]
    pids = {pid for note in noted for pid in note["pids"]}
    assert len(pids) >= 8  # two ranks with a worker, twice
    deadline = time.monotonic() + 10
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in pids if alive(pid)]


@pytest.mark.slow
def test_no_rank_leaves_while_another_saves(tmp_path):
    """The launcher kills the others three seconds after the first has left."""
    faults = [fault("slow_disk", 0, seconds=1.5), fault("signal_rank", 6, number=signal.SIGTERM)]
    runs = Runs(tmp_path, [run("stopped", tmp_path, "Global.max_steps=30", faults=faults)])
    assert runs.code == 1
    assert runs.code_of("stopped") == ["1", "1"]
    saved = store.find_latest(tmp_path / "stopped" / "checkpoints")
    assert saved is not None and layout.step_of(saved) == 7


# -- All ways to train -----------------------------------------------------------------------------

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
