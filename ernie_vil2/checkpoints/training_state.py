"""What of a training run its checkpoints hold, and putting it back."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import numpy as np
import paddle

from ernie_vil2.checkpoints.layout import training_files
from ernie_vil2.errors import UserError
from ernie_vil2.files.safetensors import LazyTensors


def collect(
    objective: paddle.nn.Layer,
    optimizer,
    average: Mapping | None = None,
    full: Mapping | None = None,
    main: bool = True,
) -> tuple[dict | None, dict]:
    """The `weights` and `training` that `CheckpointWriter.save` takes; nothing is copied.

    Args:
        objective: layers `model` and `loss`; weights in the model's `base` are left out.
        average: the weights' averages by name, all of them, where EMA is on; these are the weights
            to use, and those as trained go with the training.
        full: name in the objective -> float32 values of its half-precision weights.
        main: whether this rank writes what all have; others give their optimizer's state alone.
    """
    training = optimizer_tensors(optimizer, objective)
    if not main:
        return None, training
    full, base = full or {}, _left_to_base(objective)
    weights = {
        name: full.get(f"model.{name}", tensor)
        for name, tensor in objective.model.state_dict().items()
        if f"model.{name}" not in base
    }
    training.update({f"loss.{name}": t for name, t in objective.loss.state_dict().items()})
    if average is not None:
        training.update({f"model.{name}": tensor for name, tensor in weights.items()})
        weights = {**weights, **average}
    return dict(weights), training


def restore(
    checkpoint: Path,
    objective: paddle.nn.Layer,
    optimizer,
    scheduler,
    ema=None,
    names: Collection | None = None,
    full: Mapping | None = None,
) -> None:
    """Put a checkpoint's weights, averages and optimizer state in place.

    Whoever wrote it, one process or many sharded ones, and how many read it, makes no difference.
    One tensor at a time is in memory beside where it goes. The scheduler is at the checkpoint's
    step already.

    Args:
        ema: takes the averages of the names it holds.
        names: the objective's parameters that this process's optimizer owns; None: all.
        full: as in `collect`, of those that this process keeps: set too, before they are rounded.

    Raises:
        UserError: the checkpoint is of another model, or a file cannot be read.
    """
    weights = LazyTensors([checkpoint / "model.safetensors"])
    training = LazyTensors(training_files(checkpoint))
    # without EMA the weights to use are those as trained
    source = {f"model.{name}": (weights, name) for name in weights}
    source.update({name: (training, name) for name in training if "|" not in name})
    base = _left_to_base(objective)
    own = {name: t for name, t in objective.state_dict().items() if name not in base}
    different = sorted(set(own) ^ set(source)) or [
        name for name, (file, key) in source.items() if list(own[name].shape) != file.shape(key)
    ]
    if different:
        raise UserError(
            f"{checkpoint} is of another model ({len(different)} tensors differ, first "
            f"{different[0]}): resume with the configuration it was trained with"
        )
    for name, tensor in own.items():
        file, key = source[name]
        if f"{name}|master" in training:  # older checkpoints have rounded weights beside it
            file, key = training, f"{name}|master"
        value = paddle.to_tensor(file[key])
        paddle.assign(value.astype(tensor.dtype), tensor)
        if full and isinstance(full.get(name), np.ndarray):
            np.copyto(full[name], file[key])
        elif full and name in full:
            paddle.assign(value.astype("float32"), full[name])
    if ema is not None:
        for name, tensor in ema.average.items():
            paddle.assign(paddle.to_tensor(weights[name]), tensor)
    begun = _of_unfrozen(objective, optimizer, training)
    _set_optimizer_state(
        optimizer, scheduler, _optimizer_state(objective, (training, begun), names)
    )


def _left_to_base(objective: paddle.nn.Layer) -> set[str]:
    """Names of the weights below adapters, which stay and are in no checkpoint."""
    base = getattr(objective.model, "base", None)
    return {f"model.{name}" for name in base.names} if base else set()


def optimizer_tensors(optimizer, objective: paddle.nn.Layer) -> dict[str, paddle.Tensor]:
    """The optimizer's accumulators as "<structured name>|<accumulator>" -> tensor.

    Paddle names them after its own counter of layers, which another process may count otherwise.
    """
    # Until a parameter's first step, what was restored for it waits here, and Paddle 2.6 leaves it
    # out of the state: saved after a resume whose first steps were skipped, it would be lost.
    state = {**optimizer._accumulators_holder, **optimizer.state_dict()}
    state.pop("LR_Scheduler", None)  # a function of the step
    state.pop("master_weights", None)  # none: all that an optimizer steps is float32
    structured = {p.name: name for name, p in objective.named_parameters()}
    tensors = {}
    for name, tensor in state.items():
        # the longest, since "linear_1.w_0" must not claim what belongs to "linear_1.w_0_x"
        owner = max((own for own in structured if name.startswith(own + "_")), key=len)
        tensors[f"{structured[owner]}|{name[len(owner) + 1 :]}"] = tensor
    return tensors


def _optimizer_state(
    objective: paddle.nn.Layer, sources: Iterable[Mapping], names: Collection | None
) -> dict:
    """The reverse of `optimizer_tensors`, for the parameters in `names`."""
    own = {name: p.name for name, p in objective.named_parameters()}
    state: dict = {}
    for key, tensors in ((key, source) for source in sources for key in source):
        structured, accumulator = _parts(key)
        if not accumulator or (names is not None and structured not in names):
            continue
        tensor = paddle.to_tensor(tensors[key])
        tensor.name = f"{own[structured]}_{accumulator}"
        state[tensor.name] = tensor
    return state


def _parts(key: str) -> tuple[str, str]:
    """A tensor's parameter, and which of its accumulators it is; "" for what is none."""
    name, _, accumulator = key.partition("|")
    if accumulator == "master":  # in older checkpoints, of half-precision weights
        return name, ""
    return name, re.sub(r"^fp32_master_\d+_", "", accumulator)  # these had names of their own


def _of_unfrozen(objective: paddle.nn.Layer, optimizer, tensors: Mapping) -> dict:
    """Accumulators, as at a first step, of parameters that learn now and did not before.

    Paddle asks for all accumulators of all parameters or for none.
    """
    known: dict[str, dict] = {}  # parameter -> its accumulators, and where they stand
    for key in tensors:
        name, accumulator = _parts(key)
        if accumulator:
            known.setdefault(name, {})[accumulator] = key
    if not known:
        return {}
    accumulators = next(iter(known.values()))
    begun = {}
    for name, parameter in objective.named_parameters():
        if parameter.stop_gradient or name in known:
            continue
        for accumulator in accumulators:
            before = tensors[accumulators[accumulator]]
            if "_pow_acc" in accumulator:  # of Adam's bias correction
                beta = optimizer._beta1 if "beta1" in accumulator else optimizer._beta2
                value = np.full(before.shape, beta, before.dtype)
            else:
                value = np.zeros(parameter.shape, before.dtype)
            begun[f"{name}|{accumulator}"] = value
    return begun


def _set_optimizer_state(optimizer, scheduler, state: dict) -> None:
    # paddle would otherwise refuse the state, or rewind the schedule
    optimizer.set_state_dict({**state, "LR_Scheduler": scheduler.state_dict()})
    # Of an optimizer that has stepped, as in a rollback, Paddle has copied the values into its
    # accumulators, and would keep these tensors for good.
    for accumulators in optimizer._accumulators.values():
        for tensor in accumulators.values():
            optimizer._accumulators_holder.pop(tensor.name, None)
