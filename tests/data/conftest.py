"""Pictures that the tests of decoding and augmentation share."""

import numpy as np
import pytest


@pytest.fixture(scope="module")
def photo():
    """A smooth, coloured, asymmetric picture, 60 x 90, uint8 [H, W, 3]."""
    y, x = np.mgrid[0:60, 0:90]
    waves = [np.sin(x / 9), np.cos(y / 7 + x / 30), np.sin((x + 2 * y) / 11)]
    return (np.stack(waves, -1) * 120 + 128).astype(np.uint8)


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8)
