"""Embedding a data set: equal ids are one image, captions keep their image, bad rows are errors."""

import base64

import numpy as np
import pytest
from distributed_step import ARCH
from shapes import draw

from ernie_vil2.data.records import build_reader
from ernie_vil2.data.tokenize import Tokenizer
from ernie_vil2.data.transforms import eval_transform
from ernie_vil2.errors import UserError
from ernie_vil2.evaluation.embed import _merge, embed_records
from ernie_vil2.models.dual_encoder import build_model


@pytest.fixture
def embed(tmp_path):
    """rows of (caption, image id, drawing) -> Embeddings, by an untrained model."""
    words = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]", "red", "circle", "blue", "line"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    model = build_model(ARCH)
    model.eval()

    def embed(rows, **options):
        lines = [f"{c}\t{i}\t{base64.b64encode(image).decode()}\n" for c, i, image in rows]
        (tmp_path / "test.tsv").write_text("".join(lines))
        return embed_records(
            model,
            build_reader("tsv", path=str(tmp_path / "test.tsv")),
            eval_transform(16),
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
    assert result.image_of_text.tolist() == [0, 1, 0]
    assert result.image_rows.tolist() == [0, 1]
    assert result.image_embeds.shape == (2, 12) and result.text_embeds.shape == (3, 12)
    np.testing.assert_allclose(np.linalg.norm(result.image_embeds, axis=1), 1, atol=1e-5)


def test_parts_of_two_ranks_share_an_image():
    a, b = np.float32([[1, 0]]), np.float32([[0, 1]])
    first = (None, ["a"], [0], [a], ["x"], ["a"], [a])
    second = (None, ["b", "a"], [1, 2], [b, a], ["y", "z"], ["b", "a"], [b, b])
    result = _merge([first, second])
    assert result.image_ids == ["a", "b"]
    assert result.image_embeds.tolist() == [[1, 0], [0, 1]]
    assert result.image_of_text.tolist() == [0, 1, 0]
    assert result.image_rows.tolist() == [0, 1]


def test_a_bad_row_is_an_error_that_names_it(embed):
    broken = [*rows(), ("line", "c", b"no image")]
    with pytest.raises(UserError, match=r"test\.tsv:4"):
        embed(broken)
