import colorsys
import io
import pickle
import struct
import time
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from ernie_vil2.data import transforms
from ernie_vil2.data.transforms import (
    MAX_PIXELS,
    MEAN,
    STD,
    ImageError,
    TooManyPixels,
    TrainTransform,
    decode_image,
    eval_transform,
)
from ernie_vil2.errors import UserError

RECIPE = {
    "size": 48,
    "flip_prob": 0.5,
    "jitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1, "prob": 0.8},
    "gray_prob": 0.2,
    "blur": {"kernel": 5, "sigma": [0.1, 2.0], "prob": 0.5},
    "crop_scale": None,
    "mean": MEAN,
    "std": STD,
}


def recipe(**changes):
    """The recipe with everything random off but `changes`; `jitter_hue=...` changes jitter.hue."""
    result = {
        **RECIPE,
        "flip_prob": 0.0,
        "jitter": {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0, "prob": 0.0},
        "gray_prob": 0.0,
        "blur": {"kernel": 5, "sigma": [1.0, 1.0], "prob": 0.0},
    }
    for key, value in changes.items():
        section, _, inner = key.partition("_")
        if section in ("jitter", "blur"):
            result[section][inner] = value
        else:
            result[key] = value
    return TrainTransform(**result)


def pixels(view):
    """The inverse of the normalisation: float [3, H, W] -> values 0..255 [H, W, 3]."""
    return view.transpose(1, 2, 0) * (np.array(STD) * 255) + np.array(MEAN) * 255


def encoded(image, fmt="PNG", **options):
    file = io.BytesIO()
    image.save(file, fmt, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def photo():
    """A smooth, coloured, asymmetric picture, 60 x 90, uint8 [H, W, 3]."""
    y, x = np.mgrid[0:60, 0:90]
    waves = [np.sin(x / 9), np.cos(y / 7 + x / 30), np.sin((x + 2 * y) / 11)]
    return (np.stack(waves, -1) * 120 + 128).astype(np.uint8)


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8)


# -- Decoding --------------------------------------------------------------------------------------


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


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, on what is damaged
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


# -- Evaluation ------------------------------------------------------------------------------------


def test_eval_transform_equals_the_official_preprocessing(fixtures_dir):
    folder = fixtures_dir / "official_preprocess"
    expected = np.load(folder / "preprocessed.npz")
    transform = eval_transform(224)
    files = [file for file in sorted(folder.iterdir()) if file.suffix in (".jpg", ".png")]
    assert len(files) == len(expected.files)
    for file in files:
        view = transform(file.read_bytes())
        assert view.dtype == np.float32 and view.flags.c_contiguous
        np.testing.assert_array_equal(view, expected[file.name.replace(".", "_")])


def test_eval_transform_by_its_formula(noise):
    image = noise[:48]  # the shorter side is the size already: cropped, not resized
    view = eval_transform(48, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))(image)
    expected = (image[:, 16:64] / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.6, 0.7]
    np.testing.assert_allclose(view.transpose(1, 2, 0), expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (300, 2), (48, 49), (49, 48), (47, 48)])
@pytest.mark.parametrize("size", [1, 48])
def test_any_shape_gives_the_size(shape, size):
    image = np.full((*shape, 3), 100, np.uint8)
    for view in (
        eval_transform(size)(image),
        TrainTransform(**{**RECIPE, "size": size})(image, np.random.default_rng(0)),
        TrainTransform(**{**RECIPE, "size": size, "crop_scale": (0.5, 1.0)})(
            image, np.random.default_rng(0)
        ),
    ):
        assert view.shape == (3, size, size)


def test_bytes_and_pixels_give_the_same(photo):
    transform = eval_transform(32)
    np.testing.assert_array_equal(transform(encoded(Image.fromarray(photo))), transform(photo))


def test_transforms_can_be_pickled(photo):
    transform = pickle.loads(pickle.dumps(eval_transform(32)))
    np.testing.assert_array_equal(transform(photo), eval_transform(32)(photo))
    view = pickle.loads(pickle.dumps(TrainTransform(**RECIPE)))(photo, np.random.default_rng(3))
    np.testing.assert_array_equal(view, TrainTransform(**RECIPE)(photo, np.random.default_rng(3)))


def test_unusable_arrays_are_an_error(photo):
    for image in (photo[..., 0], photo / 255.0, photo[:0], np.dstack([photo, photo])):
        with pytest.raises(ImageError, match="expected uint8"):
            eval_transform(32)(image)
    with pytest.raises(ImageError, match="pixels"):  # as large as a bomb once resized
        eval_transform(224)(np.zeros((1, 60_000, 3), np.uint8))


# -- Training --------------------------------------------------------------------------------------


def test_views_are_determined_by_the_generator(photo):
    for crop_scale in (None, (0.5, 1.0)):
        transform = TrainTransform(**{**RECIPE, "crop_scale": crop_scale})
        before = photo.copy()
        one, other, again = (transform(photo, np.random.default_rng(seed)) for seed in (1, 2, 1))
        np.testing.assert_array_equal(one, again)
        assert np.abs(one - other).mean() > 0.05
        assert one.dtype == np.float32 and one.flags.c_contiguous and one.shape == (3, 48, 48)
        np.testing.assert_array_equal(photo, before)


def test_nothing_random_left_equals_evaluation(photo):
    square = photo[:48, :48]
    view = recipe()(square, np.random.default_rng(0))
    np.testing.assert_array_equal(view, eval_transform(48)(square))


def test_random_crop_takes_every_place_equally():
    image = np.zeros((48, 52, 3), np.uint8)
    image[..., 0] = np.arange(52)
    transform, rng = recipe(), np.random.default_rng(0)
    lefts = [round(pixels(transform(image, rng))[0, 0, 0]) for _ in range(1000)]
    counts = np.bincount(lefts, minlength=5)
    assert len(counts) == 5 and (np.abs(counts - 200) < 60).all()  # 4.7 standard deviations


def test_random_resized_crop_keeps_to_its_shares():
    y, x = np.mgrid[0:200, 0:250]
    image = np.stack([x, y, x * 0], -1).astype(np.uint8)  # a pixel's colour says where it was
    transform, rng = recipe(crop_scale=[0.2, 0.6], size=100), np.random.default_rng(0)
    shares, aspects = [], []
    for _ in range(200):
        view = pixels(transform(image, rng))
        width, height = np.ptp(view[..., 0]) + 1, np.ptp(view[..., 1]) + 1
        shares.append(width * height / (200 * 250))
        aspects.append(width / height)
    assert 0.19 < min(shares) < 0.23 and 0.56 < max(shares) < 0.62
    assert 0.73 < min(aspects) < 0.78 and 1.28 < max(aspects) < 1.37


def test_probabilities(photo):
    square = photo[:48, :48]
    plain = eval_transform(48)(square)
    rng = np.random.default_rng(0)
    changes = {
        "flip_prob": lambda view: np.array_equal(view, plain[..., ::-1]),
        "gray_prob": lambda view: np.ptp(pixels(view), axis=2).max() < 1e-3,
        "blur_prob": lambda view: not np.array_equal(view, plain),
    }
    for key, changed in changes.items():
        transform = recipe(**{key: 0.3})
        hits = sum(changed(transform(square, rng)) for _ in range(1000))
        assert 240 < hits < 360, key  # 4.1 standard deviations
    transform = recipe(jitter_prob=0.3, jitter_brightness=0.4)
    hits = sum(not np.array_equal(transform(square, rng), plain) for _ in range(1000))
    assert 230 < hits < 360


@pytest.mark.parametrize("factor", [0.0, 0.6, 0.9, 1.0, 1.2, 1.4])
def test_color_operations_equal_pillows(photo, noise, factor):
    peers = {
        transforms.adjust_brightness: ImageEnhance.Brightness,
        transforms.adjust_contrast: ImageEnhance.Contrast,
        transforms.adjust_saturation: ImageEnhance.Color,
    }
    for image in (photo, noise, noise[:30, 10:50]):
        for adjust, peer in peers.items():
            expected = np.asarray(peer(Image.fromarray(image)).enhance(factor), int)
            assert np.abs(adjust(image, factor) - expected).max() <= 1  # Pillow cuts, we round


@pytest.mark.parametrize("shift", [-0.5, -0.1, 0.0, 0.04, 0.1, 0.5])
def test_hue_equals_the_formula(photo, shift):
    def turned(pixel):
        hue, saturation, value = colorsys.rgb_to_hsv(*(pixel / 255))
        return np.array(colorsys.hsv_to_rgb((hue + shift) % 1, saturation, value)) * 255

    image = photo[::6, ::6]
    expected = np.apply_along_axis(turned, 2, image)
    difference = np.abs(transforms.adjust_hue(image, shift) - expected)
    assert difference.max() < 12 and difference.mean() < 1.2  # hue has 8 bits, as in Pillow


def test_jitter_draws_its_factors_from_the_whole_range():
    gray = np.full((48, 48, 3), 100, np.uint8)
    transform, rng = recipe(jitter_prob=1.0, jitter_brightness=0.4), np.random.default_rng(0)
    levels = [pixels(transform(gray, rng)).mean() for _ in range(300)]
    assert 59.4 < min(levels) < 63 and 137 < max(levels) < 140.6
    assert abs(np.mean(levels) - 100) < 5


def test_jitter_takes_its_steps_in_every_order(photo, monkeypatch):
    order = []
    for name in ("brightness", "contrast", "saturation", "hue"):
        adjust = getattr(transforms, f"adjust_{name}")

        def spied(image, value, name=name, adjust=adjust):
            order.append(name)
            return adjust(image, value)

        monkeypatch.setattr(transforms, f"adjust_{name}", spied)
    transform, rng = TrainTransform(**RECIPE), np.random.default_rng(0)
    for _ in range(300):
        transform(photo, rng)
    orders = list(zip(*[iter(order)] * 4))
    assert 200 < len(orders) < 275 and len(set(orders)) == 24


def test_greyscale_and_blur_by_their_formulas(noise):
    rng = np.random.default_rng(0)
    image = noise[:48, :48]
    luma = image @ np.array([0.299, 0.587, 0.114])
    gray = pixels(recipe(gray_prob=1.0)(image, rng))
    assert np.abs(gray - luma[..., None]).max() < 0.6
    bell = np.exp(-np.square([-2, -1, 0, 1, 2]) / (2 * 1.3**2))
    bell /= bell.sum()
    expected = np.zeros((44, 44, 3))
    for dy in range(5):
        for dx in range(5):
            expected += bell[dy] * bell[dx] * image[dy : dy + 44, dx : dx + 44]
    blurred = pixels(recipe(blur_prob=1.0, blur_sigma=[1.3, 1.3])(image, rng))[2:-2, 2:-2]
    assert np.abs(blurred - expected).max() < 1.5


@pytest.mark.parametrize(
    "change",
    [
        {"size": 0},
        {"flip_prob": 1.5},
        {"gray_prob": -0.1},
        {"jitter_prob": 2.0},
        {"jitter_contrast": -1.0},
        {"jitter_hue": 0.6},
        {"blur_kernel": 4},
        {"blur_sigma": [2.0, 1.0]},
        {"blur_sigma": [0.0, 1.0]},
        {"crop_scale": [0.5, 1.1]},
        {"crop_scale": [0.5]},
        {"mean": [0.5]},
        {"std": [0.5, 0.5, 0.0]},
    ],
)
def test_wrong_settings_are_the_users_error(change):
    key = next(iter(change)).replace("jitter_", "jitter.").replace("blur_", "blur.")
    with pytest.raises(UserError, match=rf"Transform\.{key} is .*expected"):
        recipe(**change)
