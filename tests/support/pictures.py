"""Files of pictures for tests: good ones of every kind, and such as are made to do harm."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def encoded(kind: str, size=(40, 30), mode="RGB", **options) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, [size[1], size[0], 3], np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, kind, **options)
    return file.getvalue()


def animation() -> bytes:
    """A GIF of two frames."""
    frames = [Image.new("RGB", (20, 20), color) for color in ("red", "blue")]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    return file.getvalue()


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
    file = io.BytesIO()
    Image.new("RGB", size, "red").save(file, "JPEG", progressive=True)
    data = file.getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * scans + data[-2:]
