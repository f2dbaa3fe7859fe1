"""What the training augmentation does to colours, on uint8 [H, W, 3] RGB, in the fewest passes.

`tests/support/augmentation.py` does the same step by step, as it is read; this stays within two
levels of 255 of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from ernie_vil2.data.arrays import Pixels
from ernie_vil2.data.draws import Step

_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as OpenCV's and Pillow's greyscale
_GAINS = 1 / 16, 2  # of those beyond, a limit that is rounded to a pixel's level shows, or is none


def jitter(image: Pixels, steps: Sequence[Step]) -> Pixels:
    """`image` after the steps, in their order; each keeps its result in 0..255.

    brightness: factor * image. contrast: factor * image + (1 - factor) * the mean of its luma.
    saturation: factor * image + (1 - factor) * its luma. hue: turned by a share of the circle.
    """
    colours = _Colours(image)
    for name, value in steps:
        getattr(colours, name)(value)
    return colours.result()


class _Colours:
    """An image on which steps are taken: its colours are `gain * pixels + offset`.

    So brightness and contrast cost nothing until a step needs pixels, and saturation, one product
    with a matrix, takes both along.
    """

    def __init__(self, pixels: Pixels):
        self.pixels, self.gain, self.offset = pixels, 1.0, 0.0

    def brightness(self, factor: float) -> None:
        self._limit()
        self.gain, self.offset = factor * self.gain, factor * self.offset

    def contrast(self, factor: float) -> None:
        self._limit()
        mean = self.gain * _mean_luma(self.pixels) + self.offset
        self.gain, self.offset = factor * self.gain, factor * self.offset + (1 - factor) * mean

    def saturation(self, factor: float) -> None:
        self._limit()
        own, red, green, blue = self.gain * factor, *(self.gain * (1 - factor) * w for w in _LUMA)
        matrix = [  # the offset, equal in all channels, stays as it is: their weights add up to 1
            [own + red, green, blue, self.offset],
            [red, own + green, blue, self.offset],
            [red, green, own + blue, self.offset],
        ]
        self._become(cv2.transform(self.pixels, np.array(matrix)))

    def hue(self, shift: float) -> None:
        hsv = cv2.cvtColor(self.result(), cv2.COLOR_RGB2HSV_FULL)
        row = np.zeros(hsv.shape[1] * 3, np.uint8)
        row[::3] = round(shift * 256) % 256
        lines = hsv.reshape(len(hsv), -1)
        lines += row  # hue is in 0..255, so uint8 wraps as it should
        # Intel's library takes twice the time of OpenCV's own for the way back.
        used = cv2.ipp.useIPP()
        cv2.ipp.setUseIPP(False)
        try:
            self._become(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL))
        finally:
            cv2.ipp.setUseIPP(used)

    def result(self) -> Pixels:
        # a diagonal matrix takes cv2.transform longer than either
        if self.offset < 0:
            self._become(cv2.addWeighted(self.pixels, self.gain, self.pixels, 0.0, self.offset))
        elif self.gain != 1 or self.offset:
            self._become(cv2.convertScaleAbs(self.pixels, alpha=self.gain, beta=self.offset))
        return self.pixels

    def _become(self, pixels: Pixels) -> None:
        self.pixels, self.gain, self.offset = pixels, 1.0, 0.0

    def _limit(self) -> None:
        """Keep colours in 0..255: of the pixels, the levels that lead beyond are cut."""
        low, high = self.offset, self.gain * 255 + self.offset
        if low >= -0.5 and high <= 255.5:
            return
        steep = not (_GAINS[0] <= self.gain <= _GAINS[1] and 0 <= (low + high) / 2 <= 255)
        if steep or self.pixels.size == 3:  # one pixel: OpenCV takes it for a number
            self.result()
            return
        if high > 255.5:
            self.pixels = cv2.min(self.pixels, (round((255 - self.offset) / self.gain),) * 3)
        if low < -0.5:
            self.pixels = cv2.max(self.pixels, (round(-self.offset / self.gain),) * 3)


def _mean_luma(image: Pixels) -> float:
    luma = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return float(cv2.norm(luma, cv2.NORM_L1)) / luma.size  # a sum, in a tenth of cv2.mean's time
