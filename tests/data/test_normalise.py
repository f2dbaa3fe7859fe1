"""Pixels normalised on the device: the official numbers, bit for bit."""

import numpy as np
import paddle
import pytest

from ernie_vil2.data.normalise import Normalise
from ernie_vil2.data.transforms import eval_planes, eval_transform

WAYS = [Normalise._by_opencv, Normalise._by_gather]  # of a CPU, and of other devices; both run here


@pytest.mark.parametrize("way", WAYS)
def test_a_batch_equals_the_official_preprocessing(way, fixtures_dir):
    folder = fixtures_dir / "official_preprocess"
    expected = np.load(folder / "preprocessed.npz")
    files = [file for file in sorted(folder.iterdir()) if file.suffix in (".jpg", ".png")]
    planes = np.stack([eval_planes(224)(file.read_bytes()) for file in files])
    assert planes.dtype == np.uint8
    found = way(Normalise(), paddle.to_tensor(planes)).numpy()
    np.testing.assert_array_equal(found, Normalise()(paddle.to_tensor(planes)).numpy())
    for image, file in zip(found, files):
        np.testing.assert_array_equal(image, expected[file.name.replace(".", "_")])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "mean,std",
    [
        ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ((0.1, 0.0, 1.0), (0.5, 1e-3, 3.0)),
    ],
)
def test_all_values_of_all_channels(mean, std, way):
    """Bit for bit what a host makes of them, and by the formula in float64."""
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = np.stack([values, values[::-1], values.T], axis=-1)
    planes = np.stack([eval_planes(16)(image), eval_planes(16)(image[::-1])])
    found = way(Normalise(mean, std), paddle.to_tensor(planes)).numpy()
    assert found.dtype == np.float32 and found.shape == (2, 3, 16, 16)
    np.testing.assert_array_equal(found[0], eval_transform(16, mean, std)(image))
    np.testing.assert_array_equal(found[1], found[0][:, ::-1])
    formula = (image / 255 - mean) / std
    np.testing.assert_allclose(found[0].transpose(1, 2, 0), formula, rtol=2e-4, atol=1e-6)


def test_pixels_that_are_normalised_stay_as_they_are(noise):
    pixels = paddle.to_tensor(eval_transform(48)(noise)[None])
    assert Normalise()(pixels) is pixels
