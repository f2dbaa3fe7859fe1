"""Does the device compute losses and fused layers right? Against float64 in NumPy."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import paddle
from benchmarks.loss_errors import errors

from ernie_vil2 import distributed
from ernie_vil2.models import layers
from tools.gpu_check.rows import Row, Setting, at_most

_EXACT = 1e-5  # largest error as a share of the largest number; no TensorFloat-32
_SIZES = {"gpu": (256, 4096, 768, [256, 1024]), "cpu": (16, 64, 32, [16, 24])}


def losses(setting: Setting) -> Iterator[Row]:
    """Plain and in chunks, each kind of pair and of positives: loss and all its gradients.

    There are more columns than rows, as on one of several ranks, so chunks have no positives for
    the kind with one.
    """
    distributed.init(setting.device)
    rows, count, dim, chunks = _SIZES[setting.device]
    for found in errors(rows, count, dim, chunks):
        worst = {k: v for k, v in found.items() if k not in ("targets", "path")}
        where = max(worst, key=lambda name: worst[name])
        title = f"{found['targets']}, {found['path']}"
        yield at_most(title, worst[where], _EXACT, f"of {', '.join(worst)}: largest of {where}")


def fused(setting: Setting) -> Iterator[Row]:
    """What only a GPU computes so: biases within products, QuickGELU by silu."""
    setting.need_gpu()
    distributed.init(setting.device)
    layer = layers.Linear(768, 3072)
    layer.fused = True
    x, slope = paddle.randn([4, 197, 768]), paddle.randn([4, 197, 3072])
    x.stop_gradient = False
    hidden = layer(x)
    paddle.autograd.backward([layers.QuickGELU()(hidden)], [slope])
    weight, bias, rows, slopes = (
        t.numpy().astype("float64").reshape(-1, t.shape[-1])
        for t in (layer.weight, layer.bias, x, slope)
    )
    product = rows @ weight + bias
    gate = 1 / (1 + np.exp(-1.702 * product))
    slopes = slopes * gate * (1 + 1.702 * product * (1 - gate))
    expected = {
        "output": (hidden, product),
        "gradient of the input": (x.grad, slopes @ weight.T),
        "gradient of the weight": (layer.weight.grad, rows.T @ slopes),
        "gradient of the bias": (layer.bias.grad, slopes.sum(0)),
    }
    for name, (found, exact) in expected.items():
        error = np.abs(found.numpy().reshape(exact.shape) - exact).max() / np.abs(exact).max()
        yield at_most(f"fused bias and QuickGELU: {name}", error, _EXACT)


# The loss whose columns travel from rank to rank, Loss.ring, needs several: exactness.py.
CHECKS = {"losses against float64": losses, "fused layers against float64": fused}
