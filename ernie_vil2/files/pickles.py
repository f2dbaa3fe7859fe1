"""Pickles of other people, read without running what is in them."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import pickletools
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any

from ernie_vil2.errors import UserError

# What tuples, lists, texts, whole numbers and None are written with, by any protocol.
_PLAIN = set(
    """
    PROTO FRAME STOP MARK POP NONE
    TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_TUPLE LIST EMPTY_LIST APPEND APPENDS
    INT BININT BININT1 BININT2 LONG LONG1 LONG4
    UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8
    MEMOIZE PUT BINPUT LONG_BINPUT GET BINGET LONG_BINGET
    """.split()  # noqa: SIM905
)
_NUMBERED = ("PUT", "LONG_BINPUT")  # make room for as many objects as the number says


class SafeUnpickler(pickle.Unpickler):
    """Knows the names that it is told and gives stand-ins for them; any other is refused.

    Args:
        file: the pickle.
        stand_ins: gives what to use for each "module.name"; called for each name, because a pickle
            can set attributes on what it is given.
    """

    def __init__(self, file: IO[bytes], stand_ins: Callable[[], Mapping[str, Any]] = dict):
        super().__init__(file)
        self._stand_ins = stand_ins

    def find_class(self, module: str, name: str) -> Any:
        # NumPy 2 moved `numpy.core`, protocol 2 says `__builtin__`.
        module = module.replace("numpy._core", "numpy.core").replace("__builtin__", "builtins")
        stand_in = self._stand_ins().get(f"{module}.{name}")
        if stand_in is None:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is refused")
        return stand_in


def check_counts(file: IO[bytes], size: int) -> None:
    """Look through the pickle that comes next, and go back to where it begins.

    Args:
        size: bytes of the whole file.

    Raises:
        ValueError: it counts its objects so high that room for them could take all memory.
    """
    start = file.tell()
    for opcode, argument, _ in pickletools.genops(file):
        _check_count(opcode.name, argument, size)
    file.seek(start)


def _check_count(name: str, argument: Any, size: int) -> None:
    if name in _NUMBERED and int(argument or 0) > size:
        raise ValueError(f"it counts to {argument} within {size} bytes, refused")


def plain_value(data: bytes) -> Any:
    """The value of a pickle that holds tuples, lists, texts, whole numbers and None, nothing else.

    Raises:
        ValueError: there is something else in it, which is not run, or it is damaged.
    """
    try:
        # looked through first: a few bytes can ask for any amount of memory
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name in ("GLOBAL", "INST"):
                raise ValueError(f"it asks for {str(argument).replace(' ', '.')}, which is refused")
            if opcode.name not in _PLAIN:
                raise ValueError(f"it holds more than plain values ({opcode.name}), refused")
            _check_count(opcode.name, argument, len(data))
        return SafeUnpickler(io.BytesIO(data)).load()
    except Exception as error:  # a damaged pickle fails in any way
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"a pickle that cannot be read: {reason}") from error


@contextlib.contextmanager
def reading_weights(path: str | os.PathLike, program: str) -> Iterator[None]:
    """Inside, what fails is a UserError that names the file.

    Args:
        program: whose weights are expected.
    """
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # a damaged pickle fails in any way
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} is damaged or no file of {program} weights: {reason}") from error
