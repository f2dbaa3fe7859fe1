"""Arrays in a file: what is used of them is whole, and no more of them is read."""

import numpy as np
import pytest

from ernie_vil2.data.formats.mapped import MappedArrays, write_arrays

NUMBERS = np.random.default_rng(0).integers(-(2**62), 2**62, 100_000)  # 12 blocks and a piece


def write(path, numbers=NUMBERS, states=("a",)):
    def build(write):
        write("few", [1, 2, 3])
        for piece in np.array_split(numbers, 7):
            write("many", piece)
        write("none", [])

    path.unlink(missing_ok=True)
    with open(path, "wb") as file:
        write_arrays(file, list(states), build)
    return str(path)


def flip(path, byte):
    content = bytearray(path.read_bytes())
    content[byte] ^= 1
    path.unlink()
    path.write_bytes(content)


def test_arrays_come_back_whole_and_in_parts(tmp_path):
    arrays = MappedArrays(write(tmp_path / "a"), ["a"])
    assert {name: list(arrays[name]) for name in arrays} == {
        "few": [1, 2, 3],
        "many": list(NUMBERS),
        "none": [],
    }
    column = arrays.column("many")
    assert len(column) == len(NUMBERS) and len(arrays.column("none")) == 0
    assert [column[i] for i in (0, 8189, 8190, 99_999)] == list(NUMBERS[[0, 8189, 8190, 99_999]])
    for part in (slice(8180, 8200), slice(0, 0), slice(99_990, 200_000), slice(50_000, None)):
        np.testing.assert_array_equal(column[part], NUMBERS[part])
    for beyond in (-1, 100_000):
        with pytest.raises(IndexError):
            column[beyond]
    with pytest.raises(ValueError, match="other files"):
        MappedArrays(str(tmp_path / "a"), ["b"])


def test_damage_is_found_where_it_is_used_and_only_there(tmp_path, logged):
    path = tmp_path / "a"
    write(path)
    flip(path, 4096 + 8 * 50_000)
    renewed = []

    def renew():
        renewed.append(write(path))
        return MappedArrays(renewed[-1], ["a"], renew)

    arrays = MappedArrays(str(path), ["a"], renew)
    column = arrays.column("many")
    for part in (slice(0, 40_000), slice(60_000, 100_000)):
        np.testing.assert_array_equal(column[part], NUMBERS[part])
    assert not renewed
    assert column[49_997] == NUMBERS[49_997]
    assert len(renewed) == 1 and "made anew" in logged.text
    np.testing.assert_array_equal(arrays["many"], NUMBERS)
    assert len(renewed) == 1


def test_a_whole_array_is_not_given_where_a_bit_is_wrong(tmp_path):
    path = tmp_path / "a"
    write(path)
    size = path.stat().st_size
    for byte in (4096, 4096 + 24, 500_000, 4096 + 8 * 100_002):
        write(path)
        flip(path, byte)
        with pytest.raises(ValueError, match="damaged"):
            MappedArrays(str(path), ["a"])
        for _ in range(2):  # at its use, and then before it, as this process knows it

            def renew():
                return MappedArrays(str(path), ["a"], renew)

            with pytest.raises(ValueError, match="damaged"):
                dict(MappedArrays(str(path), ["a"], renew))
    for byte in (0, size - 1, size - 100):  # the header, and the checksums themselves
        write(path)
        flip(path, byte)
        with pytest.raises(ValueError):
            MappedArrays(str(path), ["a"])
    write(path)
    for cut in (path.read_bytes()[:-1], path.read_bytes() + b"\0"):
        path.write_bytes(cut)
        with pytest.raises(ValueError):
            MappedArrays(str(path), ["a"])
