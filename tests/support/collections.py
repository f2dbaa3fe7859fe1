"""Pictures with vectors for tests of collections, and plain float64 to judge what is found."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ernie_vil2.search.collection import Filter, Hit, Picture, picture_id

DIM = 16
FOLDERS = (
    "/照片/海边",
    "/照片/海边 2",
    "/a/100%/x_y",
    "/a/100x/x_y",
    "/a/100%/xzy",
    '/it\'s "here"\\n',
    "/😀/🏖️",
    "/a",
)
TAGS = ("猫", "it's", 'a "b" \\c', "100%", "x_y", "😀", "a")


def picture(path: str, **values) -> Picture:
    """A picture at this path; what else is said of it depends on the path alone."""
    number = int(picture_id(path), 16)
    of_path = {
        "sha256": f"{number:064x}",
        "size": number % 10**7,
        "mtime_ns": 10**18 + number % 10**18,
        "taken": number % 1000 - 300,
        "width": 1 + number % 4000,
        "height": 1 + number % 3000,
        "dhash": number % 2**64 - 2**63,
        "tags": tuple(tag for i, tag in enumerate(TAGS) if number >> i & 1),
    }
    return Picture(picture_id(path), path, **{**of_path, **values})


def draw(count: int, seed: int = 0, dim: int = DIM) -> tuple[list[Picture], np.ndarray]:
    """Pictures in odd folders, and vectors, some of which are the same."""
    rng = np.random.default_rng(seed)
    pictures = [
        picture(f"{FOLDERS[i % len(FOLDERS)]}/{seed}-{i} _%'\"猫😀.jpg") for i in range(count)
    ]
    vectors = rng.standard_normal([count, dim])
    vectors[1::7] = vectors[0]
    return pictures, unit(vectors)


def unit(vectors) -> np.ndarray:
    """float32, of length 1."""
    vectors = np.asarray(vectors, "float64")
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype("float32")


def passes(picture: Picture, where: Filter) -> bool:
    """What `Filter` says, by plain Python."""
    return (
        (where.folder is None or picture.path.startswith(where.folder.rstrip("/") + "/"))
        and (where.after is None or picture.taken >= where.after)
        and (where.before is None or picture.taken < where.before)
        and set(where.tags) <= set(picture.tags)
    )


def judge(
    found: list[Hit],
    pictures: Iterable[Picture],
    vectors: np.ndarray,
    query: np.ndarray,
    k: int,
    where: Filter,
) -> None:
    """Assert that the hits are the nearest k of those that pass, in order, ties by id.

    Cosines in float64; hits that lie within float32's rounding of one another may change places,
    unless their vectors are the same numbers.
    """
    kept = [(p, v) for p, v in zip(pictures, vectors) if passes(p, where)]
    exact = {p.id: float(v.astype("float64") @ query.astype("float64")) for p, v in kept}
    bytes_of = {p.id: v.tobytes() for p, v in kept}
    picture_of = {p.id: p for p, _ in kept}
    ids = [hit.picture.id for hit in found]
    assert len(ids) == len(set(ids)) == min(k, len(kept))
    assert set(ids) <= exact.keys()
    for hit in found:
        assert hit.picture == picture_of[hit.picture.id]
        assert abs(hit.cosine - exact[hit.picture.id]) < 1e-6
    best = sorted(exact.values(), reverse=True)[: len(ids)]
    np.testing.assert_allclose([exact[id] for id in ids], best, rtol=0, atol=1e-6)
    chosen = set(ids)
    for one, other in zip(ids, ids[1:]):
        assert bytes_of[one] != bytes_of[other] or one < other
    for id in ids:  # of equal vectors the first ids are taken
        equal = sorted(x for x in exact if bytes_of[x] == bytes_of[id])
        assert chosen.issuperset(equal[: equal.index(id)])
