"""What is kept, and that whatever the disk refuses, a good checkpoint is there."""

import contextlib
import logging
import resource
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from ernie_vil2.checkpoints import store
from ernie_vil2.checkpoints import writer as checkpoint_writer
from ernie_vil2.checkpoints.verify import verify
from ernie_vil2.checkpoints.writer import CheckpointWriter, Unsaved
from ernie_vil2.config.load import Config
from ernie_vil2.files.safetensors import read_safetensors, write_safetensors
from ernie_vil2.training.trainer import Trainer
from tests.support.checkpoints import names, save, step_that_resumes, tensors
from tests.support.paths import ROOT
from tests.support.shapes import write_run
from tests.support.training_runs import train

# -- What is kept ----------------------------------------------------------------------------------


def test_links_and_rotation(new_writer):
    writer = new_writer(keep=2, keep_every=3)
    for step in range(1, 9):
        save(writer, step, best=step == 2)
    steps = [f"step_0000000{step}" for step in (2, 3, 6, 7, 8)]
    assert names(writer.folder) == ["best", "latest", *steps]
    assert (writer.folder / "best").resolve().name == steps[0]
    assert (writer.folder / "latest").resolve().name == steps[-1]


def test_a_damaged_one_does_not_count_as_kept(new_writer):
    writer = new_writer(keep=2)
    for step in (1, 2, 3):
        save(writer, step)
    (writer.folder / "step_00000003" / "model.safetensors").write_bytes(b"")
    save(writer, 4)
    assert names(writer.folder)[1:] == [f"step_0000000{step}" for step in (2, 3, 4)]


def test_an_older_step_than_the_newest_survives_the_rotation(new_writer):
    writer = new_writer(keep=1)
    save(writer, 5)
    save(writer, 3)
    assert writer.last.name == "step_00000003" and verify(writer.last) == []


def test_the_same_step_again_takes_the_place_of_the_first(new_writer):
    writer = new_writer()
    for _ in range(3):
        save(writer, 1)
        save(writer, 2)
    assert names(writer.folder) == ["latest", "step_00000001.3", "step_00000002.3"]
    assert store.find_latest(writer.folder).name == "step_00000002.3"
    assert writer.amend({"step": 1, "best": 1.0}, best=True).name == "step_00000001.3"


def test_amend(new_writer):
    writer = new_writer()
    save(writer, 1)
    path = writer.amend({"step": 1, "scale": np.float32([0.5])}, best=True)
    assert store.read_state(writer.folder / "best") == {"step": 1, "scale": [0.5]}
    assert verify(path) == []
    assert writer.amend({"step": 2}, best=True) is None


def test_one_save_at_a_time(new_writer, monkeypatch):
    go_on = threading.Event()
    written = checkpoint_writer.write_safetensors

    def write_later(*arguments):
        assert go_on.wait(20)
        return written(*arguments)

    monkeypatch.setattr(checkpoint_writer, "write_safetensors", write_later)
    writer = new_writer()
    arrays = tensors(1)
    writer.save(*arrays, {"step": 1})
    arrays[0]["w"][:] = 9  # the snapshot does not see it
    timer = threading.Timer(0.2, go_on.set)
    timer.start()
    writer.save(*tensors(2), {"step": 2})
    assert go_on.is_set() and writer.last.name == "step_00000001"
    assert (read_safetensors(writer.last / "model.safetensors")["w"] == 1).all()
    writer.close()
    assert writer.last.name == "step_00000002"


# -- Refused by the disk ---------------------------------------------------------------------------


def test_a_full_device():
    with pytest.raises(OSError, match="No space left"):
        write_safetensors("/dev/full", tensors(1)[0])


def full_disk(folder):
    """Save on a small disk until it is full, free some space and save again."""
    messages = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append((record.levelname, record.getMessage()))
    logging.getLogger("ernie_vil2").addHandler(handler)
    folder, config = Path(folder), Config({"Global": {"seed": 1}})
    (folder / "vocab.txt").write_text("a")
    writer = CheckpointWriter(folder / "checkpoints", config, str(folder / "vocab.txt"))
    save(writer, 1)
    (folder / "filler").write_bytes(bytes(shutil.disk_usage(folder).free - (1 << 15)))
    free = shutil.disk_usage(folder).free
    save(writer, 2, size=1 << 14)
    assert writer.failed == 1 and shutil.disk_usage(folder).free == free
    assert names(writer.folder) == ["latest", "step_00000001"]
    assert step_that_resumes(writer.folder) == 1
    ((level, message),) = messages
    assert level == "WARNING" and "\n" not in message, message
    for part in ("step 2 is not written", "No space left", "step_00000001 is untouched"):
        assert part in message, message
    (folder / "filler").unlink()
    save(writer, 3, size=1 << 14)
    assert writer.failed == 1 and step_that_resumes(writer.folder) == 3


def test_a_full_disk(tmp_path):
    mount = ["unshare", "-Urm", "sh", "-c", 'mount -t tmpfs -o size=512k none "$0" && exec "$@"']
    mount.append(str(tmp_path))
    if not shutil.which("unshare") or subprocess.run([*mount, "true"]).returncode:
        pytest.skip("no disk can be mounted here without rights")
    run = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
    run += "from tests.checkpoints import test_writer as t; t.full_disk(sys.argv[1])"
    done = subprocess.run(
        [*mount, sys.executable, "-c", run, str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@contextlib.contextmanager
def file_size_limit(size):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_file_that_may_not_be_so_big(new_writer, logged):
    writer = new_writer()
    save(writer, 1)
    with file_size_limit(10000):
        save(writer, 2, size=4096)
    assert writer.failed == 1 and names(writer.folder) == ["latest", "step_00000001"]
    assert "step_00000001 is untouched" in logged.text and "File too large" in logged.text


def test_a_last_checkpoint_that_is_refused_is_told_with_what_is_lost(new_writer):
    writer = new_writer()
    writer.check_saved()  # nothing was to be saved
    with file_size_limit(10000):
        save(writer, 1, size=10**5)
        with pytest.raises(Unsaved, match=r"step 1 .*: all that was learned is lost.*the start"):
            writer.check_saved()
        save(writer, 2)
        writer.check_saved()  # the next one was written
        save(writer, 3, size=10**5)
    lost = "step 3 .*File too large.*: what was learned after step_00000002 is lost"
    with pytest.raises(Unsaved, match=lost):
        writer.check_saved()


@pytest.mark.parametrize("stopped", [False, True])
def test_a_run_without_its_last_checkpoint_is_not_done(tmp_path, monkeypatch, stopped):
    if stopped:
        monkeypatch.setattr(Trainer, "step", stopped_at_once(Trainer.step))
    train_steps = Trainer.train

    def in_a_limit(self):  # which comes later than the look at a run's start
        with file_size_limit(50_000):
            train_steps(self)

    monkeypatch.setattr(Trainer, "train", in_a_limit)
    out = train(write_run(tmp_path), code=1)
    log = (out / "train.log").read_text()
    assert "all that was learned is lost" in log.splitlines()[-1]
    assert "done:" not in log and "goes on from here" not in log


def stopped_at_once(step):
    def stopped_step(self, batches):
        signal.raise_signal(signal.SIGTERM)
        return step(self, batches)

    return stopped_step


def test_a_vocabulary_that_went_away(new_writer, tmp_path, logged):
    writer = new_writer()
    (tmp_path / "vocab.txt").unlink()
    save(writer, 1)
    assert writer.failed == 1 and "vocab.txt" in logged.text and "none yet" in logged.text
    (tmp_path / "vocab.txt").write_text("a")
    save(writer, 2)
    assert names(writer.folder) == ["latest", "step_00000002"]


def test_an_amendment_that_fails(new_writer, logged):
    writer = new_writer()
    save(writer, 1)
    with file_size_limit(10):
        assert writer.amend({"step": 1, "best": 1}, best=True) is None
    assert writer.failed == 1 and verify(writer.last) == []
    assert store.read_state(writer.last) == {"step": 1}
    assert not list(writer.last.glob(".*"))


def test_a_fault_of_the_program_is_raised(new_writer):
    writer = new_writer()
    writer.save({"w": np.zeros(3, complex)}, {}, {"step": 1})
    with pytest.raises(KeyError, match="complex"):
        writer.wait()
    save(writer, 2)
    assert writer.last.name == "step_00000002"
