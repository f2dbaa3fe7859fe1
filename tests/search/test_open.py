"""That the stores' packages and Paddle bear one another in any order."""

import itertools
import subprocess
import sys

import pytest

PRODUCT = "x = paddle.ones([300, 300]); assert float(paddle.matmul(x, x).sum()) == 300**3"


@pytest.mark.slow
@pytest.mark.parametrize("order", itertools.permutations(["lancedb", "pymilvus", "paddle"]))
def test_packages_may_be_imported_in_any_order(order):
    pytest.importorskip("pymilvus")
    program = "; ".join([*(f"import {name}" for name in order), PRODUCT])
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
