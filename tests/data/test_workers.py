"""Worker processes that are killed, stopped, or raise."""

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

from ernie_vil2.data.workers import WorkerPool
from tests.support.processes import alive


def squares(number):
    return {"square": np.full([2, 3], number**2, np.float32), "pid": np.array(os.getpid())}


def pool(task, count=20, workers=2, **options):
    return WorkerPool(task, count, workers, 1 << 12, threading.Event(), **options)


@pytest.fixture(autouse=True)
def no_process_is_left():
    yield
    left = multiprocessing.active_children()
    for process in left:
        process.kill()
    assert not left


def numbers(results):
    return [round(float(result["square"][0, 0]) ** 0.5) for result in results]


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_order(workers):
    results = pool(squares, workers=workers)
    pids = set()
    for number, result in enumerate(results):
        assert result["square"].dtype == np.float32 and (result["square"] == number**2).all()
        pids.add(int(result["pid"]))
    assert number == 19
    assert os.getpid() not in pids and 1 <= len(pids) <= workers
    results.close()


def test_the_unfinished_of_a_stopped_worker_are_done_again(logged):
    results = pool(squares, timeout=0.6)
    pid = int(next(results)["pid"])
    os.kill(pid, signal.SIGSTOP)
    assert numbers(results) == list(range(1, 20))
    assert f"(pid {pid}) gave nothing for 0.6 s; restarted" in logged.text
    results.close()


def test_a_slow_task_is_not_a_dead_worker(logged):
    def slow(number):
        time.sleep(0.3)
        return squares(number)

    results = pool(slow, count=4, workers=1, timeout=1)
    time.sleep(1.2)  # the time that nobody waits does not count
    assert numbers(results) == [0, 1, 2, 3]
    assert not logged.text
    results.close()


def test_the_death_of_all_workers(logged):
    results = pool(squares, count=50)
    next(results)
    for process in multiprocessing.active_children():
        process.kill()
    assert numbers(results) == list(range(1, 50))
    assert logged.text.count("signal 9") == 2
    results.close()


def test_sigterm_to_all_of_many_workers(logged):
    results = pool(squares, count=10**6, workers=6, max_restarts=3)
    found = numbers([next(results)])
    for process in multiprocessing.active_children():
        process.terminate()
    # its share of the tasks waits for each of them
    while logged.text.count("signal 15") < 6 and len(found) < 100_000:
        found += numbers([next(results)])
    found += numbers(next(results) for _ in range(50))
    assert found == list(range(len(found)))
    assert logged.text.count("signal 15") == 6
    results.close()


def test_what_is_no_array_comes_through_the_pipe():
    def mixed(number):
        return {"empty": np.zeros([0, 3, 2], np.float32), "texts": ["字" * 50_000] * number}

    results = pool(mixed, count=4, workers=1)
    for number, result in enumerate(results):
        assert result["texts"] == ["字" * 50_000] * number
        assert result["empty"].shape == (0, 3, 2)
    results.close()


def test_gives_up_a_task_that_kills_its_worker():
    def deadly(number):
        if number == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return squares(number)

    results = pool(deadly, max_restarts=2)
    assert numbers(next(results) for _ in range(3)) == [0, 1, 2]
    with pytest.raises(RuntimeError, match=r"signal 9 .*; 3 in a row without a batch"):
        next(results)
    results.close()


def test_an_exit_is_named(logged):
    marker = multiprocessing.get_context("fork").Value("i", 0)

    def leaves_once(number):
        if number == 1 and not marker.value:
            marker.value = 1
            os._exit(7)
        return squares(number)

    results = pool(leaves_once)
    assert numbers(results) == list(range(20))
    assert "died with exit code 7; restarted" in logged.text
    results.close()


class TwoArguments(ValueError):
    """What pickle makes and cannot load."""

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (KeyError("a bug"), (KeyError, "'a bug'")),
        (TwoArguments("one", "two"), (RuntimeError, "TwoArguments: one and two")),
    ],
)
def test_an_error_keeps_its_place(error, expected):
    def fails(number):
        if number == 5:
            raise error
        return squares(number)

    results = pool(fails)
    assert numbers(next(results) for _ in range(5)) == list(range(5))
    with pytest.raises(expected[0]) as caught:
        next(results)
    assert str(caught.value) == expected[1]
    assert "in fails" in str(caught.value.__cause__)
    assert numbers([next(results)]) == [6]  # the worker lives
    results.close()


def test_ctrl_c_does_not_reach_the_workers(logged):
    results = pool(squares, count=50)
    next(results)
    for process in multiprocessing.active_children():
        os.kill(process.pid, signal.SIGINT)
    assert numbers(results) == list(range(1, 50))
    assert not logged.text
    results.close()


def test_stopped_from_another_thread():
    def never(number):
        time.sleep(60)

    stopped = threading.Event()
    results = WorkerPool(never, 1, 1, 64, stopped)
    threading.Timer(0.2, stopped.set).start()
    start = time.monotonic()
    with pytest.raises(StopIteration):
        next(results)
    assert time.monotonic() - start < 5
    results.close()


def test_workers_end_with_a_killed_parent():
    script = """
        import threading, multiprocessing, numpy, time
        from ernie_vil2.data.workers import WorkerPool
        pool = WorkerPool(lambda n: {"n": numpy.array(n)}, 9, 2, 64, threading.Event())
        next(pool)
        print(*[process.pid for process in multiprocessing.active_children()], flush=True)
        time.sleep(60)
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True
    )
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 10
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(alive, pids))
