"""The table of positives, negatives and what is left out, on matrices written by hand."""

import numpy as np
import paddle
import pytest

from ernie_vil2.losses.targets import Targets, looked_at
from tests.support.reference import relations

# Records 0 and 1 are one photograph with two captions; 2 has the caption of 0; 3 has the tags of 0;
# 4 shares nothing; 5 has the caption of 4 and the tags of 1.
IDS = {
    "image": [7, 7, 1, 2, 3, 4],
    "text": [5, 6, 5, 8, 9, 9],
    "caption": [5, 6, 5, 8, 9, 9],
    "tags": [1, 2, 3, 1, 4, 2],
}
# row by row: + positive, - negative, . left out
TABLE = {
    ("image1", "image2"): """
        ++..--
        ++---.
        .-+---
        .--+--
        ----+.
        -.--.+
    """,
    ("image1", "text1"): """
        +++---
        ++----
        +-+---
        ---+--
        ----++
        ----++
    """,
    ("text1", "text2"): """
        +.+---
        .+----
        +-+---
        ---+--
        ----++
        ----++
    """,
    ("image2", "tags1"): """
        ++-+--
        ++---+
        --+---
        +--+--
        ----+-
        -+---+
    """,
    ("caption1", "tags2"): """
        +.++--
        .+---+
        +-+---
        +--+--
        ----++
        -+--++
    """,
}


def matrix(picture):
    signs = {"+": 1, "-": -1, ".": 0}
    return np.array([[signs[sign] for sign in row] for row in picture.split()])


def targets_of(ids, rows=slice(0, 6)):
    whole = {source: paddle.to_tensor(numbers) for source, numbers in ids.items()}
    valid = paddle.ones([6], dtype="bool")
    mine = {source: numbers[rows] for source, numbers in whole.items()}
    return Targets(mine, valid[rows], whole, valid, rows.start)


def sources(pair):
    return tuple(view[:-1] for view in pair)


def found_by_masks(targets, pair):
    positive, seen = (mask.numpy() for mask in targets.masks(targets.rule(sources(pair))))
    return np.where(positive, 1, np.where(seen, -1, 0))


def found_by_entries(targets, pair, chunk, rows):
    rule, blocks = targets.rule(sources(pair)), []
    for columns in paddle.arange(6).split([chunk] * (6 // chunk)):
        block = np.full([rows, chunk], -1)
        for value, entries in zip((1, 0), targets.entries(columns, [rule])[rule]):
            if entries is None:
                continue
            row, place = entries
            assert (place.numpy() // chunk == row.numpy()).all()
            block.reshape(-1)[place.numpy()] = value
        blocks.append(block)
    return np.concatenate(blocks, axis=1)


@pytest.mark.parametrize("pair", TABLE)
def test_table_by_hand(pair):
    expected = matrix(TABLE[pair])
    np.testing.assert_array_equal(relations(*pair, IDS, 6), expected)  # the float64 reference's
    np.testing.assert_array_equal(found_by_masks(targets_of(IDS), pair), expected)
    for chunk in (1, 2, 3, 6):
        np.testing.assert_array_equal(found_by_entries(targets_of(IDS), pair, chunk, 6), expected)
    second = targets_of(IDS, slice(2, 4))  # the rows of another rank
    np.testing.assert_array_equal(found_by_masks(second, pair), expected[2:4])
    np.testing.assert_array_equal(found_by_entries(second, pair, 3, 2), expected[2:4])


@pytest.mark.parametrize("pair", TABLE)
def test_what_is_not_looked_at_changes_nothing(pair):
    known = {
        source: numbers for source, numbers in IDS.items() if source in looked_at(sources(pair))
    }
    np.testing.assert_array_equal(found_by_masks(targets_of(known), pair), matrix(TABLE[pair]))


@pytest.mark.parametrize("pair", TABLE)
def test_without_ids_a_record_is_its_own_only_positive(pair):
    alone = 2 * np.eye(6, dtype=int) - 1
    np.testing.assert_array_equal(found_by_masks(targets_of({}), pair), alone)
    np.testing.assert_array_equal(found_by_entries(targets_of({}), pair, 2, 6), alone)
