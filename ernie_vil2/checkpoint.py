"""Checkpoints: whole or absent, without code in them, and with all that a resume needs.

checkpoints/step_00001000/
    model.safetensors     the weights to use, by structured name, float32; averaged where EMA is on
    training.safetensors  "<parameter>|<accumulator>" of the optimizer, the loss's own parameters,
                          and, where EMA is on, the weights as they were trained
    state.json            step, best metric, loss scaler
    config.yaml           resolved
    vocab.txt             a copy of the tokenizer's
checkpoints/latest, best  links to such a folder
"""

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Optional

import paddle

from ernie_vil2.errors import UserError
from ernie_vil2.weights import read_safetensors, write_safetensors

_STEP = re.compile(r"step_(\d{8})$")


def write_checkpoint(
    folder: Path,
    objective: paddle.nn.Layer,
    optimizer,
    ema,
    state: Mapping,
    config,
    vocab_file: str,
    best: bool = False,
    keep: int = 3,
) -> Path:
    """Write `folder`/step_* whole, point `latest` (and `best`) at it, drop older ones.

    The files are written under another name, synced and renamed, so that a folder named step_* is
    never half there. The newest `keep` are kept, and the best.
    """
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"step_{state['step']:08d}"
    draft = folder / f".writing-{final.name}"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    weights = objective.model.state_dict()
    training = {
        **_optimizer_tensors(optimizer, objective),
        **{f"loss.{name}": tensor for name, tensor in objective.loss.state_dict().items()},
    }
    if ema is not None:
        training.update({f"model.{name}": tensor for name, tensor in weights.items()})
        weights = {**weights, **ema.average}
    write_safetensors(draft / "model.safetensors", weights)
    write_safetensors(draft / "training.safetensors", training)
    config.dump(draft / "config.yaml")
    shutil.copyfile(vocab_file, draft / "vocab.txt")
    (draft / "state.json").write_text(json.dumps(state, indent=1) + "\n")
    for path in draft.iterdir():
        _sync(path)
    _sync(draft)
    shutil.rmtree(final, ignore_errors=True)  # the same step, written before an interrupted run
    os.rename(draft, final)
    _point(folder / "latest", final)
    if best:
        _point(folder / "best", final)
    _sync(folder)
    _rotate(folder, keep)
    return final


def amend(folder: Path, state: Mapping, best: bool) -> Path:
    """Replace the state of the checkpoint of state["step"], as an evaluation after it has to."""
    path = folder / f"step_{state['step']:08d}"
    draft = path / ".state.json"
    draft.write_text(json.dumps(state, indent=1) + "\n")
    _sync(draft)
    os.replace(draft, path / "state.json")
    if best:
        _point(folder / "best", path)
    return path


def put_aside(folder: Path) -> Optional[Path]:
    """Rename `folder` of an earlier run's checkpoints, so that a new run loses none of them.

    Returns its new name, or None where there was no checkpoint.
    """
    if find_latest(folder) is None:
        return None
    number = 1
    while (aside := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    return folder.rename(aside)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _point(link: Path, target: Path) -> None:
    draft = link.with_name(f".{link.name}")
    draft.unlink(missing_ok=True)
    draft.symlink_to(target.name)
    os.replace(draft, link)


def _rotate(folder: Path, keep: int) -> None:
    best = (folder / "best").resolve()
    for path in _whole(folder)[:-keep]:
        if path != best:
            shutil.rmtree(path)


def find_latest(folder: Path) -> Optional[Path]:
    """The newest whole checkpoint under `folder`, or None."""
    return next(reversed(_whole(folder)), None)


def _whole(folder: Path) -> "list[Path]":
    """The whole checkpoints under `folder`, oldest first."""
    return sorted(path for path in folder.glob("step_*") if _STEP.match(path.name))


def read_state(checkpoint: Path) -> dict:
    """`state.json` of a checkpoint; raises UserError where there is none."""
    try:
        return json.loads((checkpoint / "state.json").read_text())
    except FileNotFoundError:
        raise UserError(
            f"{checkpoint} is no checkpoint to resume from (it has no state.json): "
            "name a folder checkpoints/step_*, or start from weights with Global.pretrained"
        ) from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{checkpoint / 'state.json'} is damaged ({error}): use an older one"
        ) from None


def restore(checkpoint: Path, objective: paddle.nn.Layer, optimizer, scheduler, ema) -> None:
    """Put a checkpoint's weights, averages and optimizer state in place.

    The scheduler is at the checkpoint's step already.

    Raises UserError where the checkpoint is of another model.
    """
    weights = read_safetensors(checkpoint / "model.safetensors")
    training = read_safetensors(checkpoint / "training.safetensors")
    accumulators = {n: training.pop(n) for n in list(training) if "|" in n}
    if ema is not None:
        ema.average.update({n: paddle.to_tensor(weights[n]) for n in ema.average})
    # without EMA the weights to use are those as trained
    tensors = {**{f"model.{name}": array for name, array in weights.items()}, **training}
    own = objective.state_dict()
    different = sorted(set(own) ^ set(tensors)) or [
        name for name in own if list(own[name].shape) != list(tensors[name].shape)
    ]
    if different:
        raise UserError(
            f"{checkpoint} is of another model ({len(different)} tensors differ, first "
            f"{different[0]}): resume with the configuration it was trained with"
        )
    for name, tensor in own.items():
        paddle.assign(paddle.to_tensor(tensors[name]).astype(tensor.dtype), tensor)
    state = _optimizer_state(objective, accumulators)
    # paddle would otherwise refuse the state, or rewind the schedule
    optimizer.set_state_dict({**state, "LR_Scheduler": scheduler.state_dict()})


def _optimizer_tensors(optimizer, objective: paddle.nn.Layer) -> "dict[str, paddle.Tensor]":
    """The optimizer's accumulators as "<structured name>|<accumulator>" -> tensor.

    Paddle names them after its own counter of layers, which another process may count otherwise.
    """
    state = dict(optimizer.state_dict())
    state.pop("LR_Scheduler", None)  # a function of the step
    masters = state.pop("master_weights", {})
    structured = {p.name: name for name, p in objective.named_parameters()}
    tensors = {}
    for name, tensor in state.items():
        # the longest, since "linear_1.w_0" must not claim what belongs to "linear_1.w_0_x"
        owner = max((own for own in structured if name.startswith(own + "_")), key=len)
        tensors[f"{structured[owner]}|{name[len(owner) + 1 :]}"] = tensor
    tensors.update({f"{structured[name]}|master": tensor for name, tensor in masters.items()})
    return tensors


def _optimizer_state(objective: paddle.nn.Layer, tensors: Mapping) -> dict:
    """The reverse of `_optimizer_tensors`."""
    own = {name: p.name for name, p in objective.named_parameters()}
    state: dict = {}
    for name, array in tensors.items():
        structured, accumulator = name.split("|")
        tensor = paddle.to_tensor(array)
        if accumulator == "master":
            tensor.name = own[structured]  # paddle looks masters up by the parameter's name
            state.setdefault("master_weights", {})[own[structured]] = tensor
        else:
            tensor.name = f"{own[structured]}_{accumulator}"
            state[tensor.name] = tensor
    return state
