"""Zero-shot classification against numbers written by hand."""

import subprocess
import sys

import numpy as np
import pytest

from ernie_vil2.errors import UserError
from ernie_vil2.evaluation.classification import (
    fill_templates,
    label_embeddings,
    probabilities,
    softmax,
)
from tests.support.paths import ROOT


def test_prompts_stand_label_by_label():
    prompts = fill_templates(["cat", "dog"], ["a {}", "{}!"])
    assert prompts == ["a cat", "cat!", "a dog", "dog!"]


def test_nothing_but_the_place_is_interpreted():
    assert fill_templates(["{}", "{0}"], ["{red} {}"]) == ["{red} {}", "{red} {0}"]


@pytest.mark.parametrize("template", ["", "a cat", "{0}", "{} {}", "{{}} {}"])
def test_a_template_has_one_place(template):
    with pytest.raises(UserError, match=r"expected \{\} once"):
        fill_templates(["cat"], ["a {}", template])


def test_a_label_is_the_normalised_mean_of_its_prompts():
    prompts = np.float32(
        [
            [[1, 0, 0], [0, 1, 0]],  # halfway between two axes
            [[0, 0, 1], [0, 0, 1]],  # the same twice
            [[1, 0, 0], [-1, 0, 0]],  # opposite: no direction is left
        ]
    )
    half = np.sqrt(0.5)
    labels = label_embeddings(prompts)
    assert labels.dtype == np.float32
    np.testing.assert_allclose(labels, [[half, half, 0], [0, 0, 1], [0, 0, 0]], rtol=1e-7)


def test_one_template_leaves_a_label_as_it_is():
    prompts = np.float32([[[0.6, 0.8]], [[0, 1]]])
    np.testing.assert_allclose(label_embeddings(prompts), prompts[:, 0], rtol=1e-7)


def test_softmax_over_the_last_axis():
    found = softmax(np.log([[1.0, 3.0], [4.0, 4.0]]))
    np.testing.assert_allclose(found, [[0.25, 0.75], [0.5, 0.5]], rtol=1e-12)
    np.testing.assert_allclose(softmax(np.array([1000.0, 1000.0, -1000.0])), [0.5, 0.5, 0])


def test_probabilities_of_cosines():
    """A scale of log 9 makes of half a cosine more three times the probability."""
    found = probabilities(np.float32([0.5, 0.0]), np.log(9))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, [0.75, 0.25], rtol=1e-12)
    np.testing.assert_allclose(probabilities(np.float32([0.5, 0.0]), 0.0), [0.5, 0.5])
    table = probabilities(np.float32([[1, 0], [0, 1]]), np.log(4))
    np.testing.assert_allclose(table, [[0.8, 0.2], [0.2, 0.8]], rtol=1e-12)


def test_it_needs_no_paddle_and_no_server():
    code = (
        "import sys; import ernie_vil2.evaluation.classification; "
        "print([name for name in ('paddle', 'fastapi', 'starlette', 'cv2') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
