"""Writing must keep every number."""

import json

import numpy as np
import paddle
import pytest

from ernie_vil2.errors import UserError
from ernie_vil2.files.pdparams import to_float32
from ernie_vil2.files.safetensors import read_safetensors, write_safetensors


def test_safetensors_round_trip(tmp_path):
    path = tmp_path / "w.safetensors"
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    tensors = {
        "array": array.T,  # not contiguous
        "tensor": paddle.to_tensor(array),
        "half": paddle.to_tensor([0.1]).astype("bfloat16"),
        "count": np.array([3], np.int64),
    }
    write_safetensors(path, tensors, {"step": 3})
    back = read_safetensors(path)
    np.testing.assert_array_equal(back["array"], array.T)
    np.testing.assert_array_equal(back["tensor"], array)
    assert back["half"].dtype == np.float32 and abs(back["half"][0] - 0.1) < 1e-3
    assert back["count"].dtype == np.int64

    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="damaged"):
        read_safetensors(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_safetensors(tmp_path / "none.safetensors")


def written(path, dtypes, data):
    header, end = {}, 0
    for name, dtype, size in dtypes:
        header[name] = {"dtype": dtype, "shape": [1], "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def test_bfloat16_is_read_as_paddle_hands_it_to_numpy(tmp_path):
    data = b"\x10\xc0" + b"\x00>"
    path = written(tmp_path / "w.safetensors", [("half", "BF16", 2), ("other", "F16", 2)], data)
    back = read_safetensors(path)
    assert to_float32(back["half"]).tolist() == [-2.25] and back["other"].tolist() == [1.5]
    path = written(tmp_path / "w.safetensors", [("tiny", "F8_E4M3", 1)], b"0")
    with pytest.raises(UserError, match="no safetensors file of NumPy's"):
        read_safetensors(path)
