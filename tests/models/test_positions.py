"""Position embeddings fit another resolution as bicubic interpolation says, and another length."""

import math

import numpy as np
import paddle
import pytest

import ernie_vil2
from ernie_vil2.models import positions
from ernie_vil2.models.dual_encoder import build_model
from ernie_vil2.weights.ours import save_checkpoint
from tests.support.official_form import ARCH, embed, random_inputs


def kernel(x: float) -> float:
    """Keys's cubic convolution with a = -3/4, from its definition."""
    a, x = -0.75, abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def reference(row, size: int) -> list:
    """A line of vectors at `size` places, float64, one sum after another."""
    result = []
    for place in range(size):
        x = (place + 0.5) * len(row) / size - 0.5
        taps = range(math.floor(x) - 1, math.floor(x) + 3)
        result.append(
            sum(kernel(x - t) * row[min(max(t, 0), len(row) - 1)].astype(np.float64) for t in taps)
        )
    return np.array(result)


def reference_grid(table, size: int):
    """[1, 1 + n * n, C] -> [1, 1 + size * size, C]"""
    n = math.isqrt(table.shape[1] - 1)
    grid = table[0, 1:].reshape(n, n, -1)
    grid = np.array([reference(line, size) for line in grid])  # [n, size, C]
    grid = np.array([reference(grid[:, x], size) for x in range(size)])  # [size of x, size of y, C]
    grid = grid.transpose(1, 0, 2).reshape(size * size, -1)
    return np.concatenate([table[0, :1], grid])[None]


def test_two_places_to_four_by_hand():
    line = np.array([[1.0], [0.0]])
    four = positions.resize_table(line, 4)
    # 0.25 from the first: 0.87890625 - 0.10546875; the rest are its mirror and the border's
    np.testing.assert_allclose(four[1], 0.7734375, atol=1e-12)
    np.testing.assert_allclose(four[2], 0.2265625, atol=1e-12)
    np.testing.assert_allclose(four[0] + four[3], 1.0, atol=1e-12)


@pytest.mark.parametrize("old, new", [(4, 6), (4, 2), (7, 7), (14, 24), (24, 14), (1, 3), (3, 1)])
def test_grids_equal_the_reference_and_paddles(old, new):
    rng = np.random.default_rng(old * 100 + new)
    table = rng.normal(size=(1, 1 + old * old, 5)).astype(np.float32)
    resized = positions.resize_grid(table, new)
    assert resized.dtype == np.float32
    np.testing.assert_allclose(resized, reference_grid(table, new), atol=1e-6)
    np.testing.assert_array_equal(resized[0, 0], table[0, 0])
    if new == 1:  # Paddle takes the first place there, not the middle
        return
    picture = paddle.to_tensor(table[:, 1:].reshape(1, old, old, 5).transpose(0, 3, 1, 2))
    theirs = paddle.nn.functional.interpolate(
        picture, [new, new], mode="bicubic", align_corners=False
    )
    theirs = theirs.numpy()[0].transpose(1, 2, 0).reshape(new * new, 5)
    np.testing.assert_allclose(resized[0, 1:], theirs, atol=1e-5)


@pytest.mark.parametrize("size, side", [(96, 6), (32, 2), (64, 4)])
def test_another_resolution(official, logged, size, side):
    weights, config, _numbers = official
    image = {**config["Arch"]["Image"], "img_size": size}
    model = ernie_vil2.load(weights, {"Arch": {**config["Arch"], "Image": image}})
    before = ernie_vil2.load(weights, config).state_dict()
    logged_lines = [message for message in logged.messages if "pos_embed" in message]
    for name, tensor in model.state_dict().items():
        if name == positions.IMAGE and side != 4:
            expected = reference_grid(before[name].numpy(), side)
            np.testing.assert_allclose(tensor.numpy(), expected, atol=1e-6)
        else:
            np.testing.assert_array_equal(tensor.numpy(), before[name].numpy())
    if side == 4:
        assert not logged_lines
    else:
        (line,) = logged_lines
        assert f"resized from 4 x 4 to {side} x {side} (bicubic)" in line
    pixels = paddle.to_tensor(random_inputs(size)["pixel_values"])
    assert model.encode_image(pixels).shape == [4, 64]


def test_fewer_tokens_leave_texts_that_fit_as_they_were(official, logged):
    weights, config, numbers = official
    text = {**config["Arch"]["Text"], "max_position_embeddings": 16}
    model = ernie_vil2.load(weights, {"Arch": {**config["Arch"], "Text": text}})
    np.testing.assert_array_equal(
        embed(model, numbers)[1], embed(ernie_vil2.load(weights, config), numbers)[1]
    )
    assert "position_embeddings.weight cut from 64 to the first 16" in logged.text


def test_more_tokens_stretch_the_table(official, logged):
    weights, config, _ = official
    text = {**config["Arch"]["Text"], "max_position_embeddings": 100}
    model = ernie_vil2.load(weights, {"Arch": {**config["Arch"], "Text": text}})
    before = ernie_vil2.load(weights, config).state_dict()[positions.TEXT].numpy()
    after = model.state_dict()[positions.TEXT].numpy()
    np.testing.assert_allclose(after, reference(before, 100), atol=1e-6)
    assert "stretched from 64 to 100 (cubic)" in logged.text and "train on" in logged.text


def test_other_shapes_are_still_refused(tmp_path):
    model = build_model(ARCH)
    save_checkpoint(model, tmp_path / "ours")
    for change in ({"patch_size": 4}, {"embed_dim": 96, "num_heads": 6}):
        image = {**ARCH["Image"], **change}
        with pytest.raises(ernie_vil2.errors.UserError, match="does not fit the model"):
            ernie_vil2.load(tmp_path / "ours", {"Arch": {**ARCH, "embed_dim": 8, "Image": image}})
    assert positions.fit(positions.IMAGE, np.zeros((1, 17, 8)), (1, 12, 8)) is None
    assert positions.fit("image_tower.backbone.cls_token", np.zeros((1, 5, 8)), (1, 10, 8)) is None
