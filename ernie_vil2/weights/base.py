"""What adapters were made for: the weights below them, which a checkpoint names and does not hold.

Beside the adapters and whatever else learned, a folder has `base.json`: where those weights were,
and a SHA-256 of them. It is taken of their numbers by our names and as they come from their file,
so that another format of the same weights is the same base, at any size of pictures.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ernie_vil2.checkpoints.layout import BASE
from ernie_vil2.errors import UserError
from ernie_vil2.files.durable import read_json
from ernie_vil2.models.dual_encoder import DualEncoder
from ernie_vil2.models.layers import BATCH_NORMS
from ernie_vil2.models.lora import adapted, is_adapter, merge_adapters
from ernie_vil2.weights.sources import read, resolve


class Base(NamedTuple):
    """Weights that stay.

    Attributes:
        weights: where they are, as `ernie_vil2.load` takes it.
        sha256: of `digest`.
        names: of the model's tensors that are theirs.
    """

    weights: str
    sha256: str
    names: frozenset[str]

    def note(self) -> dict[str, Any]:
        """What `base.json` says."""
        return {"weights": self.weights, "sha256": self.sha256, "tensors": len(self.names)}


def digest(state: Mapping[str, np.ndarray], names: Collection[str]) -> str:
    """SHA-256 of these weights' names, shapes and numbers, which do not depend on a file."""
    result = hashlib.sha256()
    for name in sorted(names):
        array = np.ascontiguousarray(state[name])
        result.update(f"{name} {array.dtype.name} {list(array.shape)}\n".encode())
        result.update(array.reshape(-1).view(np.uint8).data)
    return result.hexdigest()


def begin(
    model: DualEncoder, weights: str | os.PathLike, state: Mapping[str, np.ndarray]
) -> Base | None:
    """The base of a training of adapters that begins from `state`; None for a model without.

    Args:
        weights: where `state` was read.

    Raises:
        UserError: weights that stay are missing there, or it has adapters itself.
    """
    if not adapted(model):
        return None
    source = resolve(weights)
    if read_note(source):
        raise UserError(
            f"{weights} has adapters itself, and new ones need whole weights: merge them by "
            "tools/convert.py --merge, and begin from what it writes"
        )
    names = frozenset(_staying(model))
    if missing := sorted(names - set(state)):
        raise UserError(
            f"{weights} lacks {missing[0]} and {len(missing) - 1} more, which do not learn beside "
            "adapters: begin from weights that have them, or let the tower learn without lora"
        )
    return Base(_where(source, weights), digest(state, names), names)


def _staying(model: DualEncoder) -> set[str]:
    """The towers' tensors that training leaves alone: what does not learn, and its statistics."""
    staying = set()
    for tower in ("image_tower", "text_tower"):
        for prefix, layer in getattr(model, tower).named_sublayers(tower, include_self=True):
            own = {**layer._parameters, **layer._buffers}
            own = {name: tensor for name, tensor in own.items() if tensor is not None}
            still = {name for name, tensor in own.items() if tensor.stop_gradient}
            if isinstance(layer, BATCH_NORMS) and len(still) < len(own):
                continue  # Paddle's statistics have no gradient, but they move
            staying |= {f"{prefix}.{name}" for name in still}
    return staying & set(model.state_dict())


def _where(source: Path, weights: str | os.PathLike) -> str:
    """`weights`, but of a run the step's folder, since its best may be another one tomorrow."""
    if not Path(weights).exists():
        return str(weights)  # a released name
    return str(source.parent / os.readlink(source) if source.is_symlink() else source)


def read_note(source: Path) -> dict[str, Any] | None:
    """What `base.json` in a folder of weights says; None where there is none.

    Raises:
        UserError: it is damaged.
    """
    path = source / BASE
    if not path.is_file():
        return None
    try:
        note = read_json(path, sealed=True)
        return {key: note[key] for key in ("weights", "sha256", "tensors")}
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} is damaged ({error}): copy the folder again") from None


def add_base(
    model: DualEncoder,
    source: Path,
    state: Mapping[str, np.ndarray],
    other: str | os.PathLike | None = None,
) -> dict[str, np.ndarray]:
    """Weights with the base that they leave out, which becomes the model's `base`.

    Args:
        model: that they are for.
        source: the folder with `base.json` that `state` is of.
        state: the adapters and whatever else learned, by our names.
        other: where the base lies now, where that is not where it was.

    Raises:
        UserError: the base is not there, or it is another one.
    """
    note = read_note(source)
    assert note is not None
    names = frozenset(name for name in model.state_dict() if name not in state)
    weights = note["weights"] if other is None else other
    try:
        below = read(resolve(weights))
    except UserError as error:
        raise UserError(
            f"the adapters in {source} were made for {note['weights']}: {error}; if it lies "
            "elsewhere name that place in Global.pretrained, for tools/convert.py by --base"
        ) from None
    missing = sorted(names - set(below))
    if missing or len(names) != note["tensors"] or digest(below, names) != note["sha256"]:
        why = f"it lacks {missing[0]}" if missing else "its numbers are others"
        raise UserError(
            f"{weights} is not what the adapters in {source} were made for ({why}): name the "
            f"weights that were {note['weights']} then, with the SHA-256 {note['sha256'][:12]}..."
        )
    model.base = Base(note["weights"], note["sha256"], names)
    return {**{name: below[name] for name in names}, **state}


def elsewhere(source: Path, config: Any) -> str | None:
    """Where a configuration says that the base of a folder lies, if it is not where it was."""
    note = read_note(source)
    if note is None or Path(note["weights"]).exists() or not isinstance(config, Mapping):
        return None
    return config.get("Global", {}).get("pretrained")


def missing_adapters(model: DualEncoder, state: Mapping[str, Any]) -> set[str]:
    """Names of the model's adapters where `state` has none at all: they begin then."""
    own = {name for name in model.state_dict() if is_adapter(name)}
    return set() if own & set(state) else own


def merge_or_refuse(model: DualEncoder, source: str, to: str, merge: bool) -> None:
    """For a conversion: a model as a format holds it.

    Raises:
        UserError: there are no adapters to merge, or the format has none and they are not merged.
    """
    if merge and not merge_adapters(model):
        raise UserError(f"{source} has no adapters to merge: leave --merge out")
    if adapted(model) and to != "ernie_vil2":
        raise UserError(f"{source} has adapters, which --to {to} cannot hold: add --merge")
