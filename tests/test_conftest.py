"""Tests leave GPUs alone, in processes that they start too."""

import os
import subprocess
import sys

from tests.support.paths import ROOT


def test_two_processes_start_where_one_gpu_is_visible(tmp_path):
    """The launcher hands out CUDA_VISIBLE_DEVICES by number, and has an IndexError for the second.

    As in a process of pytest's, which imports the conftest first.
    """
    shown = tmp_path / "show.py"
    names = ("CUDA_VISIBLE_DEVICES", "PADDLE_DISTRI_BACKEND")
    shown.write_text(f"import os; print('seen', *(os.environ[x][:2] for x in {names}))")
    code = (
        "import sys; from pathlib import Path; import tests.conftest; "
        "from tests.support.processes import launch; "
        "print(launch(2, Path(sys.argv[1]), sys.argv[2]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), str(shown)],
        cwd=ROOT, env={**os.environ, "CUDA_VISIBLE_DEVICES": "0", "PADDLE_DISTRI_BACKEND": "auto"},
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    logs = [(tmp_path / "log2" / f"workerlog.{rank}").read_text() for rank in (0, 1)]
    assert logs == ["seen -1 gl\n"] * 2
