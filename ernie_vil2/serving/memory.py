"""Memory that is free in this process, back to the system."""

import ctypes
from functools import cache

LARGE = 16 << 20  # bytes: below, what is freed is soon used again


@cache
def _malloc_trim():
    function = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc; musl has none
    if function is not None:
        function.argtypes = [ctypes.c_size_t]
    return function


def trim() -> None:
    """Give back what the C library keeps of freed memory, which takes milliseconds.

    Decoders ask for blocks of a size that it would keep for ever.
    """
    function = _malloc_trim()
    if function is not None:
        function(0)
