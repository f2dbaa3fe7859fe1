"""Image towers: each family's own features, and models that leave one another alone."""

import numpy as np
import paddle
import pytest
from paddle.nn import functional as F
from paddleclas.ppcls.arch import backbone as zoo
from paddlenlp.transformers.clip.modeling import ModifiedResNet

from ernie_vil2.errors import UserError
from ernie_vil2.models.image import ImageTower
from ernie_vil2.models.positions import resize_grid

TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}


def pixels(size, batch=2, seed=0):
    array = np.random.default_rng(seed).normal(size=(batch, 3, size, size))
    return paddle.to_tensor(array.astype(np.float32))


def grads(tower, x):
    tower(x).square().sum().backward()
    return {name: p.grad for name, p in tower.named_parameters() if not p.stop_gradient}


@pytest.mark.parametrize(
    "name, size, width",
    [
        ("PPLCNet_x0_25", 64, 1280),
        ("ResNet18", 64, 512),
        ("EfficientNetB0", 96, 1280),
        ("SwinTransformer_tiny_patch4_window7_224", 64, 768),
        ("ViT_small_patch16_224", 32, 768),
        ("MobileNetV2_x0_25", 64, 1280),
        ("PPLCNetV2_small", 64, 1280),  # has branches for inference alone
        ("LeViT_128S", 224, 384),  # built by a helper of its factory
    ],
)
def test_each_family_gives_its_features(name, size, width):
    tower = ImageTower(name, img_size=size)
    assert tower.width == width
    gradients = grads(tower, pixels(size))
    assert [name for name, grad in gradients.items() if grad is None] == []
    shapes = [p.shape for p in tower.parameters()]
    assert not any(1000 in shape or 1009 in shape for shape in shapes)  # no classifier
    depths = {tower.layer_of(name) for name in gradients}
    assert min(depths) == 0 and max(depths) <= tower.num_layers + 1
    tower.eval()
    features = tower(pixels(size)).numpy()
    assert features.shape == (2, width) and np.ptp(features, axis=0).max() > 0


def test_pooled_features_feed_paddleclas_own_classifier():
    paddle.seed(0)
    model = zoo.ResNet18(class_num=7)
    tower = ImageTower("ResNet18", img_size=64)
    tower.backbone.set_state_dict(model.state_dict())
    model.eval(), tower.eval()
    np.testing.assert_allclose(
        model.fc(tower(pixels(64))).numpy(), model(pixels(64)).numpy(), atol=1e-5
    )


def test_class_token_feeds_paddleclas_own_classifier():
    sizes = {"img_size": 32, "depth": 2, "class_num": 7}
    model = zoo.model_zoo.vision_transformer.VisionTransformer(
        patch_size=16, embed_dim=768, num_heads=12, qkv_bias=True, epsilon=1e-6, **sizes
    )
    tower = ImageTower("ViT_base_patch16_224", img_size=32, depth=2)
    tower.backbone.set_state_dict(model.state_dict())
    model.eval(), tower.eval()
    np.testing.assert_allclose(
        model.head(tower(pixels(32))).numpy(), model(pixels(32)).numpy(), atol=1e-5
    )


def test_clip_name_gives_its_sizes_and_arch_overrides_them():
    tower = ImageTower("CLIP_vit_large_patch14_224", depth=1)
    vit = tower.backbone
    assert tower.width == 1024 and vit.blocks[0].attn.num_heads == 16
    assert vit.pos_embed.shape == [1, 16 * 16 + 1, 1024]
    assert vit.ln_pre._epsilon == vit.norm._epsilon == vit.blocks[0].norm1._epsilon == 1e-6

    tower = ImageTower("CLIP_vit_base_patch16_224", **TINY, mlp_ratio=2, epsilon=1e-3)
    vit = tower.backbone
    assert vit.pos_embed.shape == [1, 4 * 4 + 1, 48]
    assert vit.blocks[1].mlp.fc1.weight.shape == [48, 96]
    assert vit.ln_pre._epsilon == vit.norm._epsilon == 1e-3


def test_models_in_one_process_leave_one_another_alone():
    clip = ImageTower("CLIP_vit_base_patch16_224", **TINY)
    clip.eval()
    before = clip(pixels(32)).numpy()
    towers = [
        ImageTower("MOCOV3_vit_small", **TINY),
        ImageTower("BEiTv2_vit_base_patch16_224", **TINY),
        ImageTower("CLIP_vit_base_patch32_224", **TINY),
        ImageTower("MobileNetV2_x0_25", img_size=32),  # both of these fix their
        ImageTower("GhostNet_x0_5", img_size=32),  # parameters' names
    ]
    np.testing.assert_array_equal(clip(pixels(32)).numpy(), before)
    names = [p.name for tower in [clip, *towers] for p in tower.parameters()]
    assert len(names) == len(set(names))
    for tower in towers[:3]:
        tower.eval()
        assert tower(pixels(32)).shape == [2, 48]


def test_linear_and_tanh_after_the_features():
    tower = ImageTower("PPLCNet_x0_25", img_size=64, out_dim=24, activation="tanh")
    out = tower(100 * pixels(64))
    assert tower.width == 24 and out.shape == [2, 24] and float(out.abs().max()) <= 1
    assert tower.layer_of("head.0.weight") == tower.num_layers + 1


def test_layers_from_stem_to_head():
    tower = ImageTower("CLIP_vit_base_patch16_224", **TINY)
    layers = {
        name[len("backbone.") :]: tower.layer_of(name) for name, _ in tower.named_parameters()
    }
    assert tower.num_layers == 2
    stem = ("cls_token", "pos_embed", "patch_embed.proj.weight", "ln_pre.weight", "ln_pre.bias")
    assert {name for name, layer in layers.items() if layer == 0} == set(stem)
    assert layers["blocks.0.norm1.weight"] == 1 and layers["blocks.1.mlp.fc2.bias"] == 2
    assert layers["norm.weight"] == 3


def test_recompute_runs_blocks_twice_with_equal_gradients():
    plain = ImageTower("CLIP_vit_base_patch16_224", **TINY)
    again = ImageTower("CLIP_vit_base_patch16_224", **TINY, recompute=True)
    again.set_state_dict(plain.state_dict())
    calls = {}
    gradients = {}
    for key, tower in (("plain", plain), ("again", again)):
        for block in tower.backbone.blocks:
            block.mlp.drop.p = 0.5  # so that a second run with other random numbers would show
            block.register_forward_post_hook(
                lambda *_, key=key: calls.update({key: calls.get(key, 0) + 1})
            )
        paddle.seed(1)
        gradients[key] = grads(tower, pixels(32))
        gradients[key]["next"] = paddle.rand([3])  # the random state goes on alike
    assert calls == {"plain": 2, "again": 4}
    for name, grad in gradients["plain"].items():
        np.testing.assert_array_equal(grad.numpy(), gradients["again"][name].numpy(), name)


def test_recompute_behind_a_frozen_stem_still_learns():
    tower = ImageTower("CLIP_vit_base_patch16_224", **TINY, recompute=True)
    for name, parameter in tower.named_parameters():
        parameter.stop_gradient = tower.layer_of(name) == 0
    gradients = grads(tower, pixels(32))
    assert gradients and all(grad is not None for grad in gradients.values())


@pytest.mark.parametrize(
    "options, said",
    [
        ({"name": "ResNet81"}, 'did you mean "ResNet'),
        ({"name": "ResNet18", "depth": 3}, "Arch.Image.depth is 3, but ResNet18 takes none"),
        ({"name": "ResNet18", "recompute": True}, "recompute works on vision transformers"),
        ({"name": "ResNet18", "activation": "tanh"}, "needs out_dim"),
        ({"name": "ResNet18", "out_dim": 8, "activation": "tahn"}, 'did you mean "tanh"'),
        ({"name": "CLIP_vit_base_patch16_224", "img_size": 100}, "no multiple of patch_size 16"),
        (
            {"name": "ViT_base_patch16_224", "num_heads": 5},
            "768 of ViT_base_patch16_224 is no mult",
        ),
        ({"name": "ResNet18", "hidden_act": "gelu"}, "hidden_act is gelu, but ResNet18 takes none"),
        ({"name": "CLIP_rn50", "hidden_act": "gelu"}, "hidden_act is gelu, but CLIP_rn50 takes"),
        ({"name": "CLIP_rn50", "out_dim": 8, "activation": "tanh"}, "activation is tanh, but CLIP"),
        ({"name": "CLIP_rn50", "pretrained": True}, "PaddleClas has no weights for CLIP_rn50"),
        ({"name": "CLIP_rn50", "embed_dim": 100}, "embed_dim 100 of CLIP_rn50 is no multiple of"),
        ({"name": "CLIP_rn50", "img_size": 100}, "img_size 100 of CLIP_rn50 is no multiple of 32"),
        ({"name": "CLIP_rn05"}, 'did you mean "CLIP_rn50'),
    ],
)
def test_mistakes_are_named(options, said):
    with pytest.raises(UserError) as error:
        ImageTower(**options)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_pretrained_weights_out_of_reach(monkeypatch, tmp_path):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr(paddleclas_download(), "WEIGHTS_HOME", str(tmp_path))
    monkeypatch.setattr(paddleclas_download(), "DOWNLOAD_RETRY_LIMIT", 1)
    with pytest.raises(
        UserError, match=r"cannot be downloaded .* set Arch.Image.pretrained to false"
    ):
        ImageTower("PPLCNet_x0_25", pretrained=True, img_size=64)


def test_pretrained_weights_are_loaded(monkeypatch, tmp_path):
    paddle.seed(3)
    source = zoo.PPLCNet_x0_25()  # with its classifier, as published
    url = zoo.legendary_models.pp_lcnet.MODEL_URLS["PPLCNet_x0_25"]
    paddle.save(source.state_dict(), str(tmp_path / url.rpartition("/")[2]))
    monkeypatch.setattr(paddleclas_download(), "WEIGHTS_HOME", str(tmp_path))  # already there
    tower = ImageTower("PPLCNet_x0_25", pretrained=True, img_size=64)
    expected = source.state_dict()
    for name, tensor in tower.backbone.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), expected[name].numpy())


def test_pretrained_weights_of_another_resolution(monkeypatch, tmp_path, logged):
    name = "DeiT_tiny_patch16_224"
    source = zoo.DeiT_tiny_patch16_224()
    table = np.random.default_rng(0).normal(size=source.pos_embed.shape).astype(np.float32)
    source.pos_embed.set_value(table)
    url = getattr(zoo, name).__globals__["MODEL_URLS"][name]
    paddle.save(source.state_dict(), str(tmp_path / url.rpartition("/")[2]))
    monkeypatch.setattr(paddleclas_download(), "WEIGHTS_HOME", str(tmp_path))
    tower = ImageTower(name, pretrained=True, img_size=64)
    np.testing.assert_array_equal(tower.backbone.pos_embed.numpy(), resize_grid(table, 4))
    assert f"{name}: pos_embed resized from 14 x 14 to 4 x 4 (bicubic)" in logged.text


def paddleclas_download():
    from paddleclas.ppcls.utils import download

    return download


@pytest.mark.parametrize("hidden_act, function", [("gelu", F.gelu), (None, None)])
def test_the_activation_of_clip_blocks(hidden_act, function):
    tower = ImageTower("CLIP_vit_base_patch16_224", **TINY, hidden_act=hidden_act)
    x = pixels(8)
    quick = x * F.sigmoid(1.702 * x)
    expected = function(x) if function else quick
    for block in tower.backbone.blocks:
        np.testing.assert_allclose(block.mlp.act(x).numpy(), expected.numpy(), atol=1e-6)


def test_clips_resnet_gives_what_paddlenlps_gives():
    paddle.seed(0)
    tower = ImageTower("CLIP_rn50", img_size=64, embed_dim=256, num_heads=8, out_dim=24)
    assert tower.is_projected and tower.width == 24 and tower.num_layers == 10
    gradients = grads(tower, pixels(64))
    assert [name for name, grad in gradients.items() if grad is None] == []
    source = ModifiedResNet([3, 4, 6, 3], 24, 8, 64, width=8)
    source.set_state_dict(tower.backbone.state_dict())
    tower.eval(), source.eval()
    np.testing.assert_allclose(
        tower(pixels(64)).numpy(), source(pixels(64)).numpy(), rtol=1e-5, atol=1e-6
    )
    assert tower.layer_of("backbone.conv1.weight") == 0
    assert tower.layer_of("backbone.attnpool.c_proj.weight") == tower.num_layers
