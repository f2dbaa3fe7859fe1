"""A spy on Paddle's operators that sees empty tensors go in, of which a GPU's grids know nothing.

A grid of 0 is an error of CUDA that shows at a later launch, so code for GPUs asks before it calls.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

import paddle
from paddle import _C_ops

_OPERATORS = ["matmul", "neg", "invert", "getitem", "setitem", "eq", "ne", "lt", "le", "gt", "ge"]
_OPERATORS += ["add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor"]
_OPERATORS += ["radd", "rsub", "rmul", "rtruediv", "rpow", "iadd", "isub", "imul"]


@contextlib.contextmanager
def empty_inputs() -> Iterator[list[str]]:
    """Inside, the names of operators that are called with a tensor of no numbers are collected."""
    found: list[str] = []
    places = [(_C_ops, name) for name in vars(_C_ops) if not name.startswith("_")]
    places += [(paddle.Tensor, f"__{name}__") for name in _OPERATORS]
    places = [(owner, name) for owner, name in places if callable(getattr(owner, name, None))]
    before = [(owner, name, getattr(owner, name)) for owner, name in places]
    try:
        for owner, name, operator in before:
            setattr(owner, name, _watched(name, operator, found))
        yield found
    finally:
        for owner, name, operator in before:
            setattr(owner, name, operator)


def _watched(name, operator, found):
    @functools.wraps(operator, assigned=())
    def call(*arguments, **named):
        if any(_is_empty(x) for x in (*arguments, *named.values())):
            found.append(name)
        return operator(*arguments, **named)

    return call


def _is_empty(x) -> bool:
    if isinstance(x, (list, tuple)):
        return any(map(_is_empty, x))
    return isinstance(x, paddle.Tensor) and 0 in x.shape
