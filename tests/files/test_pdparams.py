"""Reading pickles must never run them."""

import io
import os
import pickle
import struct

import numpy as np
import paddle
import pytest

from ernie_vil2.errors import UserError
from ernie_vil2.files.pdparams import read_pdparams, to_float32


@pytest.mark.parametrize(
    "name", ["official_tiny/official.pdparams", "paddlenlp_tiny/model_state.pdparams"]
)
def test_reads_what_paddle_reads(fixtures_dir, name):
    arrays = read_pdparams(fixtures_dir / name)
    expected = paddle.load(str(fixtures_dir / name), return_numpy=True)
    expected.pop("StructuredToParameterName@@", None)
    assert arrays.keys() == expected.keys()
    for key, array in arrays.items():
        assert array.dtype == expected[key].dtype
        np.testing.assert_array_equal(array, expected[key])


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_reads_each_protocol_of_paddle_save(tmp_path, protocol):
    layer = paddle.nn.Linear(3, 5)
    tensors = {
        **layer.state_dict(),
        "double": paddle.arange(4, dtype="float64"),
        "int": paddle.to_tensor([[1, 2]], dtype="int64"),
        "flag": paddle.to_tensor([True, False]),
        "half": paddle.to_tensor([1.5, -2.25]).astype("bfloat16"),
        "empty": paddle.zeros([0, 3]),
    }
    paddle.save(tensors, str(tmp_path / "w.pdparams"), protocol=protocol)
    arrays = read_pdparams(tmp_path / "w.pdparams")
    assert arrays.keys() == tensors.keys()
    for name in tensors.keys() - {"half"}:
        np.testing.assert_array_equal(arrays[name], tensors[name].numpy())
    np.testing.assert_array_equal(to_float32(arrays["half"]), [1.5, -2.25])


def test_reads_other_forms_of_tensors(tmp_path):
    class LoDTensor:  # pickled as paddle.save pickles one
        def __reduce__(self):
            return eval, ("data", {"data": np.arange(3.0)})

    big = np.arange(6, dtype=np.float32).reshape(2, 3)
    content = {
        "lod": LoDTensor(),
        "named": ("linear_0.w_0", big),  # a tensor within containers
        "order": np.asfortranarray(big),
        "endian": big.astype(">f4"),
        "scalar": np.float32(2.5),
        "big@@.0": big.flatten()[:4],
        "big@@.1": big.flatten()[4:],
        "UnpackBigParamInfor@@": {"big": {"OriginShape": (2, 3), "slices": ["big@@.0", "big@@.1"]}},
    }
    (tmp_path / "w").write_bytes(pickle.dumps(content, 2))
    arrays = read_pdparams(tmp_path / "w")
    assert set(arrays) == {"lod", "named", "order", "endian", "scalar", "big"}
    for name in ("named", "order", "endian", "big"):
        np.testing.assert_array_equal(arrays[name], big)
        assert arrays[name].dtype == np.float32
    np.testing.assert_array_equal(arrays["lod"], [0, 1, 2])
    assert arrays["scalar"] == 2.5


class Call:
    """Pickles as a call that the unpickler would make."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def _crafted(*parts) -> bytes:
    return b"\x80\x02" + b"".join(parts) + b"."


def _attacks(marker):
    touch = f"__import__('pathlib').Path({str(marker)!r}).touch()"
    yield "system", pickle.dumps({"w": Call(os.system, f"touch {marker}")}), "system"
    yield "eval", pickle.dumps({"w": Call(eval, touch)}), "eval"
    yield "eval of data", pickle.dumps({"w": Call(eval, "data", {"x": 1})}), "data"
    yield "exec", pickle.dumps({"w": Call(exec, touch)}), "exec"
    yield "open", pickle.dumps({"w": Call(open, str(marker), "w")}), "open"
    yield "getattr", pickle.dumps({"w": Call(getattr, "a", "upper")}), "getattr"
    yield "objects", pickle.dumps({"w": np.array([Call(os.system, f"touch {marker}")])}), "'O8'"
    yield "object array", pickle.dumps({"w": np.array([1, "a"], dtype=object)}), "'O8'"
    yield "record", pickle.dumps({"w": np.zeros(2, "f4,i4")}), "'V8'"
    yield "text", pickle.dumps({"w": np.array(["a"])}), "'U1'"
    yield "lambda", _crafted(b"cbuiltins\nglobals\n)R"), "globals"
    yield "submodule", _crafted(b"cnumpy\nf2py.os.system\n(Vtouch\ntR"), "f2py"
    yield "patched reader", _crafted(b"c_codecs\nencode\n}X\x08\0\0\0__code__N\x86b"), ""
    yield "class as an array", _crafted(b"cnumpy\nndarray\n(K\x10tR"), ""
    yield "persistent", _crafted(b"Pfile\n"), ""
    yield "extension", _crafted(b"\x82\x01"), ""
    yield "a list", pickle.dumps([np.zeros(2)]), "list"
    yield "a number", pickle.dumps({"w": 3}), "'w' is a int"
    yield "other keys", pickle.dumps({3: np.zeros(2)}), "3"
    yield (
        "too little data",
        pickle.dumps({"w": np.zeros(2)}).replace(b"K\x02\x85", b"K\x63\x85"),
        "",
    )
    yield "self-holding", pickle.dumps(_loop()), "list"
    yield "deep", _crafted(b"}X\x01\0\0\0w", b"(" * 100_000, b"t" * 100_000, b"s"), "tuple"
    yield "huge length", b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"abc.", ""
    yield "no pickle", b"not a pickle at all", ""
    yield "nothing", b"", ""


def _loop():
    content = {"w": []}
    content["w"].append(content["w"])
    return content


def test_no_file_runs_anything(tmp_path):
    marker = tmp_path / "marker"
    for label, data, said in _attacks(marker):
        path = tmp_path / "bad.pdparams"
        path.write_bytes(data)
        with pytest.raises(UserError) as error:
            read_pdparams(path)
        message = str(error.value)
        assert "bad.pdparams" in message and said in message, (label, message)
        assert "\n" not in message, label
        assert not marker.exists(), label


def test_the_attacks_are_real(tmp_path):
    marker = tmp_path / "marker"
    data = next(data for label, data, _ in _attacks(marker) if label == "system")
    pickle.load(io.BytesIO(data))
    assert marker.exists()


def test_a_truncated_file_is_the_users_mistake(fixtures_dir, tmp_path):
    whole = (fixtures_dir / "official_tiny" / "official.pdparams").read_bytes()
    for length in (1, 10, 100, 1000, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.pdparams").write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"cut\.pdparams is damaged"):
            read_pdparams(tmp_path / "cut.pdparams")
    with pytest.raises(UserError, match=r"none\.pdparams cannot be read"):
        read_pdparams(tmp_path / "none.pdparams")
