"""The chunked loss holds no matrix of all rows by all columns, and the test would see one."""

import os
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

MEMORY = """
import paddle
from ernie_vil2.losses.chunked import chunked_losses
from ernie_vil2.losses.pairs import Term
from ernie_vil2.losses.plain import plain_losses
from ernie_vil2.losses.targets import Targets

def megabytes(key):
    line = next(line for line in open("/proc/self/status") if line.startswith(key))
    return int(line.split()[1]) / 1024

def step(n, ids, losses, *chunk):
    columns, rows = paddle.ones([n, 2, 2]), paddle.ones([256, 2, 2])
    columns.stop_gradient = rows.stop_gradient = False
    valid = paddle.ones([n], dtype="bool")
    ids = {"image": ids[:n], "text": ids[:n] // 2}
    targets = Targets({k: x[:256] for k, x in ids.items()}, valid[:256], ids, valid)
    terms = [Term(0, 1, kind, sigmoid) for kind in KINDS for sigmoid in (False, True)]
    one = paddle.ones([len(terms)])
    losses(rows, columns, one, one, targets, terms, *chunk)[0].sum().backward()

KINDS = [("image", "image"), ("image", "text"), ("text", "text")]
ids = paddle.arange(1 << 14)
step(1024, ids, chunked_losses, 128)  # threads, buffers of the BLAS
before = megabytes("VmRSS")
for targets in (ids, ids * 0):  # few positives, and nothing else
    step(1 << 14, targets, chunked_losses, 128)
    print(megabytes("VmHWM") - before)
step(1 << 14, ids, plain_losses)
print(megabytes("VmHWM") - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_nothing_holds_all_rows_by_all_columns():
    """256 rows, 16,384 columns: one mask of them is 4 MiB, logits are 16."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "MALLOC_MMAP_THRESHOLD_": "65536",  # what is freed leaves the process, and counts no more
    }
    done = subprocess.run(
        [sys.executable, "-c", MEMORY], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    few, all_equal, plain = map(float, done.stdout.split())
    assert few < 4
    assert all_equal < 4
    assert plain > 32
