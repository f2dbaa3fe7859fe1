"""Chinese-CLIP's models and CLIP's image towers give their own numbers here, and go back whole."""

import json
import re

import numpy as np
import paddle
import pytest
import yaml
from paddlenlp.transformers import BertConfig, BertModel, RobertaModel
from paddlenlp.transformers.roberta.configuration import PRETRAINED_INIT_CONFIGURATION as RELEASED

import ernie_vil2
from ernie_vil2 import cli
from ernie_vil2.commands import convert as command
from ernie_vil2.config.load import load_config
from ernie_vil2.files.safetensors import read_safetensors, write_safetensors
from ernie_vil2.files.torch_files import read_torch
from tests.support.clip_numbers import inputs, weights
from tests.support.told import error_line
from tests.weights.clip.conftest import NUMBERS, TEXT, THEIRS, write


def convert(*argv, code=0):
    assert cli.run(command.main, [str(arg) for arg in argv]) == code


def embed(folder, size):
    model = ernie_vil2.load(folder)
    pixels, ids = map(paddle.to_tensor, inputs(size, 40))
    with paddle.no_grad():
        return {"image": model.encode_image(pixels), "text": model.encode_text(ids)}


@pytest.mark.parametrize("case", THEIRS)
def test_their_numbers_and_back(case, tmp_path, text_config):
    kind, size = case.split("-")[0], 64 if "rn50" in case else 32
    source = write(case, tmp_path / "theirs")
    towers = [tower for tower in ("image", "text") if f"{case}.{tower}" in NUMBERS.files]
    alone = [] if "text" in towers else ["-c", text_config]
    convert("--from", kind, source, "--to", "ernie_vil2", "--out", tmp_path / "ours", *alone)
    found = embed(tmp_path / "ours", size)
    for tower in towers:
        expected = NUMBERS[f"{case}.{tower}"]
        np.testing.assert_allclose(found[tower].numpy(), expected, atol=1e-5, rtol=0)

    back = tmp_path / ("back" if kind == "huggingface" else "back.pt")
    convert("--from", tmp_path / "ours", "--to", kind, "--out", back)
    read = read_safetensors(back / "model.safetensors") if back.is_dir() else read_torch(back)
    before = weights(THEIRS[case]["shapes"])
    theirs = before.keys() if "text" in towers else {n for n in before if n.startswith("vis")}
    assert theirs - read.keys() == set()
    assert read.keys() - theirs <= {"logit_scale"}
    for name, array in read.items():
        assert array.shape == before[name].shape
        np.testing.assert_array_equal(array, before[name], name)


def test_a_folder_for_hugging_face_says_its_sizes(tmp_path):
    source = write("huggingface-chinese", tmp_path / "theirs")
    (source / "vocab.txt").write_text("\n".join(["[PAD]", "[CLS]", "[SEP]", "[UNK]", "a"]))
    ours, back = tmp_path / "ours", tmp_path / "back"
    convert("--from", "huggingface", source, "--to", "ernie_vil2", "--out", ours)
    convert("--from", ours, "--to", "huggingface", "--out", back)
    before = THEIRS["huggingface-chinese"]["beside"]["config.json"]
    after = json.loads((back / "config.json").read_text())
    assert after["model_type"] == "chinese_clip" and after["projection_dim"] == 24
    for section in ("text_config", "vision_config"):
        known = after[section].keys() & before[section].keys() - {"projection_dim"}
        assert len(known) > 8
        assert {k: after[section][k] for k in known} == {k: before[section][k] for k in known}
    assert (back / "vocab.txt").read_text() == (source / "vocab.txt").read_text()


def test_the_configuration_travels(tmp_path, text_config):
    vocabulary = tmp_path / "words.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[CLS]", "[SEP]", "[UNK]", "a"]))
    source, out = write("chinese_clip-vit", tmp_path / "theirs"), tmp_path / "ours"
    argv = ["--from", "chinese_clip", source, "--to", "ernie_vil2", "--out"]
    convert(*argv, out, "--vocab", vocabulary)
    config = load_config(out / "config.yaml")
    assert config.Arch.to_dict() == ernie_vil2.load(out).arch
    assert config.Tokenizer.max_len == 20  # 52, where the text tower has as many
    assert config.Tokenizer.straight_quotes
    assert config.Tokenizer.vocab_file == str(out / "vocab.txt")
    assert (config.Transform.eval, config.Transform.size) == ("chinese_clip", 32)
    assert config.Transform.mean[0] == 0.48145466
    convert("--from", out, "--to", "ernie_vil2", "--out", tmp_path / "copy")
    copy = load_config(tmp_path / "copy" / "config.yaml")
    assert copy.Tokenizer.vocab_file == str(tmp_path / "copy" / "vocab.txt")
    for section in ("Arch", "Transform"):
        assert copy[section] == config[section]
    assert copy.Tokenizer.max_len == 20 and copy.Tokenizer.straight_quotes
    convert(*argv, tmp_path / "without")  # no vocabulary: the one that PaddleNLP has
    convert("--from", tmp_path / "without", *argv[3:], tmp_path / "again")
    for name in ("without", "again"):
        config = load_config(tmp_path / name / "config.yaml")
        assert config.Tokenizer.vocab_file == "bert-base-chinese"

    source = write("huggingface-clip", tmp_path / "clip")
    normal = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}
    (source / "preprocessor_config.json").write_text(json.dumps(normal))
    argv = ["--from", "huggingface", source, "--to", "ernie_vil2", "--out", tmp_path / "vit"]
    convert(*argv, "-c", text_config)
    stated = yaml.safe_load((tmp_path / "vit" / "config.yaml").read_text())["Transform"]
    assert stated == {"size": 32, "eval": "clip", "mean": [0.5] * 3, "std": [0.25] * 3}


def test_a_text_tower_of_paddlenlps_beside_an_image_tower(tmp_path, text_config, monkeypatch):
    # The download alone is replaced: a model of the released kind stands for what it would bring.
    sizes = {**{key: TEXT[key] for key in TEXT if key != "name"}, "intermediate_size": 96}
    released = {"hfl/rbt3": {**RELEASED["hfl/rbt3"], **sizes}}
    bert = BertModel(BertConfig(**released["hfl/rbt3"]))
    monkeypatch.setattr(RobertaModel, "from_pretrained", lambda name: bert)
    arch = yaml.safe_load(text_config.read_text())["Arch"]
    text = {**sizes, "name": "hfl/rbt3", "pretrained": True}
    text_config.write_text(yaml.safe_dump({"Arch": {**arch, "Text": text}}))
    source = write("openai-vit", tmp_path / "theirs")
    argv = ["--from", "openai", source, "--to", "ernie_vil2", "--out", tmp_path / "ours"]
    convert(*argv, "-c", text_config)
    model = ernie_vil2.load(tmp_path / "ours")
    assert model.arch["Text"]["pretrained"] is False
    for name, tensor in model.text_tower.bert.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), bert.state_dict()[name].numpy(), name)


def test_other_names_of_the_same_weights(tmp_path, text_config):
    """Flash attention's in Chinese-CLIP, and those of transformers 5 without their prefix."""
    state = weights(THEIRS["chinese_clip-vit"]["shapes"])
    flash = {}
    for name, array in state.items():
        layer, _, part = name.partition(".attention.self.")
        if part.startswith("query."):
            parts = [state[name.replace("query", key)] for key in ("query", "key", "value")]
            flash[f"{layer}.attention.self.{part.replace('query', 'Wqkv')}"] = np.concatenate(parts)
        elif not part:
            name = name.replace("in_proj_", "Wqkv.")
            flash[name.replace("attention.output.dense", "attention.self.out_proj")] = array
    assert len(flash) < len(state)
    changes = {**dict.fromkeys(state), **flash}
    changes["bert.pooler.dense.weight"] = np.ones((128, 128), "f4")  # which older files have
    changes["bert.embeddings.position_ids"] = np.arange(20)[None]
    source = write("chinese_clip-vit", tmp_path / "flash", **changes)
    convert("--from", "chinese_clip", source, "--to", "ernie_vil2", "--out", tmp_path / "ours")
    text = embed(tmp_path / "ours", 32)["text"].numpy()
    np.testing.assert_allclose(text, NUMBERS["chinese_clip-vit.text"], atol=1e-5, rtol=0)

    source = write("huggingface-vision", tmp_path / "five")
    state = read_safetensors(source / "model.safetensors")
    bare = {name[len("vision_model.") :]: a for name, a in state.items() if "vision_model." in name}
    write_safetensors(source / "model.safetensors", bare)
    argv = ["--from", "huggingface", source, "--to", "ernie_vil2", "--out", tmp_path / "bare"]
    convert(*argv, "-c", text_config, code=2)  # no projection, and a text tower of another width
    arch = yaml.safe_load(text_config.read_text())["Arch"]
    text_config.write_text(yaml.safe_dump({"Arch": {**arch, "embed_dim": 16}}))
    convert(*argv, "-c", text_config)
    model = ernie_vil2.load(tmp_path / "bare")
    with paddle.no_grad():
        features = model.image_tower(paddle.to_tensor(inputs(32, 40)[0])).numpy()
    features = features @ state["visual_projection.weight"].T
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    np.testing.assert_allclose(features, NUMBERS["huggingface-vision.image"], atol=1e-5, rtol=0)


BLOCK = "visual.transformer.resblocks.1."


@pytest.mark.parametrize(
    "case, changes, said",
    [
        ("openai-vit", {"visual.trunk.x": np.ones(2, "f4")}, "has visual.trunk.x, which neither"),
        ("openai-vit", {"visual.class_embedding": None}, "lacks image_tower.backbone.cls_token"),
        (
            "openai-vit",
            {f"{BLOCK}ln_1.bias": None},
            "missing image_tower.backbone.blocks.1",
        ),
        (
            "openai-vit",
            {f"{BLOCK}ln_1.bias": np.ones(3, "f4")},
            r"norm1.bias has shape \(3,\)",
        ),
        ("chinese_clip-vit", {"text_projection": None}, "missing text_projection.weight"),
        ("chinese_clip-rn50", {"visual.layer2.1.conv1.weight": None}, "missing image_tower.backb"),
    ],
)
def test_weights_that_do_not_fit(tmp_path, text_config, capsys, case, changes, said):
    source, out = write(case, tmp_path / "theirs", **changes), tmp_path / "ours"
    alone = ["-c", text_config] if case.startswith("openai") else []
    argv = ["--from", case.split("-")[0], source, *alone]
    convert(*argv, "--to", "ernie_vil2", "--out", out, code=2)
    assert re.search(said, error_line(capsys.readouterr().err))
    assert not out.exists()


def test_mistakes_are_named(tmp_path, text_config, capsys):
    vit, nlp = write("openai-vit", tmp_path / "vit"), tmp_path / "nothing"
    nlp.mkdir()
    (tmp_path / "hf").mkdir()
    write_safetensors(tmp_path / "hf" / "model.safetensors", {"x": np.ones(2, "f4")})
    write_safetensors(tmp_path / "x.safetensors", {"visual.proj": np.ones((2, 2), "f4")})
    for words, said in (
        (["openai", vit], "it holds an image tower alone: name a config with -c, whose Arch.Text"),
        (["opanai", vit], 'no format "opanai"; did you mean "openai"'),
        (["a", "b", "c"], "--from has 3 values: expected a path, or a kind and a path"),
        (["openai", tmp_path / "no.pt"], "no.pt does not exist"),
        (["open_clip", nlp], "expected open_clip_model.safetensors or open_clip_pytorch_model.bin"),
        (["chinese_clip", nlp], "is a folder without weights of chinese_clip: expected a file"),
        (["huggingface", tmp_path / "hf"], "holds no image tower of CLIP"),
        (["huggingface", tmp_path / "x.safetensors"], "has no config.json, which tells the number"),
        ([vit], "is a PyTorch file: expected weights of Paddle"),
    ):
        convert("--from", *words, "--to", "ernie_vil2", "--out", tmp_path / "out", code=2)
        assert said in error_line(capsys.readouterr().err), words
    chinese = write("chinese_clip-vit", tmp_path / "chinese")
    argv = ["--from", "chinese_clip", chinese, "-c", text_config, "--to", "ernie_vil2"]
    convert(*argv, "--out", tmp_path / "out", code=2)
    assert "tells the sizes of both towers itself" in error_line(capsys.readouterr().err)
    argv = ["--from", "openai", vit, "-c", text_config, "--to", "chinese_clip"]
    convert(*argv, "--out", tmp_path / "new.pt", code=2)
    said = "--to chinese_clip has no place for a text tower that is no BERT"
    assert said in error_line(capsys.readouterr().err)
