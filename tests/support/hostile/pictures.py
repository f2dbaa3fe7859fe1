"""Encoded pictures that are damaged, odd or made to do harm, and what each of them shows."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.support.pictures import encoded, many_scans, png_of

Shown = NDArray[np.uint8]  # [H, W, 3] in RGB
LOSSY = 40  # of 255, the most that a pixel of a smooth picture differs after a lossy encoding
KINDS = {
    "jpeg": ("JPEG", {"quality": 95}),
    "progressive": ("JPEG", {"quality": 95, "progressive": True}),
    "png": ("PNG", {}),
    "webp": ("WEBP", {"quality": 95}),
    "lossless webp": ("WEBP", {"lossless": True}),
    "gif": ("GIF", {}),
    "bmp": ("BMP", {}),
    "tiff": ("TIFF", {}),
}


@dataclass(frozen=True)
class Picture:
    """A file of a picture.

    shows: its pixels; None: none, it is to be refused. "either": the damage may or may not show,
        and what is shown must be what Pillow shows.
    bound: how far a pixel may be from `shows`.
    """

    name: str
    data: bytes
    shows: Shown | str | None = None
    bound: int = 0


def scene(rng: np.random.Generator, size=(48, 36)) -> Shown:
    """A smooth coloured picture, [H, W, 3], another one each time."""
    y, x = np.mgrid[0 : size[1], 0 : size[0]]
    a, b, c = rng.uniform(5, 12, 3)
    waves = [np.sin(x / a), np.cos(y / b + x / 30), np.sin((x + 2 * y) / c)]
    return (np.stack(waves, -1) * 110 + 128).astype(np.uint8)


def pictures(seed: int = 0) -> list[Picture]:
    """All of them; the same for the same seed."""
    rng = np.random.default_rng(seed)
    makers = (_truncated, _flipped, _sizes, _modes, _metadata, _containers, _lies, _no_pictures)
    return [picture for make in makers for picture in make(rng)]


def _file(kind: str, pixels: Shown, **options) -> bytes:
    fmt, own = KINDS[kind]
    return encoded(Image.fromarray(pixels), fmt, **{**own, **options})


def _truncated(rng) -> Iterator[Picture]:
    for kind in KINDS:
        for share in (0.01, 0.1, 0.3, 0.5, 0.7, 0.9):
            data = _file(kind, scene(rng))
            yield Picture(f"{kind} cut at {share:.0%}", data[: max(1, int(len(data) * share))])


def _flipped(rng) -> Iterator[Picture]:
    """One to three wrong bits, half of them among the headers."""
    for kind in KINDS:
        for number in range(14):
            data = bytearray(_file(kind, scene(rng)))
            for _ in range(1 + number % 3):
                data[rng.integers(4, len(data) if number % 2 else 60)] ^= 1 << rng.integers(8)
            shows = None if kind == "png" else "either"  # whose chunks have checksums
            yield Picture(f"{kind} with flipped bits {number}", bytes(data), shows)


def _sizes(rng) -> Iterator[Picture]:
    for width, height in ((100_000, 100_000), (2**31 - 1, 2**31 - 1), (0, 9), (9, 0), (9500, 9500)):
        yield Picture(f"png of {width} x {height}", png_of(width, height, b"\0" * 99))
    blank = np.zeros([3000, 3000, 3], np.uint8)
    yield Picture(
        "png of 9 million pixels in a few bytes",
        png_of(3000, 3000, bytes(3000 * 376), depth=1, color=0),
        blank,
    )
    for shape in ((1, 1), (1, 20_000), (20_000, 1), (2, 3)):
        pixels = rng.integers(0, 256, [*shape, 3], np.uint8)
        yield Picture(f"png of {shape[1]} x {shape[0]}", _file("png", pixels), pixels)
    jpeg = _file("jpeg", scene(rng))
    at = jpeg.index(b"\xff\xc0") + 5
    for height, width in ((65535, 65535), (0, 0), (0, 48), (36, 0), (72, 48), (3000, 3000)):
        size = struct.pack(">HH", height, width)
        data = jpeg[:at] + size + jpeg[at + 4 :]
        shows = "either" if height >= 36 and height * width < 10**8 else None  # cut, or filled up
        yield Picture(f"jpeg that says {width} x {height}", data, shows)
    gif = _file("gif", scene(rng))
    yield Picture("gif that says 65535 x 65535", gif[:6] + b"\xff" * 4 + gif[10:])
    bmp = _file("bmp", scene(rng))
    for width, height in ((2**31 - 1, 2**31 - 1), (0, 0), (-48, 36)):
        head = bmp[:18] + struct.pack("<ii", width, height)
        yield Picture(f"bmp that says {width} x {height}", head + bmp[26:])
    yield Picture("jpeg of 300 scans", many_scans())
    text = b"zTXt", b"Comment\0\0" + zlib.compress(b" " * (80 << 20), 9)
    png = _file("png", scene(rng))
    yield Picture("png with 80 MB of text", png[:33] + _chunk(*text) + png[33:])


def _chunk(name: bytes, content: bytes) -> bytes:
    """Of a PNG."""
    check = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + check


def _modes(rng) -> Iterator[Picture]:
    pixels = scene(rng)
    image = Image.fromarray(pixels)
    for mode in ("1", "L", "P"):
        shown = np.asarray(image.convert(mode).convert("RGB"))
        for fmt in ("PNG", "GIF", "BMP", "TIFF"):
            yield Picture(f"{fmt} of mode {mode}", encoded(image.convert(mode), fmt), shown)
    for bits in (1, 2, 4):
        grey = np.tile(np.arange(48) % 2**bits, (36, 1)).astype(np.uint8)
        places = np.unpackbits(grey[..., None], axis=2)[..., 8 - bits :].reshape(36, -1)
        rows = np.packbits(places, axis=1)
        data = b"".join(b"\0" + row.tobytes() for row in rows)
        shown = np.dstack([grey * (255 // (2**bits - 1))] * 3)
        yield Picture(f"png of {bits} bits", png_of(48, 36, data, bits, 0), shown)
    deep = (rng.random([36, 48, 3]) * 65535).astype(np.uint16)
    for fmt in (".png", ".tiff"):
        grey = np.dstack([(deep[..., 0] >> 8).astype(np.uint8)] * 3)
        yield Picture(f"16-bit grey {fmt}", cv2.imencode(fmt, deep[..., 0])[1].tobytes(), grey)
        shown = (deep >> 8).astype(np.uint8)[..., ::-1]
        yield Picture(f"16-bit colour {fmt}", cv2.imencode(fmt, deep)[1].tobytes(), shown)
    yield Picture("float tiff", encoded(Image.fromarray(np.ones((8, 8), np.float32)), "TIFF"))
    cmyk = image.convert("CMYK")
    shown = np.asarray(cmyk.convert("RGB"))
    yield Picture("cmyk tiff", encoded(cmyk, "TIFF"), shown)
    yield Picture("cmyk jpeg", encoded(cmyk, "JPEG", quality=100), shown, LOSSY)
    ycck = bytearray(encoded(Image.new("CMYK", (32, 32), (105, 145, 95, 25)), "JPEG", quality=100))
    ycck[ycck.index(b"Adobe") + 11] = 2  # what the stored bytes are: Y, Cb, Cr and ink, inverted
    inks = np.array([195, 133, 118])  # 150, 110, 160 by ITU-R 601
    colour = ((255 - inks) * 230 / 255).round().astype(np.uint8)
    yield Picture("ycck jpeg", bytes(ycck), np.tile(colour, (32, 32, 1)), 3)
    alpha = np.tile(np.linspace(0, 255, 48).astype(np.uint8), (36, 1))
    seen = pixels * (alpha / 255)[..., None] + 255 * (1 - alpha / 255)[..., None]
    clear = Image.fromarray(np.dstack([pixels, alpha]))
    for fmt, how in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True})):
        data = encoded(clear, fmt, **how)
        yield Picture(f"transparent {fmt}", data, seen.round().astype(np.uint8), 1)
    spots = Image.fromarray((np.arange(48 * 36).reshape(36, 48) % 3).astype(np.uint8), "P")
    spots.putpalette([0, 0, 0, 200, 10, 20, 10, 20, 200])
    table = np.array([[0, 0, 0], [200, 10, 20], [255, 255, 255]], np.uint8)  # the last is clear
    for fmt in ("PNG", "GIF"):
        data = encoded(spots, fmt, transparency=2)
        yield Picture(f"palette and transparency, {fmt}", data, table[np.asarray(spots)])
    other = Image.new("RGB", image.size, "red")
    for fmt, how in (("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {})):
        first = image.convert("P").convert("RGB") if fmt == "GIF" else image
        frames = {"save_all": True, "append_images": [other] * 5, "loop": 0}
        yield Picture(f"animated {fmt}", encoded(first, fmt, **frames, **how), np.asarray(first))


def _metadata(rng) -> Iterator[Picture]:
    """None of which is a reason to refuse the pixels."""

    def exif(*entries, next_ifd=0) -> bytes:
        rows = b"".join(struct.pack("<HHII", *entry) for entry in entries)
        head = b"II*\0" + struct.pack("<IH", 8, len(entries))
        return b"Exif\0\0" + head + rows + struct.pack("<I", next_ifd)

    tags = {
        "orientation 0": exif((0x0112, 3, 1, 0)),
        "orientation 9": exif((0x0112, 3, 1, 9)),
        "orientation 65535": exif((0x0112, 3, 1, 65535)),
        "an orientation that is a text": exif((0x0112, 2, 4, 0x20202020)),
        "a billion orientations": exif((0x0112, 3, 10**9, 8)),
        "a loop": exif((0x0112, 3, 1, 1), next_ifd=8),
        "a sub-folder that is itself": exif((0x8769, 4, 1, 8)),
        "an offset beyond the end": exif((0x010E, 2, 500, 2**32 - 1)),
        "many folders": exif(*[(0x8769, 4, 1, 8)] * 4000),
        "no header": b"Exif\0\0no TIFF header",
        "nothing": b"Exif\0\0",
        "60 kB of zeros": b"Exif\0\0" + bytes(60_000),
        "60 kB of noise": b"Exif\0\0II*\0" + rng.bytes(60_000),
    }
    for what, data in tags.items():
        pixels = scene(rng)
        for kind in ("jpeg", "lossless webp") if len(data) < 1000 else ("jpeg",):
            bound = LOSSY if kind == "jpeg" else 0
            yield Picture(
                f"{kind} with EXIF: {what}", _file(kind, pixels, exif=data), pixels, bound
            )
    profiles = {"noise": rng.bytes(3000), "nothing": b"\0", "1 MB": rng.bytes(1 << 20)}
    for what, data in profiles.items():
        for kind in ("jpeg", "png", "lossless webp"):
            pixels, bound = scene(rng), LOSSY if kind == "jpeg" else 0
            data_ = _file(kind, pixels, icc_profile=data)
            yield Picture(f"{kind} with a profile of {what}", data_, pixels, bound)
    pixels = scene(rng)
    data = _file("jpeg", pixels, comment=b"\xff" * 65000)
    yield Picture("jpeg with a comment of 65 kB", data, pixels, LOSSY)


def _containers(rng) -> Iterator[Picture]:
    """Bytes before, after and between."""
    for kind in ("jpeg", "png", "gif", "lossless webp", "bmp"):
        pixels = scene(rng)
        if kind == "gif":
            pixels = np.asarray(Image.fromarray(pixels).convert("P").convert("RGB"))
        data, bound = _file(kind, pixels), LOSSY if kind == "jpeg" else 0
        yield Picture(f"{kind} and noise after it", data + rng.bytes(5000), pixels, bound)
        yield Picture(f"{kind} and another after it", data + _file(kind, scene(rng)), pixels, bound)
        yield Picture(f"{kind} after a line feed", b"\n" + data)
    pixels = scene(rng)
    two = {"save_all": True, "append_images": [Image.fromarray(scene(rng))], "quality": 95}
    yield Picture("mpo", encoded(Image.fromarray(pixels), "MPO", **two), pixels, LOSSY)


def _lies(rng) -> Iterator[Picture]:
    png = _file("png", scene(rng))
    start = png.index(b"IDAT") - 4
    for length in (0, 2**31, 2**32 - 1):
        data = png[:start] + struct.pack(">I", length) + png[start + 4 :]
        yield Picture(f"png whose data is {length} bytes", data, "either" if length else None)
    yield Picture("png without data", png[:start] + _chunk(b"IEND", b""))
    yield Picture("png without its palette", png_of(8, 8, bytes(72), 8, 3))
    yield Picture("png of 7 bits", png_of(8, 8, bytes(72), 7, 0))
    yield Picture("png with too little data", png_of(48, 36, bytes(500)))
    data = _chunk(b"IDAT", rng.bytes(300)) + _chunk(b"IEND", b"")
    yield Picture("png whose data does not inflate", png[:start] + data)
    gif = bytearray(_file("gif", scene(rng)))
    at = bytes(gif).index(b",\0\0\0\0") + 10
    for size in (0, 13, 255):
        data = bytes(gif[:at] + bytes([size]) + gif[at + 1 :])
        yield Picture(f"gif of {size} bits a code", data, "either")
    webp = _file("webp", scene(rng))
    yield Picture("webp that says 4 GB", webp[:4] + b"\xff" * 4 + webp[8:], "either")
    yield Picture("webp that says 0 bytes", webp[:4] + bytes(4) + webp[8:], "either")
    tiff = _file("tiff", scene(rng))
    folder = struct.unpack_from("<I", tiff, 4)[0]
    yield Picture("tiff whose folder is its header", tiff[:4] + bytes(4) + tiff[8:])
    data = tiff[:folder] + b"\xff\xff" + tiff[folder + 2 :]
    yield Picture("tiff of 65535 entries", data, "either")
    yield Picture("tiff whose next folder is itself", tiff[:-4] + tiff[4:8], "either")


def _no_pictures(rng) -> Iterator[Picture]:
    pixels = Image.fromarray(scene(rng))
    files = {
        "a byte": b"\xff",
        "zeros": bytes(1000),
        "noise": rng.bytes(100_000),
        "HTML": b"<!doctype html><title>404</title>" * 9,
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        "PDF": b"%PDF-1.4\n1 0 obj<<>>endobj\ntrailer<<>>\n%%EOF",
        "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n" + b"{(a) show} loop\n" * 99,
        "an icon": encoded(pixels, "ICO"),
        "JPEG 2000": encoded(pixels, "JPEG2000"),
        "a pickle": b"cos\nsystem\n(S'false'\ntR.",
        "a text": "一张图片".encode(),
        "XBM": b"#define im_width 4096\n#define im_height 4096\nstatic char im_bits[] = {\n",
        "a signature of PNG": b"\x89PNG\r\n\x1a\n",
        "a signature of JPEG": b"\xff\xd8\xff",
        "a signature of GIF": b"GIF89a",
        "a signature of WebP": b"RIFF\x04\0\0\0WEBP",
        "a plain PPM of words": b"P3\n9 9\n255\n" + b"nine " * 99,
        "a plain PPM of 3 MB": b"P3\n1000 1000\n255\n" + b"9 " * (3 << 19),
    }
    for what, data in files.items():
        yield Picture(what, data)


def by_pillow(data: bytes) -> Shown | None:
    """What Pillow shows of a damaged file; None: it refuses it."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            return np.asarray(image.convert("RGB"))
    except Exception:
        return None
