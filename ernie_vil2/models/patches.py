"""Patch dropout: in training an image tower sees a random part of each image."""

from __future__ import annotations

import paddle


def patches_kept(patches: int, share: float) -> int:
    """How many of an image's patches are left when `share` of them is dropped; one at least."""
    return max(1, round(patches * (1 - share)))


def drop_patches(x: paddle.Tensor, share: float) -> paddle.Tensor:
    """The class token and a random part of the patches, each image's own draw.

    FLIP (Li et al. 2023, arXiv 2212.00794), without its mask tokens. The draw comes from Paddle's
    generator, so that equal seeds keep equal patches. Their order means nothing to the blocks, as
    their positions are added already.

    Args:
        x: [B, 1 + N, C], the class token first.
        share: of the N patches that is dropped, from 0 to below 1.

    Returns:
        [B, 1 + K, C], K of `patches_kept`.
    """
    batch, length, width = x.shape
    kept = patches_kept(length - 1, share)
    patches = paddle.rand([batch, length - 1]).argsort(axis=1)[:, :kept] + 1  # [B, K]
    tokens = paddle.concat([paddle.zeros([batch, 1], "int64"), patches], axis=1)
    rows = tokens + length * paddle.arange(batch).unsqueeze(1)  # of x as [B * (1 + N), C]
    return paddle.gather(x.reshape([-1, width]), rows.reshape([-1])).reshape(
        [batch, 1 + kept, width]
    )
