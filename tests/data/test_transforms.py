"""The evaluation preprocessing against the official one."""

import pickle

import numpy as np
import pytest
from PIL import Image

from ernie_vil2.data.transforms import ImageError, eval_planes, eval_transform
from tests.support.pictures import encoded


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
    for view in (eval_transform(size)(image), eval_planes(size)(image)):
        assert view.shape == (3, size, size)


def test_bytes_and_pixels_give_the_same(photo):
    transform = eval_transform(32)
    np.testing.assert_array_equal(transform(encoded(Image.fromarray(photo))), transform(photo))


def test_transforms_can_be_pickled(photo):
    transform = pickle.loads(pickle.dumps(eval_transform(32)))
    np.testing.assert_array_equal(transform(photo), eval_transform(32)(photo))


def test_unusable_arrays_are_an_error(photo):
    for image in (photo[..., 0], photo / 255.0, photo[:0], np.dstack([photo, photo])):
        with pytest.raises(ImageError, match="expected uint8"):
            eval_transform(32)(image)
    with pytest.raises(ImageError, match="pixels"):  # as large as a bomb once resized
        eval_transform(224)(np.zeros((1, 60_000, 3), np.uint8))
