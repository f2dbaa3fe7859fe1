"""What sharding stage 3 fetches before use and releases after it: a model's blocks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import paddle
from paddle import nn

from ernie_vil2.distributed import buckets, ranks
from ernie_vil2.distributed.groups import Group, everyone
from ernie_vil2.distributed.memory import numbers

_SMALL = 1e-3  # of all numbers: a unit with less costs latency and saves nothing
_LARGE = 1 / 4  # of all numbers: a unit with more is split into its sublayers
_LISTS = (nn.LayerList, nn.Sequential)


class Unit:
    """A layer of stage 3 whose weights come and go together.

    Paddle's graph keeps leaf tensors themselves, not their storage: what is cleared after the
    forward and filled again before the backward is the storage of the same tensors.
    """

    def __init__(
        self,
        layer: nn.Layer,
        parameters: Mapping[str, paddle.Tensor],
        owners: Mapping[str, int],
        group: Group,
        bucket: int,
    ):
        self.layer, self.parameters, self.owners = layer, parameters, owners
        self.group, self.bucket = group, bucket
        self.before: Unit | None = None  # in forward order, where that is sure
        self.after: Unit | None = None
        self._here = True
        self._broadcasts: list[buckets.Broadcast] = []  # under way
        self._fetched_by_forward = False
        self._without_gradient: set[str] = set()  # of this backward

    def attach(self) -> None:
        """From now on the weights of others are here only while they are used."""
        for name, parameter in self.parameters.items():
            parameter._register_backward_hook(partial(self._on_gradient, name))
        self.layer.register_forward_pre_hook(self._before_forward)
        self.layer.register_forward_post_hook(self._after_forward)
        self.release()

    def fetch(self) -> bool:
        """Bring the weights here; False where they were already."""
        if self._here:
            return False
        self.start_fetch()
        self._wait()
        self._here = True
        return True

    def start_fetch(self) -> None:
        """Begin to bring the weights here, where they are not and nothing brings them yet."""
        if not self._here and not self._broadcasts:
            self._broadcasts = list(
                buckets.start_broadcasts(self.parameters, self.owners, self.group, self.bucket)
            )

    def release(self) -> None:
        """Free the weights of others."""
        self._wait()
        self._here = False
        for name, parameter in self.parameters.items():
            if self.owners[name] != ranks.rank():
                parameter._clear_data()

    def _wait(self) -> None:
        for broadcast in self._broadcasts:
            broadcast.wait()
        self._broadcasts = []

    def _before_forward(self, layer: nn.Layer, inputs: Any) -> None:
        # Already here inside `whole`, and where a backward runs the forward again (recompute).
        self._fetched_by_forward = self.fetch()
        if self._fetched_by_forward and self.after is not None:
            self.after.start_fetch()

    def _after_forward(self, layer: nn.Layer, inputs: Any, outputs: Any) -> None:
        if self._fetched_by_forward:
            self._fetched_by_forward = False
            self.release()
        if paddle.is_grad_enabled():
            for x in paddle.utils.flatten(outputs):
                if isinstance(x, paddle.Tensor) and not x.stop_gradient:
                    x.register_hook(self._before_backward)

    def _before_backward(self, gradient: paddle.Tensor) -> None:
        if self.fetch():
            self._without_gradient = set(self.parameters)
            if self.before is not None:
                self.before.start_fetch()

    def _on_gradient(self, name: str, *_: object) -> None:
        # Paddle adds up all of a backward's gradients of a parameter before it comes here, so
        # nothing in this backward reads the weight any more.
        self._without_gradient.discard(name)
        if not self._without_gradient:
            self.release()


def find_units(
    layer: nn.Layer,
    parameters: Mapping[str, paddle.Tensor],
    owners: Mapping[str, int],
    group: Group | None = None,
    bucket: int = buckets.BYTES,
) -> list[Unit]:
    """What stage 3 fetches and releases together.

    These are the items of the outermost lists of sublayers, such as a transformer's blocks, and
    the layers beside the lists; one that holds a large part of the model is split further. What
    no unit has stays on all ranks: own parameters of layers that are split, shared ones, and small
    units.

    Args:
        owners: name -> rank, of the group.
        group: of those that fetch from one another; None: all.
        bucket: bytes of one owner that travel together.
    """
    names = {id(p): name for name, p in parameters.items()}
    total = _size(parameters.values())
    uses: Counter[str] = Counter()

    def own(sublayer: nn.Layer, deep: bool = True) -> dict[str, paddle.Tensor]:
        found = sublayer.parameters(include_sublayers=deep)
        return {names[id(p)]: p for p in found if id(p) in names}

    def split(sublayer: nn.Layer, is_item: bool) -> list[list[nn.Layer]]:
        """Lists of layers that become units; those of one list run one after the other."""
        children = list(sublayer.children())
        is_list = isinstance(sublayer, _LISTS)
        holds_list = any(isinstance(x, _LISTS) for x in sublayer.sublayers())
        is_large = _size(own(sublayer).values()) > _LARGE * total
        if not children or not (is_list or is_large or (holds_list and not is_item)):
            uses.update(list(own(sublayer)))
            return [[sublayer]]
        for name in own(sublayer, deep=False):
            uses[name] += 2  # used outside of the children
        parts = [split(child, is_item=is_list) for child in children]
        if is_list and all(len(part) == 1 for part in parts):
            return [[x for part in parts for x in part[0]]]
        return [chain for part in parts for chain in part]

    units = []
    for chain in split(layer, is_item=False):
        before = None
        for sublayer in chain:
            found = {n: p for n, p in own(sublayer).items() if uses[n] == 1}
            if _size(found.values()) < max(1, _SMALL * total):
                continue
            unit = Unit(sublayer, found, owners, group or everyone(), bucket)
            if before is not None:
                before.after, unit.before = unit, before
            units.append(unit)
            before = unit
    return units


def _size(tensors: Iterable[paddle.Tensor]) -> int:
    return sum(map(numbers, tensors))
