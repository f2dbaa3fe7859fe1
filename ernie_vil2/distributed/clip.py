"""Clipping gradients by their joint norm, in float32 whatever they are in themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import paddle
from paddle import _C_ops


@paddle.no_grad()
def clip_gradients(
    parameters: Iterable[paddle.Tensor],
    max_norm: float | None,
    add_up: Callable[[paddle.Tensor], None] | None = None,
) -> paddle.Tensor:
    """Scale the gradients of `parameters` so that their joint L2 norm is at most `max_norm`.

    The formula is that of Paddle's `clip_grad_norm_`, which refuses gradients of several dtypes and
    squares half-precision ones in half precision, where 256 is too large for float16.

    Args:
        max_norm: None only measures.
        add_up: sums a float32 scalar, in place, over the processes that hold other gradients; None:
            all gradients are here.

    Returns:
        The norm before, a float32 scalar; not finite where one gradient is not.
    """
    learning = [p for p in parameters if p.grad is not None]
    # What Paddle's clippers call: 3 to 10 times as fast as square().sum() on a CPU. `paddle.dot`,
    # which adds one number after the other there, is 7 % wrong for 30 million of them.
    squares = [_C_ops.squared_l2_norm(_full(p.grad)) for p in learning]
    total = paddle.add_n(squares).reshape([]) if squares else paddle.zeros([])
    if add_up is not None:
        add_up(total)
    norm = total.sqrt()
    if max_norm is not None:
        # a number of the host: a product with one is half of the time of one with a tensor on a
        # CPU, and most steps of a trained model need none; the norm is read before a step anyway
        factor = float((max_norm / (norm + 1e-6)).clip(max=1.0))
        if factor != 1.0:
            _scale(learning, factor)
    return norm


def _scale(parameters: Sequence[paddle.Tensor], factor: float) -> None:
    """Multiply the gradients by `factor` where they lie."""
    # a backward may give two parameters one place, and `p.grad = x` writes into it too
    for p in {p.grad.data_ptr(): p for p in parameters}.values():
        if p.grad.dtype == paddle.float32:
            p.grad.scale_(factor)
        else:
            p.grad = (_full(p.grad) * factor).astype(p.grad.dtype)


def _full(x: paddle.Tensor) -> paddle.Tensor:
    """`x` in float32; without a copy, which `astype` would make, where it is."""
    return x if x.dtype == paddle.float32 else x.astype("float32")
