"""Faults in real runs of two processes: each is injected, and the run goes on or ends as promised.

Three launches serve all of these tests; `faulty_train.py` breaks what they ask for.
"""

from __future__ import annotations

import re
import signal
import time

import numpy as np
import pytest

from ernie_vil2.checkpoints import layout, store
from ernie_vil2.checkpoints.verify import verify
from ernie_vil2.files.safetensors import read_safetensors
from tests.support.faulty_runs import (
    FAILED,
    Runs,
    broken_data,
    broken_disk,
    check_broken_data,
    fault,
    lines,
    run,
    stretch,
    strip,
)
from tests.support.processes import alive, may_mount

HANG_TIMEOUT = 8


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
        assert runs.code in FAILED
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
    assert runs.code in FAILED
    assert runs.code_of("stopped") == ["1", "1"]
    saved = store.find_latest(tmp_path / "stopped" / "checkpoints")
    assert saved is not None and layout.step_of(saved) == 7
