"""No operator gets a tensor of no numbers: not of a block without positives, nor of an empty one.

Here 8 ranks are simulated, as in `test_chunked.py`: of a rank's blocks of columns most have none of
its rows.
"""

import itertools

import numpy as np
import paddle
import pytest

from ernie_vil2.losses.chunked import chunked_losses
from ernie_vil2.losses.pairs import Term
from ernie_vil2.losses.targets import Targets
from tests.support.empty_inputs import empty_inputs
from tests.support.reference import unit_rows

WORLD, ROWS = 8, 2
KINDS = [("image", "image"), ("image", "text"), ("text", "text"), ("text", "tags")]
TERMS = [Term(0, 1, kind, sigmoid) for kind in KINDS for sigmoid in (False, True)]


def test_the_spy_sees():
    nothing = paddle.zeros([0])
    with empty_inputs() as found:
        paddle.zeros([3]).gather(paddle.zeros([0], "int64"))
        nothing.exp()
        nothing - nothing
        nothing * 2.0
        paddle.add_n([nothing, nothing])
    assert {"gather", "exp", "add_n"} <= set(found)
    assert any("sub" in name for name in found) and any("mul" in name for name in found)
    with empty_inputs() as found:
        paddle.ones([3]).sum()
    assert found == []


def inputs(ids, valid, rank):
    """Of one rank: what the loss functions take."""
    count = len(valid)
    both = np.stack([unit_rows(count, 6, seed) for seed in (1, 2)], 1).astype("float32")
    own = slice(rank * ROWS, (rank + 1) * ROWS)
    tensors = [
        paddle.to_tensor(x, stop_gradient=False)
        for x in (both[own], both, *np.full([2, len(TERMS)], [[9.0], [-3.0]], "float32"))
    ]
    ids, valid = {s: paddle.to_tensor(x) for s, x in ids.items()}, paddle.to_tensor(valid)
    own_ids = {source: x[own] for source, x in ids.items()}
    return [*tensors, Targets(own_ids, valid[own], ids, valid, own.start), TERMS]


@pytest.mark.parametrize("case", ["all differ", "some agree", "some invalid", "none valid"])
def test_no_operator_gets_an_empty_tensor(case):
    count = WORLD * ROWS
    ids = {source: np.arange(count) for source in ("image", "text", "tags")}
    if case == "some agree":
        ids["image"][[0, 5, 9]], ids["text"][[1, 12]], ids["tags"][[2, 5]] = 0, 1, 2
    valid = np.full(count, case != "none valid")
    if case == "some invalid":
        valid[[0, 1, 7]] = False  # all of the first rank's
    for rank, chunk in itertools.product((0, WORLD - 1), (1, 3)):
        arguments = inputs(ids, valid, rank)
        with empty_inputs() as found:
            losses, *_ = chunked_losses(*arguments, chunk)
            losses.sum().backward()
        assert found == [], f"rank {rank}, {chunk} columns at a time"
        assert np.isfinite(losses.numpy()).all()
        assert all(np.isfinite(x.grad.numpy()).all() for x in arguments[:4])
