"""The preprocessing that an exported PaddleDetection or PaddleClas model states, step by step.

The names and the arithmetic are those of `deploy/python/preprocess.py` of both projects: a model
wants the numbers that it was trained with. Each step is checked when a configuration is read, so
that a tagger stops before its first picture and not at it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from PIL import Image

from ernie_vil2.data.arrays import Array, Pixels
from ernie_vil2.data.decode import check_pixels
from ernie_vil2.data.image_file import ImageError
from ernie_vil2.errors import UserError, did_you_mean

_INTERPOLATION = {
    "nearest": cv2.INTER_NEAREST,
    "bilinear": cv2.INTER_LINEAR,
    "area": cv2.INTER_AREA,
    "bicubic": cv2.INTER_CUBIC,
    "lanczos": cv2.INTER_LANCZOS4,
}
_PILLOW = {name: getattr(Image.Resampling, name.upper()) for name in ("nearest", "bilinear")}
_PILLOW.update({name: getattr(Image.Resampling, name.upper()) for name in ("bicubic", "lanczos")})


@dataclass
class Prepared:
    """A picture on its way into a network.

    Attributes:
        image: RGB, [H, W, 3], after `Permute` [3, H, W].
        shape: height and width after the last resize.
        scale: of height and width.
        size: height and width of the picture itself.
    """

    image: Array
    shape: tuple[float, float] = (0.0, 0.0)
    scale: tuple[float, float] = (1.0, 1.0)
    size: tuple[int, int] = (0, 0)

    @classmethod
    def of(cls, image: Pixels) -> Prepared:
        height, width = image.shape[:2]
        return cls(image, (height, width), size=(height, width))

    def resize(self, scale_y: float, scale_x: float, interpolation: int) -> None:
        """By factors, from which OpenCV finds the size, and not the other way round."""
        height, width = self.image.shape[:2]
        check_pixels(max(1, round(width * scale_x)), max(1, round(height * scale_y)))
        # a line of one pixel would vanish
        scale_y, scale_x = max(scale_y, 1 / height), max(scale_x, 1 / width)
        self.image = cv2.resize(
            self.image, None, fx=scale_x, fy=scale_y, interpolation=interpolation
        )
        rows, columns = self.image.shape[:2]
        self.shape, self.scale = (rows, columns), (scale_y, scale_x)


Step = Callable[[Prepared], None]  # raises ImageError for a picture that it cannot do


# -- PaddleDetection -------------------------------------------------------------------------------


def _resize(
    target_size: int | Sequence[int], keep_ratio: bool = True, interp: int = cv2.INTER_LINEAR
) -> Step:
    height, width = _pair(target_size)

    def step(picture: Prepared) -> None:
        rows, columns = picture.image.shape[:2]
        if not keep_ratio:
            picture.resize(height / rows, width / columns, interp)
            return
        scale = min(height, width) / min(rows, columns)
        if np.round(scale * max(rows, columns)) > max(height, width):
            scale = max(height, width) / max(rows, columns)
        picture.resize(scale, scale, interp)

    return step


def _letter_box(target_size: int | Sequence[int]) -> Step:
    height, width = _pair(target_size)

    def step(picture: Prepared) -> None:
        rows, columns = picture.image.shape[:2]
        ratio = min(height / rows, width / columns)
        new_height, new_width = max(1, round(rows * ratio)), max(1, round(columns * ratio))
        image = cv2.resize(picture.image, (new_width, new_height), interpolation=cv2.INTER_AREA)
        above, left = (height - new_height) / 2, (width - new_width) / 2
        borders = [round(above - 0.1), round(above + 0.1), round(left - 0.1), round(left + 0.1)]
        grey = (127.5, 127.5, 127.5)
        picture.image = cv2.copyMakeBorder(image, *borders, cv2.BORDER_CONSTANT, value=grey)
        picture.shape, picture.scale = (new_height, new_width), (ratio, ratio)

    return step


def _normalise(
    mean: Sequence[float],
    std: Sequence[float],
    is_scale: bool = True,
    norm_type: str = "mean_std",
) -> Step:
    if norm_type not in ("mean_std", "none"):
        raise UserError(f"norm_type {norm_type!r}: expected mean_std or none")
    centre, spread = np.array(mean, np.float64), np.array(std, np.float64)

    def step(picture: Prepared) -> None:
        image = picture.image.astype(np.float32)
        if is_scale:
            image *= 1.0 / 255.0
        if norm_type == "mean_std":  # in float64, rounded after each, as PaddleDetection does
            image -= centre
            image /= spread
        picture.image = image

    return step


def _permute() -> Step:
    def step(picture: Prepared) -> None:
        picture.image = picture.image.transpose(2, 0, 1)  # [H, W, 3] -> [3, H, W]

    return step


def _pad_stride(stride: int = 0) -> Step:
    def step(picture: Prepared) -> None:
        if stride > 0:
            height, width = (-(-side // stride) * stride for side in picture.image.shape[1:])
            picture.image = padded(picture.image, height, width)

    return step


def _pad(size: int | Sequence[int], fill_value: Sequence[float] = (114.0, 114.0, 114.0)) -> Step:
    height, width = _pair(size)

    def step(picture: Prepared) -> None:
        rows, columns = picture.image.shape[:2]
        if rows > height or columns > width:
            raise ImageError(f"Pad to {height} x {width} of a picture of {rows} x {columns}")
        canvas = np.empty([height, width, 3], np.float32)
        canvas[:] = fill_value
        canvas[:rows, :columns] = picture.image
        picture.image = canvas

    return step


def padded(image: Array, height: int, width: int) -> Array:
    """[3, h, w] -> float32 [3, height, width], 0 below and to the right."""
    canvas = np.zeros([len(image), height, width], np.float32)
    canvas[:, : image.shape[1], : image.shape[2]] = image
    return canvas


# -- PaddleClas ------------------------------------------------------------------------------------


def _resize_image(
    size: int | Sequence[int] | None = None,
    resize_short: int | None = None,
    interpolation: str | None = None,
    backend: str = "cv2",
    return_numpy: bool = True,
) -> Step:
    if not resize_short and size is None:
        raise UserError("ResizeImage has neither size nor resize_short")
    name = (interpolation or "bilinear").lower()
    if name not in _INTERPOLATION:
        raise UserError(f"interpolation {name}{did_you_mean(name, _INTERPOLATION)}")
    fixed = _pair(size) if size is not None else (0, 0)  # width, height

    def step(picture: Prepared) -> None:
        rows, columns = picture.image.shape[:2]
        width, height = fixed
        if resize_short:
            factor = resize_short / min(rows, columns)
            width, height = round(columns * factor), round(rows * factor)
        check_pixels(width, height)
        if backend.lower() == "pil":
            image = Image.fromarray(picture.image).resize((width, height), _PILLOW[name])
            picture.image = np.asarray(image)
        else:
            picture.image = cv2.resize(
                picture.image, (width, height), interpolation=_INTERPOLATION[name]
            )

    return step


def _crop_image(size: int | Sequence[int]) -> Step:
    width, height = _pair(size)

    def step(picture: Prepared) -> None:
        rows, columns = picture.image.shape[:2]
        if rows < height or columns < width:
            raise ImageError(f"CropImage {width} x {height} of a picture of {columns} x {rows}")
        top, left = (rows - height) // 2, (columns - width) // 2
        picture.image = picture.image[top : top + height, left : left + width]

    return step


def _normalise_image(
    scale: float | str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    order: str = "chw",
    output_fp16: bool = False,
    channel_num: int = 3,
) -> Step:
    if channel_num != 3:
        raise UserError(f"NormalizeImage with channel_num {channel_num}: expected 3")
    shape = (3, 1, 1) if order == "chw" else (1, 1, 3)
    factor = np.float32(1 / 255 if scale is None else _number(scale))
    centre = np.array(mean or (0.485, 0.456, 0.406), np.float32).reshape(shape)
    spread = np.array(std or (0.229, 0.224, 0.225), np.float32).reshape(shape)

    def step(picture: Prepared) -> None:
        image = (picture.image.astype(np.float32) * factor - centre) / spread
        picture.image = image.astype(np.float16).astype(np.float32) if output_fp16 else image

    return step


def _number(value: float | str) -> float:
    """A number, or two with a stroke between them, such as 1.0/255.0."""
    above, _, below = str(value).partition("/")
    try:
        return float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError):
        raise UserError(f"scale {value!r}: expected a number, such as 1.0/255.0") from None


def _nothing(**options: Any) -> Step:
    return lambda picture: None


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or not all(isinstance(side, int) and side > 0 for side in pair):
        raise UserError(f"a size of {size!r}: expected one or two whole numbers above 0")
    return pair[0], pair[1]


DETECTION: dict[str, Callable[..., Step]] = {
    "Resize": _resize,
    "LetterBoxResize": _letter_box,
    "NormalizeImage": _normalise,
    "Permute": _permute,
    "PadStride": _pad_stride,
    "Pad": _pad,
}
CLASSIFICATION: dict[str, Callable[..., Step]] = {
    "DecodeImage": _nothing,  # decode_image has done it
    "ResizeImage": _resize_image,
    "CropImage": _crop_image,
    "NormalizeImage": _normalise_image,
    "ToCHWImage": _permute,
}


def steps(stated: Sequence[tuple[str, Mapping[str, Any]]], table: Mapping[str, Any]) -> list[Step]:
    """The steps of a configuration.

    Args:
        stated: the name and the options of each.
        table: DETECTION or CLASSIFICATION.

    Raises:
        UserError: an unknown step, wrong options.
    """
    made = []
    for name, options in stated:
        if name not in table:
            raise UserError(f"step {name} of the preprocessing{did_you_mean(name, table)}")
        try:
            made.append(table[name](**options))
        except (TypeError, ValueError) as error:
            raise UserError(f"step {name} of the preprocessing: {error}") from None
    return made
