"""The pairs' losses over column blocks: the plain path's numbers without its B x N logits."""

from __future__ import annotations

from typing import Any

import paddle
from paddle.autograd import PyLayer

from ernie_vil2.losses.blocks import BlockGradients, BlockLosses, wanted
from ernie_vil2.losses.pairs import Term
from ernie_vil2.losses.targets import Targets


def chunked_losses(
    rows: paddle.Tensor,
    columns: paddle.Tensor,
    scales: paddle.Tensor,
    biases: paddle.Tensor,
    targets: Targets,
    terms: list[Term],
    chunk: int,
) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
    """`plain_losses` with `chunk` columns at a time.

    The memory beside the inputs and their gradients is O(B x (chunk + D)) for any N.
    """
    return _Chunked.apply(rows, columns, scales, biases, targets, terms, chunk)


class _Chunked(PyLayer):
    @staticmethod
    def forward(
        ctx: Any,
        rows: paddle.Tensor,
        columns: paddle.Tensor,
        scales: paddle.Tensor,
        biases: paddle.Tensor,
        targets: Targets,
        terms: list[Term],
        chunk: int,
    ) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
        running = BlockLosses(rows, scales, biases, targets.records, terms, chunk)
        running.add(columns, targets)
        (losses, *others), seen = running.finish()
        ctx.save_for_backward(rows, columns, scales, biases)
        ctx.rest = targets, seen
        ctx.mark_non_differentiable(*others)
        return losses, *others

    @staticmethod
    def backward(
        ctx: Any, upstream: paddle.Tensor, *_: paddle.Tensor
    ) -> tuple[paddle.Tensor | None, ...]:
        rows, columns, scales, biases = inputs = ctx.saved_tensor()
        targets, seen = ctx.rest
        with paddle.amp.auto_cast(enable=False):
            gradients = BlockGradients(rows, scales, biases, upstream, seen)
            to_columns = gradients.of_columns(columns, targets)
            to_rows, *others = gradients.of_others()
        return wanted(inputs, (to_rows, to_columns, *others))
