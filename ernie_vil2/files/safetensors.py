"""Files of the safetensors format, read whole or tensor by tensor, and written."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, deserialize, safe_open
from safetensors.numpy import load_file

from ernie_vil2.errors import UserError

_DTYPES = {
    **{f"float{bits}": f"F{bits}" for bits in (16, 32, 64)},
    **{f"int{bits}": f"I{bits}" for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": f"U{bits}" for bits in (8, 16, 32, 64)},
    "bool": "BOOL",
}


def read_safetensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file, by name.

    bfloat16, which NumPy lacks, comes as uint16; see `to_float32` of `files.pdparams`.

    Raises:
        UserError: no such file, damaged, or with another dtype that NumPy lacks.
    """
    try:
        try:
            return load_file(path)
        except (KeyError, TypeError):  # it is safetensors' own word for bfloat16
            return _with_bfloat16(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # safetensors has errors of its own
        raise UserError(f"{path} is damaged or no safetensors file of NumPy's: {error}") from error


def _with_bfloat16(path: str | os.PathLike) -> dict[str, np.ndarray]:
    dtypes = {"BF16": "uint16", **{code: name for name, code in _DTYPES.items()}}
    return {
        name: np.frombuffer(tensor["data"], dtypes[tensor["dtype"]]).reshape(tensor["shape"])
        for name, tensor in deserialize(Path(path).read_bytes())
    }


class LazyTensors(Mapping[str, np.ndarray]):
    """The arrays of safetensors files by name, each read when it is asked for.

    Raises:
        UserError: a file is missing, damaged or cut off.
    """

    def __init__(self, paths: Iterable[Path]):
        self._files: dict[str, safe_open] = {}
        for path in paths:
            try:
                file = safe_open(path, framework="numpy")
            except OSError as error:
                raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
            except SafetensorError as error:
                raise UserError(f"{path} is damaged or no safetensors file: {error}") from error
            self._files.update(dict.fromkeys(file.keys(), file))

    def __getitem__(self, name: str) -> np.ndarray:
        return self._files[name].get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def shape(self, name: str) -> list[int]:
        """An array's shape, without reading it."""
        return list(self._files[name].get_slice(name).get_shape())


def snapshot(tensors: Mapping) -> dict[str, np.ndarray]:
    """Copies in host memory of arrays or Paddle tensors; bfloat16 as in `write_safetensors`."""
    return {
        name: np.array(t, order="C") if isinstance(t, np.ndarray) else _to_numpy(t)
        for name, t in tensors.items()
    }


def write_safetensors(
    path: str | os.PathLike, tensors: Mapping, metadata: Mapping | None = None
) -> str:
    """Write arrays or Paddle tensors by name; bfloat16, which NumPy lacks, is stored as float32.

    The library's own writer first copies all of them in memory, and reports a full disk as an error
    that is no OSError; so this one follows the format's description.

    Returns:
        The file's SHA-256.
    """
    arrays = {
        name: np.asarray(t if isinstance(t, np.ndarray) else _to_numpy(t), order="C")
        for name, t in tensors.items()
    }
    # Wide types first, so that every array is aligned.
    names = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    header: dict = {"__metadata__": {k: str(v) for k, v in metadata.items()}} if metadata else {}
    end = 0
    for name in names:
        start, end = end, end + arrays[name].nbytes
        header[name] = {
            "dtype": _DTYPES[arrays[name].dtype.name],
            "shape": arrays[name].shape,
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    parts: list[bytes | memoryview] = [len(text).to_bytes(8, "little"), text]
    parts += [arrays[name].reshape(-1).view(np.uint8).data for name in names]
    digest = hashlib.sha256()
    with open(path, "wb") as file:
        for part in parts:
            file.write(part)
            digest.update(part)
    return digest.hexdigest()


def _to_numpy(tensor) -> np.ndarray:
    if str(tensor.dtype).endswith("bfloat16"):
        tensor = tensor.astype("float32")
    return tensor.numpy()  # Paddle copies, also on the CPU
