"""Files of pictures for tests: good ones of every kind, and such as are made to do harm."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def encoded(image, fmt="PNG", **options):
    file = io.BytesIO()
    image.save(file, fmt, **options)
    return file.getvalue()


def noise(kind: str, size=(40, 30), mode="RGB", **options) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, [size[1], size[0], 3], np.uint8)
    return encoded(Image.fromarray(pixels).convert(mode), kind, **options)


def animation() -> bytes:
    """A GIF of two frames."""
    frames = [Image.new("RGB", (20, 20), color) for color in ("red", "blue")]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


def png_of(width: int, height: int, data: bytes, depth=8, color=2) -> bytes:
    """A PNG whose header says one thing and whose data may be another."""

    def chunk(name: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(data)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def many_scans(size=(40, 30), scans=300) -> bytes:
    """A progressive JPEG that repeats its last scan, which is a pass over all pixels."""
    data = encoded(Image.new("RGB", size, "red"), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * scans + data[-2:]
