"""What is kept of decoded rows, and damage anywhere in a file of rows."""

import os
import random
from pathlib import Path

import pytest

from ernie_vil2.data.formats.build import build_reader
from ernie_vil2.data.formats.columns import Kept
from ernie_vil2.data.records import BadRecord
from ernie_vil2.errors import UserError
from tests.support.packed import WRITERS
from tests.support.rows import png


def test_the_least_recently_used_goes():
    kept, loaded = Kept(10), []

    def get(key: str, size: int = 4) -> None:
        assert kept.get(key, lambda: (loaded.append(key) or key, size)) == key

    for key in "abacb":  # b goes for c, and comes again
        get(key)
    assert "".join(loaded) == "abcb"
    get("large", 100)  # kept alone, whatever it takes
    get("large")
    get("a")
    assert loaded[4:] == ["large", "a"]


def test_a_child_does_not_keep_what_its_parent_did():
    kept = Kept(10)
    kept.get("a", lambda: ("parent's", 1))
    child = os.fork()
    if not child:
        os._exit(kept.get("a", lambda: ("own", 1)) != "own")
    assert os.waitpid(child, 0)[1] == 0
    assert kept.get("a", lambda: ("another", 1)) == "parent's"


def read(name: str, options: dict) -> str:
    """What becomes of a damaged set, at worst."""
    worst = "read"
    try:
        reader = build_reader(name, **options)
    except UserError as error:
        assert "\n" not in str(error)
        return "refused"
    for position in range(min(len(reader), 100)):
        try:
            reader[position]
        except BadRecord:
            worst = "bad rows"
    return worst


@pytest.mark.parametrize("name", ["parquet", "arrow"])
def test_damage_anywhere_is_a_bad_row_or_one_line(tmp_path, name):
    """Not of LMDB, whose library trusts its file."""
    rng, found = random.Random(7), []
    options = WRITERS[name](tmp_path, [png(i) for i in range(8)])
    path = Path(options["path"])
    whole = path.read_bytes()
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(rng.choice([1, 2, 20])):
            data[rng.randrange(len(data))] = rng.choice([0, 1, 127, 128, 255])
        path.write_bytes(data if rng.random() < 0.8 else data[: rng.randrange(len(data))])
        found.append(read(name, options))
    assert set(found) == {"read", "bad rows", "refused"}, found
    path.write_bytes(whole)
    assert read(name, options) == "read"
