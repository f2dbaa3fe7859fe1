"""Whenever the writer is killed, a good checkpoint is there."""

import os
import resource
import shutil
import signal

import pytest

from ernie_vil2.checkpoints import layout, store
from ernie_vil2.checkpoints.verify import verify
from tests.support.checkpoints import (
    die_at_call,
    in_child,
    save,
    step_that_resumes,
)

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
        assert all(verify(path) == [] for path in layout.checkpoints(folder))
        if action != "go back":
            for link in ("latest", "best"):
                assert verify(folder / link) == []

        writer = new_writer(keep=2)  # the run starts again, and goes on
        assert not list(folder.glob(".*ing-*"))
        assert (folder / "latest").resolve() == store.find_latest(folder)
        save(writer, 4)
        assert step_that_resumes(folder) == 4
        steps = {layout.step_of(path) for path in layout.checkpoints(folder)}
        assert steps >= ({2, 4} if step == 2 else {3, 4})
        assert verify(folder / "best") == []

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
