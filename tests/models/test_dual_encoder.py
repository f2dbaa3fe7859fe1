"""The two towers as one model: its embeddings, scale, gradients and layers."""

import numpy as np
import paddle
import pytest

from ernie_vil2.errors import UserError
from ernie_vil2.models.dual_encoder import build_model

IMAGE = {
    "name": "CLIP_vit_base_patch16_224",
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 48,
    "depth": 1,
    "num_heads": 3,
}
TEXT = {
    "name": "own",
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 12,
}


def arch(embed_dim=24, image=(), text=()):
    return {
        "embed_dim": embed_dim,
        "Image": {**IMAGE, **dict(image)},
        "Text": {**TEXT, **dict(text)},
    }


def batch(size=3, seed=0):
    rng = np.random.default_rng(seed)
    pixels = rng.normal(size=(size, 3, 32, 32)).astype(np.float32)
    return paddle.to_tensor(pixels), paddle.to_tensor(rng.integers(1, 50, (size, 8)))


@pytest.mark.parametrize("embed_dim, image", [(24, {}), (None, {"embed_dim": 32, "num_heads": 2})])
def test_embeddings_are_normalised(embed_dim, image):
    model = build_model(arch(embed_dim, image))
    model.eval()
    pixels, ids = batch()
    images, texts = model(pixels, ids)
    for embeds in (images, texts):
        assert embeds.shape == [3, model.embed_dim] and embeds.dtype == paddle.float32
        np.testing.assert_allclose(np.linalg.norm(embeds.numpy(), axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(model.encode_image(pixels).numpy(), images.numpy())
    np.testing.assert_array_equal(model.encode_text(ids).numpy(), texts.numpy())
    assert model(pixels)[1] is None and model(input_ids=ids)[0] is None


@pytest.mark.parametrize("embed_dim, image", [(24, {}), (None, {"embed_dim": 32, "num_heads": 2})])
def test_every_parameter_learns_in_one_step(embed_dim, image):
    model = build_model(arch(embed_dim, image))
    images, texts = model(*batch())
    ((images * texts).sum() * model.logit_scale).backward()
    without = [n for n, p in model.named_parameters() if p.grad is None]
    assert without == []
    # The key bias alone is without effect, as softmax ignores what all keys share.
    still = [n for n, p in model.named_parameters() if float(p.grad.abs().max()) == 0]
    assert [name for name in still if "k_proj.bias" not in name] == []


def test_names_begin_with_their_part():
    prefixes = {name.split(".")[0] for name, _ in build_model(arch()).named_parameters()}
    towers = {"image_tower", "text_tower", "image_projection", "text_projection"}
    assert prefixes == towers | {"temperature"}


def test_layers_above():
    model = build_model(arch())
    above = {name: model.layers_above(name) for name, _ in model.named_parameters()}
    assert above["image_tower.backbone.cls_token"] == 2
    assert above["image_tower.backbone.blocks.0.norm1.weight"] == 1
    assert above["image_tower.backbone.norm.weight"] == 0
    assert above["text_tower.ernie.embeddings.word_embeddings.weight"] == 3
    assert above["text_tower.ernie.encoder.layers.1.linear1.weight"] == 1
    assert above["text_tower.ernie.pooler.dense.weight"] == 0
    assert above["temperature"] == above["image_projection.weight"] == 0


def test_logit_scale_is_clamped_and_can_fall_again():
    model = build_model(arch(), {"init": 10.0, "max": 100.0, "learnable": True})
    assert model.logit_scale.shape == [1] and abs(float(model.logit_scale) - 10) < 1e-4
    model.temperature.set_value(paddle.to_tensor([50.0]))
    assert 99.99 < float(model.logit_scale) <= 100  # even before the parameter is clamped
    model.clamp_logit_scale()
    assert 99.99 < float(paddle.exp(model.temperature)) <= 100
    model.logit_scale.backward()
    assert abs(float(model.temperature.grad) - 100) < 0.01  # d exp(t) / dt, whole at the limit
    low = float(build_model(arch(), {"init": 0.5, "max": 0.5}).logit_scale)
    assert 0.4999 < low <= 0.5
    fixed = build_model(arch(), {"learnable": False})
    assert fixed.temperature.stop_gradient and abs(float(fixed.logit_scale) - 1 / 0.07) < 1e-4


@pytest.mark.parametrize("scale", [50.0, 99.9999, 1000.0])
def test_clamping_stays_on_the_device_and_is_as_by_the_host(monkeypatch, scale):
    model = build_model(arch())
    start = paddle.to_tensor([np.log(scale)], "float32")
    model.temperature.set_value(start)
    expected = np.minimum(start.numpy(), np.float32(model._clamped_temperature))

    def through_the_host(*args):
        raise AssertionError("the host was asked")

    for name in ("set_value", "numpy", "item", "__float__"):
        monkeypatch.setattr(paddle.Tensor, name, through_the_host)
    before = model.temperature
    model.clamp_logit_scale()
    monkeypatch.undo()
    assert model.temperature is before and not before.stop_gradient
    assert np.array_equal(model.temperature.numpy(), expected)


def test_half_precision_features_give_float32_embeddings():
    # Paddle has no automatic mixed precision on the CPU; half-precision towers stand for it.
    model = build_model(arch(None, {"embed_dim": 32, "num_heads": 2}))
    for tower in (model.image_tower, model.text_tower):
        tower.register_forward_post_hook(lambda layer, inputs, out: out.astype("bfloat16"))
    for embeds in model(*batch()):
        assert embeds.dtype == paddle.float32
        np.testing.assert_allclose(np.linalg.norm(embeds.numpy(), axis=1), 1, atol=1e-6)
    model.temperature = model.create_parameter([1], dtype="bfloat16")  # as AMP O2 makes it
    assert model.logit_scale.dtype == paddle.float32


def test_towers_export_with_any_batch_and_length(tmp_path):
    class TextEncoder(paddle.nn.Layer):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, input_ids):
            return self.model.encode_text(input_ids)

    model = build_model(arch())
    model.eval()
    spec = paddle.static.InputSpec([None, None], "int64", "input_ids")
    paddle.jit.save(TextEncoder(model), str(tmp_path / "text"), input_spec=[spec])
    exported = paddle.jit.load(str(tmp_path / "text"))
    for ids in (batch()[1], batch(1)[1][:, :5]):
        np.testing.assert_allclose(exported(ids).numpy(), model.encode_text(ids).numpy(), atol=1e-6)


@pytest.mark.parametrize(
    "node, loss, said",
    [
        (
            arch(None),
            None,
            "text tower gives 32 numbers, image tower 48: set Arch.embed_dim to project both to one"
            " size",
        ),
        (arch(image={"dept": 3}), None, 'Arch.Image.dept is unknown; did you mean "depth"?'),
        (arch(text={"hiden_size": 3}), None, 'hiden_size is unknown; did you mean "hidden_size"?'),
        (
            {**arch(), "embed_dims": 3},
            None,
            'Arch.embed_dims is unknown; did you mean "embed_dim"?',
        ),
        ({"Image": IMAGE}, None, "Arch.Text.name is missing"),
        (arch(), {"maximum": 3}, 'Loss.logit_scale.maximum is unknown; did you mean "max"?'),
        (arch(), {"init": 300}, "Loss.logit_scale.init is 300: expected more than 0 and at most"),
    ],
)
def test_mistakes_are_named(node, loss, said):
    with pytest.raises(UserError) as error:
        build_model(node, loss)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_tower_that_projects_itself_is_projected_no_more():
    resnet = {"name": "CLIP_rn50", "img_size": 32, "embed_dim": 64, "out_dim": 24}
    text = {**TEXT, "kind": "bert"}
    model = build_model({"embed_dim": 24, "Image": resnet, "Text": text})
    assert model.image_projection is None and model.text_projection is not None
    wider = build_model({"embed_dim": 16, "Image": resnet, "Text": text})
    assert wider.image_projection.weight.shape == [24, 16]
    assert model.encode_image(batch()[0]).shape == [3, 24]
