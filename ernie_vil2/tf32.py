"""TensorFloat-32, which GPUs from Ampere on use in place of float32 unless they are told not to.

A TF32 product rounds its factors to 10 bits of mantissa instead of 23, so that embeddings of base
towers differ by about 1e-4 (emulated). Where numbers are compared to 1e-5, as those of an exported
model with its golden vectors, it has to be off. On a CPU there is no TF32, and nothing to switch.

No function here was ever run on a GPU. Paddle is imported when one is called.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

# cuBLAS: matrix products. cuDNN: convolutions.
_LIBRARIES = ("cublas", "cudnn")


def allow_tf32(allow: bool) -> None:
    """Let matrix products and convolutions of float32 numbers on GPUs use TF32, or not.

    Paddle lets them by default. It holds for all devices and threads of this process, and for
    Paddle Inference too, whose kernels ask the same switch at each call; TensorRT does not.
    """
    for library in _LIBRARIES:
        _set(library, allow)


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """Inside, float32 is float32 on GPUs too; afterwards it is as it was before."""
    before = {library: _get(library) for library in _LIBRARIES}
    allow_tf32(False)
    try:
        yield
    finally:
        for library, allowed in before.items():
            _set(library, allowed)


def _set(library: str, allow: bool) -> None:
    from paddle.base import core

    # a build for CPUs has no such function (2.6), or has it without effect (3.3)
    if switch := getattr(core, f"set_{library}_switch", None):
        switch(allow)


def _get(library: str) -> bool:
    from paddle.base import core

    get = getattr(core, f"get_{library}_switch", None)
    return bool(get()) if get else False
