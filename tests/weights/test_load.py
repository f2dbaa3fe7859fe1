"""The official checkpoints and PaddleNLP's are read, compared with their numbers, and written."""

import math
import shutil
import sys

import numpy as np
import paddle
import pytest
import yaml

import ernie_vil2
from ernie_vil2.errors import UserError
from ernie_vil2.models.dual_encoder import build_model
from ernie_vil2.weights.load import load_weights
from tests.support.official_form import ARCH, embed
from tests.support.paths import ROOT


def symmetric_loss(images, texts, scale):
    """Cross-entropy of both directions, halved, in NumPy."""
    logits = scale * images @ texts.T
    both = []
    for rows in (logits, logits.T):
        top = rows.max(1)
        log_sum = np.log(np.exp(rows - top[:, None]).sum(1)) + top
        both.append((log_sum - rows.diagonal()).mean())
    return sum(both) / 2


def test_official_numbers(official):
    weights, config, numbers = official
    model = ernie_vil2.load(weights, config)
    assert not model.training
    images, texts = embed(model, numbers)
    np.testing.assert_allclose(images, numbers["image_embeds_normalized"], atol=1e-5)
    np.testing.assert_allclose(texts, numbers["text_embeds_normalized"], atol=1e-5)
    np.testing.assert_array_equal(model.temperature.numpy(), numbers["temperature_b"])
    loss = symmetric_loss(images, texts, float(model.logit_scale))
    assert abs(loss - float(numbers["contrastive_loss"])) < 1e-5
    with paddle.no_grad():
        features = model.image_tower(paddle.to_tensor(numbers["pixel_values"]))
    np.testing.assert_allclose(features.numpy(), numbers["image_embeds"], atol=1e-5)


def test_paddlenlp_numbers(fixtures_dir):
    numbers = np.load(fixtures_dir / "paddlenlp_tiny" / "io.npz")
    model = ernie_vil2.load(fixtures_dir / "paddlenlp_tiny")
    images, texts = embed(model, numbers)
    np.testing.assert_allclose(images, numbers["image_embeds_normalized"], atol=1e-5)
    np.testing.assert_allclose(texts, numbers["text_embeds_normalized"], atol=1e-5)
    scale = float(model.logit_scale)
    np.testing.assert_allclose(scale * texts @ images.T, numbers["logits_per_text"], atol=1e-4)
    assert abs(symmetric_loss(images, texts, scale) - float(numbers["loss"])) < 1e-5


def test_a_yaml_file_is_a_config(official, tmp_path):
    weights, config, numbers = official
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(config))
    images, _ = embed(ernie_vil2.load(weights, tmp_path / "tiny.yaml"), numbers)
    np.testing.assert_allclose(images, numbers["image_embeds_normalized"], atol=1e-5)


def test_every_bad_key_is_listed_and_partial_only_when_asked(official, tmp_path):
    weights, config, _numbers = official
    state = paddle.load(str(weights))
    state["visual.extra"] = paddle.ones([2])
    state["text_model.encoder_stack.block.7.ln1.bias"] = paddle.ones([64])
    del state["text_model.pooler.bias"]
    state["visual.norm_post.weight"] = paddle.ones([65])
    path = tmp_path / "bad.pdparams"
    paddle.save(state, str(path))
    with pytest.raises(UserError) as error:
        ernie_vil2.load(path, config)
    message = str(error.value)
    assert "4 keys" in message and "\n" not in message
    for part in (
        "missing text_tower.ernie.pooler.dense.bias",
        "unexpected visual.extra",
        "unexpected text_tower.ernie.encoder.layers.7.norm1.bias",
        "image_tower.backbone.norm.weight has shape (65,), not (64,)",
    ):
        assert part in message

    model = ernie_vil2.load(path, config, partial=True)
    expected = np.asarray(state["visual.norm_pre.weight"])
    np.testing.assert_array_equal(model.image_tower.backbone.ln_pre.weight.numpy(), expected)
    assert len(load_weights(model, path, partial=True)) == 4


def test_nothing_is_changed_by_weights_that_do_not_fit(official):
    weights, _config, _ = official
    model = build_model(ARCH)
    before = {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
    with pytest.raises(UserError, match=r"keys: .* and \d+ more; correct Arch"):
        load_weights(model, weights)
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), before[name])


def test_mistakes_are_named(official, fixtures_dir, tmp_path):
    weights, _config, _ = official
    with pytest.raises(UserError, match="does not say what model it is for: give a config"):
        ernie_vil2.load(weights)
    with pytest.raises(UserError, match="nowhere does not exist"):
        ernie_vil2.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds neither"):
        ernie_vil2.load(tmp_path)
    with pytest.raises(UserError, match="Arch is missing"):
        ernie_vil2.load(weights, {"Global": {}})
    shutil.copytree(fixtures_dir / "paddlenlp_tiny", tmp_path / "nlp", copy_function=shutil.copy)
    (tmp_path / "nlp").chmod(0o755)
    (tmp_path / "nlp" / "config.json").chmod(0o644)
    (tmp_path / "nlp" / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json cannot be read as JSON"):
        ernie_vil2.load(tmp_path / "nlp")


def test_command_line(official, tmp_path, capsys):
    weights, config, numbers = official
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import convert as tool  # tools/convert.py
    finally:
        sys.path.remove(str(ROOT / "tools"))
    from ernie_vil2 import cli

    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(config))
    steps = [
        ["--from", weights, "-c", tmp_path / "tiny.yaml", "--to", "ernie_vil2", "--out", "ours"],
        ["--from", tmp_path / "ours", "--to", "official", "--out", "o.pdparams"],
        ["--from", tmp_path / "ours", "--to", "paddlenlp", "--out", "nlp"],
    ]
    for step in steps:
        argv = [str(item) for item in [*step[:-1], tmp_path / step[-1]]]
        assert cli.run(tool.main, argv) == 0
        assert f"wrote {tmp_path / step[-1]}" in capsys.readouterr().out
    images, _ = embed(ernie_vil2.load(tmp_path / "ours"), numbers)
    np.testing.assert_allclose(images, numbers["image_embeds_normalized"], atol=1e-5)
    assert (tmp_path / "o.pdparams").is_file() and (tmp_path / "nlp" / "config.json").is_file()

    argv = ["--from", str(tmp_path / "no"), "--to", "official", "--out", str(tmp_path / "x")]
    assert cli.run(tool.main, argv) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert math.isclose(
        float(ernie_vil2.load(tmp_path / "nlp").logit_scale), 1 / 0.07, rel_tol=1e-4
    )
