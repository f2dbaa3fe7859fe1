"""Patch dropout: how many tokens, which, and what learns of it."""

import numpy as np
import paddle
import pytest

from ernie_vil2.errors import UserError
from ernie_vil2.models.image import ImageTower
from ernie_vil2.models.patches import drop_patches

TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}


def build(share):
    paddle.seed(0)
    return ImageTower("CLIP_vit_base_patch16_224", **TINY, patch_dropout=share)


def images(batch=64):
    rng = np.random.default_rng(0)
    return paddle.to_tensor(rng.normal(size=(batch, 3, 32, 32)).astype(np.float32))


def kept_by_gradient(tower, x):
    """bool [B, 16]: the patches that a pixel's change would change the features by."""
    x.stop_gradient = False
    tower(x).square().sum().backward()
    patches = x.grad.numpy().reshape(-1, 3, 4, 8, 4, 8).transpose(0, 2, 4, 1, 3, 5)
    return (np.abs(patches).max(axis=(3, 4, 5)) > 0).reshape(-1, 16)


@pytest.mark.parametrize("share,kept", [(0.5, 8), (0.7, 5), (0.99, 1)])
def test_each_image_keeps_patches_of_its_own(share, kept):
    tower, x = build(share), images()
    lengths = []
    tower.backbone.blocks[0].register_forward_pre_hook(
        lambda layer, inputs: lengths.append(inputs[0].shape)
    )
    seen = kept_by_gradient(tower, x)
    assert lengths == [[64, 1 + kept, 48]]
    assert (seen.sum(axis=1) == kept).all()  # and nothing of the others is learnt from
    assert len(np.unique(seen, axis=0)) > 10  # of 16 even where one patch is kept
    assert np.abs(seen.mean(axis=0) - kept / 16).max() < 0.3  # 4.8 standard deviations


def test_equal_seeds_keep_equal_patches():
    tower, x = build(0.5), images(8)

    def features(seed):
        paddle.seed(seed)
        return tower(x).numpy()

    one, other, again = map(features, (1, 2, 1))
    assert np.array_equal(one, again) and not np.allclose(one, other)


def test_tokens_are_moved_and_not_changed():
    x = paddle.arange(2 * 5 * 3).reshape([2, 5, 3]).astype("float32")
    rows = drop_patches(x, 0.25).numpy()
    assert np.array_equal(rows[:, 0], x.numpy()[:, 0])  # the class token
    for before, after in zip(x.numpy(), rows[:, 1:]):
        places = [np.flatnonzero((before == row).all(axis=1)).item() for row in after]
        assert len(set(places)) == 3 and 0 not in places


def test_evaluation_takes_all():
    whole, part = build(0.0), build(0.5)
    x = images(4)
    part.eval(), whole.eval()
    assert np.array_equal(part(x).numpy(), whole(x).numpy())


def test_mistakes_are_one_line():
    with pytest.raises(UserError, match=r"patch_dropout is 0\.5.*ResNet18 is none: set it to 0"):
        ImageTower("ResNet18", img_size=64, patch_dropout=0.5)
    with pytest.raises(UserError, match=r"patch_dropout is 1\.0: expected from 0 to below 1"):
        build(1.0)
