"""Whenever the writer is killed, and whatever the disk refuses, a good checkpoint is there."""

import contextlib
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from ernie_vil2.checkpoints import store
from ernie_vil2.checkpoints import writer as checkpoint_writer
from ernie_vil2.checkpoints.writer import CheckpointWriter, Unsaved
from ernie_vil2.config.load import Config
from ernie_vil2.files.tensors import LazyTensors, read_safetensors, write_safetensors
from ernie_vil2.training.trainer import Trainer
from tests.support.paths import ROOT
from tests.support.shapes import write_run
from tests.support.training_runs import train

CONFIG = Config({"Global": {"seed": 1}})


def tensors(step, size=64):
    return {"w": np.full(size, step, np.float32)}, {"w|moment": np.full(size, -step, np.float32)}


@pytest.fixture
def new_writer(tmp_path):
    (tmp_path / "vocab.txt").write_text("a")

    def new_writer(**options):
        folder, vocab = tmp_path / "checkpoints", str(tmp_path / "vocab.txt")
        return CheckpointWriter(folder, CONFIG, vocab, **options)

    return new_writer


def save(writer, step, best=False, **options):
    writer.save(*tensors(step, **options), {"step": step}, best)
    writer.wait()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def step_that_resumes(folder):
    """The step of the newest good checkpoint, whose content is that of the step."""
    path = store.find_latest(folder)
    step = store.read_state(path)["step"]
    assert step == store.step_of(path)
    for file, value in (("model", step), ("training", -step)):
        (array,) = LazyTensors(path.glob(f"{file}*.safetensors")).values()
        assert (array == value).all()
    return step


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
    assert writer.last.name == "step_00000003" and store.verify(writer.last) == []


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
    assert store.verify(path) == []
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


# -- Killed ----------------------------------------------------------------------------------------


def die_at_call(number):
    """Let this process kill itself instead of its `number`th change on the disk."""
    calls = 0

    def wrap(function):
        def wrapped(*arguments, **named):
            nonlocal calls
            calls += 1
            if calls > number:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **named)

        return wrapped

    for name in ("fsync", "mkdir", "rename", "replace", "rmdir", "symlink", "unlink"):
        setattr(os, name, wrap(getattr(os, name)))


def in_child(work) -> int:
    """Run `work` in a process of its own; returns how it ended, as waitpid tells."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(pid, 0)[1]


ACTIONS = {
    "save": lambda writer: save(writer, 4),
    "save the best": lambda writer: save(writer, 4, best=True),
    "save again": lambda writer: save(writer, 3),
    "amend": lambda writer: writer.amend({"step": 3}, best=True),
    "go back": lambda writer: store.put_aside(writer.folder, after=2),
}


@pytest.fixture
def before(new_writer, tmp_path, monkeypatch):
    """Steps 1, 2 and 3, where 1 is the best: the next one makes step 2 go."""
    monkeypatch.setattr(os, "fsync", lambda _: None)  # slow, and of no use against a kill
    writer = new_writer(keep=2)
    for step in (1, 2, 3):
        save(writer, step, best=step == 1)
    assert step_that_resumes(writer.folder) == 3
    return writer.folder.rename(tmp_path / "before")


@pytest.mark.parametrize("action", ACTIONS)
def test_killed_at_any_moment(before, new_writer, tmp_path, action):
    folder = tmp_path / "checkpoints"
    seen = []
    while True:
        shutil.copytree(before, folder, symlinks=True)
        writer = new_writer(keep=2)

        def work(writer=writer):
            die_at_call(len(seen))
            ACTIONS[action](writer)

        status = in_child(work)
        step = step_that_resumes(folder)
        assert all(store.verify(path) == [] for path in store.checkpoints(folder))
        if action != "go back":
            for link in ("latest", "best"):
                assert store.verify(folder / link) == []

        writer = new_writer(keep=2)  # the run starts again, and goes on
        assert not list(folder.glob(".*ing-*"))
        assert (folder / "latest").resolve() == store.find_latest(folder)
        save(writer, 4)
        assert step_that_resumes(folder) == 4
        steps = {store.step_of(path) for path in store.checkpoints(folder)}
        assert steps >= ({2, 4} if step == 2 else {3, 4})
        assert store.verify(folder / "best") == []

        shutil.rmtree(folder)
        shutil.rmtree(tmp_path / "checkpoints.1", ignore_errors=True)
        if status == 0:
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
        seen.append(step)
    assert len(seen) > 4 and seen == sorted(seen, reverse=action == "go back")
    # before it is published the old one is resumed from, and after it the new one
    after = {"save": 4, "save the best": 4, "go back": 2}.get(action, 3)
    assert {seen[0], step} == {3, after}


@pytest.mark.parametrize("size", [0, 10, 300, 3000])
def test_killed_within_a_file(before, new_writer, tmp_path, size):
    folder = before.rename(tmp_path / "checkpoints")
    writer = new_writer(keep=2)

    def work():
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # the kernel ends it when a file gets bigger
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        save(writer, 4, size=4096)

    assert os.WTERMSIG(in_child(work)) == signal.SIGXFSZ
    assert list(folder.glob(".writing-*"))
    assert step_that_resumes(folder) == 3
    new_writer()
    assert not list(folder.glob(".writing-*"))


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
    folder = Path(folder)
    (folder / "vocab.txt").write_text("a")
    writer = CheckpointWriter(folder / "checkpoints", CONFIG, str(folder / "vocab.txt"))
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
    assert writer.failed == 1 and store.verify(writer.last) == []
    assert store.read_state(writer.last) == {"step": 1}
    assert not list(writer.last.glob(".*"))


def test_a_fault_of_the_program_is_raised(new_writer):
    writer = new_writer()
    writer.save({"w": np.zeros(3, complex)}, {}, {"step": 1})
    with pytest.raises(KeyError, match="complex"):
        writer.wait()
    save(writer, 2)
    assert writer.last.name == "step_00000002"


# -- Sharded ---------------------------------------------------------------------------------------


def rank_writer(new_writer, rank, **options):
    options = {"world_size": 2, "sharded": True, "token": "this", "time_limit": 20, **options}
    return new_writer(rank=rank, **options)


def save_shard(new_writer, step, **options):
    writer = rank_writer(new_writer, 1)
    writer.save(None, {"v|moment": tensors(step, **options)[1]["w|moment"]}, {"step": step})
    writer.close()


def test_two_processes_write_one_checkpoint(new_writer):
    writer = rank_writer(new_writer, 0)

    def work():
        time.sleep(0.2)
        other = rank_writer(new_writer, 1)
        for step in (1, 2):
            other.save(None, {"v|moment": np.full(9, step)}, {"step": step})
        other.close()

    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    for step in (1, 2):
        writer.save(*tensors(step), {"step": step})
    writer.close()
    os.waitpid(pid, 0)
    for step in (1, 2):
        path = store.of_step(writer.folder, step)
        assert store.verify(path) == []
        assert not list(path.glob(".*"))
        merged = LazyTensors(store.training_files(path))
        assert set(merged) == {"w|moment", "v|moment"} and merged["v|moment"][0] == step


def test_a_rank_that_does_not_write(new_writer, logged):
    writer = rank_writer(new_writer, 0, time_limit=0.1, world_size=4)
    save(writer, 1)
    assert writer.failed == 1 and names(writer.folder) == []
    (message,) = logged.messages
    assert "rank 1, 2, 3" in message and "share Global.output_dir" in message


def test_a_rank_whose_disk_is_full(new_writer, logged):
    writer = rank_writer(new_writer, 0)

    def work():
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        save_shard(new_writer, 1, size=4096)

    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    start = time.monotonic()
    save(writer, 1)
    os.waitpid(pid, 0)
    assert time.monotonic() - start < 10  # it does not wait for the time limit
    assert writer.failed == 1 and "rank 1: [Errno 27] File too large" in logged.text
    assert names(writer.folder) == []


@pytest.mark.parametrize("number", range(4))
def test_a_rank_that_is_killed(new_writer, number):
    writer = rank_writer(new_writer, 0, time_limit=0.2)

    def work():
        die_at_call(number)
        save_shard(new_writer, 1)

    assert os.WTERMSIG(in_child(work)) == signal.SIGKILL
    save(writer, 1)
    assert writer.failed == 1 and names(writer.folder) == []
    writer.time_limit = 20
    assert in_child(lambda: save_shard_again(new_writer)) == 0
    save(writer, 2)
    assert store.verify(writer.last) == [] and writer.failed == 1


def save_shard_again(new_writer):
    """The second save of a run, whose first one rank 0 gave up."""
    writer = rank_writer(new_writer, 1)
    writer._number = 1
    writer.save(None, {"v|moment": np.zeros(3)}, {"step": 2})
    writer.close()


def test_files_of_a_dead_run_are_not_mixed_in(new_writer):
    save_shard(new_writer, 1)  # its rank 0 was killed before it wrote anything
    (draft,) = new_writer(rank=1).folder.glob(".writing-*")
    same_run = rank_writer(new_writer, 0)
    assert draft.exists()  # rank 1 of a live run may be first
    writer = rank_writer(new_writer, 0, token="another", time_limit=0.1)
    assert not draft.exists()
    save(writer, 1)
    assert writer.failed == 1 and same_run.failed == 0
