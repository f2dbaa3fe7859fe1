"""Weights that PyTorch saved, read without PyTorch and without running what is in them.

`torch.save` writes a ZIP archive: `data.pkl`, a pickle whose tensors name storages, and each
storage's bytes as `data/KEY`. Before PyTorch 1.6 it was a row of pickles, then the storages. A
TorchScript archive, as OpenAI released CLIP, has a `data.pkl` too, of modules whose attributes are
their parameters; its code is not looked at.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from ernie_vil2.files.pdparams import numpy_stand_ins
from ernie_vil2.files.pickles import SafeUnpickler, check_counts, reading_weights

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of files before PyTorch 1.6
STORAGES = {  # bfloat16 comes as uint16, as Paddle hands it to NumPy
    "Float": "<f4",
    "Half": "<f2",
    "BFloat16": "<u2",
    "Double": "<f8",
    "Long": "<i8",
    "Int": "<i4",
    "Short": "<i2",
    "Char": "i1",
    "Byte": "u1",
    "Bool": "?",
}
_WRAPPERS = ("state_dict", "model_state_dict", "model")  # what a training's file calls its weights
_PREFIXES = ("module.", "_orig_mod.")  # of DistributedDataParallel and torch.compile


def read_torch(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The tensors of a state dict, of a training's checkpoint or of a TorchScript archive, by name.

    Such files are pickles, which can run anything. Here they can name tensors, storages, NumPy's
    numbers and plain containers only, and even those are built by this project's own code.
    bfloat16 comes as uint16; see `to_float32` of `files.pdparams`.

    Raises:
        UserError: no such file, damaged, or with something else in it.
    """
    with reading_weights(path, "PyTorch"), open(path, "rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"
        file.seek(0)
        content, fetch = _read_zip(file) if zipped else _read_legacy(file)
        tensors = _tensors(content)
        if not tensors:
            raise ValueError("it holds no weights by name")
        return {name: tensor.array(fetch) for name, tensor in tensors.items()}


def _tensors(content: Any) -> dict[str, _Tensor]:
    """The tensors of a state dict by name, wherever in the content it is."""
    for key in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), (dict, _Module)):
            content = content[key]
    found = dict(_walk(content)) if isinstance(content, _Module) else content
    if not isinstance(found, dict):
        raise ValueError(f"it holds a {type(content).__name__}, expected a state dict")
    tensors = {str(name): value for name, value in found.items() if isinstance(value, _Tensor)}
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name[len(prefix) :]: value for name, value in tensors.items()}
    return tensors


def _walk(module: _Module, prefix: str = "", depth: int = 0):
    if depth > 100:  # a module that holds itself
        raise ValueError("its modules do not end")
    for name, value in module.attributes.items():
        if isinstance(value, _Module):
            yield from _walk(value, f"{prefix}{name}.", depth + 1)
        else:
            yield f"{prefix}{name}", value


# -- The two kinds of files ------------------------------------------------------------------------


def _read_zip(file: IO[bytes]) -> tuple[Any, Callable[[_Storage], bytes]]:
    archive = zipfile.ZipFile(file)
    pickles = [name for name in archive.namelist() if name.count("/") == 1]
    pickles = [name for name in pickles if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError("it is a ZIP archive without PyTorch's data.pkl")
    root = Path(pickles[0]).parent.as_posix()

    def record(name: str) -> zipfile.ZipInfo:
        info = archive.getinfo(f"{root}/{name}")
        if info.compress_type != zipfile.ZIP_STORED:  # PyTorch does not, and it could be a bomb
            raise ValueError(f"{info.filename} is compressed, which PyTorch does not do")
        return info

    if f"{root}/byteorder" in archive.namelist():
        order = archive.read(record("byteorder"))
        if order != b"little":
            raise ValueError(f"its byte order is {order[:20]!r}, expected little")

    def fetch(storage: _Storage) -> bytes:
        info = record(f"data/{storage.key}")
        if info.file_size != storage.nbytes:
            raise ValueError(f"{info.filename} has {info.file_size} bytes, not {storage.nbytes}")
        return archive.read(info)

    pickled = archive.read(record("data.pkl"))
    return _unpickler(io.BytesIO(pickled), len(pickled)).load(), fetch


def _read_legacy(file: IO[bytes]) -> tuple[Any, Callable[[_Storage], bytes]]:
    end = os.fstat(file.fileno()).st_size
    if _unpickler(file, end).load() != _MAGIC or _unpickler(file, end).load() != _PROTOCOL:
        raise ValueError("it does not begin as a file of PyTorch")
    _unpickler(file, end).load()  # the writing machine's sizes of numbers
    reader = _unpickler(file, end)
    content = reader.load()
    keys = _unpickler(file, end).load()
    places, at = {}, file.tell()
    for key in keys:
        file.seek(at)
        count = int.from_bytes(file.read(8), "little")
        storage = reader.storages[key]
        if count != storage.numel or at + 8 + storage.nbytes > end:
            raise ValueError(f"storage {key} has not the size that its tensors say")
        places[key] = at + 8
        at += 8 + storage.nbytes

    def fetch(storage: _Storage) -> bytes:
        file.seek(places[storage.key])
        return file.read(storage.nbytes)

    return content, fetch


# -- Stand-ins for what PyTorch's pickles name -----------------------------------------------------


class _Unpickler(SafeUnpickler):
    """Knows tensors, their storages, and plain containers.

    Attributes:
        storages: by key, as the tensors ask for them.
    """

    def __init__(self, file: IO[bytes]):
        super().__init__(file, _StandIns)
        self.storages: dict[str, _Storage] = {}

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _location, numel, *views = pid
        plain = isinstance(key, str) and isinstance(dtype, np.dtype) and type(numel) is int
        if kind != "storage" or not plain or any(view is not None for view in views):
            raise ValueError(f"it asks for a {kind!r}, expected storages of numbers")
        return self.storages.setdefault(key, _Storage(key, dtype, numel))


def _unpickler(file: IO[bytes], size: int) -> _Unpickler:
    check_counts(file, size)
    return _Unpickler(file)


class _StandIns(dict):
    """What stands for each "module.name"; made anew each time, as `SafeUnpickler` says."""

    def __init__(self):
        super().__init__(numpy_stand_ins())
        self.update({f"torch.{name}Storage": np.dtype(code) for name, code in STORAGES.items()})
        self.update(
            {
                "collections.OrderedDict": _Dict,
                "collections.defaultdict": lambda *_: _Dict(),
                "builtins.dict": _Dict,
                "torch.Size": tuple,
                "torch.device": lambda *_: None,
                "torch._utils._rebuild_tensor_v2": _Tensor,
                "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
            }
        )

    def get(self, name: str, default: Any = None) -> Any:
        if name.startswith("__torch__."):  # a class of a TorchScript archive
            return _Module
        if name.startswith("torch.jit._pickle."):  # lists and dicts with the types of their items
            return lambda value, *_: value
        dtype = name.startswith("torch.") and name.count(".") == 1 and name[6:].islower()
        return super().get(name, name if dtype else default)


class _Dict(dict):
    def __setstate__(self, state: Any) -> None:
        pass  # versions of modules


class _Module:
    """A module of TorchScript: its attributes by name."""

    def __init__(self) -> None:
        self.attributes: Mapping[str, Any] = {}

    def __new__(cls, *_):
        module = super().__new__(cls)
        module.attributes = {}
        return module

    def __setstate__(self, state: Any) -> None:
        self.attributes = state if isinstance(state, dict) else {}


class _Storage:
    def __init__(self, key: str, dtype: np.dtype, numel: int):
        self.key, self.dtype, self.numel = key, dtype, numel
        self.nbytes = numel * dtype.itemsize


class _Tensor:
    """A strided view of a storage, whose bytes are read when they are asked for."""

    def __init__(self, storage: _Storage, offset: int, size: tuple, stride: tuple, *_: Any):
        numbers = (offset, *size, *stride)
        right = isinstance(storage, _Storage) and len(size) == len(stride)
        if not right or any(type(n) is not int or n < 0 for n in numbers):
            raise ValueError("it holds a tensor of no possible shape")
        last = offset + sum((n - 1) * step for n, step in zip(size, stride))
        count = int(np.prod(size, dtype=object)) if size else 1
        if count > storage.numel or (count and last >= storage.numel):
            raise ValueError(f"it holds a tensor {list(size)} beyond its storage")
        self._storage, self._offset, self._size, self._stride = storage, offset, size, stride

    def array(self, fetch: Callable[[_Storage], bytes]) -> np.ndarray:
        numbers = np.frombuffer(fetch(self._storage), self._storage.dtype)[self._offset :]
        steps = [step * numbers.itemsize for step in self._stride]
        view = np.lib.stride_tricks.as_strided(numbers, self._size, steps, writeable=False)
        return np.asarray(view, order="C")
