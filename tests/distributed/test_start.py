"""How processes begin and end together."""

import os
import subprocess
import sys

import pytest

from ernie_vil2 import distributed
from tests.support.paths import ROOT, SCRIPTS
from tests.support.processes import launch


def test_alone_leaving_is_an_exit_code():
    assert [distributed.leave(code) for code in (0, 1)] == [0, 1]


@pytest.mark.parametrize("first", ["0", "1"])
def test_a_process_that_has_done_its_work_does_not_die_of_its_clean_up(tmp_path, first):
    printed = launch(2, tmp_path, SCRIPTS / "leave.py", first, "0")
    assert "done by 0" in printed and "done by 1" in printed


@pytest.mark.parametrize("late", ["0", "2"])
def test_processes_that_fail_do_so_together(tmp_path, late):
    """Else the launcher ends those that come later, and its exit code is that of a signal."""
    printed = launch(2, tmp_path, SCRIPTS / "leave.py", "1", "1", late, code=1)
    assert "done by 0" in printed and "done by 1" in printed


@pytest.mark.parametrize(
    ("chosen", "copies"), [({}, "True"), ({"FLAGS_use_stride_kernel": "1"}, "False")]
)
def test_on_a_cpu_a_transposed_tensor_is_a_copy(chosen, copies):
    code = (
        "from ernie_vil2 import distributed\n"
        "import paddle\n"
        "distributed.init('cpu')\n"
        "print(paddle.zeros([2, 3]).T.is_contiguous())\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "FLAGS_use_stride_kernel"}
    environment.update(chosen, PYTHONPATH=str(ROOT))
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.split()[-1:] == [copies], done.stderr


def test_the_cpu_is_kept_where_paddle_is_built_for_gpus(tmp_path):
    """Else Paddle takes NCCL, and puts every process back onto its GPU."""
    printed = launch(2, tmp_path, SCRIPTS / "cpu_on_gpu_host.py")
    for rank in range(2):
        assert f"rank {rank} Place(cpu) [0, 1]" in printed
