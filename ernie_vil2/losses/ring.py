"""The pairs' losses where columns travel: no rank ever holds the embeddings of all.

Each rank's block, the embeddings [B, V, D] of its records with their ids and validity, goes round
the circle of W ranks in W - 1 hops. While a rank scores its rows against one block, the next is on
its way, so that computation hides the exchange (over NCCL; gloo's transfers do not run beside it).
SigLIP's loss is computed so (Zhai et al. 2023, arXiv 2303.15343, section 3.3), and attention over
long sequences by Ring Attention (Liu et al. 2023, arXiv 2310.01889); here it is all kinds of pairs.

The forward is a running log-sum-exp over the blocks, as `blocks.py` derives it. In the backward the
blocks travel once more. Each is followed by its gradient, one hop behind: a rank adds what its own
rows bring to what the rank before has sent, and sends that on. After W - 1 hops the sum over all
other ranks is back with the block's owner, who adds its own.

A rank sends 3 (W - 1) B V D float32 numbers a batch, a gather and its backward 2 (W - 1) B V D.
"""

from __future__ import annotations

from typing import Any

import paddle
from paddle.autograd import PyLayer

from ernie_vil2.distributed.ring import Ring, Shift
from ernie_vil2.losses.blocks import BlockGradients, BlockLosses, Seen, wanted
from ernie_vil2.losses.pairs import Term
from ernie_vil2.losses.targets import Records, Targets


def ring_losses(
    rows: paddle.Tensor,
    scales: paddle.Tensor,
    biases: paddle.Tensor,
    records: Records,
    terms: list[Term],
    chunk: int | None,
    ring: Ring,
) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
    """`plain_losses` of this rank's rows, whose columns are all ranks' rows.

    All ranks call it, and its backward, with as many rows. A rank's gradient of `rows` has what
    all ranks' losses bring them, as that of a gather whose backward adds up.

    Args:
        rows: float32 [B, V, D], L2-normalised, of this rank's records.
        chunk: columns of a block that are scored at a time; None for all.
    """
    return _Ring.apply(rows, scales, biases, records, terms, chunk or rows.shape[0], ring)


class _Ring(PyLayer):
    @staticmethod
    def forward(
        ctx: Any,
        rows: paddle.Tensor,
        scales: paddle.Tensor,
        biases: paddle.Tensor,
        records: Records,
        terms: list[Term],
        chunk: int,
        ring: Ring,
    ) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
        running = BlockLosses(rows, scales, biases, records, terms, chunk)
        for owner, (columns, keys) in ring.blocks([rows, records.keys()]):
            running.add(columns, _targets(records, keys, ring, owner))
        (losses, *others), seen = running.finish()
        ctx.save_for_backward(rows, scales, biases)
        ctx.rest = ring, seen
        ctx.mark_non_differentiable(*others)
        return losses, *others

    @staticmethod
    def backward(
        ctx: Any, upstream: paddle.Tensor, *_: paddle.Tensor
    ) -> tuple[paddle.Tensor | None, ...]:
        rows, scales, biases = inputs = ctx.saved_tensor()
        ring, seen = ctx.rest
        with paddle.amp.auto_cast(enable=False):
            gradients = BlockGradients(rows, scales, biases, upstream, seen)
            to_columns = _travelling_gradients(gradients, rows, ring, seen)
            to_rows, *others = gradients.of_others()
        return wanted(inputs, (to_rows.add_(to_columns), *others))


def _travelling_gradients(
    gradients: BlockGradients, rows: paddle.Tensor, ring: Ring, seen: Seen
) -> paddle.Tensor:
    """What all ranks' losses bring this rank's rows as columns, [B, V, D]."""
    shift: Shift | None = None
    for owner, (columns, keys) in ring.blocks([rows, seen.records.keys()]):
        found = gradients.of_columns(columns, _targets(seen.records, keys, ring, owner))
        if owner == ring.rank:  # the first
            result = found
            continue
        if shift is not None:
            found.add_(*shift.wait())
        shift = ring.start_shift([found])
    if shift is not None:
        result.add_(*shift.wait())
    return result


def _targets(records: Records, keys: paddle.Tensor, ring: Ring, owner: int) -> Targets:
    """The relation of this rank's records to those of a block's owner."""
    return records.against(keys, (ring.rank - owner) * keys.shape[0])
