"""Tags by a trained dual encoder against similarities in NumPy."""

import pickle

import numpy as np
import pytest

from ernie_vil2.artefact.folder import Artefact
from ernie_vil2.data.records import Record
from ernie_vil2.errors import UserError
from ernie_vil2.serving.predictor import Predictor
from ernie_vil2.tagging.similarity import SimilarityTagger
from ernie_vil2.tagging.tags import Choice
from tests.support.shapes import COLORS, SHAPES, draw

WORDS = [*COLORS, *SHAPES]


@pytest.fixture
def vocabulary(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("".join(f"{word}\n" for word in [*WORDS, "", WORDS[0]]), encoding="utf-8")
    return str(path)


@pytest.fixture
def records():
    rng = np.random.default_rng(0)
    pictures = [draw(color, shape, rng) for color in COLORS for shape in SHAPES]
    return [Record(str(i), data, ("a",), (), f"t:{i}") for i, data in enumerate(pictures)]


def cosines(folder, records):
    """float64 [B, L], word by word and picture by picture."""
    predictor = Predictor(folder)
    images = np.concatenate([predictor.encode_image([record.image]) for record in records])
    words = []
    for word in WORDS:
        prompts = [prompt.replace("{}", word) for prompt in Artefact.open(folder).prompts]
        mean = predictor.encode_text(prompts).astype(np.float64).mean(0)
        words.append(mean / np.linalg.norm(mean))
    return images.astype(np.float64) @ np.array(words).T


def test_nearest_words(tiny_artefact, vocabulary, records):
    tagger = SimilarityTagger(str(tiny_artefact), vocabulary, Choice())
    assert tagger.words == WORDS
    expected = cosines(tiny_artefact, records)
    for tags, row in zip(tagger.tag(records), expected):
        order = np.argsort(-row)[:5]  # without threshold and number
        np.testing.assert_allclose(tags.scores, row[order], atol=2e-4)
        assert len(tags.names) == 5
        for name, score in zip(tags.names, tags.scores):
            assert abs(row[WORDS.index(name)] - score) < 2e-4


def test_threshold_and_number(tiny_artefact, vocabulary, records):
    expected = cosines(tiny_artefact, records)
    least = float(np.median(expected))
    tagger = SimilarityTagger(str(tiny_artefact), vocabulary, Choice(threshold=least))
    tagger = pickle.loads(pickle.dumps(tagger))
    got = [set(tags.names) for tags in tagger.tag(records)]
    assert got == [{WORDS[i] for i in np.flatnonzero(row >= least)} for row in expected]
    few = SimilarityTagger(str(tiny_artefact), vocabulary, Choice(threshold=least, at_most=2))
    assert all(len(tags.names) <= 2 for tags in few.tag(records))


def test_embeddings_that_were_saved_are_used(tiny_artefact, vocabulary, records, tmp_path):
    tagger = SimilarityTagger(str(tiny_artefact), vocabulary, Choice())
    np.save(tmp_path / "words.npy", tagger.embed_words()[::-1])  # so that it shows
    tagger.embeds_file = str(tmp_path / "words.npy")
    (tags,) = tagger.tag(records[:1])
    row = cosines(tiny_artefact, records[:1])[0]
    np.testing.assert_allclose(tags.scores, np.sort(row)[::-1][:5], atol=2e-4)
    assert tags.names[0] == WORDS[len(WORDS) - 1 - int(row.argmax())]


def test_a_bad_picture_keeps_its_place(tiny_artefact, vocabulary, records):
    bad = Record("b", b"no picture", ("b",), (), "t:b")
    tagger = SimilarityTagger(str(tiny_artefact), vocabulary, Choice(at_most=1))
    first, second = tagger.tag([bad, records[0]])
    assert first.bad and not first.names and len(second.names) == 1


def test_an_empty_vocabulary_is_refused(tiny_artefact, tmp_path):
    (tmp_path / "none.txt").write_text("\n\n")
    with pytest.raises(UserError, match="holds no word"):
        SimilarityTagger(str(tiny_artefact), str(tmp_path / "none.txt"), Choice())
