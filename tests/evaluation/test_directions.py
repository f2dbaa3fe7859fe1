"""Retrieval within a modality, against loops in float64 that know nothing of the package."""

import numpy as np
import pytest

from ernie_vil2.errors import UserError
from ernie_vil2.evaluation.directions import evaluate_within, score_within
from ernie_vil2.evaluation.embeddings import Embeddings

COUNTING = {"ks": (1, 5), "bootstrap": 0, "seed": 0, "block": 7}


@pytest.fixture(scope="module")
def items():
    """Embeddings near what they belong to, some to two things, some to nothing, two the same."""
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(12, 8))
    belongs = [[i % 12] for i in range(40)] + [[1, 2], [3, 4], [], [30]]
    rows = [centres[b[0] % 12] if b else centres.mean(axis=0) for b in belongs]
    rows = np.array(rows) + rng.normal(scale=0.9, size=(44, 8))
    rows[13] = rows[2]  # not of one thing
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32), belongs


def reference(rows, belongs, protocol):
    """The place of the right one of each query, the query itself left out."""
    rows = rows.astype(np.float64)
    places = []
    for query, own in enumerate(belongs):
        right = [o for o, b in enumerate(belongs) if o != query and set(b) & set(own)]
        scores = [round(sum(a * b for a, b in zip(rows[query], row)), 9) for row in rows]
        for positives in [[one] for one in right] if protocol == "official" else [right]:
            if not positives:
                continue
            best = max(scores[p] for p in positives)
            first = min(p for p in positives if scores[p] == best)
            before = 0
            for other, score in enumerate(scores):
                if other == query or other in positives:
                    continue
                tie = {"strict": True, "official": False, "chinese_clip": other < first}[protocol]
                before += score > best or (score == best and tie)
            places.append(before)
    return places


@pytest.mark.parametrize("protocol", ["strict", "official", "chinese_clip"])
def test_recalls_equal_a_reference_in_float64(items, protocol):
    rows, belongs = items
    report = evaluate_within(rows, belongs, **COUNTING, protocol=protocol)
    places = reference(rows, belongs, protocol)
    for k in (1, 5):
        assert report[f"R@{k}"] == np.mean([place < k for place in places])
    assert report["mrr"] == pytest.approx(np.mean([1 / (p + 1) for p in places]), abs=1e-12)
    assert report["median_rank"] == np.median(places) + 1
    assert (report["queries"], report["candidates"]) == (len(places), 43)
    assert 0 < report["R@1"] < report["R@5"] < 1
    assert 0 < report["chance"]["R@1"] < report["R@1"]


def test_a_query_does_not_find_itself_though_it_would_be_the_nearest():
    """Two pairs, crossed: each item's fellow is the farthest."""
    rows = np.float32([[1, 0], [-1, 0.1], [1, 0.2], [-1, 0.3]])
    report = evaluate_within(rows, [[0], [0], [1], [1]], **COUNTING)
    assert report["R@1"] == 0 and report["chance"]["R@1"] == pytest.approx(1 / 3)
    assert evaluate_within(rows, [[0], [1], [0], [1]], **COUNTING)["R@1"] == 1


def embeddings(texts, images_of_text, labels=()):
    count = 1 + max((i for images in images_of_text for i in images), default=0)
    rows = np.eye(8, dtype=np.float32)
    return Embeddings(
        image_ids=[str(i) for i in range(count)],
        image_rows=np.arange(count),
        image_embeds=rows[:count],
        texts=texts,
        text_ids=[None] * len(texts),
        text_embeds=rows[: len(texts)],
        images_of_text=images_of_text,
        bad_records=0,
        labels=labels,
    )


def test_what_belongs_together_in_a_set():
    metric = {**COUNTING, "protocol": "strict"}
    texts = ["red", "rouge", "red", "blue", "alone"]  # image 0: red, rouge; 1: red; 2: blue
    found = embeddings(texts, [[0], [0], [1], [2], []])
    images = score_within(found, "image_to_image", metric)
    assert (images["queries"], images["candidates"]) == (2, 2)  # 0 and 1 share a text
    within = score_within(found, "text_to_text", metric)
    assert (within["queries"], within["candidates"]) == (2, 3)  # red and rouge, of four texts
    labelled = embeddings(texts, [[0], [0], [1], [2], []], labels=["a", "b", "b"])
    assert score_within(labelled, "image_to_image", metric)["queries"] == 2
    apart = embeddings(["red", "blue"], [[0], [1]], labels=["a", "b"])
    with pytest.raises(UserError, match="no two images of the set are of one class: there"):
        score_within(apart, "image_to_image", metric)
    with pytest.raises(UserError, match="no two images of the set share a text: --label KEY"):
        score_within(apart._replace(labels=[None, None]), "image_to_image", metric)
    with pytest.raises(UserError, match="no image of the set has two texts"):
        score_within(apart, "text_to_text", metric)
    with pytest.raises(UserError, match='no protocol "stric"'):
        score_within(found, "text_to_text", {**metric, "protocol": "stric"})
