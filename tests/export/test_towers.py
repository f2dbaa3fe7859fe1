"""The towers written for inference give the model's own embeddings."""

import numpy as np
import paddle
import pytest
from paddle.static import InputSpec

from ernie_vil2.export.towers import ImageProgram, TextProgram
from ernie_vil2.models.dual_encoder import build_model

VIT = {
    "name": "CLIP_vit_base_patch16_224",
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 48,
    "depth": 3,
    "num_heads": 4,
}
SMALL = {"img_size": 64}
TEXT = {
    "name": "own",
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 12,
    "initializer_range": 0.2,
}
# -> whether its blocks are rewritten
BACKBONES = {
    "quick_gelu": (VIT, True),
    "one_block": ({**VIT, "depth": 1}, True),
    "no_qkv_bias": ({**VIT, "qkv_bias": False}, True),
    "head": ({**VIT, "out_dim": 24, "activation": "tanh"}, True),
    "gelu": ({**VIT, "name": "MOCOV3_vit_small"}, True),
    "layer_scale_and_relative_positions": ({**VIT, "name": "BEiTv2_vit_base_patch16_224"}, False),
    "another_vit": ({**VIT, "name": "ViT_small_patch16_224"}, False),
    "cnn": ({**SMALL, "name": "PPLCNet_x0_25"}, False),
}


def model_with(image, embed_dim=16):
    paddle.seed(0)
    model = build_model({"embed_dim": embed_dim, "Image": image, "Text": TEXT})
    model.eval()
    for parameter in model.image_tower.parameters():  # zero biases would hide their loss
        noise = paddle.randn(parameter.shape) * 0.1
        parameter.set_value(parameter + noise)
    return model


def pixels(size, count=3):
    values = np.random.default_rng(0).normal(size=[count, 3, size, size])
    return paddle.to_tensor(values.astype("float32"))


@pytest.mark.parametrize("kind", BACKBONES)
@paddle.no_grad()
def test_images(kind):
    image, rewritten = BACKBONES[kind]
    model = model_with(image)
    program = ImageProgram(model)
    program.eval()
    assert program.rewritten == rewritten
    batch = pixels(image["img_size"])
    expected = model.encode_image(batch).numpy()
    np.testing.assert_allclose(program(batch).numpy(), expected, rtol=0, atol=1e-6)
    # a random CNN gives nearly one embedding for all
    assert np.ptp(expected, axis=0).max() > (0.01 if rewritten else 0.001)


@paddle.no_grad()
def test_last_block_computes_one_token():
    model = model_with(VIT)
    program = ImageProgram(model)
    program.eval()
    lengths = []
    for mlp in program.mlps:
        mlp.register_forward_post_hook(lambda layer, x, y: lengths.append(y.shape[1]))
    program(pixels(32))
    assert lengths == [17, 17, 1]


@pytest.mark.parametrize("embed_dim, layers", [(16, 2), (None, 1)])
@paddle.no_grad()
def test_texts(embed_dim, layers):
    width = {"embed_dim": 32}
    paddle.seed(0)
    text = {**TEXT, "num_hidden_layers": layers}
    model = build_model({"embed_dim": embed_dim, "Image": {**VIT, **width}, "Text": text})
    model.eval()
    ids = np.random.default_rng(0).integers(1, 50, (4, 9))
    ids[1, 5:] = 0
    ids[2, 1:] = 0
    ids = paddle.to_tensor(ids)
    program = TextProgram(model)
    program.eval()
    expected = model.encode_text(ids).numpy()
    np.testing.assert_allclose(program(ids).numpy(), expected, rtol=0, atol=1e-6)
    assert np.ptp(expected, axis=0).max() > 0.01


def test_programs_keep_their_dynamic_sizes_when_saved(tmp_path):
    model = model_with(VIT)
    cases = {
        "image": (
            ImageProgram(model),
            InputSpec([None, 3, 32, 32], "float32", "pixel_values"),
            [pixels(32, 1), pixels(32, 5)],
            model.encode_image,
        ),
        "text": (
            TextProgram(model),
            InputSpec([None, None], "int64", "input_ids"),
            [paddle.to_tensor([[1, 7, 2]]), paddle.to_tensor([[1, 7, 9, 11, 2], [1, 8, 2, 0, 0]])],
            model.encode_text,
        ),
    }
    for name, (program, spec, batches, encode) in cases.items():
        program.eval()
        paddle.jit.save(program, str(tmp_path / name), input_spec=[spec])
        loaded = paddle.jit.load(str(tmp_path / name))
        loaded.eval()
        for batch in batches:
            found, expected = loaded(batch).numpy(), encode(batch).numpy()
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
