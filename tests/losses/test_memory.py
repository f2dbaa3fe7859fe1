"""What the loss holds: in chunks no matrix of all rows by all columns, in a ring no columns of all.

The tests would see one.
"""

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


RING = """
import paddle
from ernie_vil2.distributed.ring import Ring, Shift
from ernie_vil2.losses.chunked import chunked_losses
from ernie_vil2.losses.pairs import Term
from ernie_vil2.losses.ring import ring_losses
from ernie_vil2.losses.targets import Records

def megabytes(key):
    line = next(line for line in open("/proc/self/status") if line.startswith(key))
    return int(line.split()[1]) / 1024

class Mirrors(Ring):  # a rank between others with the same records
    def __init__(self, world_size):
        self.rank, self.world_size = 0, world_size
    def start_shift(self, tensors):
        return Shift(tensors, [x.clone() for x in tensors], ())

rows = paddle.ones([256, 2, 512])  # 1 MiB
rows.stop_gradient = False
records = Records({"image": paddle.arange(256)}, paddle.ones([256], dtype="bool"))
terms = [Term(0, 1, ("image", "text"), sigmoid) for sigmoid in (False, True)]
one = paddle.ones([2])

def ring(world):
    ring_losses(rows, one, one, records, terms, 64, Mirrors(world))[0].sum().backward()

def gathered(world):
    columns = paddle.ones([256 * world, 2, 512])
    columns.stop_gradient = False
    targets = records.against(paddle.concat([records.keys()] * world), 0)
    chunked_losses(rows, columns, one, one, targets, terms, 64)[0].sum().backward()

ring(1)
before = megabytes("VmRSS")
for way, world in ((ring, 4), (ring, 32), (gathered, 32)):
    way(world)
    rows.clear_gradient(False)
    print(megabytes("VmHWM") - before)
"""


def measured(script: str) -> list[float]:
    """What a script prints, run where freed memory leaves the process and counts no more."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "MALLOC_MMAP_THRESHOLD_": "65536",
    }
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return list(map(float, done.stdout.split()))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_nothing_holds_all_rows_by_all_columns():
    """256 rows, 16,384 columns: one mask of them is 4 MiB, logits are 16."""
    few, all_equal, plain = measured(MEMORY)
    assert few < 4
    assert all_equal < 4
    assert plain > 32


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_ring_holds_as_much_with_any_number_of_ranks():
    """A rank's embeddings are 1 MiB; those of 32 ranks, and their gradients, 64."""
    four, many, gathered = measured(RING)
    assert many < four + 1
    assert many < 16
    assert gathered > 64
