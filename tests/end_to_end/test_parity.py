"""From checkpoint to every server: the same images and texts give the same embeddings.

bash tools/test.sh --all tests/end_to_end/test_parity.py -s        prints the table
"""

import base64
import sys

import numpy as np
import paddle
import pytest

import ernie_vil2
from ernie_vil2 import cli, processor
from ernie_vil2.artefact.golden import cosines
from ernie_vil2.data.tokenize import Tokenizer
from ernie_vil2.data.transforms import eval_transform
from tests.support.paths import ROOT
from tests.support.server_process import Process
from tests.support.shapes import COLORS, SHAPES, draw, write_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(paddle.__version__ >= "3", reason="Paddle 3 has no ONNX, int8 or Serving"),
]

TOOLS = ROOT / "tools"
TEXTS = [f"a {color} {shape}" for color in COLORS for shape in SHAPES] + ["the " * 30]
EXACT = 1e-5  # largest difference of L2-normalised embeddings in float32
CLOSE = 0.99  # least cosine of the precisions that round


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model of some steps, its export, the inputs, and what the checkpoint makes of them."""
    sys.path.insert(0, str(TOOLS))
    import export
    import train

    folder = tmp_path_factory.mktemp("parity")
    config = write_run(folder)
    assert cli.run(train.main, ["-c", str(config), "-o", "Global.max_steps=60"]) == 0
    options = ["-c", str(config), "-w", str(folder / "out"), "--save-dir", str(folder / "exported")]
    has = processor.flags()
    precisions = [name for name in ("int8", "bf16") if not processor.missing(name, has)]
    # of 16 records one that moves is 3 % of a recall
    options += ["--onnx", "--max-recall-drop", "0.1", "--precision", *precisions]
    assert cli.run(export.main, options) == 0

    rng = np.random.default_rng(0)
    images = [draw(color, shape, rng) for color in COLORS for shape in SHAPES]
    model = ernie_vil2.load(folder / "out")
    pixels = np.stack([eval_transform(32)(image) for image in images])
    ids = Tokenizer(folder / "vocab.txt", 12)(TEXTS)
    with paddle.no_grad():
        expected = (
            model.encode_image(paddle.to_tensor(pixels)).numpy(),
            model.encode_text(paddle.to_tensor(ids)).numpy(),
        )
    for embeds in expected:  # no two are alike, so that an order can be told from another
        assert np.sort(np.abs(embeds[:, None] - embeds).max(-1).ravel())[len(embeds)] > 10 * EXACT
    return folder / "exported", images, pixels, ids, expected


def by_predictor(precision):
    def embed(folder, images, pixels, ids):
        from ernie_vil2.serving.predictor import Predictor

        predictor = Predictor(folder, precision)
        return predictor.encode_image(images), predictor.encode_text(TEXTS)

    return embed


def by_onnx(folder, images, pixels, ids):
    from ernie_vil2.export.onnx import session

    run = {tower: session(folder / "onnx" / f"{tower}.onnx") for tower in ("image", "text")}
    return run["image"](pixels), run["text"](ids)


def by_http(folder, images, pixels, ids):
    server = Process(folder, folder / "http.log")
    server.wait_for("ready")
    try:
        bodies = {
            "image": {"images": [base64.b64encode(image).decode() for image in images]},
            "text": {"texts": TEXTS},
        }
        answers = [
            server.http.post(f"/v1/embed/{tower}", json=body).raise_for_status().json()
            for tower, body in bodies.items()
        ]
        return [np.array([r["embedding"] for r in answer["results"]]) for answer in answers]
    finally:
        assert server.stop() == 0


def by_paddle_serving(folder, images, pixels, ids):
    from tests.support.paddle_serving import PYTHON, Service, encoded

    if not PYTHON.exists():
        pytest.skip("no .venv-serving: bash tools/serving_env.sh makes it")
    service = Service(folder, folder / "paddle_serving_logs")
    assert not service.error, service.error
    try:
        status, values, message = service.ask(images=encoded(images), texts=TEXTS)
        assert status == 200, message
        return np.array(values["image_embeds"]), np.array(values["text_embeds"])
    finally:
        assert service.stop() == 0


@pytest.mark.parametrize(
    "step,embed",
    [
        ("Paddle Inference, fp32", by_predictor("fp32")),
        ("Paddle Serving", by_paddle_serving),
        ("HTTP", by_http),
        ("ONNX Runtime", by_onnx),
        ("Paddle Inference, bf16", by_predictor("bf16")),
        ("Paddle Inference, int8", by_predictor("int8")),
    ],
)
def test_the_checkpoints_embeddings(trained, step, embed):
    folder, *inputs, expected = trained
    precision = step.split()[-1]
    if precision in processor.NEEDS and processor.missing(precision, processor.flags()):
        pytest.skip(f"this CPU has no {precision}")
    found = embed(folder, *inputs)
    difference = [float(np.abs(f - e).max()) for f, e in zip(found, expected)]
    cosine = min(float(cosines(f, e).min()) for f, e in zip(found, expected))
    print(f"\n{step:24}image {difference[0]:.1e}   text {difference[1]:.1e}   cosine {cosine:.6f}")
    if step.endswith(("bf16", "int8")):
        assert cosine >= CLOSE
    else:
        assert max(difference) <= EXACT
