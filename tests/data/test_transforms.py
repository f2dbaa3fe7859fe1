"""The evaluation preprocessings against those whose names they have."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ernie_vil2.data.transforms import ImageError, eval_pixels, eval_planes, eval_transform
from ernie_vil2.errors import UserError
from ernie_vil2.preprocessing import PREPROCESSINGS
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


# -- The preprocessings of others ------------------------------------------------------------------


@pytest.fixture(scope="module")
def peers():
    """What PaddleNLP's ernie-vil2.0, Chinese-CLIP and OpenAI's CLIP make of three photographs.

    Keys: a photograph's file name -> its bytes; `name/file` -> uint8 [48, 48, 3]; `name/row` ->
    float32 [3, 48], the seventh row of cat.jpg, normalised. Their code made them (PaddleNLP's
    EvalImgDataset, cn_clip 31863c7, CLIP d05afc4, the same as open_clip 89fb801; Pillow 11.3), of
    parts of scikit-image's chelsea (CC0) and astronaut (NASA, in the public domain).
    """
    return np.load(Path(__file__).with_name("peer_pixels.npz"))


@pytest.mark.parametrize("name", ["paddlenlp", "chinese_clip", "clip"])
def test_pixels_are_those_of_the_code_it_is_named_after(peers, name):
    for file in ("cat.jpg", "astronaut.jpg", "small.png"):
        found = eval_pixels(48, name)(peers[file].tobytes())
        np.testing.assert_array_equal(found, peers[f"{name}/{file}"])
        if file != "small.png" or name == "clip":  # a comparison that can fail
            assert not np.array_equal(found, eval_pixels(48)(peers[file].tobytes()))
    row = eval_transform(48, name=name)(peers["cat.jpg"].tobytes())[:, 7]
    # theirs rounds mean and std to float32 first: some last bits
    np.testing.assert_allclose(row, peers[f"{name}/row"], atol=1e-6)
    assert np.abs(row - eval_transform(48)(peers["cat.jpg"].tobytes())[:, 7]).max() > 0.01


@pytest.mark.parametrize("name", PREPROCESSINGS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (300, 2), (48, 49), (49, 48), (47, 48)])
def test_any_shape_gives_the_size_by_any_name(shape, name):
    image = np.full((*shape, 3), 100, np.uint8)
    view = pickle.loads(pickle.dumps(eval_transform(48, name=name)))(image)
    assert view.shape == (3, 48, 48) and view.flags.c_contiguous
    assert np.ptp(view, axis=(1, 2)).max() == 0
    if name in ("official", "clip"):
        with pytest.raises(ImageError, match="pixels"):
            eval_transform(224, name=name)(np.zeros((1, 60_000, 3), np.uint8))


def test_an_unknown_name_is_an_error():
    for make in (eval_transform, eval_pixels, eval_planes):
        with pytest.raises(UserError, match=r"^no preprocessing \"clips\".*clip"):
            make(48, name="clips")
