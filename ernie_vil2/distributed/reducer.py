"""Averaging float32 gradients over processes while the backward goes on, many in one collective.

For half-precision weights, whose gradients `Masters` adds up in float32: Paddle's DataParallel
reduces gradients in the precision of their weights, and adds them up in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import paddle

from ernie_vil2.distributed import buckets, ranks
from ernie_vil2.distributed.memory import numbers
from ernie_vil2.distributed.ranks import Task


class Reducer:
    """Averages what `masters` has of gradients, in the order in which a backward brings them.

    Collectives start in one order on all processes, whichever gradients come first.

    Args:
        parameters: name -> parameter that learns, alike on all processes.
        masters: name -> what has its gradient, float32.
    """

    def __init__(
        self, parameters: Mapping[str, paddle.Tensor], masters: Mapping[str, paddle.Tensor]
    ):
        self.masters = masters
        self.active = False  # whether the backward at hand is the last one
        sizes = {n: 4 * numbers(p) for n, p in reversed(list(parameters.items()))}
        self._groups = buckets.fill(sizes, dict.fromkeys(sizes), buckets.BYTES)
        self._missing: list[set[str]] = []
        self._started: list[tuple[list[str], paddle.Tensor, Task]] = []
        for name, parameter in parameters.items():
            parameter._register_backward_hook(partial(self._on_gradient, name))

    def begin(self) -> None:
        """The next backward is the last; its gradients go out as they come."""
        self.active = True
        self._missing = [set(group) for group in self._groups]

    @paddle.no_grad()
    def _on_gradient(self, name: str, *_: object) -> None:
        if not self.active:
            return
        for missing in self._missing:
            missing.discard(name)
        while len(self._started) < len(self._groups) and not self._missing[len(self._started)]:
            self._start()

    def _start(self) -> None:
        group = self._groups[len(self._started)]
        names = [name for name in group if self.masters[name].grad is not None]
        if not names:
            self._started.append(([], paddle.zeros([1]), _Done()))
            return
        flat = buckets.take_gradients([self.masters[name] for name in names])
        self._started.append((names, flat, ranks.start_all_reduce(flat)))

    @paddle.no_grad()
    def finish(self) -> None:
        """Send what is left, and bring all gradients their means."""
        self.active = False
        while len(self._started) < len(self._groups):
            self._start()
        for names, flat, task in self._started:
            task.wait()
            if names:
                buckets.give_gradients(flat, [self.masters[name] for name in names])
        self._started = []


class _Done:
    def wait(self) -> None:
        pass
