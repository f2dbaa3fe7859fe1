"""Parameter groups, optimizer and learning-rate schedule."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import paddle

from ernie_vil2.errors import UserError, did_you_mean
from ernie_vil2.training.fused_adamw import FusedAdamW

OPTIMIZERS = {"AdamW": paddle.optimizer.AdamW, "Lamb": paddle.optimizer.Lamb}


def learning_rate_factor(name: str, warmup_steps: int, total_steps: int, min_factor: float):
    """step (from 0) -> factor of the peak rate: linear warm-up, then the named decay."""

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        done = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
        left = {
            "Cosine": (1 + math.cos(math.pi * done)) / 2,
            "Linear": 1 - done,
            "Constant": 1.0,
        }[name]
        return min_factor + (1 - min_factor) * left

    return factor


def build_scheduler(config: Mapping, total_steps: int) -> paddle.optimizer.lr.LambdaDecay:
    """The schedule of the configuration's `LRScheduler` over `total_steps` optimizer steps."""
    peak = config["learning_rate"]
    factor = learning_rate_factor(
        config["name"], config["warmup_steps"], total_steps, config["min_lr"] / peak
    )
    return paddle.optimizer.lr.LambdaDecay(peak, factor)


class Group(NamedTuple):
    """Parameters that share a weight decay and a factor of the learning rate."""

    weight_decay: float
    lr_scale: float
    names: list


def parameter_groups(
    names: Iterable, rules: Iterable, weight_decay: float, lr_scales: Mapping
) -> list[Group]:
    """Sort parameters by the first rule whose `match` is found in their name.

    Args:
        rules: {match: regular expression, weight_decay: default that of the optimizer,
            lr_scale: 1.0}.
        lr_scales: name -> a further factor of the rate, as layer-wise decay gives.

    Raises:
        UserError: a bad expression, or a parameter that no rule matches.
    """
    compiled = []
    for rule in rules:
        try:
            pattern = re.compile(rule["match"])
        except re.error as error:
            raise UserError(
                f"Optimizer.groups: {rule['match']!r} is no regular expression ({error})"
            ) from error
        compiled.append((pattern, rule.get("weight_decay"), rule.get("lr_scale", 1.0)))
    groups: dict[tuple[float, float], list] = {}
    for name in names:
        first = next((rule for rule in compiled if rule[0].search(name)), None)
        if first is None:
            raise UserError(f"Optimizer.groups: no rule matches {name}: end with match: '.*'")
        _, decay, lr_scale = first
        setting = (weight_decay if decay is None else decay, lr_scale * lr_scales.get(name, 1.0))
        groups.setdefault(setting, []).append(name)
    return [Group(*setting, names) for setting, names in groups.items()]


def build_optimizer(config: Mapping, groups: list[Group], parameters: Mapping, scheduler):
    """The optimizer of `Optimizer` in the configuration.

    It does not clip, since Paddle's optimizers would clip each group by itself: see
    `Parallel.clip_gradients`.

    Args:
        parameters: name -> Parameter, float32, those of the groups that this process owns.
    """
    if config["name"] not in OPTIMIZERS:
        raise UserError(
            f'no optimizer is named "{config["name"]}"{did_you_mean(config["name"], OPTIMIZERS)}'
        )
    optimizer_class = OPTIMIZERS[config["name"]]
    if config["name"] == "AdamW" and config["fused"]:
        optimizer_class = FusedAdamW
    decay_key = "lamb_weight_decay" if config["name"] == "Lamb" else "weight_decay"
    return optimizer_class(
        learning_rate=scheduler,
        beta1=config["beta1"],
        beta2=config["beta2"],
        epsilon=config["epsilon"],
        parameters=[
            {
                "params": [parameters[name] for name in group.names if name in parameters],
                decay_key: group.weight_decay,
                "learning_rate": group.lr_scale,  # Paddle's word for a factor of the rate
            }
            for group in groups
            if any(name in parameters for name in group.names)
        ],
    )


def format_groups(groups: list[Group], parameters: Mapping) -> str:
    """One line a group: its settings, count, and a few of its names."""
    lines = ["parameter groups (weight decay, rate factor, tensors, numbers, first names):"]
    for group in groups:
        numbers = sum(int(parameters[name].size) for name in group.names)
        shown = ", ".join(group.names[:3]) + (", ..." if len(group.names) > 3 else "")
        lines.append(
            f"  {group.weight_decay:<8g} {group.lr_scale:<8.4g} {len(group.names):>4} "
            f"{numbers:>12,}  {shown}"
        )
    return "\n".join(lines)
