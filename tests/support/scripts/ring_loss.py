"""Losses whose columns travel, of this rank's rows of a fixed batch; rank 0 writes those of all.

Run under paddle.distributed.launch: `ring_loss.py OUTPUT.npz`.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import numpy as np

from ernie_vil2 import runtime
from tests.support.reference import unit_rows

ROWS, DIM = 12, 6
SIX = ("image1", "image2", "caption1", "caption2", "tags1", "tags2")
VALID = np.ones(ROWS, dtype=bool)
VALID[[6, 7, 8]] = False  # all that one of four ranks has


def numbers(*groups):
    """int64 [ROWS]: the rows of a group are equal, all others differ."""
    result = 100 + np.arange(ROWS)
    for number, group in enumerate(groups):
        result[list(group)] = number
    return result


IDS = {  # equal images with other texts, equal texts of other images, and both at once
    "image": numbers((0, 3, 10), (5, 8, 11)),
    "text": numbers((0, 1, 2), (3, 9), (5, 6)),
    "caption": numbers((0, 3), (1, 8, 9)),
    "tags": numbers((3, 4, 8), (2, 11)),
}
BIAS = {"sigmoid": -2.0, "softmax": None}


def _pair(a, b, kind="softmax", **options):
    own = {"views": [a, b], "temperature": 0.125, "learnable": True, "loss": kind}
    return {**own, "bias": BIAS[kind], **options}


MIXED = [  # two share the logit scale
    _pair("image1", "image2", temperature=0.1),
    {"views": ["caption1", "caption2"], "weight": 2.0, "temperature": 0.2},
    {"views": ["image1", "caption1"], "weight": 0.5},
    {"views": ["image2", "caption2"], "loss": "sigmoid", "bias": -3.0},
]
# name -> pairs, columns at a time, whether several positives count
CASES = {
    **{
        f"{a}-{b}-{kind}": ([_pair(a, b, kind)], (None, 2)[number % 2], True)
        for number, ((a, b), kind) in enumerate(
            itertools.product([*itertools.combinations(SIX[::2], 2)], BIAS)
        )
    },
    **{
        f"{a}-{b}-{kind}": ([_pair(a, b, kind)], 1, True)
        for a, b in zip(SIX[::2], SIX[1::2])
        for kind in BIAS
    },
    **{f"mixed-{chunk}": (MIXED, chunk, True) for chunk in (None, 1, 2, 100)},
    "one positive": (MIXED, 2, False),
}
LOGIT_SCALE = 9.0


def arrays() -> dict[str, np.ndarray]:
    return {view: unit_rows(ROWS, DIM, seed) for seed, view in enumerate(SIX)}


def run_case(name: str, mine: slice, ring: bool) -> tuple[dict, dict, dict]:
    """Losses, gradients of embeddings, and gradients of scalars, of one backward."""
    import paddle

    from ernie_vil2.losses.multiview import MultiViewContrastive

    pairs, chunk, several = CASES[name]
    loss = MultiViewContrastive(pairs, several, chunk=chunk if ring else None, ring=ring)
    embeds = {
        view: paddle.to_tensor(x[mine].astype("float32"), stop_gradient=False)
        for view, x in arrays().items()
        if view in loss.views
    }
    scale = paddle.to_tensor([LOGIT_SCALE], stop_gradient=False)
    ids = {source: paddle.to_tensor(x[mine]) for source, x in IDS.items()}
    losses = loss(embeds, scale, ids, paddle.to_tensor(VALID[mine]))
    losses["loss"].backward()
    scalars = {n: float(p.grad) for n, p in loss.named_parameters()}
    if scale.grad is not None:
        scalars["logit_scale"] = float(scale.grad)
    return (
        {key: float(value) for key, value in losses.items()},
        {view: x.grad.numpy() for view, x in embeds.items()},
        scalars,
    )


def main(output: str) -> None:
    runtime.prepare()
    from ernie_vil2 import distributed
    from ernie_vil2.distributed.ring import Ring
    from tests.support.empty_inputs import empty_inputs

    distributed.init("cpu")
    world = distributed.world_size()
    share = ROWS // world
    mine = slice(distributed.rank() * share, (distributed.rank() + 1) * share)
    start_shift, sent = Ring.start_shift, [0]

    def counted(ring, tensors):
        sent[0] += sum(x.element_size() * int(np.prod(x.shape)) for x in tensors)
        return start_shift(ring, tensors)

    Ring.start_shift = counted
    result = {}
    for name in CASES:
        sent[0] = 0
        with empty_inputs() as empty:
            losses, embeds, scalars = run_case(name, mine, ring=True)
        assert empty == [], (name, empty)
        of_ranks = distributed.all_gather_objects((losses, embeds, scalars, sent[0]))
        for key in losses:
            result[f"{name}/{key}"] = np.mean([each[0][key] for each in of_ranks])
        for key in scalars:
            result[f"{name}/{key}"] = np.mean([each[2][key] for each in of_ranks])
        for view in embeds:  # parameters get the mean over ranks, so embeddings do here
            result[f"{name}/{view}"] = np.concatenate([e[1][view] for e in of_ranks]) / world
        result[f"{name}/sent"] = np.array([each[3] for each in of_ranks])
    if distributed.is_main():
        np.savez(output, **result)
    distributed.leave(0)


if __name__ == "__main__":
    main(sys.argv[1])
