"""A model that Paddle Serving can serve, the service, and what it should answer."""

import os
import shutil
import signal

import numpy as np
import paddle
import pytest

from ernie_vil2.artefact.classifier import Classifier
from ernie_vil2.artefact.description import CLASSIFIER
from ernie_vil2.data.tokenize import Tokenizer
from ernie_vil2.data.transforms import eval_transform
from tests.support.paddle_serving import CLASSES, PYTHON, TEXTS, Service
from tests.support.sealing import reseal
from tests.support.shapes import COLORS, SHAPES, draw


@pytest.fixture(scope="module")
def artefact(tiny_model, tiny_artefact, tmp_path_factory):
    if not PYTHON.exists():
        if os.environ.get("REQUIRE_SERVING"):
            pytest.fail(f"REQUIRE_SERVING is set and {PYTHON} is missing")
        pytest.skip("no .venv-serving: bash tools/serving_env.sh makes it")
    from ernie_vil2.export.paddle_serving import write_serving

    folder = shutil.copytree(tiny_artefact, tmp_path_factory.mktemp("paddle_serving") / "model")
    write_serving(folder)
    numbers = np.random.default_rng(0).normal(size=(3, tiny_model.embed_dim))
    numbers /= np.linalg.norm(numbers, axis=1, keepdims=True)
    Classifier(CLASSES, ["{}"], numbers.astype(np.float32)).save(folder / CLASSIFIER)
    reseal(folder)
    return folder


@pytest.fixture(scope="module")
def service(artefact, tmp_path_factory):
    service = Service(artefact, tmp_path_factory.mktemp("logs"))
    assert not service.error, service.error
    yield service
    service.stop(signal.SIGKILL)  # a test that failed; else it is gone


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return [draw(color, shape, rng) for color in COLORS for shape in SHAPES[:2]]


@pytest.fixture(scope="module")
def expected(tiny_model, artefact, images):
    """The training model's embeddings of `images` and TEXTS."""
    pixels = paddle.to_tensor(np.stack([eval_transform(16)(image) for image in images]))
    ids = paddle.to_tensor(Tokenizer(artefact / "vocab.txt", 8)(TEXTS))
    return tiny_model.encode_image(pixels).numpy(), tiny_model.encode_text(ids).numpy()
