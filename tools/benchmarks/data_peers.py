"""Two augmented views of a JPEG as others would make them, and the photographs to make them of.

Each pipeline takes a file's bytes and two generators of random numbers, and gives a list of views.
The recipe is the official one; what is drawn differs from pipeline to pipeline.
"""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import paddle.vision.transforms as T
from PIL import Image, ImageEnhance, ImageFilter

from ernie_vil2.data.transforms import MEAN, STD

SIZE, VIEWS = 224, 2
_STRENGTHS = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}
_PHOTOGRAPHS = (  # of scikit-image's wheel, those that are photographs of 300 pixels and more
    *("astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "coins.png"),
    *("grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png", "motorcycle_left.png"),
    *("motorcycle_right.png", "retina.jpg", "rocket.jpg"),
)


def photographs(width: int, height: int, qualities: tuple[int, ...]) -> list[bytes]:
    """JPEGs of this size: parts of scikit-image's photographs, or, without it, of drawn noise."""
    files = []
    for image in _images():
        share = min(image.width / width, image.height / height)
        box_width, box_height = int(share * width), int(share * height)
        left, top = (image.width - box_width) // 2, (image.height - box_height) // 2
        box = (left, top, left + box_width, top + box_height)
        part = image.resize((width, height), Image.Resampling.LANCZOS, box)
        for quality in qualities:
            file = io.BytesIO()
            part.save(file, "JPEG", quality=quality)
            files.append(file.getvalue())
    return files


def are_photographs() -> bool:
    """Whether scikit-image is there to take them from."""
    return _folder() is not None


def _folder() -> Path | None:
    try:
        import skimage
    except ImportError:
        return None
    return Path(skimage.__file__).parent / "data"


def _images() -> list[Image.Image]:
    folder = _folder()
    if folder:
        return [Image.open(folder / name).convert("RGB") for name in _PHOTOGRAPHS]
    noise = np.random.default_rng(0).integers(0, 256, (3, 375, 500, 3)).astype(np.uint8)
    return [Image.fromarray(cv2.GaussianBlur(picture, (0, 0), 2)) for picture in noise]


# -- The pipelines ---------------------------------------------------------------------------------


class Official:
    """What preprocess_image.py of the official repository does, from bytes, once for each view.

    To float32, normalised, as it hands over; paddle's colours draw by NumPy's and Python's own.
    """

    def __init__(self):
        self._jitter = T.ColorJitter(0.4, 0.4, 0.4, 0.1)
        self._gray = T.Grayscale(num_output_channels=3)
        self._mean, self._std = (np.array(x).reshape(3, 1, 1) for x in (MEAN, STD))

    def __call__(self, data: bytes, rng: np.random.Generator) -> list:
        return [self._view(data, rng) for _ in range(VIEWS)]

    def _view(self, data, rng):
        image = _short_side(_by_opencv(data))
        top, left = (rng.integers(side - SIZE + 1) for side in image.shape[:2])
        image = image[top : top + SIZE, left : left + SIZE]
        if rng.random() < 0.5:
            image = cv2.flip(image, 1)
        jitter, gray, blur = rng.random(3)
        if jitter < 0.8:
            image = self._jitter(image)
        if gray < 0.2:
            image = self._gray(image)
        if blur < 0.5:
            image = cv2.GaussianBlur(image, (5, 5), rng.uniform(0.1, 2.0))
        view = image.astype("float32").transpose(2, 0, 1).reshape(1, 3, SIZE, SIZE) / 255
        view -= self._mean
        view /= self._std
        return view


class PaddleVision:
    """paddle.vision.transforms on a picture of Pillow, as its data sets give it; decoded once."""

    def __init__(self):
        self._place = T.Compose([T.Resize(SIZE), T.RandomCrop(SIZE), T.RandomHorizontalFlip()])
        self._jitter = T.ColorJitter(0.4, 0.4, 0.4, 0.1)
        self._gray, self._last = T.Grayscale(num_output_channels=3), T.Transpose()

    def __call__(self, data: bytes, rng: np.random.Generator) -> list:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        return [self._view(image, rng) for _ in range(VIEWS)]

    def _view(self, image, rng):
        view = self._place(image)
        if rng.random() < 0.8:
            view = self._jitter(view)
        if rng.random() < 0.2:
            view = self._gray(view)
        if rng.random() < 0.5:  # it has no blur
            view = view.filter(ImageFilter.GaussianBlur(rng.uniform(0.1, 2.0)))
        return np.ascontiguousarray(self._last(view))


def by_pillow(data: bytes, rng: np.random.Generator) -> list:
    """Pillow alone; decoded and resized once."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    scale = SIZE / min(image.size)
    size = [max(SIZE, round(side * scale)) for side in image.size]
    image = image.resize(size, Image.Resampling.BILINEAR)
    return [_pillow_view(image, rng) for _ in range(VIEWS)]


def _pillow_view(image, rng):
    left, top = (int(rng.integers(side - SIZE + 1)) for side in image.size)
    view = image.crop((left, top, left + SIZE, top + SIZE))
    if rng.random() < 0.5:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < 0.8:
        for name, value in _steps(rng):
            view = _pillow_step(view, name, value)
    if rng.random() < 0.2:
        view = view.convert("L").convert("RGB")
    if rng.random() < 0.5:
        view = view.filter(ImageFilter.GaussianBlur(rng.uniform(0.1, 2.0)))
    return np.ascontiguousarray(np.asarray(view).transpose(2, 0, 1))


def _pillow_step(view, name, value):
    if name == "hue":
        hue, *rest = view.convert("HSV").split()
        shift = round(value * 256)
        hue = hue.point([(level + shift) % 256 for level in range(256)])
        return Image.merge("HSV", (hue, *rest)).convert("RGB")
    names = {"brightness": "Brightness", "contrast": "Contrast", "saturation": "Color"}
    return getattr(ImageEnhance, names[name])(view).enhance(value)


def by_opencv(data: bytes, rng: np.random.Generator) -> list:
    """OpenCV step by step, as it is written down; decoded and resized once."""
    image = _short_side(_by_opencv(data))
    return [_opencv_view(image, rng) for _ in range(VIEWS)]


def _opencv_view(image, rng):
    top, left = (rng.integers(side - SIZE + 1) for side in image.shape[:2])
    view = image[top : top + SIZE, left : left + SIZE]
    if rng.random() < 0.5:
        view = cv2.flip(view, 1)
    if rng.random() < 0.8:
        for name, value in _steps(rng):
            view = _opencv_step(view, name, value)
    if rng.random() < 0.2:
        view = cv2.cvtColor(cv2.cvtColor(view, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    if rng.random() < 0.5:
        view = cv2.GaussianBlur(view, (5, 5), rng.uniform(0.1, 2.0))
    return np.ascontiguousarray(view.transpose(2, 0, 1))


def _opencv_step(view, name, value):
    luma = np.array([0.299, 0.587, 0.114])
    if name == "brightness":
        return cv2.addWeighted(view, value, view, 0.0, 0.0)
    if name == "contrast":
        mean = float(luma @ cv2.mean(view)[:3])
        return cv2.addWeighted(view, value, view, 0.0, (1 - value) * mean)
    if name == "saturation":
        return cv2.transform(view, value * np.eye(3) + (1 - value) * luma)
    hsv = cv2.cvtColor(view, cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] += np.uint8(round(value * 256) % 256)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def _steps(rng) -> list:
    steps = [
        (name, rng.uniform(-strength, strength) + (name != "hue"))
        for name, strength in _STRENGTHS.items()
    ]
    return [steps[i] for i in rng.permutation(4)]


def _by_opencv(data):
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _short_side(image):
    height, width = image.shape[:2]
    if width < height:
        return cv2.resize(image, (SIZE, int(SIZE / width * height) + 1))
    return cv2.resize(image, (int(SIZE / height * width) + 1, SIZE))
