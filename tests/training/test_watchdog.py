import subprocess
import sys
import time

import pytest

from tests.support.paths import ROOT, SCRIPTS
from tests.support.processes import alive, launch


def run(body: str, limit=1.0) -> subprocess.CompletedProcess:
    """Run `body` in a process of its own, below a Watchdog `dog`."""
    code = f"""
import logging, math, os, signal, subprocess, time
from ernie_vil2.training.watchdog import Watchdog
dog = Watchdog({limit}, rank=5, key="Section.key")
{body}
print("whole")
"""
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )


def test_a_hang_ends_with_code_1_the_message_and_all_stacks(tmp_path):
    started = time.time()
    done = run(f"""
logging.getLogger("ernie_vil2").addHandler(logging.FileHandler({str(tmp_path / "train.log")!r}))
dog.beat("step 7")
def stuck():
    while True:
        pass
stuck()
""")
    assert time.time() - started < 10
    assert done.returncode == 1
    line, stacks = done.stderr.split("\n", 1)
    assert line.startswith('error: rank 5 hangs: no progress in "step 7" since 20')
    assert "(Section.key: 1)" in line
    assert "in stuck" in stacks
    assert line[len("error: ") :] == (tmp_path / "train.log").read_text().strip()


def test_what_goes_on_is_left_alone():
    done = run("""
for step in range(15):
    dog.beat(f"step {step}")
    time.sleep(0.1)
dog.beat("evaluation", limit=5)
time.sleep(1.5)
dog.beat("saving", limit=math.inf)
time.sleep(1.5)
dog.close()
time.sleep(1.5)
""")
    assert (done.returncode, done.stdout, done.stderr) == (0, "whole\n", "")


def test_a_limit_of_one_phase_ends_with_it():
    done = run('dog.beat("evaluation", limit=9); dog.beat("step 8"); time.sleep(9)')
    assert done.returncode == 1
    assert '"step 8"' in done.stderr


def test_start_up_may_take_three_times_as_long():
    assert run("time.sleep(1.5)").returncode == 0
    done = run("time.sleep(9)")
    assert done.returncode == 1
    assert 'no progress in "start-up"' in done.stderr


def test_a_process_that_was_stopped_and_continued_goes_on():
    done = run("""
dog.beat("step 1")
subprocess.Popen(["sh", "-c", f"sleep 2; kill -CONT {os.getpid()}"])
os.kill(os.getpid(), signal.SIGSTOP)
time.sleep(0.3)
""")
    assert (done.returncode, done.stdout) == (0, "whole\n")


@pytest.mark.parametrize("limit", [None, 0])
def test_without_a_limit_nothing_is_watched(limit):
    done = run(
        'import threading; dog.beat("step 1"); assert threading.active_count() == 1', limit=limit
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("fault", ["stopped", "worker"])
def test_a_hung_rank_ends_the_run_and_leaves_no_process(tmp_path, fault):
    """Rank 1 is stopped, or waits for a loader process whose file never answers."""
    output = launch(2, tmp_path, SCRIPTS / "hang.py", str(tmp_path), fault, code=1)
    assert 'rank 0 hangs: no progress in "step 3"' in output  # it waits in backward's all-reduce
    assert "in backward" in output
    if fault == "worker":
        assert "in read_forever" not in output
        assert 'rank 1 hangs: no progress in "step 3"' in output
        assert "in join" in output
    assert 'rank 0 hangs: no progress in "step 3"' in (tmp_path / "train.log").read_text()
    pids = (tmp_path / "pids").read_text().split()
    assert len(pids) == (3 if fault == "worker" else 2)
    assert not any(map(alive, pids)), pids
