"""The classifier of averaged prompts, against float64, and what it is kept by."""

import hashlib

import numpy as np
import pytest

from ernie_vil2.errors import UserError
from ernie_vil2.evaluation.zero_shot import embed_classes, kept_classes

NAMES = [f"name {i}" for i in range(350)]
TEMPLATES = ["a {}", "the {}", "a {}"]  # one counts twice


def vector(text: str) -> list:
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")
    return np.random.default_rng(seed).normal(size=5).tolist()


class Texts:
    """Vectors that only depend on the text, and how many were asked for."""

    def __init__(self):
        self.asked = 0

    def __call__(self, texts):
        self.asked += len(texts)
        rows = np.array([vector(text) for text in texts])
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_the_classifier_equals_a_mean_in_float64():
    found = embed_classes(NAMES, TEMPLATES, Texts())
    assert found.dtype == np.float32
    for name, row in zip(NAMES, found):
        mean = np.zeros(5)
        for prompt in (f"a {name}", f"the {name}", f"a {name}"):
            one = np.array(vector(prompt))
            mean += one / np.sqrt((one**2).sum())
        np.testing.assert_allclose(row, mean / np.sqrt((mean**2).sum()), atol=1e-6)
    with pytest.raises(UserError, match=r"expected \{\} once"):
        embed_classes(NAMES, ["none"], Texts())


def test_it_is_kept_by_all_that_it_depends_on(tmp_path):
    texts, identity = Texts(), {"weights": "abc", "vocabulary": "def"}

    def asked(names=NAMES, templates=TEMPLATES, identity=identity):
        before = texts.asked
        found = kept_classes(names, templates, texts, identity, tmp_path)
        np.testing.assert_array_equal(found, embed_classes(names, templates, Texts()))
        return texts.asked - before

    assert asked() == 1050 and asked() == 0
    assert asked(templates=["a {}", "the {}"]) == 700
    assert asked(names=NAMES[::-1]) == 1050
    for key in identity:
        assert asked(identity={**identity, key: "other"}) == 1050
    assert asked(identity=None) == asked(identity=None) == 1050
    assert asked() == 0
    for file in tmp_path.iterdir():
        file.write_bytes(file.read_bytes()[:-1])
    assert asked() == 1050 and asked() == 0


def test_a_folder_that_cannot_be_written_costs_no_figures(tmp_path, logged):
    (tmp_path / "file").write_text("")
    found = kept_classes(["x"], ["{}"], Texts(), {"weights": "a"}, tmp_path / "file")
    assert found.shape == (1, 5) and "is not kept" in logged.text
