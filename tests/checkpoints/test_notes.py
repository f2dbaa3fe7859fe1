"""The processes of a sharded run write one checkpoint, or none."""

import os
import resource
import signal
import time

import numpy as np
import pytest

from ernie_vil2.checkpoints import layout
from ernie_vil2.checkpoints.verify import verify
from ernie_vil2.files.safetensors import LazyTensors
from tests.support.checkpoints import die_at_call, in_child, names, save, start_child, tensors


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

    pid = start_child(work)
    for step in (1, 2):
        writer.save(*tensors(step), {"step": step})
    writer.close()
    os.waitpid(pid, 0)
    for step in (1, 2):
        path = layout.of_step(writer.folder, step)
        assert verify(path) == []
        assert not list(path.glob(".*"))
        merged = LazyTensors(layout.training_files(path))
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

    pid = start_child(work)
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
    assert verify(writer.last) == [] and writer.failed == 1


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
