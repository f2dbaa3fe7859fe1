"""Files of a few kilobytes that would keep a decoder busy, and good ones that look like them."""

import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from ernie_vil2.data.decode import decode_image
from ernie_vil2.data.image_file import ImageError
from tests.support.pictures import encoded


def png_of(*chunks: tuple[bytes, bytes, int]) -> bytes:
    """A PNG of 2 x 2 pixels; chunks: name, content, how often; after IHDR."""

    def chunk(name: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 8, 2, 0, 0, 0))
    parts = [chunk(name, content) * times for name, content, times in chunks]
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(parts) + chunk(b"IEND", b"")


def jpeg_of_scans(count: int, size=(64, 64)) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    data = encoded(Image.new("RGB", size, (9, 9, 9)), "JPEG", progressive=True)
    end = data.rindex(b"\xff\xd9")
    scan = data[data.rindex(b"\xff\xda") : end]
    return data[:end] + scan * (count - data.count(b"\xff\xda")) + data[end:]


def jpeg_of(segments: bytes) -> bytes:
    data = encoded(Image.new("RGB", (8, 8)), "JPEG")
    return data[:2] + segments + data[2:]


def gif_of(extension: bytes) -> bytes:
    data = encoded(Image.new("RGB", (2, 2)), "GIF")
    place = 13 + 3 * (2 << (data[10] & 7)) * (data[10] >> 7)
    return data[:place] + extension + data[place:]


def tiff_of_strips(count: int) -> bytes:
    """Uncompressed, of one pixel each."""
    tags = [(256, 1), (257, count), (258, 8), (259, 1), (262, 1), (273, 8), (278, 1)]
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags]
    entries[5] = struct.pack("<HHII", 273, 4, count, 8)
    entries.append(struct.pack("<HHII", 279, 4, count, 8 + 4 * count))
    strips = struct.pack("<I", 8) * count + struct.pack("<I", 1) * count
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + 8 * count) + strips + directory


IDAT = (b"IDAT", zlib.compress(bytes(14)), 1)
BOMBS = {
    "scans": lambda: jpeg_of_scans(2010),
    "scans behind a comment": lambda: jpeg_of(b"\xff\xfe\0\x04\xff\xd9" + jpeg_of_scans(300)[2:]),
    "segments": lambda: jpeg_of(b"\xff\xfe\0\x02" * 5_000_000),
    "filling": lambda: jpeg_of(b"\xff" * 20_000_000),
    "chunks": lambda: png_of((b"prVt", b"", 1_000_000), IDAT),
    "chunks at the end": lambda: png_of(IDAT, (b"prVt", b"", 1_000_000)),
    "empty chunks": lambda: png_of((b"IDAT", b"", 1_000_000), IDAT),
    "plain text": lambda: b"P3 2000 1000 255\n" + b"255 " * 6_000_000,
    "comment": lambda: b"P6 #" + b"a" * 20_000_000 + b"\n2 2 255\n" + bytes(12),
    "blanks": lambda: b"P6 " + b" " * 20_000_000 + b"2 2 255\n" + bytes(12),
    "GIF comment": lambda: gif_of(b"\x21\xfe" + (b"\xff" + b"a" * 255) * 80_000 + b"\0"),
    "GIF blocks": lambda: gif_of(b"\x21\xfe" + b"\x01a" * 5_000_000 + b"\0"),
    "GIF comments": lambda: gif_of(b"\x21\xfe\x01a\0" * 4_000_000),
    "strips": lambda: tiff_of_strips(1_000_000),
}


@pytest.mark.parametrize("make", BOMBS.values(), ids=BOMBS)
def test_files_that_keep_a_decoder_busy_are_refused_at_once(make):
    data = make()
    start = time.thread_time()  # the processor's, however busy the machine is
    with pytest.raises(ImageError) as error:
        decode_image(data)
    assert time.thread_time() - start < 1
    assert "\n" not in str(error.value)


def test_good_files_of_many_parts_are_decoded():
    for data in (
        jpeg_of_scans(100),
        png_of((b"tEXt", b"a\0b", 2000), IDAT),
        gif_of(b"\x21\xfe" + (b"\xff" + b"a" * 255) * 1000 + b"\0"),
        jpeg_of(b"\xff\xfe\0\x06abcd" * 2000),
        jpeg_of(b"\xff\xfe\x02\x02" + b"\xff\xda" * 256),  # no scans, though they look so
        tiff_of_strips(5000),
        b"P3 # a comment\n2 2 255\n" + b"0 " * 12,
        encoded(Image.new("L", (500, 500)), "BMP"),
    ):
        assert decode_image(data).max() <= 9, data[:40]


def test_scans_are_counted_against_the_pixels():
    """Each passes over all of them."""
    with pytest.raises(ImageError, match="more than 40 scans, at most 40 are decoded at 5000 x"):
        decode_image(jpeg_of_scans(60, size=(5000, 5000)))


def test_decoding_has_a_budget_of_time(noise):
    data = encoded(Image.fromarray(np.tile(noise, (8, 8, 1))), "PNG")
    with pytest.raises(ImageError, match="not decoded within 1e-06 s"):
        decode_image(data, seconds=1e-6)
    assert decode_image(data, seconds=60).any()
