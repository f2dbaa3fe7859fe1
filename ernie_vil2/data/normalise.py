"""Normalised pixels, made on the device from a quarter of their bytes."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import paddle

from ernie_vil2.data.transforms import MEAN, STD, normalisation_table


class Normalise:
    """uint8 [B, 3, H, W] -> float32 [B, 3, H, W], (v / 255 - mean) / std, where the pixels are.

    Bit for bit what `eval_transform` gives, on every device: the 3 * 256 results that there can be
    are looked up. Computed there they would be rounded otherwise (Paddle 2.6 multiplies by 1 / 255,
    and has no float64 mean). Pixels of another type are taken for normalised ones.

    Args:
        mean: of each channel, in 0..1.
        std: standard deviation of each channel.
    """

    def __init__(self, mean: Sequence[float] = MEAN, std: Sequence[float] = STD):
        self._table = normalisation_table(mean, std)  # float32 [3, 256]
        self._on_device: dict[str, tuple[paddle.Tensor, paddle.Tensor]] = {}  # by place

    def __call__(self, pixels: paddle.Tensor) -> paddle.Tensor:
        if pixels.dtype != paddle.uint8:
            return pixels
        on_host = pixels.place.is_cpu_place()  # where OpenCV needs a third of the time
        return self._by_opencv(pixels) if on_host else self._by_gather(pixels)

    def _by_gather(self, pixels: paddle.Tensor) -> paddle.Tensor:
        table, first = self._tensors(pixels)
        places = pixels.astype("int32") + first  # [B, 3, H, W], into the table
        return paddle.gather(table, places.reshape([-1])).reshape(pixels.shape)

    def _by_opencv(self, pixels: paddle.Tensor) -> paddle.Tensor:
        source = pixels.numpy().reshape(len(pixels), 3, -1)  # [B, 3, H * W]
        result = np.empty(source.shape, np.float32)
        for channel, values in enumerate(self._table):
            cv2.LUT(source[:, channel], values, result[:, channel])
        return paddle.to_tensor(result.reshape(pixels.shape), place=pixels.place)

    def _tensors(self, pixels: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        """The table, float32 [3 * 256], and where each channel begins in it, int32 [3, 1, 1]."""
        place = str(pixels.place)
        if place not in self._on_device:
            first = np.arange(0, self._table.size, self._table.shape[1], dtype=np.int32)
            self._on_device[place] = (
                paddle.to_tensor(self._table.reshape(-1), place=pixels.place),
                paddle.to_tensor(first.reshape(3, 1, 1), place=pixels.place),
            )
        return self._on_device[place]
