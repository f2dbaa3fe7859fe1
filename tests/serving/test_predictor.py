"""The Predictor gives the training model's embeddings, whatever it is given."""

import io
import multiprocessing
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import paddle
import pytest
from PIL import Image

from ernie_vil2.data.transforms import ImageError, eval_transform
from ernie_vil2.errors import UserError
from ernie_vil2.serving.predictor import Predictor
from tests.support.paths import ROOT
from tests.support.shapes import COLORS, SHAPES, draw


@pytest.fixture(scope="module")
def predictor(tiny_artefact):
    return Predictor(tiny_artefact, batch_size=3)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return [draw(color, shape, rng) for color in COLORS for shape in SHAPES[:2]]


def test_images_of_any_kind(predictor, tiny_model, images, tmp_path):
    pixels = paddle.to_tensor(np.stack([eval_transform(16)(image) for image in images]))
    expected = tiny_model.encode_image(pixels).numpy()
    assert np.abs(expected[0] - expected[1:]).max(axis=1).min() > 0.01  # they can be told apart
    (tmp_path / "a.png").write_bytes(images[0])
    array = cv2.cvtColor(cv2.imdecode(np.frombuffer(images[1], np.uint8), 1), cv2.COLOR_BGR2RGB)
    mixed = [tmp_path / "a.png", array, *images[2:]]
    np.testing.assert_allclose(predictor.encode_image(mixed), expected, atol=1e-6)


def test_texts_of_any_length(predictor, tiny_model):
    texts = ["a red circle", "", "red", "the blue line " * 9, "square", "white cross a"]
    ids = predictor.tokenizer(texts)
    expected = tiny_model.encode_text(paddle.to_tensor(ids)).numpy()
    np.testing.assert_allclose(predictor.encode_text(texts), expected, atol=1e-6)
    np.testing.assert_allclose(predictor.embed_ids(ids), expected, atol=1e-6)


def test_nothing_in_nothing_out(predictor):
    assert predictor.encode_image([]).shape == predictor.encode_text([]).shape == (0, 12)


def test_a_bad_image_is_named(predictor, images, tmp_path):
    with pytest.raises(ImageError, match="image 1: not an image"):
        predictor.encode_image([images[0], b"text"])
    with pytest.raises(ImageError, match=r"image 0: .*none.png cannot be read: No such file"):
        predictor.encode_image([tmp_path / "none.png"])


def test_pillow_pictures_and_file_objects(predictor, images, tmp_path):
    (tmp_path / "a.png").write_bytes(images[0])
    expected = predictor.encode_image([images[0]])
    with open(tmp_path / "a.png", "rb") as file:
        kinds = [file, io.BytesIO(images[0]), Image.open(tmp_path / "a.png"), memoryview(images[0])]
        found = predictor.encode_image(kinds)
    np.testing.assert_array_equal(found, np.repeat(expected, len(kinds), axis=0))


@pytest.mark.parametrize("mode", ["L", "P", "1", "RGBA", "CMYK", "I;16"])
def test_a_pillow_picture_is_as_its_file(predictor, images, mode):
    """Of every mode, and turned as its EXIF says."""
    picture = Image.open(io.BytesIO(images[0]))
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) << 8)
    picture = picture.convert(mode)
    if mode == "RGBA":
        picture.putalpha(128)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side
    file = io.BytesIO()
    picture.crop((0, 0, 40, 30)).save(file, "TIFF", exif=exif)
    opened = Image.open(file)
    expected, upside_down = predictor.encode_image([file.getvalue(), picture])
    np.testing.assert_array_equal(predictor.encode_image([opened])[0], expected)
    assert np.abs(expected - upside_down).max() > 1e-3


def test_one_image_or_text_is_no_list(predictor, images, tmp_path):
    array = np.zeros([4, 4, 3], np.uint8)
    for one, kind in (
        ("cat.jpg", "str"),
        (images[0], "bytes"),
        (tmp_path / "cat.jpg", "PosixPath"),
        (array, r"ndarray \[4, 4, 3\]"),
        (Image.fromarray(array), "Image"),
        (io.BytesIO(images[0]), "BytesIO"),
    ):
        with pytest.raises(UserError, match=rf"images is one {kind}: expected a list, as in"):
            predictor.encode_image(one)
    for one in ("a cat", b"a cat"):
        with pytest.raises(UserError, match=r"texts is one (str|bytes): expected a list, as in"):
            predictor.encode_text(one)
    assert predictor.encode_image(array[None]).shape == (1, 12)


@pytest.mark.parametrize(
    "image,message",
    [
        (None, "NoneType: expected bytes, a path, a file object, a picture of Pillow"),
        ("a\0b", "cannot be read: embedded null byte"),
        pytest.param("data:," + "A" * 9999, "cannot be read: File name too long", id="a data URL"),
        (io.StringIO("text"), 'gives text: open it for bytes, with "rb"'),
        (np.zeros([4, 4], np.uint8), r"uint8 \[4, 4\]: expected uint8 \[H, W, 3\]"),
        (Image.new("F", (4, 4)), "samples are 32-bit floats"),
    ],
)
def test_what_is_no_image(predictor, images, image, message):
    with pytest.raises(ImageError, match=message) as error:
        predictor.encode_image([images[0], image])
    assert str(error.value).startswith("image 1: ") and len(str(error.value)) < 300


def test_ids_that_the_text_tower_has_no_rows_for(predictor):
    """Paddle would read beyond the table, or end the process."""
    for ids, message in (
        ([[1, 40]], "ids from 1 to 40: expected 0 to 39"),
        ([[1, -1]], "ids from -1 to 1: expected 0 to 39"),
        ([[1] * 9], "a text of up to 9 tokens: expected at most 8"),
        ([1, 2], r"ids are int64 \[2\]: expected int64 \[N, L\]"),
        ([[1.0]], r"ids are float64 \[1, 1\]"),
    ):
        with pytest.raises(UserError, match=message):
            predictor.embed_ids(np.array(ids))
    padded = np.array([[1, 2, 3] + [0] * 6])
    np.testing.assert_array_equal(predictor.embed_ids(padded), predictor.embed_ids(padded[:, :3]))


def test_threads_may_share_it(predictor):
    rng = np.random.default_rng(0)
    texts = [rng.integers(1, 15, [1, 4]) for _ in range(64)]
    pixels = rng.normal(size=[64, 1, 3, 16, 16]).astype("float32")
    expected = [
        [predictor.embed_ids(text), predictor.embed_pixels(image)]
        for text, image in zip(texts, pixels)
    ]

    def embed(number):
        number %= 64
        found = predictor.embed_ids(texts[number]), predictor.embed_pixels(pixels[number])
        return np.abs(np.subtract(found, expected[number])).max()

    with ThreadPoolExecutor(8) as pool:
        assert max(pool.map(embed, range(512))) < 1e-6


def test_the_children_of_a_fork_may_use_it(predictor, images):
    """Also where another thread was in the middle of something when they were made."""
    texts = ["a red circle", "white"]
    expected = predictor.encode_text(texts), predictor.encode_image(images)

    def child():
        found = predictor.encode_text(texts), predictor.encode_image(images)
        for embeds, right in zip(found, expected):
            np.testing.assert_allclose(embeds, right, atol=1e-6)

    done = threading.Event()

    def keep_busy():
        while not done.is_set():
            predictor.encode_image(images)
            predictor.encode_text(texts)

    thread = threading.Thread(target=keep_busy)
    thread.start()
    try:
        for _ in range(3):
            process = multiprocessing.get_context("fork").Process(target=child)
            process.start()
            process.join(60)
            process.kill()  # it hangs, if it is there
            process.join()
            assert process.exitcode == 0
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_signal_that_ends_the_process_is_said(tiny_artefact, precision):
    """Though bfloat16's passes are silenced."""
    code = (
        "import os, signal; from paddle import inference; "
        "from ernie_vil2.serving import predictor, program; "
        "program.processor.check = lambda *_: None; "
        "inference.create_predictor = lambda _: os.kill(os.getpid(), signal.SIGILL); "
        f"artefact = predictor.Artefact.open({str(tiny_artefact)!r}); "
        f"artefact.precisions[{precision!r}] = {{}}; predictor.Predictor(artefact, {precision!r})"
    )
    died = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert died.returncode == -signal.SIGILL
    assert "Fatal Python error: Illegal instruction" in died.stderr


@pytest.mark.parametrize(
    "options,message",
    [
        ({"precision": "int8"}, "has no precision int8: expected one of fp32"),
        ({"device": "tpu"}, 'device "tpu": expected cpu, gpu or gpu:<number>'),
        ({"device": "gpu:99"}, "device gpu:99: this Paddle sees"),
    ],
)
def test_what_cannot_run_is_refused(tiny_artefact, options, message):
    with pytest.raises(UserError, match=message):
        Predictor(tiny_artefact, **options)
