"""An item gets the same answer from both servers: the same rows, or the same error."""

import asyncio
import base64
import io
import json
import struct
import zlib
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from PIL import Image, ImageFile

from ernie_vil2.artefact.folder import Artefact
from ernie_vil2.errors import UserError
from ernie_vil2.serving.http.embedder import Embedder
from ernie_vil2.serving.http.metrics import Metrics
from ernie_vil2.serving.items import ItemError, prepare_image, prepare_text
from ernie_vil2.serving.paddle_serving.request import Reader
from ernie_vil2.serving.paddle_serving.settings import Limits as PaddleServingLimits
from ernie_vil2.serving.predictor import Predictor
from ernie_vil2.serving.web.limits import Limits
from tests.support.paths import ROOT

ITEM_LIMITS = {"text_chars": 50, "pixels": 10_000, "decode_seconds": 2}


@pytest.fixture(scope="module")
def artefact(tiny_artefact):
    return Artefact.open(tiny_artefact)


@pytest.fixture(scope="module")
def by_http(artefact):
    """The HTTP server's way from a list of items to their rows and errors."""
    embedder = Embedder(artefact, lambda: None, Limits(**ITEM_LIMITS), Metrics())
    ways = {"text": embedder.prepare_texts, "image": embedder.prepare_images}
    return lambda tower, items: asyncio.run(ways[tower](items))


@pytest.fixture(scope="module")
def by_paddle_serving(artefact):
    """The same of the Paddle Serving service, whose errors are messages alone."""
    reader = Reader(artefact, PaddleServingLimits(**ITEM_LIMITS), moved=lambda: None)

    def prepare(tower, items):
        request = SimpleNamespace(key=[f"{tower}s"], value=[json.dumps(items)], tensors=[])
        job = reader.prepare(request)
        assert job[f"{tower}_count"] == len(items)
        rows, errors = iter(job[tower]), job[f"{tower}_errors"]
        return [errors[i] if i in errors else next(rows) for i in range(len(items))]

    return prepare


def encoded(kind: str, mode="RGB", size=(40, 30), **options) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, [size[1], size[0], 3], np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, kind, **options)
    return file.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that has no pixels, whatever its header says."""

    def chunk(name: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def many_scans() -> bytes:
    """A progressive JPEG that repeats its last scan."""
    data = encoded("JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * 300 + data[-2:]


def animation() -> bytes:
    frames = [Image.new("RGB", (20, 20), color) for color in ("red", "blue")]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    return file.getvalue()


NO_TOKEN = ("empty_text", "no token in the text")
TEXTS = {  # name: the item, and None where it is good, else code and message
    "good": ("a red circle", None),
    "longer than the model reads": ("red " * 12, None),
    "unknown words": ("x" * 50, None),
    "white space around": (" \n red\t", None),
    "empty": ("", NO_TOKEN),
    "spaces": ("   ", NO_TOKEN),
    "line breaks": ("\r\n\t", NO_TOKEN),
    "ideographic space": ("\u3000", NO_TOKEN),
    "zero width": ("\u200b", NO_TOKEN),
    "control characters": ("\x01\x7f", NO_TOKEN),
    "replacement character": ("\ufffd", NO_TOKEN),
    "too long": ("x" * 51, ("text_too_long", "51 characters, at most 50 are read")),
    "too many spaces": (" " * 51, ("text_too_long", "51 characters, at most 50 are read")),
    "NUL": ("a\0b", ("bad_text", "a NUL character at 1")),
    "NUL alone": ("\0", ("bad_text", "a NUL character at 0")),
    "half a pair": ("\ud83d", ("bad_text", "no valid Unicode: holds half of a surrogate pair")),
    "halves in turn": ("a\udc00\ud800", ("bad_text", "half of a surrogate pair")),
}
NO_BASE64 = ("bad_base64", "not base64 (RFC 4648, section 4, no data: prefix)")
PIXELS = ("too_many_pixels", "pixels, at most 10000 are read")
IMAGES = {  # the same; bytes are sent as base64
    "PNG": (encoded("PNG"), None),
    "palette": (encoded("PNG", "P"), None),
    "CMYK": (encoded("JPEG", "CMYK"), None),
    "16 bits": (encoded("PNG", "I"), None),
    "transparent": (encoded("PNG", "RGBA"), None),
    "animation": (animation(), None),
    "one pixel": (encoded("PNG", size=(1, 1)), None),
    "base64 of nothing": ("", ("bad_image", "an empty file (0 bytes)")),
    "no base64": ("!!", NO_BASE64),
    "base64 cut short": (base64.b64encode(encoded("PNG"))[:-3].decode(), NO_BASE64),
    "base64 for URLs": ("_-_-", NO_BASE64),
    "not ASCII": ("一只猫", NO_BASE64),
    "half a pair": ("\ud83d", NO_BASE64),
    "a data URL": ("data:image/png;base64,QUJD", NO_BASE64),
    "a path": ("/etc/passwd", NO_BASE64),
    "no image": (b"hello", ("bad_image", "not an image: 5 bytes that begin with b'hello'")),
    "an SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", ("bad_image", "not an image")),
    "truncated JPEG": (encoded("JPEG")[:-200], ("bad_image", "damaged or truncated JPEG")),
    "truncated header": (encoded("PNG")[:20], ("bad_image", "")),
    "floats": (encoded("TIFF", "F"), ("bad_image", "32-bit floats")),
    "many scans": (many_scans(), ("bad_image", "a JPEG of more than 100 scans")),
    "too many pixels": (encoded("PNG", size=(101, 100)), PIXELS),
    "a bomb": (png_header(2**31 - 1, 2**31 - 1), ("too_many_pixels", "")),
    "a header of many pixels": (b"P6 90000 90000 255 ", ("too_many_pixels", "")),
    "a line of pixels": (encoded("PNG", size=(3, 900)), None),
}
NO_STRINGS = {
    "a number": (7, ("no_string", "is a number, expected a string")),
    "a fraction": (0.5, ("no_string", "is a number, expected a string")),
    "a boolean": (True, ("no_string", "is a boolean, expected a string")),
    "null": (None, ("no_string", "is null, expected a string")),
    "a list": (["red"], ("no_string", "is a list, expected a string")),
    "an object": ({"text": "red"}, ("no_string", "is an object, expected a string")),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("tower,items", [("text", TEXTS), ("image", IMAGES)])
def test_both_servers_judge_each_item_alike(by_http, by_paddle_serving, tower, items):
    items = {**items, **NO_STRINGS}
    sent = [
        base64.b64encode(item).decode() if isinstance(item, bytes) else item
        for item, _ in items.values()
    ]
    for name, found, also in zip(items, by_http(tower, sent), by_paddle_serving(tower, sent)):
        expected = items[name][1]
        if expected is None:
            assert isinstance(found, np.ndarray), (name, found)
            np.testing.assert_array_equal(found, also, err_msg=name)
            continue
        code, message = expected
        assert isinstance(found, ItemError), name
        assert found.code == code and message in found.message, (name, found)
        assert "\n" not in found.message, name
        assert also == found.message, name


def test_files_need_no_base64(by_http):
    """As the files of a form."""
    files = [item for item, _ in IMAGES.values() if isinstance(item, bytes)]
    as_text = by_http("image", [base64.b64encode(file).decode() for file in files])
    for found, also in zip(by_http("image", files), as_text):
        assert found == also if isinstance(found, ItemError) else np.array_equal(found, also)
    (nothing,) = by_http("image", [b""])
    assert nothing == ItemError("bad_image", "an empty file (0 bytes): expected an image")


def test_good_items_are_what_the_predictor_makes_of_them(by_http, artefact):
    texts = [item for item, wrong in TEXTS.values() if wrong is None]
    np.testing.assert_array_equal(by_http("text", texts), artefact.tokenizer()(texts))
    images = [item for item, wrong in IMAGES.values() if wrong is None]
    expected = [artefact.transform()(image) for image in images]
    np.testing.assert_array_equal(by_http("image", images), expected)


def test_a_picture_of_too_many_pixels_is_not_decoded(by_http, by_paddle_serving, monkeypatch):
    """Its header says how many it has: the file holds none, and nothing asks for them."""

    def load(self):
        raise AssertionError("it was decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    sent = [base64.b64encode(png_header(101, 100)).decode()]
    message = "101 x 100 = 10100 pixels, at most 10000 are read: shrink the image"
    assert by_http("image", sent) == [ItemError("too_many_pixels", message)]
    assert by_paddle_serving("image", sent) == [message]
    monkeypatch.undo()
    sent = [base64.b64encode(png_header(100, 100)).decode()]
    (found,) = by_http("image", sent)
    assert found.code == "bad_image" and "truncated PNG" in found.message
    assert by_paddle_serving("image", sent) == [found.message]


def test_decoding_takes_no_longer_than_it_may(artefact):
    data = encoded("PNG", size=(400, 300))
    limits = Limits(decode_seconds=1e-6)
    found = prepare_image(data, artefact.transform(), limits)
    assert found == ItemError("bad_image", "not decoded within 1e-06 s")


def test_both_servers_have_the_same_limits_of_an_item():
    http, paddle_serving = asdict(Limits()), asdict(PaddleServingLimits())
    assert {name: http[name] for name in ITEM_LIMITS} == {
        name: paddle_serving[name] for name in ITEM_LIMITS
    }
    settings = yaml.safe_load((ROOT / "configs" / "paddle_serving.yml").read_text())
    assert settings["limits"] == paddle_serving


def test_the_predictor_takes_an_empty_text_and_no_empty_image(tiny_artefact, artefact):
    """A program may have its reasons for a text without a token; no picture has no bytes."""
    predictor = Predictor(tiny_artefact, verify=False)
    texts = [item for item, wrong in TEXTS.values() if wrong == NO_TOKEN]
    rows = predictor.encode_text(texts)
    np.testing.assert_allclose(rows, np.repeat(rows[:1], len(texts), axis=0), atol=1e-6)
    for text in texts:
        assert prepare_text(text, artefact.tokenizer(), Limits()) == ItemError(*NO_TOKEN)
    with pytest.raises(UserError, match=r"image 0: an empty file \(0 bytes\): expected an image"):
        predictor.encode_image([b""])
