"""Weights of any shape and inputs that PyTorch and Paddle can be given alike, by NumPy alone."""

import zlib

import numpy as np

TEXTS, TOKENS = 4, 9


def weights(shapes: dict) -> dict:
    """An array for each name and shape, of sizes at which no part of a model is lost.

    Whole numbers stand for what counts steps, all else is float32 and exact in float16.
    """
    return {name: _array(name, tuple(shape)) for name, shape in shapes.items()}


def _array(name, shape):
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if name.endswith("logit_scale"):
        return np.full(shape, 2.5, np.float32)
    if name.endswith("running_var"):
        array = rng.uniform(0.5, 1.5, shape)
    elif len(shape) < 2:
        array = 0.2 * rng.normal(size=shape) + (name.endswith("weight"))
    elif "embed" in name:
        array = 0.3 * rng.normal(size=shape)
    else:
        array = rng.normal(size=shape) * (1.5 / np.sqrt(np.prod(shape[1:])))
    return array.astype(np.float16).astype(np.float32)


def inputs(size: int, vocab: int) -> tuple[np.ndarray, np.ndarray]:
    """float32 [4, 3, size, size] and int64 [4, 9], the second text padded with 0."""
    rng = np.random.default_rng(1)
    pixels = rng.normal(size=(TEXTS, 3, size, size)).astype(np.float32)
    ids = rng.integers(3, vocab, (TEXTS, TOKENS))
    ids[1, 5:] = 0
    return pixels, ids
