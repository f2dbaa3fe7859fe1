"""Weights written as `torch.save` does, without PyTorch; `torch_files` reads them."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from ernie_vil2.files.torch_files import STORAGES

_NAMES = {np.dtype(code): name for name, code in STORAGES.items() if name != "BFloat16"}


def write_torch(path: str | os.PathLike, content: Mapping[str, Any]) -> None:
    """Write arrays, whole numbers, texts and dicts of them, by name; equal ones give equal bytes.

    `torch.load(path, weights_only=True)` reads the file.
    """
    storages: list[np.ndarray] = []
    pickled = b"".join((pickle.PROTO, b"\x02", _pickled(content, storages), pickle.STOP))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:

        def record(name: str, data: bytes | memoryview) -> None:
            # an own ZipInfo, whose date is always the same
            with archive.open(zipfile.ZipInfo(f"archive/{name}"), "w", force_zip64=True) as file:
                file.write(data)

        record("data.pkl", pickled)
        record("byteorder", b"little")
        for key, array in enumerate(storages):
            record(f"data/{key}", array.reshape(-1).view(np.uint8).data)
        record("version", b"3\n")


def _pickled(value: Any, storages: list[np.ndarray]) -> bytes:
    if isinstance(value, Mapping):
        pairs = (_pickled(part, storages) for pair in value.items() for part in pair)
        return b"".join((pickle.EMPTY_DICT, pickle.MARK, *pairs, pickle.SETITEMS))
    if isinstance(value, np.ndarray):
        storages.append(np.ascontiguousarray(value).reshape(value.shape))
        return _tensor(storages[-1], str(len(storages) - 1))
    if isinstance(value, str):
        data = value.encode()
        return pickle.BINUNICODE + len(data).to_bytes(4, "little") + data
    assert type(value) is int and value >= 0, value
    if value < 1 << 31:
        return pickle.BININT + value.to_bytes(4, "little")
    return pickle.LONG1 + b"\x08" + value.to_bytes(8, "little")


def _tensor(array: np.ndarray, key: str) -> bytes:
    strides = [step // array.itemsize for step in array.strides]
    storage = (_global("torch", f"{_NAMES[array.dtype]}Storage"), key, "cpu", array.size)
    hooks = _global("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE
    parts = (
        _tuple(["storage", *storage]) + pickle.BINPERSID,
        0,  # the offset
        _tuple(array.shape),
        _tuple(strides),
        pickle.NEWFALSE,  # requires_grad
        hooks,
    )
    return _global("torch._utils", "_rebuild_tensor_v2") + _tuple(parts) + pickle.REDUCE


def _tuple(parts) -> bytes:
    """A tuple of plain values, or of what is pickled already."""
    pickled = (part if isinstance(part, bytes) else _pickled(part, []) for part in parts)
    return b"".join((pickle.MARK, *pickled, pickle.TUPLE))


def _global(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()
