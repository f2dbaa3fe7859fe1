"""Tensors that travel together: flat buckets of one owner and one dtype, not a collective each."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager

import paddle

from ernie_vil2.distributed import ranks
from ernie_vil2.distributed.groups import Group
from ernie_vil2.distributed.memory import numbers

BYTES = 32 * 2**20  # of a bucket at most, but for a tensor that is larger by itself
_PENDING = 1 / 8  # of all gradients' bytes, which wait together for their buckets to fill
_IN_FLIGHT = 2  # buckets under way at a time


def size(tensor: paddle.Tensor) -> int:
    """Bytes, also where the storage is freed."""
    return numbers(tensor) * tensor.element_size()


def fill(sizes: Mapping[str, int], kinds: Mapping[str, object], limit: int) -> list[list[str]]:
    """Names in buckets of one kind each, whose sizes add up to `limit` at most or are one."""
    full: list[list[str]] = []
    open_ones: dict[object, tuple[int, list[str]]] = {}
    for name, own in sizes.items():
        held, names = open_ones.get(kinds[name], (0, []))
        if names and held + own > limit:
            full.append(names)
            held, names = 0, []
        open_ones[kinds[name]] = (held + own, [*names, name])
    return full + [names for _, names in open_ones.values()]


class Broadcast:
    """Tensors of one dtype on their way from their owner, from construction to `wait`.

    Those of others may be without storage until then, and have another one after.
    """

    def __init__(self, tensors: Sequence[paddle.Tensor], owner: int, group: Group):
        self._tensors, self._mine = tensors, owner == ranks.rank()
        first = tensors[0]
        if len(tensors) == 1:  # as it is, without a copy
            if not first._is_initialized():
                paddle.empty(first.shape, first.dtype)._share_buffer_to(first)
            self._flat = first
        elif self._mine:
            self._flat = _join(tensors)
        else:
            self._flat = paddle.empty([sum(map(numbers, tensors))], first.dtype)
        self._task = ranks.start_broadcast(self._flat, owner, group.handle)

    def wait(self) -> None:
        """Return when the tensors have their owner's values."""
        self._task.wait()
        if len(self._tensors) > 1 and not self._mine:
            for tensor, part in zip(self._tensors, _split(self._flat, self._tensors)):
                part._share_buffer_to(tensor)
        del self._flat


@paddle.no_grad()
def start_broadcasts(
    tensors: Mapping[str, paddle.Tensor], owners: Mapping[str, int], group: Group, limit: int
) -> Iterator[Broadcast]:
    """Begin to send tensors from their owners, one bucket whenever the next is asked for.

    Args:
        owners: name -> rank, of the group.
        limit: bytes of a bucket at most.
    """
    kinds = {name: (owners[name], tensor.dtype) for name, tensor in tensors.items()}
    for names in fill({name: size(t) for name, t in tensors.items()}, kinds, limit):
        yield Broadcast([tensors[name] for name in names], owners[names[0]], group)


@paddle.no_grad()
def broadcast(
    tensors: Mapping[str, paddle.Tensor], owners: Mapping[str, int], group: Group, limit: int
) -> None:
    """Overwrite tensors on every process of the group with what their owners have."""
    under_way: deque[Broadcast] = deque()
    for bucket in start_broadcasts(tensors, owners, group, limit):
        under_way.append(bucket)
        if len(under_way) == _IN_FLIGHT:  # before the next begins
            under_way.popleft().wait()
    for bucket in under_way:
        bucket.wait()


class _Reduction:
    """Gradients of one owner and dtype on their way to it, from construction to `wait`."""

    def __init__(
        self, parameters: Collection[paddle.Tensor], owner: int, group: Group, replicas: Group
    ):
        self._parameters, self._mine = parameters, owner == ranks.rank()
        self._replicas = replicas
        self.flat = take_gradients(parameters)
        self._task = ranks.start_reduce(self.flat, owner, group.handle)

    def wait(self) -> None:
        self._task.wait()
        if self._mine:
            if len(self._replicas.ranks) > 1:
                ranks.all_reduce_(self.flat, self._replicas.handle)
            give_gradients(self.flat, self._parameters)


class Reductions:
    """Gradients that leave for their owners, which get the mean over processes.

    A bucket is sent when it is full, and the fullest as soon as many gradients wait: memory is
    bounded whatever the number of owners. All processes add the same names in the same order.

    Args:
        parameters: name -> parameter, or what has its gradient instead.
        owners: name -> rank, of the group.
        group: those among which gradients leave.
        replicas: those that own the same, and add up what their groups have.
        limit: bytes of a bucket at most.
        total: bytes of all gradients.
    """

    def __init__(
        self,
        parameters: Mapping[str, paddle.Tensor],
        owners: Mapping[str, int],
        group: Group,
        replicas: Group,
        limit: int,
        total: int,
    ):
        self._parameters, self._owners, self._limit = parameters, owners, limit
        self._group, self._replicas = group, replicas
        self._most_pending = _PENDING * total
        self._pending: dict[tuple[int, object], list[str]] = {}  # owner and dtype -> names
        self._bytes: dict[tuple[int, object], int] = {}
        self._under_way: deque[_Reduction] = deque()
        self._added: set[str] = set()  # since the last `finish`

    @paddle.no_grad()
    def add(self, name: str) -> None:
        """Take the gradient that a parameter has now, which is then gone."""
        assert name not in self._added, f"{name} got gradients after its last backward"
        self._added.add(name)
        gradient = self._parameters[name].grad
        key, own = (self._owners[name], gradient.dtype), size(gradient)
        if self._bytes.get(key, 0) + own > self._limit:
            self._send(key)
        self._pending.setdefault(key, []).append(name)
        self._bytes[key] = self._bytes.get(key, 0) + own
        if self._bytes[key] >= self._limit:
            self._send(key)
        while sum(self._bytes.values()) > self._most_pending:
            self._send(max(self._bytes, key=lambda key: self._bytes[key]))

    def _send(self, key: tuple[int, object]) -> None:
        names = self._pending.pop(key, [])
        self._bytes.pop(key, None)
        if names:
            if len(self._under_way) == _IN_FLIGHT:
                self._under_way.popleft().wait()
            parameters = [self._parameters[name] for name in names]
            self._under_way.append(_Reduction(parameters, key[0], self._group, self._replicas))

    @paddle.no_grad()
    def finish(self) -> None:
        """Send all gradients that are still here, and wait for them."""
        for owner in sorted(set(self._owners.values())):  # its buckets fill before others open
            for name, parameter in self._parameters.items():
                is_left = name not in self._added and parameter.grad is not None
                if is_left and self._owners[name] == owner:
                    self.add(name)
            for key in [key for key in self._pending if key[0] == owner]:
                self._send(key)
        while self._under_way:
            self._under_way.popleft().wait()
        self._added.clear()

    def under_way(self) -> list[paddle.Tensor]:
        """Buckets whose parameters have given their gradients away."""
        return [reduction.flat for reduction in self._under_way]


def take_gradients(parameters: Collection[paddle.Tensor]) -> paddle.Tensor:
    """Their gradients, flat, divided by the number of processes; they have none after."""
    # Not in place, since the backward may hand the same storage on to others; divided before the
    # sum, since float16 overflows easily.
    with _as_they_are():
        flat = _join([p.grad for p in parameters]) / ranks.world_size()
    for parameter in parameters:
        parameter.clear_gradient(False)
    return flat


def give_gradients(flat: paddle.Tensor, parameters: Collection[paddle.Tensor]) -> None:
    """Let parameters have the parts of what `take_gradients` made of theirs."""
    for parameter, part in zip(parameters, _split(flat, parameters)):
        parameter.grad = part


def _as_they_are() -> AbstractContextManager[None]:
    """Inside, nothing is cast, though a forward or its backward runs under `auto_cast`."""
    return paddle.amp.auto_cast(enable=False)


def _join(tensors: Collection[paddle.Tensor]) -> paddle.Tensor:
    """Several tensors in one, flat; one as it is."""
    if len(tensors) == 1:
        return next(iter(tensors))
    with _as_they_are():
        return paddle.concat([tensor.flatten() for tensor in tensors])


def _split(flat: paddle.Tensor, like: Collection[paddle.Tensor]) -> list[paddle.Tensor]:
    """The reverse of `_join`, in storages of their own."""
    if len(like) == 1:
        return [flat]
    with _as_they_are():
        parts = paddle.split(flat, [numbers(tensor) for tensor in like])
        return [part.reshape(tensor.shape) for part, tensor in zip(parts, like)]
