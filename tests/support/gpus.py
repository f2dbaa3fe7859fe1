"""GPUs of this machine: hidden from all tests, but for those that are marked `gpu`."""

from __future__ import annotations

import functools
import os

from ernie_vil2 import runtime

_before: dict[str, str | None] = {}


def hide() -> None:
    """From now on this process and those that it starts see no GPU."""
    if not _before:
        _before.update({name: os.environ.get(name) for name in runtime.WITHOUT_GPU})
    os.environ.update(runtime.WITHOUT_GPU)


def environment() -> dict[str, str]:
    """That of this process before `hide`, for processes that shall see GPUs."""
    kept = {name: value for name, value in os.environ.items() if name not in _before}
    return {**kept, **{name: value for name, value in _before.items() if value is not None}}


@functools.cache
def labels() -> tuple[str, ...]:
    """Of the GPUs that Paddle sees where nothing hides them, as CUDA_VISIBLE_DEVICES has them."""
    from tools.gpu_check.cards import visible

    return visible(environment())
