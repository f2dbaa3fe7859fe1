"""Files as `paddle.save` writes them, read without running what is in them."""

from __future__ import annotations

import collections
import os
import pickle
import re
from collections.abc import Mapping

import numpy as np

from ernie_vil2.errors import UserError
from ernie_vil2.files.pickles import SafeUnpickler, reading_weights

_NAME_TABLE = "StructuredToParameterName@@"  # paddle.save adds it: structured name -> own name
_PYTORCH_MAGIC = 0x1950A86A20F9469CFC6C  # what torch.save's older files begin with
_SLICED = "UnpackBigParamInfor@@"  # paddle.save with protocol 2 or 3 cuts tensors above 1 GiB


def read_pdparams(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays of a file that `paddle.save` wrote, by name.

    Such files are pickles, which can run anything. Here they can name arrays, dtypes and plain
    containers only, and even those are built by this module's own code. bfloat16 comes as uint16,
    as Paddle stores it; see `to_float32`.

    Raises:
        UserError: no such file, damaged, or with something else in it.
    """
    with reading_weights(path, "Paddle"):
        with open(path, "rb") as file:
            if file.read(4) == b"PK\x03\x04":  # torch.save's ZIP archive; Paddle writes none
                raise pytorch_file(path)
            file.seek(0)
            content = SafeUnpickler(file, _stand_ins).load()
        if content == _PYTORCH_MAGIC:
            raise pytorch_file(path)
        return _arrays(content)


def pytorch_file(path: str | os.PathLike) -> UserError:
    """The refusal of a file that PyTorch wrote, whose matrices are transposed besides."""
    return UserError(
        f"{path} is a PyTorch file: expected weights of Paddle, an official .pdparams, or a folder "
        "of PaddleNLP's or ours; CLIP's and Chinese-CLIP's become such by tools/convert.py --from "
        "KIND PATH --to ernie_vil2"
    )


def write_pdparams(path: str | os.PathLike, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays by name as `paddle.save` does; equal ones give equal bytes."""
    import paddle  # here, since reading does without it

    tensors = {name: paddle.to_tensor(array) for name, array in arrays.items()}
    for name, tensor in tensors.items():
        tensor.name = name  # written down too; Paddle's own names count up within a process
    paddle.save(tensors, str(path))


def to_float32(array: np.ndarray) -> np.ndarray:
    """Weights as float32; uint16 is how Paddle hands bfloat16 to NumPy."""
    if array.dtype == np.uint16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return np.asarray(array, np.float32)


def _arrays(content) -> dict[str, np.ndarray]:
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}, expected a dict of arrays")
    sliced = content.pop(_SLICED, {})
    content.pop(_NAME_TABLE, None)
    arrays = {key: _array(key, value) for key, value in content.items()}
    for key, parts in sliced.items():
        slices = [arrays.pop(part) for part in parts["slices"]]
        arrays[key] = np.concatenate(slices).reshape(parts["OriginShape"])
    return arrays


def _array(key: str, value) -> np.ndarray:
    if isinstance(value, tuple) and len(value) == 2:  # a tensor within containers: (name, array)
        value = value[1]
    if not isinstance(key, str) or not isinstance(value, _Array):
        raise ValueError(f"{key!r} is a {type(value).__name__}, expected an array")
    return value.array


def _stand_ins() -> dict:
    def evaluate(expression, names):  # how Paddle writes an LoDTensor: eval("data", {"data": ...})
        if expression != "data":
            raise pickle.UnpicklingError("it asks for builtins.eval, which is refused")
        return names["data"]

    return {**numpy_stand_ins(), "builtins.eval": evaluate}


def numpy_stand_ins() -> dict:
    """What stands for NumPy's arrays and numbers in a pickle, and for plain containers."""

    # Made anew each time, because a pickle can set attributes on what it is given.
    def reconstruct(subtype, *_):
        return _Array()

    def scalar(dtype, data):
        result = _Array()
        result.__setstate__((1, (), dtype, False, data))
        return result

    def encode(text, encoding):  # how protocol 2 writes bytes
        if encoding != "latin1":
            raise pickle.UnpicklingError(f"bytes as {encoding!r}")
        return text.encode("latin1")

    return {
        "numpy.core.multiarray._reconstruct": reconstruct,
        "numpy.core.multiarray.scalar": scalar,
        "numpy.ndarray": "numpy.ndarray",  # only ever an argument of _reconstruct
        "numpy.dtype": _DType,
        "collections.OrderedDict": collections.OrderedDict,
        "builtins.tuple": tuple,
        "_codecs.encode": encode,
        "builtins.bytes": lambda: b"",  # how protocol 2 writes no bytes
    }


class _Array:
    """A pickled array, made from its bytes here and not by NumPy's own unpickling."""

    def __setstate__(self, state):
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, _DType) or not isinstance(data, bytes):
            raise pickle.UnpicklingError("it holds an array of objects, which is refused")
        array = np.frombuffer(data, dtype.dtype).reshape(shape, order="F" if fortran else "C")
        self.array = np.ascontiguousarray(array, dtype.dtype.newbyteorder("="))


class _DType:
    """A pickled dtype of numbers; objects, strings and records are refused."""

    def __init__(self, code, *_):
        if not re.fullmatch(r"[fiub]\d{1,2}", code):
            raise pickle.UnpicklingError(f"it holds an array of dtype {code!r}, which is refused")
        self.dtype = np.dtype(code)

    def __setstate__(self, state):
        self.dtype = self.dtype.newbyteorder(state[1])
