"""A process that writes to a collection, or reads it: `write URI FIRST`, `read URI`, `ask URI`.

write: adds of three pictures, numbered from FIRST; each is told of on a line when it has returned.
Now and then it deletes, and puts things in order.
read: goes through the pictures again and again, until its input says so; tells the last add of
each time.
ask: one search, and the end.
"""

from __future__ import annotations

import itertools
import select
import sys
from collections import Counter

import numpy as np

from ernie_vil2.search.open import open_collection
from tests.support.collections import DIM, picture, unit

SIZE = 3  # pictures of an add


def of_add(number: int):
    """The pictures of an add, which say of which one they are, and their vectors."""
    pictures = [picture(f"/add {number}/{i} 猫's.jpg", size=number) for i in range(SIZE)]
    return pictures, unit(np.random.default_rng(number).standard_normal([SIZE, DIM]))


def write(uri: str, first: int) -> None:
    collection = open_collection(uri, dim=DIM, write=True)
    for number in itertools.count(first):
        collection.add(*of_add(number))
        print("added", number, flush=True)
        if number % 5 == 4:
            collection.delete([x.id for x in of_add(number - 4)[0]])
            print("deleted", number - 4, flush=True)
        if number % 7 == 6:
            collection.optimize()


def read(uri: str) -> None:
    collection, most = open_collection(uri), 0
    while not select.select([sys.stdin], [], [], 0)[0]:
        found = Counter(x.size for x in collection.pictures())
        assert set(found.values()) <= {SIZE}, found
        assert max(found, default=-1) >= most - 1, found
        most = max(found, default=-1)
        hits = collection.search(of_add(most)[1][0], 1) if most >= 0 else []
        assert not hits or hits[0].cosine > 0.99
        print(most, flush=True)


if __name__ == "__main__":
    what, uri, *rest = sys.argv[1:]
    if what == "write":
        write(uri, int(rest[0]))
    elif what == "read":
        read(uri)
    else:
        print(open_collection(uri).search(of_add(0)[1][0], 1))
