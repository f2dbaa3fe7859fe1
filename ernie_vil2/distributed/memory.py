"""What a process holds of a model that is trained, in numbers and in bytes."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable

import paddle


def numbers(tensor: paddle.Tensor) -> int:
    """How many numbers a tensor has, also where its storage is freed."""
    return math.prod(tensor.shape)


def bytes_held(
    parameters: Collection[paddle.Tensor],
    optimizer: paddle.optimizer.Optimizer | None = None,
    gradients: Iterable[paddle.Tensor] = (),
) -> dict[str, int]:
    """Bytes of "parameters" and of the "gradients" and "optimizer" state that belong to them.

    Args:
        gradients: those that their parameters have given away.
    """
    state = dict(optimizer.state_dict()) if optimizer else {}
    state.pop("LR_Scheduler", None)
    state.update({f"{n}|master": t for n, t in state.pop("master_weights", {}).items()})
    held = {
        "parameters": parameters,
        "gradients": [*(p.grad for p in parameters if p.grad is not None), *gradients],
        "optimizer": state.values(),
    }
    return {
        kind: sum(numbers(t) * t.element_size() for t in tensors if t._is_initialized())
        for kind, tensors in held.items()
    }
