"""AdamW that updates all parameters of a kind by one operation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import paddle
from paddle import _C_ops

_CHUNK = 2**16  # numbers of a tensor that one block of a GPU's threads updates
# a second maximum of the moments came with Paddle 3, and AMSGrad's switch at the end
_EXTRA_ARGUMENTS = not paddle.__version__.startswith("2.")


class _Kind(NamedTuple):
    """What parameters have in common that one operation updates."""

    weight_decay: float
    lr_scale: float
    # Of the bias correction: a parameter that began to learn later has another, and a GPU's kernel
    # reads only the first tensor's.
    age: tuple[float, float, int]


class FusedAdamW(paddle.optimizer.AdamW):
    """`paddle.optimizer.AdamW` whose step is one operation a group, not one a tensor.

    For base Paddle's AdamW launches about 350 kernels. Numbers and the names in `state_dict` are
    its own, so either goes on from the other's checkpoint. Half-precision weights and gradients are
    left to it.
    """

    def __init__(self, *args: Any, **options: Any):
        self._waiting: dict[_Kind, list[tuple]] = {}  # (parameter, gradient) of the group at hand
        # beta1^t and beta2^t as they were read, and the updates since, by a parameter's name
        self._ages: dict[str, tuple[float, float, int]] = {}
        super().__init__(*args, **options)

    def set_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """As AdamW's."""
        super().set_state_dict(state_dict)
        self._ages = {}

    def _create_optimization_pass(self, *args: Any, **options: Any) -> Any:
        """Update one group.

        Paddle's makes moments where there are none, and calls the method below for each parameter,
        unless a loss scale overflowed.
        """
        self._waiting = {}
        result = super()._create_optimization_pass(*args, **options)
        for kind, params_and_grads in self._waiting.items():
            self._update(kind, params_and_grads)
        self._waiting = {}
        return result

    def _append_optimize_op(self, block: Any, param_and_grad: Any) -> None:
        pair = param_and_grad
        if isinstance(pair, dict):
            pair = self._update_param_group(pair)
        parameter, gradient = pair
        if not parameter.dtype == gradient.dtype == paddle.float32:
            self._ages.pop(parameter.name, None)
            super()._append_optimize_op(block, param_and_grad)
            return
        lr_scale = parameter.optimize_attr["learning_rate"]
        kind = _Kind(self._weight_decay, lr_scale, self._age(parameter))
        self._waiting.setdefault(kind, []).append((parameter, gradient))

    def _age(self, parameter: paddle.Tensor) -> tuple[float, float, int]:
        """What tells its bias correction from others', before the update that is due."""
        age = self._ages.get(parameter.name)
        if age is None:
            first, second = (
                float(self._get_accumulator_master(name, parameter))
                for name in (self._beta1_pow_acc_str, self._beta2_pow_acc_str)
            )
            age = first, second, 0
        self._ages[parameter.name] = (*age[:2], age[2] + 1)
        return age

    def _update(self, kind: _Kind, params_and_grads: list[tuple]) -> None:
        params = [parameter for parameter, _ in params_and_grads]
        moments1, moments2, beta1_pows, beta2_pows = (
            [self._get_accumulator_master(name, parameter) for parameter in params]
            for name in (
                self._moment1_acc_str,
                self._moment2_acc_str,
                self._beta1_pow_acc_str,
                self._beta2_pow_acc_str,
            )
        )
        _C_ops.fused_adam_(
            params,
            [gradient for _, gradient in params_and_grads],
            self._create_param_lr(params_and_grads[0]),
            moments1,
            moments2,
            *([None] if _EXTRA_ARGUMENTS else []),  # of AMSGrad
            beta1_pows,
            beta2_pows,
            None,  # masters of half-precision weights
            None,  # a step that is skipped does not come here
            self._beta1,
            self._beta2,
            self._epsilon,
            _CHUNK,
            kind.weight_decay,
            True,  # decay as AdamW's
            False,  # no masters
            False,  # each parameter has beta^t of its own
            *([False] if _EXTRA_ARGUMENTS else []),
        )
