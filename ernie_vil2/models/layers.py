"""Layers of the towers whose gradients cost a CPU less than Paddle's, with equal numbers.

Paddle's kernels on a CPU add up a bias's gradient row by row, on one core, and take the gradients
of LayerNorm and of the activations many times longer than their outputs. Here these are matrix
products and short chains of elementwise operations, written out by hand. Everything else - no
gradient wanted, a GPU, mixed precision, a static graph - goes to Paddle's own layers.

`use_own_layers` only changes the classes of layers that libraries built: their parameters, names
and hooks stay.
"""

from __future__ import annotations

import math
from typing import Any

import paddle
from paddle import nn
from paddle.autograd import PyLayer
from paddle.base import core
from paddle.base.framework import _dygraph_tracer
from paddle.incubate.nn.functional import fused_linear
from paddle.nn import functional as F

_QUICK_GELU = 1.702  # QuickGELU is x * sigmoid(1.702 * x)
BATCH_NORMS = (nn.BatchNorm, nn.layer.norm._BatchNormBase)
_Gradients = tuple  # one of a forward's inputs each; None where it takes none


def use_own_layers(tower: nn.Layer) -> None:
    """Give a tower's linear layers and layer norms the gradients of this module."""
    for layer in tower.sublayers(include_self=True):
        own = _OWN.get(type(layer))
        if own is not None:
            layer.__class__ = own


def fuse_biases(model: nn.Layer) -> None:
    """Let linear layers add their biases within their products, where the device can."""
    for layer in model.sublayers(include_self=True):
        if isinstance(layer, Linear):
            layer.fused = True


def takes_own_gradient(x: paddle.Tensor) -> bool:
    """Whether the gradients of this module are wanted, and as good as Paddle's."""
    return (
        paddle.in_dynamic_mode()
        and paddle.is_grad_enabled()
        and x.place.is_cpu_place()
        and x.dtype in (paddle.float32, paddle.float64)
        and _dygraph_tracer()._amp_level == core.AmpLevel.O0
    )


def has_flash_attention(x: paddle.Tensor) -> bool:
    """Whether Paddle's `scaled_dot_product_attention` has its fused kernel for `x`.

    Paddle takes it on any GPU and fails where the card has none: it needs compute capability 8.0.
    """
    return (
        paddle.in_dynamic_mode()
        and x.place.is_gpu_place()
        and x.dtype in (paddle.float16, paddle.bfloat16)
        and paddle.device.cuda.get_device_capability() >= (8, 0)
    )


def has_fused_bias(x: paddle.Tensor) -> bool:
    """Whether Paddle has a product of `x` with a bias in its epilogue (cuBLASLt)."""
    return paddle.in_dynamic_mode() and x.place.is_gpu_place()


class Linear(nn.Linear):
    """`paddle.nn.Linear`.

    Attributes:
        fused: add the bias within the product where `has_fused_bias`.
    """

    fused = False

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[..., C] -> [..., D]."""
        if self.fused and self.bias is not None and has_fused_bias(x):
            return fused_linear(x, self.weight, self.bias)
        return linear(x, self.weight, self.bias)


class LayerNorm(nn.LayerNorm):
    """`paddle.nn.LayerNorm` over the last axis."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[..., C] -> [..., C]."""
        affine = self.weight is not None and self.bias is not None
        if not affine or len(self._normalized_shape) != 1 or not takes_own_gradient(x):
            # by its name, since `super()` is lost where paddle exports a program
            return nn.LayerNorm.forward(self, x)
        learns = [not t.stop_gradient for t in (x, self.weight, self.bias)]
        return _LayerNorm.apply(x, self.weight, self.bias, self._epsilon, learns)


class GELU(nn.GELU):
    """`paddle.nn.GELU`."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Any shape."""
        return F.gelu(x, approximate=True) if self._approximate else gelu(x)


class QuickGELU(nn.Layer):
    """x * sigmoid(1.702 * x)."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Any shape."""
        if takes_own_gradient(x):
            return _QuickGELU.apply(x)
        if paddle.in_dynamic_mode() and x.place.is_gpu_place():
            return quick_gelu_by_silu(x)
        return x * F.sigmoid(_QUICK_GELU * x)


def first_token(x: paddle.Tensor) -> paddle.Tensor:
    """[B, L, C] -> [B, 1, C], as a copy.

    A slice would be a view where FLAGS_use_stride_kernel is on, and recompute fills what a graph
    has kept of a view with the wrong numbers. A program has no views, and TensorRT knows slices.
    """
    if not paddle.in_dynamic_mode():
        return x[:, :1]
    return x.index_select(paddle.zeros([1], "int64"), axis=1)


def linear(x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor | None) -> paddle.Tensor:
    """[..., C] @ [C, D] + [D]."""
    if bias is None or not takes_own_gradient(x):
        return F.linear(x, weight, bias)
    return _Linear.apply(x, weight, bias, [not t.stop_gradient for t in (x, weight, bias)])


def gelu(x: paddle.Tensor) -> paddle.Tensor:
    """The exact one, x * Phi(x)."""
    return _GELU.apply(x) if takes_own_gradient(x) else F.gelu(x)


def quick_gelu_by_silu(x: paddle.Tensor) -> paddle.Tensor:
    """silu(1.702 x) / 1.702, whose gradient is one kernel and keeps one tensor instead of two."""
    return F.silu(_QUICK_GELU * x) * (1 / _QUICK_GELU)


_OWN = {nn.Linear: Linear, nn.LayerNorm: LayerNorm, nn.GELU: GELU}


# -- gradients -------------------------------------------------------------------------------------


def _rows(x: paddle.Tensor) -> paddle.Tensor:
    """[..., C] -> [R, C], without a copy."""
    return x.reshape([-1, x.shape[-1]])


def _sum_of_rows(x: paddle.Tensor) -> paddle.Tensor:
    """[R, C] -> [C], as a product with ones: 30 times as fast as Paddle's sum."""
    return paddle.matmul(paddle.ones([1, x.shape[0]], x.dtype), x).reshape([-1])


class _Linear(PyLayer):
    @staticmethod
    def forward(ctx: Any, x, weight, bias, learns: list[bool]) -> paddle.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.learns = learns
        return paddle.matmul(x, weight).add_(bias)

    @staticmethod
    def backward(ctx: Any, slope: paddle.Tensor) -> _Gradients:
        x, weight = ctx.saved_tensor()
        rows = _rows(slope)
        to_x, to_weight, to_bias = ctx.learns
        return (
            paddle.matmul(slope, weight, transpose_y=True) if to_x else None,
            paddle.matmul(_rows(x), rows, transpose_x=True) if to_weight else None,
            _sum_of_rows(rows) if to_bias else None,
        )


class _LayerNorm(PyLayer):
    @staticmethod
    def forward(ctx: Any, x, weight, bias, epsilon: float, learns: list[bool]) -> paddle.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.epsilon, ctx.learns = epsilon, learns
        return F.layer_norm(x, x.shape[-1:], weight, bias, epsilon)

    @staticmethod
    def backward(ctx: Any, slope: paddle.Tensor) -> _Gradients:
        """With y = normed * weight + bias and s = slope * weight:

        dx = spread * (s - mean(s) - normed * mean(s * normed))
        """
        x, weight = ctx.saved_tensor()
        to_x, to_weight, to_bias = ctx.learns
        average = paddle.full(
            [x.shape[-1], 1], 1 / x.shape[-1], x.dtype
        )  # a product with it is one
        normed = x - paddle.matmul(x, average)
        spread = (paddle.matmul(normed.square(), average) + ctx.epsilon).rsqrt()
        normed.multiply_(spread)
        product = slope * normed
        dx = None
        if to_x:
            average.multiply_(weight.unsqueeze(-1))
            dx = slope * weight
            dx.subtract_(normed.multiply_(paddle.matmul(product, average)))
            dx.subtract_(paddle.matmul(slope, average))
            dx.multiply_(spread)
        return (
            dx,
            _sum_of_rows(_rows(product)) if to_weight else None,
            _sum_of_rows(_rows(slope)) if to_bias else None,
        )


class _QuickGELU(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor) -> paddle.Tensor:
        # sigmoid(z) is (1 + tanh(z / 2)) / 2, and tanh takes half of sigmoid's time
        gate = paddle.tanh(x * (_QUICK_GELU / 2)).scale_(0.5, 0.5)
        y = x * gate
        ctx.save_for_backward(y, gate)
        return y

    @staticmethod
    def backward(ctx: Any, slope: paddle.Tensor) -> paddle.Tensor:
        """dy/dx = gate + 1.702 * y * (1 - gate)."""
        y, gate = ctx.saved_tensor()
        # 1 - gate; `scale` takes its second number in float32
        dx = paddle.scale(gate, -1.0, 1.0)
        return dx.multiply_(y).scale_(_QUICK_GELU).add_(gate).multiply_(slope)


class _GELU(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor) -> paddle.Tensor:
        ctx.save_for_backward(x)
        return F.gelu(x)

    @staticmethod
    def backward(ctx: Any, slope: paddle.Tensor) -> paddle.Tensor:
        """dy/dx = Phi(x) + x * phi(x), the normal distribution and its density."""
        (x,) = ctx.saved_tensor()
        share = paddle.erf(x * math.sqrt(0.5)).scale_(0.5, 0.5)
        dx = paddle.exp(x.square().scale_(-0.5)).scale_(1 / math.sqrt(2 * math.pi))
        return dx.multiply_(x).add_(share).multiply_(slope)
