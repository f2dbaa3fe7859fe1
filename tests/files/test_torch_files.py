"""PyTorch's files are read as PyTorch reads them, and never run."""

import io
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ernie_vil2.errors import UserError
from ernie_vil2.files.pdparams import to_float32
from ernie_vil2.files.torch_files import read_torch
from ernie_vil2.files.torch_writer import write_torch

FILES = Path(__file__).with_name("torch")  # of tests/support/scripts/torch_fixtures.py


def same(found, expected):
    assert found.keys() == set(expected)
    for name, array in found.items():
        if array.dtype.kind == "f" or array.dtype == np.uint16:
            array = to_float32(array)
        assert array.shape == expected[name].shape
        np.testing.assert_array_equal(array, expected[name], name)


@pytest.mark.parametrize("name", ["zip.pt", "training.pt", "legacy.pt"])
def test_reads_what_torch_save_writes(name):
    same(read_torch(FILES / name), np.load(FILES / "numbers.npz"))


def test_reads_the_parameters_of_a_torchscript_archive():
    found = read_torch(FILES / "script.pt")
    same(found, np.load(FILES / "script.npz"))
    assert found["visual.resblocks.1.weight"].dtype == np.float16


def test_what_is_written_is_read_and_always_the_same(tmp_path):
    state = {
        "matrix": np.arange(6, dtype=np.float32).reshape(2, 3),
        "turned": np.arange(6, dtype=np.float16).reshape(2, 3).T,
        "scale": np.full([], 2.5, np.float32),
        "steps": np.zeros([], np.int64),
        "empty": np.zeros((0, 3), np.float32),
    }
    for name in ("a.pt", "b.pt"):
        write_torch(tmp_path / name, {"epoch": 0, "name": "ours", "state_dict": state})
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()
    found = read_torch(tmp_path / "a.pt")
    assert all(found[name].dtype == array.dtype for name, array in state.items())
    same(found, state)


def zipped(path, **records):
    """An archive as PyTorch's, its data.pkl replaced."""
    with zipfile.ZipFile(FILES / "zip.pt") as source, zipfile.ZipFile(path, "w") as target:
        for info in source.infolist():
            name = info.filename.split("/", 1)[1]
            target.writestr(f"archive/{name}", records.pop(name, source.read(info)))
    return path


class Runs:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def tensor_of(*numbers, kind="storage", key="0", count=24):
    """data.pkl with one tensor of these offset, size and stride, by hand."""
    pid = (kind, "torch FloatStorage", key, "cpu", count)

    def whole(value):
        if isinstance(value, bytes):
            return value
        if isinstance(value, tuple):
            return b"(" + b"".join(map(whole, value)) + b"t"
        if isinstance(value, str) and value.startswith("torch "):
            return b"c" + value.replace(" ", "\n").encode() + b"\n"
        if isinstance(value, str):
            return b"X" + len(value).to_bytes(4, "little") + value.encode()
        return b"\x8a\x08" + value.to_bytes(8, "little", signed=True)

    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n" + whole((whole(pid) + b"Q", *numbers)) + b"R"
    return b"\x80\x02}(" + whole("x") + tensor + b"u."


@pytest.mark.parametrize(
    "content, said",
    [
        (pickle.dumps({"x": Runs()}, 2), "asks for posix.mkdir, which is refused"),
        (b"\x80\x02}r\xff\xff\xff\x7f.", "it counts to 2147483647 within"),
        (tensor_of(0, (24,), (1,)), None),
        (tensor_of(1, (24,), (1,)), r"a tensor \[24\] beyond its storage"),
        (tensor_of(0, (2, 12), (13, 1)), "beyond its storage"),
        (tensor_of(0, (1 << 40, 24), (0, 1)), "beyond its storage"),
        (tensor_of(-4, (2,), (1,)), "a tensor of no possible shape"),
        (tensor_of(0, (2,), (-1,)), "a tensor of no possible shape"),
        (tensor_of(0, (2,), (1, 1)), "a tensor of no possible shape"),
        (tensor_of(0, (2,), (1,), count=1 << 50), "has 96 bytes, not"),
        (tensor_of(0, (2,), (1,), key="../x"), "no item named 'archive/data/../x'"),
        (tensor_of(0, (2,), (1,), kind="module"), "asks for a 'module', expected storages"),
        (pickle.dumps([1, 2], 2), "it holds a list, expected a state dict"),
        (pickle.dumps({"epoch": 1}, 2), "it holds no weights by name"),
        (b"\x80\x02}", "is damaged or no file of PyTorch weights"),
    ],
    ids=range(15),
)
def test_hostile_pickles(tmp_path, monkeypatch, content, said):
    monkeypatch.chdir(tmp_path)
    path = zipped(tmp_path / "x.pt", **{"data.pkl": content})
    if said is None:  # the pickles by hand are right but for what they are to show
        assert read_torch(path)["x"].shape == (24,)
        return
    with pytest.raises(UserError, match=said) as error:
        read_torch(path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists()


def test_damaged_files(tmp_path):
    whole = (FILES / "legacy.pt").read_bytes()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}." + b" " * 1000)
    big = zipped(tmp_path / "big.pt", byteorder=b"big").read_bytes()
    for content, said in (
        (b"", "is damaged or no file of PyTorch weights"),
        (whole[: len(whole) // 2], "is damaged"),
        (whole[:-5], "has not the size"),
        ((FILES / "zip.pt").read_bytes()[:-60], "is damaged"),
        (packed.getvalue(), "data.pkl is compressed, which PyTorch does not do"),
        (big, "its byte order is b'big'"),
    ):
        (tmp_path / "bad.pt").write_bytes(content)
        with pytest.raises(UserError, match=said):
            read_torch(tmp_path / "bad.pt")
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_torch(tmp_path / "none.pt")
