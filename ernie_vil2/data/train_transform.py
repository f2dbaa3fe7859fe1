"""The training augmentation: the views of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from ernie_vil2.data import augment
from ernie_vil2.data.arrays import Pixels
from ernie_vil2.data.decode import EncodedImage
from ernie_vil2.data.draws import View, random_jitter, random_part, random_resized_part
from ernie_vil2.data.transforms import check_image, planes, resize, size_by_short
from ernie_vil2.errors import UserError
from ernie_vil2.limits import TRANSFORM_LISTS, TRANSFORM_NUMBERS


class TrainTransform:
    """`transform(image, rng)`: one random augmentation of an image.

    uint8 [H, W, 3] in RGB -> uint8 [3, size, size], which `Normalise` takes on the device. Two
    calls on one decoded image give the views image1 and image2; `views` gives them for less.

    The official recipe: random crop (`crop_scale: null`) of the image resized to `size`, flip,
    colour jitter in random order, greyscale, Gaussian blur. The arguments are the keys of
    `Transform` in configs/base.yaml, which explains them. The colour operations are torchvision's
    ColorJitter on 8-bit images.

    Raises:
        UserError: an argument is out of its limits.
    """

    def __init__(
        self,
        size: int,
        flip_prob: float,
        jitter: Mapping[str, float],
        gray_prob: float,
        blur: Mapping[str, Any],
        crop_scale: Sequence[float] | None,
        mean: Sequence[float],
        std: Sequence[float],
        scaled_decode: bool = False,
        eval: str | None = None,  # which is not for training
    ):
        _check_recipe(
            size=size,
            flip_prob=flip_prob,
            jitter=jitter,
            gray_prob=gray_prob,
            blur=blur,
            crop_scale=crop_scale,
            mean=mean,
            std=std,
        )
        self.size = size
        self.flip_prob = flip_prob
        self.jitter = dict(jitter)
        self.gray_prob = gray_prob
        self.blur_kernel = (blur["kernel"], blur["kernel"])
        self.blur_sigma = tuple(blur["sigma"])
        self.blur_prob = blur["prob"]
        self.crop_scale = crop_scale
        self.scaled_decode = scaled_decode
        self._mean = mean

    def blank(self) -> Pixels:
        """What stands for an image that there is not: the mean colour, about 0 once normalised."""
        colour = np.rint(np.asarray(self._mean) * 255).astype(np.uint8).reshape(3, 1, 1)
        return np.tile(colour, [1, self.size, self.size])

    def __call__(self, image: Pixels, rng: np.random.Generator) -> Pixels:
        return self.views(image, 1, rng)[0]

    def views(self, image: bytes | Pixels, count: int, rng: np.random.Generator) -> list[Pixels]:
        """What `count` calls on the image, or on what a file's bytes decode to, give.

        All is drawn before the image is decoded, which, with `scaled_decode`, asks how large its
        parts need to be; and views that are cut from one resized image share that.

        Raises:
            ImageError: the image is broken.
        """
        if isinstance(image, np.ndarray):
            check_image(image)
            height, width = image.shape[:2]
        else:
            encoded = EncodedImage(image)
            height, width = encoded.shape
        drawn = [self.draw(height, width, rng) for _ in range(count)]
        shrink = 1
        if not isinstance(image, np.ndarray):
            image = encoded.decode(self._most_shrink(height, width, drawn))
            shrink = encoded.shrink
        if shrink > 1:
            cuts = [self.warp(image, view, height / shrink, width / shrink) for view in drawn]
        else:
            if self.crop_scale is None:
                image = resize(image, *size_by_short(height, width, self.size))
            cuts = [self.cut(image, view) for view in drawn]
        return [planes(self.colour(cut, view)) for cut, view in zip(cuts, drawn)]

    def _most_shrink(self, height: int, width: int, drawn: Sequence[View]) -> float:
        """How many pixels of the image there are at least to one of its views."""
        if not self.scaled_decode:
            return 1
        if self.crop_scale is None:
            return min(height, width) / self.size
        return min(min(view.part.height, view.part.width) for view in drawn) / self.size

    def draw(self, height: int, width: int, rng: np.random.Generator) -> View:
        """What is drawn for a view of an image of this size, which may be resized before."""
        if self.crop_scale is None:
            height, width = size_by_short(height, width, self.size)
            part = random_part(height, width, self.size, rng)
        else:
            part = random_resized_part(height, width, self.crop_scale, rng)
        return View(
            part,
            (height, width),
            flip=rng.random() < self.flip_prob,
            jitter=random_jitter(self.jitter, rng) if rng.random() < self.jitter["prob"] else (),
            gray=rng.random() < self.gray_prob,
            sigma=rng.uniform(*self.blur_sigma) if rng.random() < self.blur_prob else None,
        )

    def cut(self, image: Pixels, view: View) -> Pixels:
        """The part, uint8 [size, size, 3], with lines that follow one another in memory."""
        top, left, height, width = view.part
        image = image[top : top + height, left : left + width]
        if self.crop_scale is not None:
            image = cv2.resize(image, (self.size, self.size), interpolation=cv2.INTER_LINEAR)
        # OpenCV takes up to twice the time for what is in pieces
        return cv2.flip(image, 1) if view.flip else np.ascontiguousarray(image)

    def warp(self, image: Pixels, view: View, height: float, width: float) -> Pixels:
        """As `cut`, of an image that was decoded smaller: its pixels are of another grid.

        Args:
            height, width: what the whole image takes of it; where its last pixel stands for a part
                of a block alone, that is no whole number.
        """
        rows, columns = view.shape
        step_y = height / rows * view.part.height / self.size  # between pixels of the view
        step_x = width / columns * view.part.width / self.size
        first_y = height / rows * view.part.top + step_y / 2 - 0.5
        first_x = width / columns * view.part.left + step_x / 2 - 0.5
        if view.flip:
            first_x, step_x = first_x + (self.size - 1) * step_x, -step_x
        matrix = np.array([[step_x, 0.0, first_x], [0.0, step_y, first_y]])
        return cv2.warpAffine(
            image,
            matrix,
            (self.size, self.size),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )

    def colour(self, image: Pixels, view: View) -> Pixels:
        """Jitter, greyscale and blur; [size, size] where all channels are alike."""
        image = augment.jitter(image, view.jitter)
        if view.gray:
            image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        if view.sigma is not None:
            image = cv2.GaussianBlur(image, self.blur_kernel, view.sigma)
        return image


_INTEGERS = {"size": "an integer", "blur.kernel": "an odd integer"}  # the rest are numbers


def _check_recipe(**recipe: Any) -> None:
    """Raise UserError for the first argument of TrainTransform that breaks a limit."""
    values = dict(recipe)
    for section in ("jitter", "blur"):
        values.update({f"{section}.{key}": value for key, value in recipe[section].items()})
    for key, limit in TRANSFORM_NUMBERS.items():
        value, items = values[key], TRANSFORM_LISTS.get(key)
        if key == "crop_scale" and value is None:
            continue
        expected = f"{_INTEGERS.get(key, 'a number')} {limit.words}"
        if items is None:
            right = limit.allows(value)
        else:
            right = items.holds(value) and all(map(limit.allows, value))
            expected = f"a list of {items.words}, each {expected}"
        if not right:
            raise UserError(f"Transform.{key} is {value}: expected {expected}")
