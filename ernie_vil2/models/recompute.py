"""Activation recomputation that works under data parallelism."""

from __future__ import annotations

import paddle
from paddle import nn

from ernie_vil2.distributed import recompute
from ernie_vil2.models.precision import casting_again


def recompute_block(block: nn.Layer, *inputs: paddle.Tensor) -> paddle.Tensor:
    """`block(*inputs)`, run once more in the backward pass instead of keeping its activations.

    Without re-entry: DataParallel refuses Paddle's default ("has been ready before"), which also
    cuts the graph where no input has a gradient, as behind a frozen stem. The random state is
    restored here, so that dropout draws the same mask again: Paddle 2.6 does it on GPUs only.
    """
    if not paddle.is_grad_enabled():
        return block(*inputs)
    state, casting = paddle.get_rng_state(), casting_again()
    replaying = False

    def run(*inputs: paddle.Tensor) -> paddle.Tensor:
        nonlocal replaying
        if not replaying:
            replaying = True
            return block(*inputs)
        now = paddle.get_rng_state()
        paddle.set_rng_state(state)
        try:
            with casting:
                return block(*inputs)
        finally:
            paddle.set_rng_state(now)

    return recompute(run, *inputs, use_reentrant=False, preserve_rng_state=False)
