"""JPEGs by simplejpeg beside Pillow and OpenCV: equal pixels, equal refusals."""

import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from ernie_vil2.data import turbo
from ernie_vil2.data.decode import EncodedImage, decode_image
from ernie_vil2.data.image_file import ImageError
from tests.support.pictures import encoded, many_scans

pytest.importorskip("simplejpeg")


@pytest.fixture
def by_pillow(monkeypatch):
    """decode_image without simplejpeg."""

    def decode(*arguments, **options):
        with monkeypatch.context() as patched:
            patched.setattr(turbo, "_decoder", lambda: None)
            return decode_image(*arguments, **options)

    return decode


@pytest.fixture
def asked(monkeypatch):
    """Whether each decoding came from simplejpeg."""
    answers = []
    decode = turbo.decode

    def noted(*arguments):
        pixels = decode(*arguments)
        answers.append(pixels is not None)
        return pixels

    monkeypatch.setattr(turbo, "decode", noted)
    return answers


def outcome(decode, data, **options):
    try:
        return decode(data, **options).tolist()
    except ImageError as error:
        return str(error)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("size", [(89, 60), (64, 64), (1, 1), (17, 3)])
def test_equal_pixels(photo, noise, by_pillow, asked, subsampling, progressive, size):
    options = {"subsampling": subsampling, "progressive": progressive}
    for image in (Image.fromarray(photo), Image.fromarray(noise), Image.fromarray(photo[..., 0])):
        for quality in (30, 85, 95, 100):
            data = encoded(image.resize(size), "JPEG", quality=quality, **options)
            found = decode_image(data)
            np.testing.assert_array_equal(found, by_pillow(data))
            opencv = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
            np.testing.assert_array_equal(found, opencv[..., ::-1])
            assert found.flags.writeable and found.flags.c_contiguous
    assert all(asked[::2])


@pytest.mark.parametrize("shrink", [2, 4, 8])
def test_equal_pixels_at_a_part_of_the_size(noise, by_pillow, asked, shrink):
    for size in ((640, 480), (641, 479), (83, 97)):
        data = encoded(Image.fromarray(noise).resize(size), "JPEG", quality=90)
        least = min(size) // shrink
        found = decode_image(data, min_size=least)
        assert found.shape[:2] == (-(-size[1] // shrink), -(-size[0] // shrink))
        np.testing.assert_array_equal(found, by_pillow(data, min_size=least))
    assert all(asked[::2])


def test_colours_that_are_stored_as_they_are(photo, by_pillow, asked):
    """An Adobe marker may say that no conversion was made; without one, the letters R, G, B."""
    data = encoded(Image.fromarray(photo), "JPEG", quality=95, keep_rgb=True)
    found = decode_image(data)
    np.testing.assert_array_equal(found, by_pillow(data))
    assert np.abs(found.astype(int) - photo).mean() < 3 and asked[0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(photo, by_pillow, asked, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(photo), "JPEG", exif=exif)
    found = decode_image(data)
    np.testing.assert_array_equal(found, by_pillow(data))
    assert (
        found.shape[:2] == EncodedImage(data).shape == ((90, 60) if orientation > 4 else (60, 90))
    )


def test_every_cut_and_every_damage_has_pillows_answer(photo, noise, by_pillow):
    """To a file that lost its end, and to one with other bytes: equal errors or equal pixels."""
    rng = np.random.default_rng(0)
    refused = 0
    for progressive in (False, True):
        data = encoded(Image.fromarray(noise[:24, :24]), "JPEG", progressive=progressive)
        for end in range(1, len(data), 7):
            found = outcome(decode_image, data[:end])
            assert found == outcome(by_pillow, data[:end]), end
            refused += isinstance(found, str)
        for _ in range(150):
            other = bytearray(data)
            for place in rng.integers(2, len(data), 2):
                other[place] = rng.integers(256)
            found = outcome(decode_image, bytes(other))
            assert found == outcome(by_pillow, bytes(other))
            refused += isinstance(found, str)
    assert refused > 200
    data = encoded(Image.fromarray(photo), "JPEG")
    for odd in (data + b"more", data[:-2], data[:2] + b"\0\0" + data[2:], data + data):
        assert outcome(decode_image, odd) == outcome(by_pillow, odd)


SEGMENTS = {  # in front of a good file: what Pillow looks into, refuses, or cannot know
    "short JFIF": (0xE0, b"JFIF\0"),
    "no JFIF": (0xE0, b"AVI1" + bytes(12)),
    "Adobe": (0xEE, b"Adobe\0\x64\0\0\0\0\0"),
    "short Adobe": (0xEE, b"Adobe"),
    "colours": (0xE2, b"ICC_PROFILE\0\x01\x01" + bytes(8)),
    "short colours": (0xE2, b"ICC_PROFILE\0"),
    "other images": (0xE2, b"MPF\0" + bytes(12)),
    "no EXIF": (0xE1, b"Exif\0\0"),
    "Photoshop": (0xED, b"Photoshop 3.0\0" + b"8BIM" * 3),
    "comment": (0xFE, b"a comment"),
    "restarts": (0xDD, b"\0\0"),
    "short restarts": (0xDD, b"\0"),
    "short table": (0xDB, b"\0" + bytes(10)),
    "another frame": (0xC0, b"\x08\0\x20\0\x20\x01\x01\x11\0"),
    "12 bits": (0xC1, b"\x0c\0\x20\0\x20\x01\x01\x11\0"),
    "a scan": (0xDA, b"\x01\x01\0\0\x3f\0"),
    "lines": (0xDC, b"\0\x20"),
    "unknown": (0xC8, b"\0"),
}


@pytest.mark.parametrize("marker_and_content", SEGMENTS.values(), ids=SEGMENTS)
def test_every_segment_has_pillows_answer(photo, by_pillow, marker_and_content):
    marker, content = marker_and_content
    data = encoded(Image.fromarray(photo), "JPEG")
    segment = bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content
    for odd in (data[:2] + segment + data[2:], data[:20] + segment + data[20:]):
        assert outcome(decode_image, odd) == outcome(by_pillow, odd)


def test_the_header_of_a_plain_file_needs_no_pillow(photo, monkeypatch):
    data = encoded(Image.fromarray(photo), "JPEG")
    expected = decode_image(data)
    monkeypatch.setattr(Image, "open", None)
    np.testing.assert_array_equal(decode_image(data), expected)


def test_what_may_take_long_is_left_to_pillow_which_can_be_stopped(noise, asked):
    data = encoded(Image.fromarray(np.tile(noise, (12, 12, 1))), "JPEG", progressive=True)
    with pytest.raises(ImageError, match=r"not decoded within 0\.001 s"):
        decode_image(data, seconds=0.001)
    decode_image(data)
    decode_image(many_scans((1000, 1000), scans=80), seconds=5)
    assert asked == [False, True, False]
    assert turbo.decode(data, 10_000, 8_000, 8, 30) is None


def test_without_simplejpeg_pillow_decodes(photo, monkeypatch):
    data = encoded(Image.fromarray(photo), "JPEG")
    expected = decode_image(data)
    assert turbo.name() == "simplejpeg"
    turbo._decoder.cache_clear()
    monkeypatch.setitem(sys.modules, "simplejpeg", None)  # an import of it fails
    try:
        assert turbo.name() == "Pillow"
        np.testing.assert_array_equal(decode_image(data), expected)
    finally:
        turbo._decoder.cache_clear()
