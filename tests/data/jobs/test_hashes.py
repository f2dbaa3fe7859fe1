"""Duplicates, against a count by brute force."""

import cv2
import numpy as np
import pytest

from ernie_vil2.data.jobs import hashes


@pytest.mark.parametrize("part", [7, 1000])
def test_the_first_of_each(part):
    rng = np.random.default_rng(0)
    words = [hashes.digest(bytes([n])) for n in range(40)]
    drawn = [words[n] for n in rng.integers(0, 40, 300)]
    numbers = np.sort(rng.choice(400, 300, replace=False))
    values = np.frombuffer(b"".join(drawn), "<u8").reshape(-1, 2)

    def blocks():  # in any order, cut anywhere, one empty
        for place in np.array_split(rng.permutation(300), [0, 90, 200]):
            yield numbers[place], values[place]

    found = hashes.first_of_each(blocks, 400, part)
    first = {}
    for number, word in zip(numbers.tolist(), drawn):
        first.setdefault(word, number)
    expected = np.arange(400)
    expected[numbers] = [first[word] for word in drawn]
    assert (found == expected).all() and len(first) < 300


def test_parts_of_a_digest_do_not_flow_together():
    assert hashes.digest(b"ab", b"c") != hashes.digest(b"a", b"bc") != hashes.digest(b"abc")


@pytest.mark.parametrize("bits", [0, 1, 3, 6, 15])
def test_near_duplicates_are_those_of_brute_force(bits):
    """Chains among them: near to one that is dropped is no reason to be dropped."""
    rng = np.random.default_rng(bits)
    looks = [int(x) for x in rng.integers(0, 1 << 63, 30, np.uint64)]
    while len(looks) < 400:
        flips = rng.choice(64, rng.integers(0, bits + 3), replace=False)
        looks.append(looks[rng.integers(len(looks))] ^ sum(1 << int(flip) for flip in flips))
    numbers = np.cumsum(rng.integers(1, 4, len(looks)))

    stays, expected = [], {}
    for number, look in zip(numbers.tolist(), looks):
        near = [other for other, value in stays if bin(value ^ look).count("1") <= bits]
        if near:
            expected[number] = near[0]
        else:
            stays.append((number, look))
    found = hashes.near_duplicates(numbers, np.array(looks, np.uint64), bits)
    assert found == expected and 0 < len(expected) < 400


def scene(seed):
    """A picture of smooth regions."""
    rough = np.random.default_rng(seed).integers(0, 256, [6, 7, 3], np.uint8)
    return cv2.resize(rough, (400, 300), interpolation=cv2.INTER_CUBIC)


def test_a_picture_is_near_to_itself_made_smaller_and_to_no_other():
    one, other = scene(0), scene(1)
    half = cv2.resize(one, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    _, jpeg = cv2.imencode(".jpg", half, [cv2.IMWRITE_JPEG_QUALITY, 60])
    again = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)

    def bits(a, b):
        return bin(hashes.difference_hash(a) ^ hashes.difference_hash(b)).count("1")

    assert bits(one, again) <= 3 and bits(one, other) > 15


def test_the_hash_is_the_one_that_is_documented():
    """Rows of 9 grey pixels, each darker than its right neighbour or not."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, [8, 9], np.uint8)
    picture = np.repeat(np.repeat(small, 4, 0), 4, 1)[..., None].repeat(3, 2)
    text = "".join("1" if row[x] < row[x + 1] else "0" for row in small for x in range(8))
    assert hashes.difference_hash(picture) == int(text, 2)
