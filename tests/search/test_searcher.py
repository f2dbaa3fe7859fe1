import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ernie_vil2.data.image_file import ImageError
from ernie_vil2.errors import UserError
from ernie_vil2.search.collection import EVERYTHING, Filter
from ernie_vil2.search.query import Query, parse_query
from ernie_vil2.search.relevance import NOTE
from ernie_vil2.search.searcher import Searcher, UnknownPicture, calibrate
from tests.support.collections import TAGS, judge, passes, picture, unit

FILTERS = [
    EVERYTHING,
    Filter("/emoji/b"),
    Filter(after=10**9 + 100, before=10**9 + 130),
    Filter(tags=(TAGS[0], TAGS[1])),
    Filter("/emoji/c", 10**9 + 50, 10**9 + 700, (TAGS[2],)),
    Filter("/nowhere"),
]


@pytest.fixture
def searcher(demo, collection) -> Searcher:
    return Searcher(collection, demo)


@pytest.mark.parametrize("where", FILTERS, ids=range(len(FILTERS)))
def test_recall_is_one_with_and_without_filters(demo, searcher, where):
    for text in demo.present[:10] + demo.absent[:10]:
        vector = demo.encode_text([text])[0]
        found = searcher.search(Query.of_text(text), 10, where=where, fold=False)
        judge(found.hits, demo.pictures, demo.vectors, vector, 10, where)
        assert found.total == sum(passes(x, where) for x in demo.pictures)


def test_terms_are_added_by_weight(demo, searcher):
    names = [x for x in demo.present if parse_query(x) == Query.of_text(x)]
    text, other = demo.encode_text(names[:2]).astype("float64")
    image = demo.vectors[7].astype("float64")
    query = parse_query(f"2:{names[0]} - {names[1]} + 0.5:seven", {"seven": b"7"}.get)
    total = 2 * text - other + 0.5 * image
    vector = searcher.vector(query)
    np.testing.assert_allclose(vector, total / np.linalg.norm(total), atol=1e-6)
    assert vector.dtype == np.float32
    found = searcher.search(query, 10, fold=False)
    judge(found.hits, demo.pictures, demo.vectors, vector, 10, EVERYTHING)
    assert found.query == f"2:{names[0]} - {names[1]} + 0.5:seven"


def test_terms_that_cancel_out_are_refused(demo, searcher):
    text = demo.present[0]
    for written in (f"{text} - {text}", f"3:{text} - 1.5:{text} - 1.5:{text}"):
        with pytest.raises(UserError, match=r"its terms cancel out") as error:
            searcher.search(parse_query(written))
        assert "\n" not in str(error.value)
    searcher.search(parse_query(f"{text} - 0.9:{text}"))


def test_similar_is_without_itself(demo, searcher):
    one = demo.pictures[3]
    found = searcher.similar(one.id, 50, fold=False)
    rest = [x for x in zip(demo.pictures, demo.vectors) if x[0] != one]
    judge(found.hits, *zip(*rest), demo.vectors[3], 50, EVERYTHING)
    with pytest.raises(UnknownPicture, match=r"0{20} is no picture of"):
        searcher.similar("0" * 20)


def test_a_picture_that_cannot_be_read_is_named(collection, tiny_artefact):
    from ernie_vil2.serving.predictor import Predictor

    model = Predictor(tiny_artefact, threads=1)
    with pytest.raises(ImageError, match=r"^cat\.jpg: not an image"):
        Searcher(collection, model).vector(Query.of_picture(b"no image at all", "cat.jpg"))


def pages(searcher, query, k, **options):
    """All hits, page by page."""
    offset, hits = 0, []
    while offset is not None:
        found = searcher.search(query, k, offset, **options)
        assert found.offset == offset and len(found.hits) <= k
        hits += found.hits
        offset = found.next
    return hits, found


def test_pages_are_one_ranking_which_is_asked_for_once(demo, collection):
    calls = []

    class Counted:
        def __getattr__(self, name):
            calls.append(name)
            return getattr(collection, name)

    searcher, query = Searcher(Counted(), demo), Query.of_text(demo.present[0])
    hits, found = pages(searcher, query, 30, fold=False)
    assert [x.picture.id for x in hits] == collection.ranking(
        demo.encode_text([demo.present[0]])[0], 800
    )[0]
    assert calls.count("ranking") == 1 and found.total == 800
    assert found.line == sum(hit.likely for hit in hits)
    relevance = [hit.relevance for hit in hits]
    assert relevance == sorted(relevance, reverse=True)


def test_deep_pages_of_a_large_collection(tmp_path):
    """Rankings get deeper as one scrolls; what was shown stays in its place."""
    from ernie_vil2.search.open import open_collection

    rng = np.random.default_rng(0)
    pictures, vectors = (
        [picture(f"/many/{i}.jpg") for i in range(4000)],
        unit(rng.standard_normal([4000, 8])),
    )
    made = open_collection(str(tmp_path / "db"), {}, dim=8, write=True)
    made.add(pictures, vectors)

    class Words:
        def encode_text(self, texts):
            seeds = [sum(text.encode()) for text in texts]
            return np.stack([unit(np.random.default_rng(x).standard_normal(8)) for x in seeds])

    searcher = Searcher(made, Words())
    found = searcher.search(Query.of_text("a"), 20)
    assert found.total == 4000 and found.next == 20
    hits, found = pages(searcher, Query.of_text("a"), 700)
    ids = [hit.picture.id for hit in hits] + [id for hit in hits for id in hit.duplicates]
    assert sorted(ids) == sorted(x.id for x in pictures) and found.total == len(hits)
    cosines = [hit.cosine for hit in hits]
    assert cosines == sorted(cosines, reverse=True)
    made.close()


@pytest.fixture
def copies(demo, tmp_path):
    """Each of the first 50 pictures three times: a near copy, and one that only looks alike."""
    made = demo.collection(tmp_path / "db", 400)
    first = demo.pictures[:50]
    near = [picture(f"/copies/near/{i}.jpg", dhash=x.dhash ^ 0b1011) for i, x in enumerate(first)]
    alike = [picture(f"/copies/alike/{i}.jpg", dhash=x.dhash) for i, x in enumerate(first)]
    noise = np.random.default_rng(0).standard_normal([50, demo.dim]) * 0.01
    made.add(near, unit(demo.vectors[:50] + noise))
    made.add(alike, demo.vectors[350:400])
    yield made, near, alike
    made.close()


def test_near_duplicates_are_folded_into_the_best(demo, copies):
    made, near, alike = copies
    searcher = Searcher(made, demo)
    of = {x.id: y.id for x, y in zip(demo.pictures, near)}
    of.update({y: x for x, y in of.items()})
    for text in demo.present[:5]:
        flat, _ = pages(searcher, Query.of_text(text), 100, fold=False)
        hits, found = pages(searcher, Query.of_text(text), 40)
        folded = {hit.picture.id: hit.duplicates for hit in hits if hit.duplicates}
        assert len(flat) == 500 and sum(map(len, folded.values())) + len(hits) == 500
        pairs = {id: rest for id, rest in folded.items() if id in of}
        assert len(pairs) == 50 and all(of[id] in rest for id, rest in pairs.items())
        place = {hit.picture.id: i for i, hit in enumerate(flat)}
        for id, rest in folded.items():
            assert all(place[id] < place[x] for x in rest)
        shown = [place[hit.picture.id] for hit in hits]
        assert shown == sorted(shown) and found.total == len(hits)
        lone = {x.id for x in alike}
        assert not any(lone & set(rest) for id, rest in folded.items() if id in of)


def test_duplicates_lists_groups(demo, copies):
    made, near, _ = copies
    searcher = Searcher(made, demo)
    groups = {frozenset(x.id for x in group.pictures) for group in searcher.duplicates()}
    assert {frozenset([x.id, y.id]) for x, y in zip(demo.pictures, near)} <= groups
    for group in searcher.duplicates():
        areas = [x.width * x.height for x in group.pictures]
        assert len(areas) > 1 and areas == sorted(areas, reverse=True)
    assert searcher.duplicates(Filter("/copies/near")) == []


def test_what_is_deleted_is_left_out(demo, tmp_path):
    made = demo.collection(tmp_path / "db")
    searcher, query = Searcher(made, demo), Query.of_text(demo.present[0])
    first = searcher.search(query, 20)
    made.delete([hit.picture.id for hit in first.hits[::2]] + [x.id for x in demo.pictures[::3]])
    again = searcher.search(query, 20)  # the ranking that is kept
    left = [x for x in first.hits if made.get([x.picture.id]) != [None]]
    assert [x.picture for x in again.hits] == [x.picture for x in left]
    rest, _ = pages(searcher, query, 100)
    assert all(made.get([hit.picture.id]) != [None] for hit in rest)
    assert {x.picture.id for x in rest} <= {x.id for x in made.pictures()}
    assert Searcher(made, demo).search(query, 1).total <= made.count()
    made.close()


def test_new_pictures_show_when_the_ranking_is_old(demo, tmp_path):
    made = demo.collection(tmp_path / "db", 400)
    query = Query.of_picture(b"700")
    young, old = Searcher(made, demo), Searcher(made, demo, max_age=0)
    for searcher in (young, old):
        assert searcher.search(query, 1).hits[0].cosine < 0.9999
    made.add(demo.pictures[700:701], demo.vectors[700:701])
    assert young.search(query, 1).hits[0].cosine < 0.9999
    assert old.search(query, 1).hits[0].picture == demo.pictures[700]
    made.close()


def test_threads_share_it_while_pictures_come_and_go(demo, tmp_path):
    made = demo.collection(tmp_path / "db", 400)
    searcher, stop = Searcher(made, demo), threading.Event()

    def change():
        while not stop.is_set():
            made.add(demo.pictures[400:500], demo.vectors[400:500])
            made.delete([x.id for x in demo.pictures[400:500]])

    def look(text):
        hits, _ = pages(searcher, Query.of_text(text), 150)
        ids = [hit.picture.id for hit in hits]
        assert len(set(ids)) == len(ids)
        return set(ids) | {id for hit in hits for id in hit.duplicates}

    with ThreadPoolExecutor(5) as pool:
        changing = pool.submit(change)
        try:
            found = list(pool.map(look, demo.present[:4] * 3))
        finally:
            stop.set()
        changing.result()
    assert all({x.id for x in demo.pictures[:400]} <= ids for ids in found)
    made.close()


@pytest.mark.slow
def test_milvus_finds_the_same(demo, collection, milvus):
    made = demo.collection(milvus.uri("searched"))
    one, other = Searcher(collection, demo), Searcher(made, demo)
    calibrate(made, demo)
    for where in FILTERS:
        query = parse_query(demo.present[0])
        found, again = (x.search(query, 30, where=where) for x in (one, other))
        assert [x.picture for x in again.hits] == [x.picture for x in found.hits]
        assert [x.duplicates for x in again.hits] == [x.duplicates for x in found.hits]
        cosines = [[hit.cosine for hit in x.hits] for x in (found, again)]
        np.testing.assert_allclose(*cosines, atol=1e-5)
        assert (again.total, again.line) == (found.total, found.line)
    assert other.duplicates() == one.duplicates()
    assert made.notes[NOTE]["count"] == 800
    made.close()


def test_json_is_plain(demo, searcher):
    import json

    found = searcher.search(Query.of_text(demo.present[0]), 2)
    content = json.loads(json.dumps(found.to_json()))
    assert content.keys() == {"query", "hits", "offset", "next", "total", "line"}
    hit = content["hits"][0]
    assert hit["id"] == found.hits[0].picture.id and hit["taken"].startswith("2001-09-09T")
    assert hit["duplicates"] == {"count": 0, "ids": []}
