"""`tools/train.py --doctor` passes sound runs, and names the check that a broken one fails."""

import re
import time
from pathlib import Path

import pytest

from ernie_vil2 import cli
from ernie_vil2.data.loader import TrainingViews
from tests.support.paths import SCRIPTS
from tests.support.processes import launch
from tests.support.shapes import write_run
from tools import train as train_tool

BROKEN = SCRIPTS / "doctor_broken.py"
SHARDED = "DataLoader.Train.micro_batch_size=4,Distributed.sharding"
RIGHT = {"same start", "different data", "gradients", "logit scale", "checkpoint", "disk"}
FIGURES = {"data speed", "step speed", "expected speed", "memory"}
BETWEEN_PROCESSES = {"gather": "pass", "gather speed": "GB/s", "reduction speed": "GB/s"}


def read_table(text: str) -> dict:
    """Check -> (result, detail)."""
    rows = (re.split(r"\s{2,}", line, maxsplit=2) for line in text.splitlines())
    return {
        row[0]: (row[1], row[2])
        for row in rows
        if len(row) == 3 and row[1] not in ("result", "-" * 14)
    }


def failed(rows: dict) -> set:
    return {name for name, (result, _) in rows.items() if result == "FAIL"}


def contents(folder: Path) -> dict:
    return {p: (p.stat().st_mtime_ns, p.is_file() and p.read_bytes()) for p in folder.rglob("*")}


# -- One process -----------------------------------------------------------------------------------


def test_one_process_passes_and_leaves_nothing_behind(tmp_path, capsys):
    config = write_run(tmp_path, EMA={"decay": 0.99})
    assert cli.run(train_tool.main, ["-c", str(config), "--doctor"]) == 0
    rows = read_table(capsys.readouterr().out)
    assert {name for name, (result, _) in rows.items() if result == "pass"} == RIGHT
    assert {name for name, (result, _) in rows.items() if result == "skipped"} == {
        *BETWEEN_PROCESSES
    }
    assert rows.keys() == RIGHT | FIGURES | BETWEEN_PROCESSES.keys()
    assert re.fullmatch(r"[\d,.]+ pairs/s", rows["expected speed"][0])
    assert "all 4 steps" in rows["expected speed"][1]
    assert not (tmp_path / "out").exists()


def test_what_is_slow_is_named_and_an_earlier_run_is_not_touched(tmp_path, capsys, monkeypatch):
    config = write_run(tmp_path)
    out = tmp_path / "out"
    (out / "checkpoints" / "step_00000001").mkdir(parents=True)
    (out / "checkpoints" / "step_00000001" / "model.safetensors").write_bytes(b"precious")
    (out / "train.log").write_text("precious")
    before = contents(out)

    read = TrainingViews.__getitem__
    slow = lambda self, item: time.sleep(0.1) or read(self, item)  # noqa: E731
    monkeypatch.setattr(TrainingViews, "__getitem__", slow)
    options = ["DataLoader.Train.batch_size=4", "Global.max_steps=null", "Global.epochs=1000000000"]
    options += ["Global.save_interval=1", "Global.keep_checkpoints=1000000000"]
    assert cli.run(train_tool.main, ["-c", str(config), "--doctor", "-o", *options]) == 1
    rows = read_table(capsys.readouterr().out)
    assert failed(rows) == {"disk"}  # for a billion checkpoints
    assert "bound by data" in rows["expected speed"][1]
    assert float(rows["data speed"][0].split()[0]) <= 10
    assert contents(out) == before


def test_a_mistake_is_the_users(tmp_path, capsys):
    config = write_run(tmp_path)
    argv = ["-c", str(config), "--doctor", "-o", "DataLoader.Train.batch_size=1000"]
    assert cli.run(train_tool.main, argv) == 2
    captured = capsys.readouterr()
    assert "1000" in captured.err and not captured.out
    assert not (tmp_path / "out").exists()
    with pytest.raises(SystemExit) as stop:
        train_tool.main(["-c", str(config), "--doctor", "--resume", "auto"])
    assert stop.value.code == 2


# -- Two processes ---------------------------------------------------------------------------------


def examine(folder: Path, **runs: str) -> dict:
    """Name -> (exit code, table) of runs "BREAKAGE,OVERRIDE,..."; the last must fail."""
    config = write_run(folder)
    launch(2, folder, BROKEN, str(config), *(f"{n}={x}" for n, x in runs.items()), code=1)
    found = {}
    log = (folder / "log2" / "workerlog.0").read_text()
    for section in re.split("^== ", log, flags=re.M)[1:]:
        code = int(re.search(r"^exit code (\d)$", section, re.M)[1])
        found[section.splitlines()[0]] = code, read_table(section)
    assert found.keys() == runs.keys()
    assert not (folder / "out").exists()
    return found


def check_sound(code: int, rows: dict) -> None:
    assert not failed(rows), rows
    assert code == 0
    assert {name for name, (result, _) in rows.items() if result == "pass"} == {"gather", *RIGHT}
    assert all(rows[name][0].endswith(what) for name, what in BETWEEN_PROCESSES.items())


def check_broken(found: dict, expected: dict) -> None:
    """expected: name -> the checks that fail, and what the first of them says."""
    for name, (checks, text) in expected.items():
        code, rows = found[name]
        assert failed(rows) == set(checks), (name, rows)
        assert text in rows[checks[0]][1]
        assert code == 1


@pytest.mark.slow
def test_two_processes(tmp_path):
    found = examine(
        tmp_path,
        sound="",
        sound_sharded=f",{SHARDED}=2,Loss.ring=true",
        sound_half=f",{SHARDED}=2,AMP.level=O2,EMA.decay=0.9",
        gather_backward="own_gradients_only",
        same_data="same_data",
        clamp="scale_not_clamped",
        disk="flipped_byte",
    )
    check_sound(*found["sound"])
    check_sound(*found["sound_sharded"])
    check_sound(*found["sound_half"])
    expected = {
        "gather_backward": (["gather", "gradients"], "gradients come back"),
        "same_data": (["different data", "gradients"], "16 are read twice"),
        "clamp": (["logit scale"], "max is 100"),
        "disk": (["checkpoint"], "model.safetensors does not match its checksum"),
    }
    check_broken(found, expected)


@pytest.mark.slow
def test_two_processes_in_other_ways(tmp_path):
    found = examine(
        tmp_path,
        sound=f",{SHARDED}=3,Distributed.gradient_merge=2,EMA.decay=0.99,Loss.chunk=5"
        ",DataLoader.Train.num_workers=1,Arch.Text.recompute=true",
        gather_order="gather_reversed",
        no_reduction="gradients_not_averaged",
        other_weights="other_weights",
        clamp="clamped_above_bound",
        resume="restores_nothing",
        reading="unreadable_on_rank_1",
        memory="no_memory_on_rank_1",  # the last, as nothing can be agreed after it
    )
    check_sound(*found["sound"])
    expected = {
        "gather_order": (["gather", "gradients"], "[3.0, 4.0, 5.0, 0.0, 1.0, 2.0]"),
        "no_reduction": (["gradients", "checkpoint"], "relative error"),
        "other_weights": (["same start", "gradients", "checkpoint"], "rank 1: weights"),
        "clamp": (["logit scale"], "no gradient at its bound"),
        "resume": (["checkpoint"], "moment1"),
        "reading": (["different data", "data speed"], "rank 1: OSError: stale file handle"),
        "memory": (["gradients"], "rank 1: MemoryError: no room"),
    }
    check_broken(found, expected)
