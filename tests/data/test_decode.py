"""Bytes to pixels: every kind of file, and what is refused."""

import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from ernie_vil2.data.decode import MAX_PIXELS, TooManyPixels, decode_image
from ernie_vil2.data.image_file import ImageError
from tests.support.pictures import encoded


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation(photo, orientation, fmt):
    stored = {  # how a camera stores an upright picture under each orientation
        1: photo,
        2: photo[:, ::-1],
        3: photo[::-1, ::-1],
        4: photo[::-1],
        5: photo.transpose(1, 0, 2),
        6: np.rot90(photo, 1),
        7: photo.transpose(1, 0, 2)[::-1, ::-1],
        8: np.rot90(photo, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.ascontiguousarray(stored))
    decoded = decode_image(encoded(image, fmt, exif=exif, quality=95))
    assert decoded.shape == photo.shape
    assert np.abs(decoded.astype(int) - photo).mean() < 3


def test_damaged_exif_is_ignored(photo):
    data = encoded(Image.fromarray(photo), "JPEG", exif=b"Exif\0\0no TIFF header here")
    assert decode_image(data).shape == photo.shape


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_has_the_pixels_that_opencv_gives(photo, subsampling, progressive):
    data = encoded(Image.fromarray(photo), "JPEG", subsampling=subsampling, progressive=progressive)
    decoded = decode_image(data)
    assert decoded.dtype == np.uint8 and decoded.flags.c_contiguous
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(decoded, expected)


@pytest.mark.parametrize(
    ("fmt", "modes"),
    [
        ("JPEG", ["L", "1"]),
        ("PNG", ["L", "1", "P"]),
        ("WEBP", ["L", "P"]),
        ("GIF", ["L", "1", "P"]),
        ("BMP", ["L", "1", "P"]),
        ("TIFF", ["L", "1", "P"]),
    ],
)
def test_greyscale_one_bit_and_palette(photo, fmt, modes):
    for mode in modes:
        image = Image.fromarray(photo).convert(mode)
        decoded = decode_image(encoded(image, fmt, lossless=True, quality=100))
        expected = np.asarray(image.convert("RGB"), int)
        tolerance = 3 if fmt == "JPEG" else 0
        assert np.abs(decoded - expected).max() <= tolerance


def test_cmyk_jpeg(photo):
    image = Image.fromarray(photo).convert("CMYK")
    decoded = decode_image(encoded(image, "JPEG", quality=100))
    assert np.abs(decoded - np.asarray(image.convert("RGB"), int)).max() < 10


def test_ycck_jpeg():
    luma, cb, cr, black = 150, 110, 160, 230
    # Adobe's JPEGs hold 255 - ink; so do Pillow's.
    stored = Image.new("CMYK", (32, 32), (255 - luma, 255 - cb, 255 - cr, 255 - black))
    data = bytearray(encoded(stored, "JPEG", quality=100))
    transform = data.index(b"Adobe") + 11
    assert data[transform] == 0
    data[transform] = 2  # the four components are Y, Cb, Cr, K
    inks = np.array(
        [
            luma + 1.402 * (cr - 128),
            luma - 0.344136 * (cb - 128) - 0.714136 * (cr - 128),
            luma + 1.772 * (cb - 128),
        ]
    )
    assert np.abs(decode_image(bytes(data))[16, 16] - (255 - inks) * black / 255).max() < 3


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize("fmt", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_laid_on_white(photo, mode, fmt):
    alpha = np.tile(np.linspace(0, 255, 90).astype(np.uint8), (60, 1))
    image = Image.fromarray(np.dstack([photo, alpha])).convert(mode)
    decoded = decode_image(encoded(image, fmt, lossless=True, exact=True))
    share = alpha[..., None] / 255
    color = np.asarray(image.convert("RGBA"), float)[..., :3]
    assert np.abs(decoded - (color * share + 255 * (1 - share))).max() <= 1


@pytest.mark.parametrize("fmt", ["PNG", "GIF"])
def test_transparent_palette_entry_becomes_white(fmt):
    image = Image.new("P", (40, 30), 1)
    image.putpalette([0, 0, 0, 200, 10, 20, 10, 20, 200])
    image.paste(2, (0, 0, 20, 30))
    decoded = decode_image(encoded(image, fmt, transparency=2))
    assert decoded[5, 5].tolist() == [255, 255, 255]
    assert decoded[5, 30].tolist() == [200, 10, 20]


def test_transparent_color_key_becomes_white():
    image = Image.new("RGB", (8, 8), (1, 2, 3))
    image.putpixel((0, 0), (9, 9, 9))
    decoded = decode_image(encoded(image, "PNG", transparency=(1, 2, 3)))
    assert decoded[0, 0].tolist() == [9, 9, 9] and decoded[4, 4].tolist() == [255] * 3


@pytest.mark.parametrize("fmt", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bits_are_scaled_to_8(fmt, channels):
    values = np.linspace(0, 65535, 40 * 30 * channels).astype(np.uint16).reshape(30, 40, channels)
    values = values.squeeze()
    decoded = decode_image(cv2.imencode(fmt, values)[1].tobytes())
    expected = (values >> 8).astype(np.uint8)
    expected = np.dstack([expected] * 3) if channels == 1 else expected[..., ::-1]
    np.testing.assert_array_equal(decoded, expected)


def test_samples_that_cannot_be_read_are_an_error():
    floats = encoded(Image.fromarray(np.ones((8, 8), np.float32)), "TIFF")
    with pytest.raises(ImageError, match="floats"):
        decode_image(floats)


def test_first_frame_of_an_animation(photo):
    first, second = Image.fromarray(photo), Image.new("RGB", (90, 60), "red")
    for fmt in ("GIF", "WEBP"):
        data = encoded(first, fmt, save_all=True, append_images=[second], lossless=True)
        assert np.abs(decode_image(data).astype(int) - photo).mean() < 20


@pytest.mark.parametrize("fmt", ["JPEG", "progressive", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_file_is_an_error(noise, fmt, share):
    options = {"progressive": True} if fmt == "progressive" else {}
    data = encoded(Image.fromarray(noise), "JPEG" if options else fmt, **options)
    assert decode_image(data).shape == noise.shape
    with pytest.raises(ImageError) as error:
        decode_image(data[: int(len(data) * share)])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 100, b"<html>no image</html>", bytes(range(256)) * 9]
)
def test_no_image_is_an_error_of_one_line(data):
    with pytest.raises(ImageError) as error:
        decode_image(data)
    assert str(len(data)) in str(error.value) and "\n" not in str(error.value)
    assert isinstance(error.value, ValueError)


def png_header(width, height):
    def chunk(name, body):
        crc = zlib.crc32(name + body)
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", crc)

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bomb_is_refused_by_its_header():
    with pytest.raises(ImageError, match="10000000000"):
        decode_image(png_header(100_000, 100_000))
    side = int(MAX_PIXELS**0.5)
    with pytest.raises(ImageError, match=f"{side + 1} x {side + 1} = {(side + 1) ** 2}"):
        decode_image(png_header(side + 1, side + 1))
    with pytest.raises(ImageError, match="truncated"):  # under the limit: decoded, and found empty
        decode_image(png_header(100, 100))


def test_the_caller_may_limit_the_pixels(photo):
    height, width = photo.shape[:2]
    data = encoded(Image.fromarray(photo))
    assert decode_image(data, max_pixels=height * width).shape == photo.shape
    with pytest.raises(TooManyPixels, match=f"at most {height * width - 1} are read"):
        decode_image(data, max_pixels=height * width - 1)


def test_damaged_files_give_pixels_or_an_image_error(photo):
    rng = np.random.default_rng(1)
    image = Image.fromarray(photo)
    exif = Image.Exif()
    exif[0x0112] = 6
    for fmt in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"):
        whole = np.frombuffer(encoded(image, fmt, exif=exif), np.uint8)
        for _ in range(40):
            data = whole.copy()
            end = rng.choice([64, len(data)])  # half of the damage goes into the header
            data[rng.integers(0, end, 3)] = rng.integers(0, 256, 3)
            try:
                assert decode_image(data.tobytes()).ndim == 3
            except ImageError as error:
                assert "\n" not in str(error)


def test_min_size_decodes_a_jpeg_smaller_but_not_too_small():
    y, x = np.mgrid[0:400, 0:600]
    large = np.stack([x * 255 // 600, y * 255 // 400, (x + y) // 4], -1).astype(np.uint8)
    data = encoded(Image.fromarray(large), "JPEG")
    for min_size, shape in ((401, (400, 600, 3)), (200, (200, 300, 3)), (51, (100, 150, 3))):
        small = decode_image(data, min_size)
        assert small.shape == shape
        expected = cv2.resize(large, shape[1::-1], interpolation=cv2.INTER_AREA)
        assert np.abs(small.astype(int) - expected).mean() < 3
    png = encoded(Image.fromarray(large), "PNG")
    assert decode_image(png, 50).shape == large.shape
