"""What tools/export.py writes computes the trained model's numbers, and says when it does not."""

import json
import shutil
import subprocess
import sys

import numpy as np
import paddle
import pytest
import yaml

from ernie_vil2 import processor
from ernie_vil2.artefact.folder import Artefact
from ernie_vil2.config.load import load_config
from ernie_vil2.data.tokenize import Tokenizer
from ernie_vil2.errors import UserError
from ernie_vil2.export.programs import export, make_golden
from ernie_vil2.models.dual_encoder import build_model
from ernie_vil2.serving.predictor import Predictor
from ernie_vil2.weights.load import load
from ernie_vil2.weights.ours import save_checkpoint
from tests.support.paths import ROOT
from tests.support.sealing import reseal
from tests.support.shapes import draw, write_run

sys.path.insert(0, str(ROOT / "tools"))


def run_tool(*argv) -> int:
    import export as tool

    from ernie_vil2 import cli

    return cli.run(tool.main, list(map(str, argv)))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A configuration, and a checkpoint of its model."""
    folder = tmp_path_factory.mktemp("run")
    config = write_run(folder)
    paddle.seed(0)
    model = build_model(load_config(config).Arch)
    model.eval()
    save_checkpoint(model, folder / "checkpoint")
    return config, folder / "checkpoint", model


def test_the_command(run, tmp_path, capsys):
    config, checkpoint, model = run
    target = tmp_path / "exported"
    (tmp_path / "prompts.txt").write_text("{} there\n\nthe {}\n", encoding="utf-8")
    options = ["-c", config, "-w", checkpoint, "--save-dir", target]
    assert run_tool(*options, "--prompts", tmp_path / "prompts.txt") == 0
    assert f"exported to {target}" in capsys.readouterr().out

    artefact = Artefact.open(target)
    assert (artefact.image_size, artefact.max_len, artefact.embed_dim) == (32, 12, 16)
    assert artefact.prompts == ["{} there", "the {}"]
    assert artefact.logit_scale == pytest.approx(float(model.logit_scale))
    assert artefact.versions["paddle"] == paddle.__version__
    image = draw("red", "circle", np.random.default_rng(0))
    predictor = Predictor(target)
    pixels = paddle.to_tensor(artefact.transform()(image)[None])
    expected = model.encode_image(pixels).numpy()
    np.testing.assert_allclose(predictor.encode_image([image]), expected, atol=1e-6)

    # what is there is replaced, or stays if the new one fails
    before = (target / "inference.yml").read_text()
    assert run_tool(*options, "-o", "Tokenizer.vocab_file=none.txt") == 2
    assert (target / "inference.yml").read_text() == before
    assert run_tool(*options) == 0
    assert "{} there" not in (target / "inference.yml").read_text()
    assert [path.name for path in tmp_path.glob(".*")] == []


@pytest.mark.skipif(paddle.__version__ >= "3", reason="Paddle 3 has no int8 programs")
@pytest.mark.skipif(bool(processor.why_not("int8", processor.flags())), reason="no VNNI here")
def test_a_precision_that_loses_too_much_is_refused(run, tmp_path, capsys):
    config, checkpoint, _ = run
    options = ["-c", config, "-w", checkpoint, "--save-dir", tmp_path / "exported"]
    options += ["--precision", "int8"]
    assert run_tool(*options, "--min-cosine", "1") == 2
    assert "leave int8 out of --precision" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []

    # an untrained model's recall is chance: all that can be asked is that it is measured
    assert run_tool(*options, "--min-cosine", "0.9", "--max-recall-drop", "1") == 0
    measured = Artefact.open(tmp_path / "exported").precisions["int8"]
    assert 0.9 < measured["text_cosine"] < 1 and measured["records"] == 16
    assert Predictor(tmp_path / "exported", "int8").verify()["image"] > 1e-6
    assert run_tool(*options, "--max-recall-drop", "-1") == 2
    assert "the mean recall is" in capsys.readouterr().err


def test_golden_vectors_are_made_without_tf32(tiny_artefact, tiny_model, tf32_switch, monkeypatch):
    """Which a GPU would use, and be off by more than what every server allows."""
    artefact, seen = Artefact.open(tiny_artefact), []
    for name in ("encode_image", "encode_text"):
        encode = getattr(tiny_model, name)
        monkeypatch.setattr(
            tiny_model, name, lambda x, encode=encode: seen.append(tf32_switch()) or encode(x)
        )
    make_golden(tiny_model, artefact)
    assert (seen, tf32_switch()) == ([False, False], True)


def test_other_files_are_not_replaced(run, tmp_path, capsys):
    config, checkpoint, _ = run
    (tmp_path / "thesis.tex").write_text("")
    assert run_tool("-c", config, "-w", checkpoint, "--save-dir", tmp_path) == 2
    assert "holds other files" in capsys.readouterr().err


def test_everything_is_sealed(run, tmp_path, capsys):
    config, checkpoint, _ = run
    assert run_tool("-c", config, "-w", checkpoint, "--save-dir", tmp_path / "out") == 0
    files = {path for path in (tmp_path / "out").rglob("*") if path.is_file()}
    listed = {tmp_path / "out" / name for name in Artefact.open(tmp_path / "out").files}
    assert files - listed == {tmp_path / "out" / "inference.yml"} and len(listed) >= 6


def test_a_precision_that_this_processor_lacks_is_said_at_once(run, tmp_path, capsys, monkeypatch):
    config, checkpoint, _ = run
    monkeypatch.setattr(processor, "flags", lambda: frozenset({"avx", "avx2"}))
    options = ["-c", config, "-w", checkpoint, "--save-dir", tmp_path / "exported"]
    assert run_tool(*options, "--precision", "bf16", "fp32") == 2
    assert "precision bf16: this processor lacks avx512_bf16" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_official_weights(fixtures_dir, tmp_path):
    sizes = json.loads((fixtures_dir / "official_tiny" / "config.json").read_text())
    vision, text = sizes["vision"], sizes["text"]
    kept = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
    kept += ("intermediate_size", "max_position_embeddings")
    config = {
        "_BASE_": str(ROOT / "configs" / "base.yaml"),
        "Arch": {
            "Image": vision,
            "Text": {key: text[key] for key in kept},
        },
        "Transform": {"size": vision["img_size"]},
    }
    check_weights(config, fixtures_dir / "official_tiny", "official.pdparams", tmp_path)


def test_paddlenlp_weights(fixtures_dir, tmp_path):
    folder = fixtures_dir / "paddlenlp_tiny"
    model = load(folder)
    config = {
        "_BASE_": str(ROOT / "configs" / "base.yaml"),
        "Arch": model.arch,
        "Transform": {"size": model.image_tower.img_size},
    }
    check_weights(config, folder, "", tmp_path)


def check_weights(config, folder, weights, tmp_path):
    config["Tokenizer"] = {"vocab_file": str(tmp_path / "vocab.txt"), "max_len": 16}
    words = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]", *"abcdefgh"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    options = ["-c", tmp_path / "run.yaml", "-w", folder / weights, "--save-dir", tmp_path / "out"]
    assert run_tool(*options) == 0
    numbers = np.load(folder / "io.npz")
    predictor = Predictor(tmp_path / "out")
    image, text = (numbers[f"{tower}_embeds_normalized"] for tower in ("image", "text"))
    assert np.abs(predictor.embed_pixels(numbers["pixel_values"]) - image).max() < 1e-5
    assert np.abs(predictor.embed_ids(numbers["input_ids"]) - text).max() < 1e-5


@pytest.mark.parametrize("backbone", ["PPLCNet_x0_25", "ViT_small_patch16_224"])
def test_other_backbones_and_uint8_pixels(backbone, tiny_artefact, tmp_path):
    text = {"name": "tiny", "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1}
    text.update(num_attention_heads=2, max_position_embeddings=8)
    image = {"name": backbone, **({"img_size": 32} if "ViT" in backbone else {})}
    model = build_model({"embed_dim": 12, "Image": image, "Text": text})
    model.eval()
    tokenizer = Tokenizer(tiny_artefact / "vocab.txt", max_len=8)
    export(model, tokenizer, tmp_path, preprocess=True, image_size=32)
    artefact = Artefact.open(tmp_path)
    pixels = artefact.transform()(draw("red", "circle", np.random.default_rng(0)))
    assert (pixels.dtype, pixels.shape) == (np.uint8, (32, 32, 3))
    assert Predictor(artefact).verify()["image"] < 1e-5


def test_damage_that_checksums_do_not_tell(tiny_artefact, tmp_path):
    """It was there before they were written."""
    folder = shutil.copytree(tiny_artefact, tmp_path / "other")
    weights = bytearray((folder / "fp32" / "image.pdiparams").read_bytes())
    middle = len(weights) // 2
    weights[middle : middle + 400] = bytes(400)
    (folder / "fp32" / "image.pdiparams").write_bytes(weights)
    reseal(folder)
    with pytest.raises(UserError, match="gives other image embeddings than the trained model"):
        Predictor(folder)
    (folder / "fp32" / "image.pdiparams").write_bytes(weights[:middle])
    reseal(folder)
    with pytest.raises(UserError, match=r"image\.pdiparams cannot be loaded by Paddle"):
        Predictor(folder)
    (folder / "golden.npz").write_bytes(b"PK")
    reseal(folder)
    with pytest.raises(UserError, match=r"golden\.npz is damaged"):
        Artefact.open(folder).golden()
    (folder / "vocab.txt").write_bytes(b"[CLS]\n[SEP]\n[UNK]")
    reseal(folder)
    with pytest.raises(UserError, match=r"lacks \[PAD\]"):
        Predictor(folder)


def test_a_server_needs_neither_paddlenlp_nor_paddleclas(tiny_artefact):
    code = (
        "import sys; from ernie_vil2.serving.predictor import Predictor; "
        f"Predictor({str(tiny_artefact)!r}).encode_text(['red']); "
        "assert not {'paddlenlp', 'paddleclas', 'ernie_vil2.training.trainer'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
