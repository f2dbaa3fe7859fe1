"""The official checkpoints and PaddleNLP's are read, compared with their numbers, and written."""

import math
import shutil
import subprocess
import sys

import numpy as np
import paddle
import pytest
import yaml

import ernie_vil2
from ernie_vil2.data.tokenize import Tokenizer
from ernie_vil2.errors import UserError
from ernie_vil2.files.pdparams import read_pdparams
from ernie_vil2.models.dual_encoder import build_model
from ernie_vil2.weights import load as convert
from tests.support.paths import ROOT

ARCH = {
    "embed_dim": None,
    "Image": {
        "name": "CLIP_vit_base_patch16_224",
        "img_size": 32,
        "patch_size": 8,
        "embed_dim": 48,
        "depth": 1,
        "num_heads": 3,
        "mlp_ratio": 5 / 3,
    },
    "Text": {
        "name": "own",
        "vocab_size": 60,
        "hidden_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "intermediate_size": 40,
        "max_position_embeddings": 10,
    },
}


def embed(model, numbers):
    with paddle.no_grad():
        images = model.encode_image(paddle.to_tensor(numbers["pixel_values"]))
        texts = model.encode_text(paddle.to_tensor(numbers["input_ids"]))
    return images.numpy(), texts.numpy()


def random_inputs(size=32, length=10, vocab=60):
    rng = np.random.default_rng(0)
    ids = rng.integers(3, vocab, (4, length))
    ids[1, 5:] = 0
    pixels = rng.normal(size=(4, 3, size, size)).astype(np.float32)
    return {"pixel_values": pixels, "input_ids": ids}


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


def paddlenlp_outputs(folder, numbers):
    from paddlenlp.transformers import ErnieViLModel

    model = ErnieViLModel.from_pretrained(str(folder))
    model.eval()
    with paddle.no_grad():
        out = model(
            input_ids=paddle.to_tensor(numbers["input_ids"]),
            pixel_values=paddle.to_tensor(numbers["pixel_values"]),
        )
    return out.image_embeds.numpy(), out.text_embeds.numpy(), float(model.temperature)


@pytest.mark.parametrize("source", ["fixture", "other sizes"])
def test_paddlenlp_loads_what_we_save(fixtures_dir, tmp_path, source):
    if source == "fixture":
        model = ernie_vil2.load(fixtures_dir / "paddlenlp_tiny")
        numbers = np.load(fixtures_dir / "paddlenlp_tiny" / "io.npz")
    else:
        # PaddleNLP's text tower has this epsilon, whatever its config says
        model = build_model({**ARCH, "Text": {**ARCH["Text"], "epsilon": 1e-12}})
        model.eval()
        numbers = random_inputs()
    ernie_vil2.save_paddlenlp(model, tmp_path / "saved")
    images, texts, temperature = paddlenlp_outputs(tmp_path / "saved", numbers)
    ours = embed(model, numbers)
    np.testing.assert_allclose(images, ours[0], atol=1e-5)
    np.testing.assert_allclose(texts, ours[1], atol=1e-5)
    assert temperature == float(model.temperature)

    again = ernie_vil2.load(tmp_path / "saved")
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[name].numpy(), tensor.numpy(), name)


def test_paddlenlps_other_epsilon_is_said(official, tmp_path, logged):
    weights, config, numbers = official
    model = ernie_vil2.load(weights, config)
    ernie_vil2.save_paddlenlp(model, tmp_path)
    assert "epsilon 1e-12, this model has 1e-05" in logged.text
    images, texts, _ = paddlenlp_outputs(tmp_path, numbers)
    np.testing.assert_allclose(images, embed(model, numbers)[0], atol=1e-5)
    np.testing.assert_allclose(texts, embed(model, numbers)[1], atol=1e-4)


def test_official_round_trip(official, tmp_path):
    weights, config, _ = official
    convert.save_official(ernie_vil2.load(weights, config), tmp_path / "new" / "o.pdparams")
    before, after = read_pdparams(weights), read_pdparams(tmp_path / "new" / "o.pdparams")
    assert before.keys() == after.keys()
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array, name)


@pytest.mark.parametrize("embed_dim, text_size", [(None, 48), (20, 36)])
def test_our_folder_round_trip(tmp_path, embed_dim, text_size):
    text = {**ARCH["Text"], "hidden_size": text_size}
    model = build_model({**ARCH, "embed_dim": embed_dim, "Text": text})
    model.eval()
    convert.save_checkpoint(model, tmp_path / "run" / "checkpoints" / "latest")
    numbers = random_inputs()
    for path in (tmp_path / "run", tmp_path / "run" / "checkpoints" / "latest"):
        again = ernie_vil2.load(path)
        for ours, theirs in zip(embed(model, numbers), embed(again, numbers)):
            np.testing.assert_array_equal(ours, theirs)


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
    assert len(convert.load_weights(model, path, partial=True)) == 4


def test_nothing_is_changed_by_weights_that_do_not_fit(official):
    weights, _config, _ = official
    model = build_model(ARCH)
    before = {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
    with pytest.raises(UserError, match=r"keys: .* and \d+ more; correct Arch"):
        convert.load_weights(model, weights)
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


@pytest.mark.parametrize(
    "change, said",
    [
        ({"embed_dim": 16}, "a projection"),
        ({"Image": {**ARCH["Image"], "out_dim": 48}}, "a Linear after"),
        ({"Image": {**ARCH["Image"], "name": "MOCOV3_vit_small"}}, "backbone MOCOV3_vit_small"),
        ({"Image": {**ARCH["Image"], "qkv_bias": False}}, "qkv_bias"),
    ],
)
def test_models_that_the_others_cannot_hold(tmp_path, change, said):
    model = build_model({**ARCH, **change})
    for save in (convert.save_paddlenlp, convert.save_official):
        with pytest.raises(UserError, match=said):
            save(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_import_is_cheap():
    code = "import ernie_vil2, sys; assert not {'paddle', 'numpy'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


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


def test_vocabulary_of_another_size(tmp_path, logged):
    model = build_model(ARCH)  # 60 tokens
    specials = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]"]

    def tokenizer(size):
        path = tmp_path / f"{size}.txt"
        path.write_text("\n".join([*specials, *(f"w{i}" for i in range(size - 5))]))
        return Tokenizer(path)

    with pytest.raises(UserError, match="61 tokens, the text tower 60"):
        convert.check_vocabulary(model, tokenizer(61), trained=False)
    convert.check_vocabulary(model, tokenizer(60), trained=True)
    convert.check_vocabulary(model, tokenizer(59), trained=False)
    assert not logged.records
    convert.check_vocabulary(model, tokenizer(59), trained=True)
    assert "59 tokens" in logged.text
