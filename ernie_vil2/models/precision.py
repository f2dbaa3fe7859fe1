"""Mixed precision: what a device can do, casting in forwards, and weights made half precision.

On a CPU Paddle has bfloat16 kernels to copy, index and add up, but none for matrix products,
convolutions and normalisations, and its `auto_cast` does nothing there. So `auto_cast` here lets
all operators compute in float32 on a CPU, between bfloat16 weights (O2) and their bfloat16
gradients: O1 is then float32 throughout, and O2 has the weights' rounding alone. That is for tests;
it is no faster.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import paddle
from paddle import nn
from paddle.base import core
from paddle.base.framework import _dygraph_tracer

from ernie_vil2 import distributed
from ernie_vil2.errors import UserError

# Compute capabilities below which Paddle's auto_cast only warns, and goes on in float32.
_LEAST = {"bfloat16": (8, 0), "float16": (7, 0)}
_NORMS = (
    nn.LayerNorm,
    nn.GroupNorm,
    nn.BatchNorm,
    nn.layer.norm._BatchNormBase,
    nn.layer.norm._InstanceNormBase,
)


def compute_capability() -> tuple[int, int]:
    """Of this process's GPU, such as (8, 0)."""
    return paddle.device.cuda.get_device_capability()


def check_precision(amp: Mapping[str, Any]) -> None:
    """Refuse what this process's device cannot do.

    Args:
        amp: the section `AMP` of the configuration.

    Raises:
        UserError: float16 on a CPU, or a GPU that is too old.
    """
    level, dtype = amp["level"], amp["dtype"]
    if level == "O0":
        return
    if not distributed.on_gpu():
        if dtype == "float16":
            raise UserError(
                f"AMP.level is {level} and AMP.dtype float16, which Paddle cannot compute with on "
                "a CPU: set AMP.level to O0, or for a test AMP.dtype to bfloat16"
            )
        return
    capability = compute_capability()
    if capability < _LEAST[dtype]:
        least, found = (".".join(map(str, pair)) for pair in (_LEAST[dtype], capability))
        other = "set AMP.level to O0"
        if capability >= _LEAST["float16"]:
            other = "set AMP.dtype to float16"
        raise UserError(
            f"AMP.dtype is {dtype}, which needs a GPU of compute capability {least} or higher, and "
            f"this one has {found}: {other}"
        )


@contextlib.contextmanager
def auto_cast(amp: Mapping[str, Any]) -> Iterator[None]:
    """Inside, forwards compute as the configuration's `AMP` asks for.

    Args:
        amp: the section `AMP` of the configuration.
    """
    if amp["level"] == "O0" or distributed.on_gpu():
        with paddle.amp.auto_cast(
            enable=amp["level"] != "O0", level=amp["level"], dtype=amp["dtype"]
        ):
            yield
        return
    with _casting((getattr(core.AmpLevel, amp["level"]), amp["dtype"], (set(), _OPERATORS))):
        yield


# What forwards cast now: level, dtype, and the operators in half precision and in float32.
_Casting = tuple[Any, str, tuple[set[str], set[str]]]
_OPERATORS = {name for name in dir(paddle._C_ops) if not name.startswith("_")}


@contextlib.contextmanager
def _casting(state: _Casting) -> Iterator[None]:
    """What Paddle's `auto_cast` does at its core, also on a CPU."""
    tracer = _dygraph_tracer()
    before = _casting_now()
    _cast(tracer, state)
    try:
        yield
    finally:
        _cast(tracer, before)


def _casting_now() -> _Casting:
    tracer = _dygraph_tracer()
    return tracer._amp_level, tracer._amp_dtype, tracer._get_amp_op_list()


def _cast(tracer: Any, state: _Casting) -> None:
    tracer._amp_level, tracer._amp_dtype, lists = state
    tracer._set_amp_op_list(*lists)


def casting_again() -> contextlib.AbstractContextManager[None]:
    """A context that casts as is done here and now, for what is computed once more later.

    Paddle's `recompute` restores it by its own `auto_cast`, which does nothing on a CPU.
    """
    return contextlib.nullcontext() if distributed.on_gpu() else _casting(_casting_now())


def halve(layer: nn.Layer, dtype: str, keep: tuple[type[nn.Layer], ...]) -> dict:
    """Make the weights of a layer's sublayers half precision, but for those of normalisations.

    As `paddle.amp.decorate` does under float16, which does nothing on a CPU. The normalisations'
    weights are few, and Paddle's kernels take them in float32 beside half-precision inputs.

    Args:
        dtype: bfloat16 or float16.
        keep: types of sublayers that keep their own parameters; the layers below them do not.

    Returns:
        Name -> float32 tensor, what was rounded as it was before.
    """
    originals = {}
    for prefix, sublayer in layer.named_sublayers():
        if isinstance(sublayer, (*_NORMS, *keep)):
            continue
        for name, parameter in sublayer.named_parameters(prefix, include_sublayers=False):
            if parameter.dtype == paddle.float32:
                originals[name] = parameter.detach().clone()
        sublayer._to_impl(dtype=dtype, include_sublayers=False, floating_only=True)
    return originals
