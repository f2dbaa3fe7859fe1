"""The training augmentation step by step, as it is read: what the package's own must come to."""

from __future__ import annotations

import math

import cv2
import numpy as np

_LUMA = np.array([0.299, 0.587, 0.114])


def adjust_brightness(image, factor):
    return cv2.addWeighted(image, factor, image, 0.0, 0.0)


def adjust_contrast(image, factor):
    mean = float(_LUMA @ cv2.mean(image)[:3])
    return cv2.addWeighted(image, factor, image, 0.0, (1 - factor) * mean)


def adjust_saturation(image, factor):
    return cv2.transform(image, factor * np.eye(3) + (1 - factor) * _LUMA)


def adjust_hue(image, shift):
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)  # hue in 0..255, so uint8 wraps as it should
    hsv[..., 0] += np.uint8(round(shift * 256) % 256)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


ADJUST = {
    "brightness": adjust_brightness,
    "contrast": adjust_contrast,
    "saturation": adjust_saturation,
    "hue": adjust_hue,
}


def jittered(image, steps):
    for name, value in steps:
        image = ADJUST[name](image, value)
    return image


def augmented(image, recipe, rng, colours=True):
    """uint8 [H, W, 3] -> [3, size, size]; draws and works by turns.

    Args:
        recipe: the arguments of TrainTransform.
        colours: False: leave the jitter out, though it is drawn.
    """
    size, jitter, blur = recipe["size"], recipe["jitter"], recipe["blur"]
    if recipe["crop_scale"] is None:
        image = _crop(_short_side(image, size), size, rng)
    else:
        image = _resized_crop(image, size, recipe["crop_scale"], rng)
    if rng.random() < recipe["flip_prob"]:
        image = cv2.flip(image, 1)
    if rng.random() < jitter["prob"]:
        steps = []
        for name in ("brightness", "contrast", "saturation"):
            steps.append((name, rng.uniform(max(0.0, 1 - jitter[name]), 1 + jitter[name])))
        steps.append(("hue", rng.uniform(-jitter["hue"], jitter["hue"])))
        order = rng.permutation(4)
        if colours:
            image = jittered(image, [steps[i] for i in order])
    if rng.random() < recipe["gray_prob"]:
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    if rng.random() < blur["prob"]:
        kernel = (blur["kernel"], blur["kernel"])
        image = cv2.GaussianBlur(image, kernel, rng.uniform(*blur["sigma"]))
    return image.transpose(2, 0, 1)


def _short_side(image, size):
    height, width = image.shape[:2]
    if min(height, width) == size:
        return image
    if width < height:
        width, height = size, int(size / width * height) + 1
    else:
        width, height = int(size / height * width) + 1, size
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


def _crop(image, size, rng):
    height, width = image.shape[:2]
    top, left = rng.integers(height - size + 1), rng.integers(width - size + 1)
    return image[top : top + size, left : left + size]


def _resized_crop(image, size, scale, rng):
    height, width = image.shape[:2]
    for _ in range(10):
        area = height * width * rng.uniform(scale[0], scale[1])
        aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
            break
    else:
        w = min(width, max(1, round(height * 4 / 3)))
        h = min(height, max(1, round(width * 4 / 3)))
        top, left = (height - h) // 2, (width - w) // 2
    part = image[top : top + h, left : left + w]
    return cv2.resize(part, (size, size), interpolation=cv2.INTER_LINEAR)
