"""What a collection promises, of each store, judged by float64 over the same vectors."""

from __future__ import annotations

import time

import numpy as np
import pytest

from ernie_vil2.errors import UserError
from ernie_vil2.search.collection import EVERYTHING, Filter, picture_id
from ernie_vil2.search.open import open_collection
from tests.support.collections import DIM, FOLDERS, TAGS, draw, judge, passes, picture, unit

MODEL = {"weights": "1" * 64, "vocabulary": "2" * 64, "transform": "3" * 64}
FILTERS = [
    EVERYTHING,
    *(Filter(folder=folder) for folder in (*FOLDERS, "/", "/照片", "/a/100%/", "/nowhere", "/a/%")),
    *(Filter(tags=(tag,)) for tag in (*TAGS, "b", "%", "' OR true OR '", '" or true or "')),
    Filter(tags=TAGS[:2]),
    Filter(after=0),
    Filter(before=0),
    Filter(after=-5, before=300),
    Filter(after=300, before=300),
    Filter(after=10**30),
    Filter(after=-(10**30), before=10**30),
    Filter("/a", -100, 500, ("a",)),
]


def soon(true, store) -> None:
    """Assert what a reader of Milvus sees some seconds later, and one of LanceDB at once."""
    end = time.monotonic() + (20 if store == "milvus" else 0)
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.fixture
def filled(uri, store):
    """A collection of 200 pictures, with them and their vectors."""
    collection = open_collection(uri, MODEL, dim=DIM, write=True)
    pictures, vectors = draw(200)
    collection.add(pictures[:150], vectors[:150])
    if store == "lance, indexed":
        collection.optimize()
        assert collection.notes["index"]["index"] == "IVF_FLAT"
    collection.add(pictures[150:], vectors[150:])
    yield collection, pictures, vectors
    collection.close()


def test_filters_pass_whom_they_should(filled):
    collection, pictures, vectors = filled
    query = unit(np.arange(1, DIM + 1))
    for where in FILTERS:
        expected = {x.id: x for x in pictures if passes(x, where)}
        assert collection.count(where) == len(expected), where
        assert {x.id: x for x in collection.pictures(where)} == expected, where
        for k in (10, 1000) if where else (1, 10, 199, 200, 1000):
            judge(collection.search(query, k, where), pictures, vectors, query, k, where)


def test_of_equal_vectors_the_first_ids_are_found(filled):
    collection, pictures, vectors = filled
    for k in (0, 1, 2, 5, 28, 29, 30):
        judge(collection.search(vectors[0], k), pictures, vectors, vectors[0], k, EVERYTHING)
    ids, cosines = collection.ranking(vectors[0], 500, Filter("/a"))
    hits = collection.search(vectors[0], 500, Filter("/a"))
    assert (ids, cosines.tolist()) == ([x.picture.id for x in hits], [x.cosine for x in hits])
    assert cosines.dtype == np.float32


def test_what_has_an_id_is_replaced(filled):
    collection, pictures, vectors = filled
    now = [picture(x.path, size=i, tags=("new",)) for i, x in enumerate(pictures[:50])]
    pictures, vectors = [*now, *pictures[50:]], np.concatenate([unit(-vectors[:50]), vectors[50:]])
    collection.add(now, vectors[:50])
    query = vectors[3]
    judge(collection.search(query, 100), pictures, vectors, query, 100, EVERYTHING)
    assert collection.count() == 200 and collection.count(Filter(tags=("new",))) == 50


def test_what_is_deleted_is_gone(filled):
    collection, pictures, vectors = filled
    nobody = picture_id("/nobody")
    collection.delete([x.id for x in pictures[::2]] + [nobody])
    collection.delete([])
    judge(
        collection.search(vectors[2], 300),
        pictures[1::2],
        vectors[1::2],
        vectors[2],
        300,
        EVERYTHING,
    )
    assert collection.get([x.id for x in pictures[:2]]) == [None, pictures[1]]
    with pytest.raises(KeyError):
        collection.vectors([pictures[0].id])
    collection.optimize()
    assert collection.count() == 100


def test_pictures_and_vectors_by_id(filled):
    collection, pictures, vectors = filled
    order = [7, 3, 199, 3]
    ids = [pictures[i].id for i in order]
    assert collection.get([*ids, "0" * 20]) == [*(pictures[i] for i in order), None]
    np.testing.assert_array_equal(collection.vectors(ids), vectors[order])
    assert collection.vectors([]).shape == (0, DIM)
    assert collection.get([]) == []


def test_an_iteration_gives_what_was_there_when_it_began(filled, store):
    collection, pictures, _ = filled
    iteration = collection.pictures()
    first = next(iteration)
    collection.add(*draw(50, seed=1))
    if store == "milvus":  # what is changed meanwhile may be missing or new
        assert {x.id: x for x in [first, *iteration]}.items() >= {x.id: x for x in pictures}.items()
        return
    collection.delete([x.id for x in pictures if x.id != first.id])
    collection.optimize()
    assert {x.id: x for x in [first, *iteration]} == {x.id: x for x in pictures}
    assert collection.count() == 51


def test_notes_and_pictures_are_there_when_opened_again(filled, uri):
    collection, pictures, vectors = filled
    collection.note(indexing={"done": 3, "total": 5, "pid": 1}, name="猫's")
    collection.note(indexing=None)
    collection.close()
    for write in (False, True):
        again = open_collection(uri, MODEL, write=write)
        assert {**again.notes, "index": 0} == {"model": MODEL, "name": "猫's", "index": 0}
        assert (again.uri, again.dim, again.count()) == (uri, DIM, 200)
        judge(again.search(vectors[5], 20), pictures, vectors, vectors[5], 20, EVERYTHING)
        again.close()


def test_many_small_adds(uri):
    collection = open_collection(uri, dim=DIM, write=True)
    pictures, vectors = draw(60)
    for i in range(60):
        collection.add(pictures[i : i + 1], vectors[i : i + 1])
        if i == 30:
            collection.optimize()
    judge(collection.search(vectors[0], 60), pictures, vectors, vectors[0], 60, EVERYTHING)
    collection.close()


def test_a_reader_follows_the_writer(filled, uri, store):
    collection, *_ = filled
    reader = open_collection(uri, MODEL)
    assert reader.count() == 200
    more, of_more = draw(5, seed=1)
    collection.add(more, of_more)
    collection.note(name=1)
    soon(lambda: reader.search(of_more[3], 1)[0].picture == more[3], store)
    assert (reader.count(), reader.notes["name"]) == (205, 1)
    collection.delete([more[3].id])
    soon(lambda: reader.get([more[3].id]) == [None], store)
    assert reader.count() == 204
    reader.close()


def test_mistakes_are_one_line(filled, uri):
    collection, *_ = filled
    with pytest.raises(UserError, match="another process writes"):
        open_collection(uri, MODEL, write=True)
    other = {**MODEL, "weights": "4" * 64}
    for write in (False, True):
        if write:
            collection.close()
        both = r"\(weights 1{12}\).*\(weights 4{12}\).*(--rebuild|other name)"
        with pytest.raises(UserError, match=both):
            open_collection(uri, other, write=write)
    with pytest.raises(UserError, match="of 16 numbers, and this model gives 8"):
        open_collection(uri, MODEL, dim=8)
    with pytest.raises(UserError, match="no such collection"):
        open_collection(uri + "2", MODEL)
