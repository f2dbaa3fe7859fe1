"""The metrics against numbers written by hand, a slow reference, and the official evaluation."""

import json
import tracemalloc

import numpy as np
import pytest

from ernie_vil2.errors import UserError
from ernie_vil2.evaluation import retrieval
from ernie_vil2.evaluation.retrieval import (
    bootstrap_interval,
    evaluate_retrieval,
    rank_of_positives,
    recall_at_k,
    top_k,
)

# [3, 4] scores of three queries over four gallery rows; with the identity as query they stand
# in the gallery's columns
SCORES = np.array([[9, 5, 1, 0], [3, 4, 8, 2], [1, 7, 7, 6]])
QUERY, GALLERY = np.eye(3), SCORES.T


def unit(rng, rows, width):
    x = rng.normal(size=(rows, width)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def slow_ranks(query, gallery, positives):
    """The definition, word by word, one number at a time."""
    ranks = []
    for row, right in zip(query.astype(float), positives):
        scores = [sum(a * b for a, b in zip(row, other)) for other in gallery.astype(float)]
        best = max(scores[i] for i in right)
        ranks.append(sum(s >= best for i, s in enumerate(scores) if i not in set(right)))
    return ranks


def test_scores_written_by_hand():
    positives = [[0], [1], [1]]
    assert rank_of_positives(QUERY, GALLERY, positives).tolist() == [0, 1, 1]  # the last: a tie
    assert recall_at_k(QUERY, GALLERY, positives, ks=(1, 2)) == {
        "R@1": pytest.approx(1 / 3),
        "R@2": 1.0,
        "mean_recall": pytest.approx(2 / 3),
    }


def test_several_positives_count_once_and_do_not_push_each_other_down():
    # query 2 has both rows of the tie; query 1's best comes first in spite of its bad one
    positives = [[3, 1, 1], [2, 3], [1, 2]]
    assert rank_of_positives(QUERY, GALLERY, positives).tolist() == [1, 0, 0]
    everything = [range(4)] * 3
    assert rank_of_positives(QUERY, GALLERY, everything).tolist() == [0, 0, 0]


def test_equals_the_official_evaluation(fixtures_dir):
    data = np.load(fixtures_dir / "retrieval_scores.npz")
    own = [[i] for i in range(200)]
    text_to_image = recall_at_k(data["text"], data["image"], own)
    image_to_text = recall_at_k(data["image"], data["text"], own)
    assert list(text_to_image) == ["R@1", "R@5", "R@10", "mean_recall"]
    assert list(text_to_image.values()) == data["t2i"].tolist()
    assert list(image_to_text.values()) == data["i2t"].tolist()

    report = evaluate_retrieval(data["image"], data["text"], np.arange(200), bootstrap=0)
    assert report["mean_recall"] == (data["t2i"][3] + data["i2t"][3]) / 2


@pytest.mark.parametrize("seed", range(12))
def test_equals_the_definition_on_random_matrices(seed, monkeypatch):
    rng = np.random.default_rng(seed)
    queries, candidates, width = rng.integers(1, 24, 3)
    if seed % 2:  # small whole numbers: many ties
        query = rng.integers(-2, 3, (queries, width))
        gallery = rng.integers(-2, 3, (candidates, width))
    else:  # rows of very different length
        query = unit(rng, queries, width) * rng.lognormal(0, 3, (queries, 1))
        gallery = unit(rng, candidates, width) * rng.lognormal(0, 3, (candidates, 1))
    query, gallery = query.astype(np.float32), gallery.astype(np.float32)
    positives = [rng.integers(0, candidates, rng.integers(1, 5)).tolist() for _ in range(queries)]
    expected = slow_ranks(query, gallery, positives)
    for gallery_block in (1, 5, 8192):
        monkeypatch.setattr(retrieval, "_GALLERY_BLOCK", gallery_block)
        for block in (1, 7, 1024):
            assert rank_of_positives(query, gallery, positives, block).tolist() == expected


@pytest.mark.parametrize("width", [64, 65, 100, 512, 768])
def test_collapsed_embeddings_find_nothing(width):
    row = unit(np.random.default_rng(width), 1, width)
    for count in (11, 257, 1025):  # around the edges of blocks and of BLAS kernels
        same, own = np.repeat(row, count, axis=0), np.arange(count)[:, None]
        for block in (1024,) if count == 1025 else (1, 7, 1024):
            assert (rank_of_positives(same, same, own, block) == count - 1).all()
        assert recall_at_k(same, same, own)["R@10"] == 0


def test_equal_rows_tie_wherever_they_lie():
    rng = np.random.default_rng(0)
    query, half = unit(rng, 50, 300), unit(rng, 333, 300)
    gallery = np.concatenate([half, half])  # each row's twin is far away
    target = rng.integers(0, 333, 50)
    first = rank_of_positives(query, gallery, target[:, None])
    second = rank_of_positives(query, gallery, target[:, None] + 333)
    alone = rank_of_positives(query, half, target[:, None])
    np.testing.assert_array_equal(first, 2 * alone + 1)
    np.testing.assert_array_equal(second, first)


def test_blocks_and_order_change_no_number(monkeypatch):
    rng = np.random.default_rng(1)
    query, gallery = unit(rng, 60, 129), unit(rng, 300, 129)
    positives = rng.integers(0, 300, (60, 2))
    ranks = rank_of_positives(query, gallery, positives)
    best = top_k(query, gallery, 9)

    shuffle, new_query = rng.permutation(300), rng.permutation(60)
    new_place = np.argsort(shuffle)
    shuffled = rank_of_positives(
        query[new_query], gallery[shuffle], new_place[positives[new_query]]
    )
    np.testing.assert_array_equal(shuffled, ranks[new_query])
    np.testing.assert_array_equal(top_k(query, gallery[shuffle], 9)[1], best[1])

    for block, gallery_block in ((1, 8192), (7, 13), (1024, 299)):
        monkeypatch.setattr(retrieval, "_GALLERY_BLOCK", gallery_block)
        np.testing.assert_array_equal(rank_of_positives(query, gallery, positives, block), ranks)
        for ours, expected in zip(top_k(query, gallery, 9, block), best):
            np.testing.assert_array_equal(ours, expected)  # the scores too, to the last bit


def test_scores_are_as_fine_as_float32():
    rng = np.random.default_rng(2)
    query, gallery = unit(rng, 20, 768), unit(rng, 500, 768)
    exact = query.astype(np.float64) @ gallery.astype(np.float64).T
    indices, scores = top_k(query, gallery, 500)
    difference = np.abs(scores - np.take_along_axis(exact, indices, 1)).max()
    assert difference < np.spacing(np.float32(1))


@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1e30])
def test_extreme_lengths_keep_their_order(scale):
    query, gallery = (QUERY * scale).astype("f"), (GALLERY * scale).astype("f")
    assert rank_of_positives(query, gallery, [[0], [1], [1]]).tolist() == [0, 1, 1]


def test_top_k_is_stable_and_cut_to_the_gallery(monkeypatch):
    for gallery_block in (1, 3, 8192):
        monkeypatch.setattr(retrieval, "_GALLERY_BLOCK", gallery_block)
        indices, scores = top_k(QUERY, GALLERY, 3)
        assert indices.tolist() == [[0, 1, 2], [2, 1, 0], [1, 2, 3]]
        assert scores.tolist() == [[9, 5, 1], [8, 4, 3], [7, 7, 6]]
        indices, scores = top_k(QUERY, GALLERY, 99)
        assert indices.shape == scores.shape == (3, 4)
        assert top_k(QUERY, np.ones((6, 3)), 4)[0].tolist() == [[0, 1, 2, 3]] * 3


def test_k_beyond_the_gallery_finds_everything():
    assert recall_at_k(QUERY, GALLERY, [[3], [3], [0]], ks=(4, 100))["mean_recall"] == 1


def test_five_captions_of_a_perfect_model():
    images = np.eye(6)
    image_of_text = np.repeat(np.arange(6), 5)
    report = evaluate_retrieval(images, images[image_of_text], image_of_text, ks=(1, 5))
    for direction in ("image_to_text", "text_to_image"):
        assert report[direction]["R@1"] == report[direction]["mean_recall"] == 1
        assert report[direction]["median_rank"] == 1
        assert report[direction]["interval"]["R@1"] == [1, 1]
    assert report["mean_recall"] == 1
    # one of five right captions among 30; one image of six
    assert report["image_to_text"]["chance"]["R@1"] == pytest.approx(5 / 30)
    assert report["text_to_image"]["chance"]["R@5"] == pytest.approx(5 / 6)


def test_report_of_unequal_captions():
    # image 1 has no text: it is a wrong candidate for text 2, and no query
    images = np.array([[1, 0], [0, 1], [0.6, 0.8]])
    texts = np.array([[0.9, 0.1], [0, 1], [1, 0], [0.7, 0.7]])
    report = evaluate_retrieval(images, texts, [0, 2, 0, 2], ks=(1, 3), bootstrap=20, seed=3)
    image_to_text, text_to_image = report["image_to_text"], report["text_to_image"]
    assert (image_to_text["queries"], image_to_text["candidates"]) == (2, 4)
    assert (text_to_image["queries"], text_to_image["candidates"]) == (4, 3)
    assert image_to_text["R@1"] == 1
    assert (text_to_image["R@1"], text_to_image["R@3"]) == (0.75, 1)
    assert report["mean_recall"] == (1 + 0.875) / 2
    assert json.loads(json.dumps(report)) == report
    again = evaluate_retrieval(images, texts, [0, 2, 0, 2], ks=(1, 3), bootstrap=20, seed=3)
    assert again == report


def test_texts_with_several_images_and_distractors():
    """Two queries, one with three right images, all of which come first; six images."""
    images, texts = np.eye(6), np.array([[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 0, 0]])
    report = evaluate_retrieval(images, texts, [[0, 1, 2], [3]], ks=(1,), bootstrap=10)
    text_to_image, image_to_text = report["text_to_image"], report["image_to_text"]
    assert (text_to_image["queries"], text_to_image["candidates"]) == (2, 6)
    assert (image_to_text["queries"], image_to_text["candidates"]) == (4, 2)
    assert text_to_image["R@1"] == image_to_text["R@1"] == 1
    assert text_to_image["chance"]["R@1"] == pytest.approx((3 / 6 + 1 / 6) / 2)
    assert image_to_text["chance"]["R@1"] == pytest.approx(1 / 2)


def dump():
    """Images, texts and each text's images, with many ties: a frozen stream of whole numbers."""
    draw = np.random.RandomState(8)
    images = draw.randint(-1, 2, (40, 8))  # the last ten are no text's
    image_of_text = [sorted(set(draw.randint(0, 30, n).tolist())) for n in draw.randint(0, 4, 60)]
    texts = draw.randint(-1, 2, (60, 8))
    for text, found in zip(texts, image_of_text):
        text += images[found].sum(0)
    return images, texts, image_of_text


NAMES = ("R@1", "R@5", "R@10", "mean_recall")


def test_chinese_clip_protocol_equals_its_own_scripts():
    """The numbers are those of OFA-Sys/Chinese-CLIP at 31863c7, cn_clip/eval: the dump as its JSONL
    features through make_topk_predictions.py, make_topk_predictions_tr.py (with NumPy for torch),
    transform_ir_annotation_to_tr.py, evaluation.py and evaluation_tr.py; texts without images are
    not in its annotations, but among its candidates."""
    report = evaluate_retrieval(*dump(), bootstrap=0, protocol="chinese_clip")
    assert report["protocol"] == "chinese_clip"
    for direction, expected in (
        ("text_to_image", [59.183673469387756, 87.75510204081633, 100.0, 82.31292517006801]),
        ("image_to_text", [72.41379310344827, 93.10344827586206, 100.0, 88.50574712643677]),
    ):
        found = [100 * report[direction][name] for name in NAMES]
        assert found == pytest.approx(expected, abs=1e-9)
    assert report["text_to_image"]["queries"] == 49 and report["image_to_text"]["queries"] == 29
    assert report["text_to_image"]["candidates"] == 40
    assert report["image_to_text"]["candidates"] == 60
    strict = evaluate_retrieval(*dump(), bootstrap=0)
    assert strict["text_to_image"]["R@1"] < report["text_to_image"]["R@1"]  # there are ties


def test_official_protocol_equals_its_own_script():
    """The numbers are those of PaddlePaddle/ERNIE's eval_retri.py, single_eval both ways: the first
    90 pairs of the dump, since it wants a multiple of ten, each a row of its own."""
    images, texts, image_of_text = dump()
    pairs = np.array([(t, i) for t, found in enumerate(image_of_text) for i in found][:90])
    (text, own_text), (image, own_image) = (
        np.unique(side, return_inverse=True) for side in pairs.T
    )
    lists = [own_image[own_text == t].tolist() for t in range(len(text))]
    report = evaluate_retrieval(images[image], texts[text], lists, bootstrap=9, protocol="official")
    for direction, expected in (
        ("text_to_image", [0.43333333333333335, 0.5777777777777777, 0.7111111111111111]),
        ("image_to_text", [0.3, 0.5, 0.6666666666666666]),
    ):
        assert [report[direction][name] for name in NAMES[:3]] == pytest.approx(expected, abs=1e-12)
        assert report[direction]["queries"] == report[direction]["candidates"] == 90
        low, high = report[direction]["interval"]["R@1"]
        assert low <= expected[0] <= high
    assert report["text_to_image"]["mrr"] == pytest.approx(0.5065782024350669, abs=1e-12)
    assert report["image_to_text"]["mrr"] == pytest.approx(0.3969334591526062, abs=1e-12)


def test_official_protocol_keeps_what_stands_alone_as_a_candidate():
    images, texts = np.eye(3), np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    report = evaluate_retrieval(images, texts, [[0, 1], [], [0]], bootstrap=0, protocol="official")
    for direction in ("text_to_image", "image_to_text"):
        assert (report[direction]["queries"], report[direction]["candidates"]) == (3, 4)


@pytest.mark.parametrize("seed", range(4))
def test_ties_by_the_definition(seed):
    rng = np.random.default_rng(seed)
    query, gallery = rng.integers(-2, 3, (20, 3)), rng.integers(-2, 3, (30, 3))
    positives = [rng.integers(0, 30, rng.integers(1, 5)).tolist() for _ in query]
    scores = query @ gallery.T
    for ties in ("for", "in order"):
        expected = []
        for row, right in zip(scores.tolist(), positives):
            best = max(row[i] for i in right)
            first = min(i for i in right if row[i] == best)
            above = sum(s > best for s in row)
            expected.append(above + (ties == "in order") * row[:first].count(best))
        assert rank_of_positives(query, gallery, positives, 7, ties).tolist() == expected


def test_mrr_and_median_rank():
    # ranks from 1: text 0 the first, text 1 the third, text 2 the second
    texts, images = np.eye(3), np.array([[5, 9, 5], [1, 8, 9], [0, 7, 6]])
    report = evaluate_retrieval(images, texts, [0, 2, 2], ks=(1,), bootstrap=0)
    assert report["text_to_image"]["mrr"] == pytest.approx((1 + 1 / 3 + 1 / 2) / 3)
    assert report["text_to_image"]["median_rank"] == 2


def test_chance_is_what_random_embeddings_score():
    rng = np.random.default_rng(4)
    image_of_text = rng.integers(0, 40, 120)
    reports = [
        evaluate_retrieval(
            unit(rng, 40, 8), unit(rng, 120, 8), image_of_text, ks=(1, 10), bootstrap=0
        )
        for _ in range(60)
    ]
    for direction in ("image_to_text", "text_to_image"):
        assert reports[0][direction]["interval"] == {}
        for k in ("R@1", "R@10"):
            mean = np.mean([report[direction][k] for report in reports])
            assert mean == pytest.approx(reports[0][direction]["chance"][k], abs=0.02)


def test_bootstrap_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(5)
    inside = 0
    for trial in range(200):
        ranks = np.where(rng.random(300) < 0.6, 0, 7)
        low, high = bootstrap_interval(ranks, (1,), resamples=200, seed=trial, level=0.9)["R@1"]
        inside += low <= 0.6 <= high
    assert 165 <= inside <= 194  # 180 expected, standard deviation 4.2


def test_bootstrap_names_and_order():
    ranks = np.array([0] * 50 + [3] * 30 + [20] * 20)
    interval = bootstrap_interval(ranks, (1, 5, 10), 500, seed=0)
    assert list(interval) == ["R@1", "R@5", "R@10", "mean_recall"]
    for name, truth in (("R@1", 0.5), ("R@5", 0.8), ("R@10", 0.8), ("mean_recall", 0.7)):
        low, high = interval[name]
        assert truth - 0.15 < low < truth < high < truth + 0.15
    assert interval == bootstrap_interval(ranks, (1, 5, 10), 500, seed=0)
    assert interval != bootstrap_interval(ranks, (1, 5, 10), 500, seed=1)


def test_bootstrap_draws_the_captions_of_an_image_together():
    # five captions that always agree tell no more than one
    ranks = np.where(np.random.default_rng(6).random(200) < 0.5, 0, 9)
    group = np.repeat(np.arange(200), 5)
    one = bootstrap_interval(ranks, (1,), 400, seed=0)["R@1"]
    assert bootstrap_interval(ranks[group], (1,), 400, seed=0, groups=group)["R@1"] == one
    alone = bootstrap_interval(ranks[group], (1,), 400, seed=0)["R@1"]
    assert alone[1] - alone[0] < 0.6 * (one[1] - one[0])


def test_memory_stays_far_below_the_score_matrix():
    rng = np.random.default_rng(7)
    query, gallery = unit(rng, 20000, 32), unit(rng, 20000, 32)
    tracemalloc.start()
    rank_of_positives(query, gallery, np.arange(20000)[:, None])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 160e6  # the matrix in float32: 1.6e9


NAN = np.where(np.eye(3) == 1, np.nan, 1)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: recall_at_k(NAN, GALLERY, [[0]] * 3), "query row 0 holds NaN"),
        (lambda: recall_at_k(QUERY, GALLERY * 1e300, [[0]] * 3), "gallery row 0 holds NaN"),
        (lambda: top_k(QUERY, np.ones((2, 5)), 1), "query rows hold 3 numbers, gallery rows 5"),
        (lambda: top_k(QUERY, np.ones(3), 1), r"gallery is float64 \[3\]"),
        (lambda: top_k(np.ones((0, 3)), GALLERY, 1), r"query is float64 \[0, 3\]"),
        (lambda: top_k([["a"]], [["b"]], 1), "expected numbers"),
        (lambda: top_k(QUERY, GALLERY, 0), "k is"),
        (lambda: recall_at_k(QUERY, GALLERY, [[0]] * 3, ks=(1, 0)), "k is"),
        (lambda: recall_at_k(QUERY, GALLERY, [[0]] * 3, ks=()), "k is"),
        (lambda: recall_at_k(QUERY, GALLERY, [[0]] * 3, ks=(1.5,)), "k is"),
        (lambda: recall_at_k(QUERY, GALLERY, [[0]] * 3, block=0), "block is 0"),
        (lambda: recall_at_k(QUERY, GALLERY, [[0]] * 2), "2 lists of positives for 3 queries"),
        (lambda: recall_at_k(QUERY, GALLERY, [[0], [], [1]]), "query 1 has no positive"),
        (lambda: recall_at_k(QUERY, GALLERY, [[0], [1, 4], [1]]), "query 1 has the positive 4"),
        (lambda: recall_at_k(QUERY, GALLERY, [[0], [1], [-1]]), "query 2 has the positive -1"),
        (lambda: recall_at_k(QUERY, GALLERY, [0, 1, 2]), "a list of whole numbers per query"),
        (lambda: recall_at_k(QUERY, GALLERY, [[0.0]] * 3), "a list of whole numbers per query"),
        (lambda: evaluate_retrieval(QUERY, GALLERY, [0, 1, 2]), "image_of_text"),
        (lambda: evaluate_retrieval(QUERY, GALLERY, [0, 1, 2, 3]), "image_of_text has 3"),
        (lambda: evaluate_retrieval(QUERY, GALLERY, [0, 1, 2, -1]), "image_of_text has -1"),
        (lambda: evaluate_retrieval(QUERY, GALLERY, [[0], [1, 3], [], [2]]), "image_of_text has 3"),
        (
            lambda: evaluate_retrieval(QUERY, GALLERY, [0, 1, 2, 0.5]),
            "image_of_text: expected whole",
        ),
        (lambda: evaluate_retrieval(QUERY, GALLERY, [[]] * 4), "no pair to score"),
        (lambda: evaluate_retrieval(QUERY, QUERY, [0] * 3, protocol="stirct"), '"strict"'),
        (lambda: evaluate_retrieval(QUERY, GALLERY[:0], np.zeros(0, int)), "at least one row"),
        (lambda: bootstrap_interval([0, 1], (1,), resamples=0), "0 resamples"),
        (lambda: bootstrap_interval([], (1,)), "0 ranks"),
        (lambda: bootstrap_interval([0, 1], (1,), level=95), "level 95"),
    ],
)
def test_a_mistake_is_named_in_one_line(call, message):
    with pytest.raises(UserError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
