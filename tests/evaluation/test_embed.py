"""Embedding a set: equal ids are one image, captions keep their images, bad rows are errors."""

import base64
import json

import numpy as np
import pytest

from ernie_vil2.data.formats.build import build_reader
from ernie_vil2.data.normalise import Normalise
from ernie_vil2.data.tokenize import Tokenizer
from ernie_vil2.data.transforms import eval_planes, eval_transform
from ernie_vil2.errors import UserError
from ernie_vil2.evaluation.embed import Part, embed_records, merge
from ernie_vil2.models.dual_encoder import build_model
from tests.support.scripts.distributed_step import ARCH
from tests.support.shapes import draw


@pytest.fixture
def embed(tmp_path):
    """rows of (caption, image id, drawing), or a reader, -> Embeddings, by an untrained model."""
    words = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]", "red", "circle", "blue", "line"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    model = build_model(ARCH)
    model.eval()

    def embed(rows, transform=None, **options):
        reader = rows
        if isinstance(rows, list):
            lines = [f"{c}\t{i}\t{base64.b64encode(image).decode()}\n" for c, i, image in rows]
            (tmp_path / "test.tsv").write_text("".join(lines))
            reader = build_reader("tsv", path=str(tmp_path / "test.tsv"))
        return embed_records(
            model,
            reader,
            transform or eval_transform(16),
            Tokenizer(tmp_path / "vocab.txt", max_len=8),
            batch_size=2,
            **options,
        )

    return embed


def rows():
    rng = np.random.default_rng(0)
    circle, line = draw("red", "circle", rng), draw("blue", "line", rng)
    return [("red circle", "a", circle), ("blue line", "b", line), ("circle", "a", circle)]


@pytest.mark.parametrize("workers", [0, 1])
def test_rows_with_one_id_are_one_image(embed, workers):
    result = embed(rows(), num_workers=workers)
    assert result.image_ids == ["a", "b"]
    assert result.texts == ["red circle", "blue line", "circle"]
    assert result.images_of_text == [[0], [1], [0]]
    assert result.image_rows.tolist() == [0, 1]
    assert result.image_embeds.shape == (2, 12) and result.text_embeds.shape == (3, 12)
    np.testing.assert_allclose(np.linalg.norm(result.image_embeds, axis=1), 1, atol=1e-5)


def test_pixels_normalised_on_the_device_give_the_same_embeddings(embed):
    expected = embed(rows())
    result = embed(rows(), eval_planes(16), normalise=Normalise())
    assert np.array_equal(result.image_embeds, expected.image_embeds)


def part(embedded: dict, texts: dict, pairs: list, width=2) -> Part:
    """image id -> (row, what it is embedded to), place of a text -> the text, pairs."""
    part = Part()
    part.image_rows = {image_id: row for image_id, (row, _) in embedded.items()}
    part.images = [np.float32([embed]) for _, embed in embedded.values()]
    part.texts = {place: (text, None) for place, text in texts.items()}
    part.text_embeds = [np.float32([place]) for place in texts]
    part.pairs = pairs
    return part


def test_parts_of_two_ranks_share_an_image_and_a_text():
    a, b = [1, 0], [0, 1]
    first = part({"a": (0, a)}, {(5, 0): "y", (0, 0): "x"}, [((5, 0), "a"), ((0, 0), "a")])
    second = part(
        {"b": (1, b), "a": (2, a)}, {(5, 0): "y", (2, 0): "z"}, [((5, 0), "b"), ((2, 0), "a")]
    )
    result = merge([first, second])
    assert result.image_ids == ["a", "b"]
    assert result.image_embeds.tolist() == [a, b]
    assert result.image_rows.tolist() == [0, 1]
    assert result.texts == ["x", "z", "y"]  # in the order of the set
    assert result.text_embeds.tolist() == [[0, 0], [2, 0], [5, 0]]
    assert result.images_of_text == [[0], [0], [0, 1]]


def test_captions_that_read_alike_are_texts_of_their_own(embed):
    result = embed([*rows(), ("red circle", "b", rows()[1][2])])
    assert result.texts == ["red circle", "blue line", "circle", "red circle"]
    assert result.images_of_text == [[0], [1], [0], [1]]


def test_captions_that_read_alike_are_one_text_where_that_is_asked_for(embed):
    """As where a class name is the only caption of many images."""
    result = embed([*rows(), ("red circle", "b", rows()[1][2])], one_text=True)
    assert result.texts == ["red circle", "blue line", "circle"]
    assert result.images_of_text == [[0, 1], [1], [0]]
    apart = embed(rows())
    np.testing.assert_allclose(result.text_embeds, apart.text_embeds, atol=1e-6)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_text_with_several_images_is_one_text(embed, tmp_path, workers):
    image = base64.b64encode(rows()[0][2]).decode()
    (tmp_path / "imgs.tsv").write_text("".join(f"{i}\t{image}\n" for i in (30, 7, 8, 9)))
    texts = [("red", [7, 30, 8]), ("blue", []), ("red", [7])]
    lines = [
        json.dumps({"text_id": 100 + i, "text": text, "image_ids": ids})
        for i, (text, ids) in enumerate(texts)
    ]
    (tmp_path / "texts.jsonl").write_text("\n".join(lines))
    files = {"imgs": str(tmp_path / "imgs.tsv"), "texts": str(tmp_path / "texts.jsonl")}
    result = embed(build_reader("chinese_clip", **files).evaluation(), num_workers=workers)
    assert result.image_ids == ["30", "7", "8", "9"] and len(result.image_embeds) == 4
    assert result.texts == ["red", "blue", "red"] and result.text_ids == [100, 101, 102]
    assert result.images_of_text == [[0, 1, 2], [], [1]]


def test_a_bad_row_is_an_error_that_names_it(embed):
    broken = [*rows(), ("line", "c", b"no image")]
    with pytest.raises(UserError, match=r"test\.tsv:4"):
        embed(broken)


def test_bad_rows_may_be_skipped(embed):
    skipped = []
    broken = [("line", "x", b"no image"), ("line", "y", b"nor this"), *rows()]
    result = embed(broken, skip=skipped.append)
    assert [error.source.rpartition("/")[2] for error in skipped] == ["test.tsv:1", "test.tsv:2"]
    assert result.bad_records == 2 and result.image_ids == ["a", "b"]
    with pytest.raises(UserError, match="0 images and 0 texts"):
        embed(broken[:2], skip=skipped.append)


def test_a_signal_ends_it(embed):
    calls = []
    assert embed(rows(), num_workers=1, stopping=lambda: calls.append(1) or True) is None
    assert len(calls) == 1
