"""What the tests of a report and of its page share."""

import numpy as np
import pytest

from ernie_vil2.evaluation.retrieval import evaluate_retrieval


@pytest.fixture(scope="package")
def report():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(300, 16))
    image_of_text = np.repeat(np.arange(300), 2)
    texts = images[image_of_text] + rng.normal(scale=1.5, size=(600, 16))
    return evaluate_retrieval(images, texts, image_of_text, bootstrap=100)
