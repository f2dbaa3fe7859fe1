"""configs/mydata.yaml is what one needs for one's own pictures: it runs as its comments say."""

import json
from pathlib import Path

import pytest

from ernie_vil2 import cli
from ernie_vil2.commands import prepare_data, train
from ernie_vil2.config.load import load_config
from ernie_vil2.weights import paddlenlp
from tests.support.paths import ROOT
from tests.support.shapes import COLORS, SHAPES, draw

CONFIG = ROOT / "configs" / "mydata.yaml"


def test_its_names_are_released():
    from paddlenlp.transformers import ErnieViLTokenizer

    config = load_config(CONFIG)
    assert config.Global.pretrained in paddlenlp.released()
    assert config.Tokenizer.vocab_file in ErnieViLTokenizer.pretrained_init_configuration


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """The files that the head of mydata.yaml describes, and captions.txt."""
    import numpy as np

    monkeypatch.chdir(tmp_path)
    rng, captions = np.random.default_rng(0), []
    for name in ("train", "test"):
        lines = []
        for color in COLORS:
            for shape in SHAPES:
                path = Path("data/mydata/images", name, f"{color}-{shape}.png")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(draw(color, shape, rng))
                captions.append(f"a {color} {shape}")
                image = str(path.relative_to("data/mydata/images"))
                row = {"image": image, "captions": captions[-1:], "tags": [color]}
                lines.append(json.dumps(row))
        Path(f"data/mydata/{name}.jsonl").write_text("\n".join(lines) + "\n")
    Path("captions.txt").write_text("\n".join(captions))


def test_the_way_to_a_vocabulary_of_ones_own(pictures, capsys):
    out = "data/mydata/vocab.txt"
    argv = ["vocab", "--input", "captions.txt", "--out", out]
    assert cli.run(prepare_data.main, argv) == 0
    tokens = int(capsys.readouterr().out.split()[0])
    small = [
        "Arch.embed_dim=16",
        *(f"Arch.Image.{k}={v}" for k, v in {"img_size": 32, "patch_size": 8}.items()),
        *(f"Arch.Image.{k}={v}" for k, v in {"embed_dim": 32, "depth": 1, "num_heads": 2}.items()),
        "Transform.size=32",
        *(f"Arch.Text.{k}=32" for k in ("hidden_size", "intermediate_size")),
        "Arch.Text.num_hidden_layers=1",
        "Arch.Text.num_attention_heads=2",
        "Arch.Text.max_position_embeddings=48",
        "DataLoader.Train.batch_size=8",
        "DataLoader.Train.num_workers=0",
        "DataLoader.Eval.num_workers=0",
        "Global.max_steps=1",
        "Global.pretrained=null",
        f"Tokenizer.vocab_file={out}",
    ]
    argv = ["-c", str(CONFIG), "-o", *small]
    assert cli.run(train.main, [*argv, "Arch.Text.vocab_size=10"]) == 2
    message = capsys.readouterr().err
    assert f"set Arch.Text.vocab_size={tokens}" in message
    assert cli.run(train.main, [*argv, f"Arch.Text.vocab_size={tokens}"]) == 0
    assert Path("output/mydata/checkpoints/latest").exists()
