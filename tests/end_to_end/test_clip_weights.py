"""A converted Chinese-CLIP model is trained on, evaluated, exported and served like any other."""

import json

import numpy as np
import paddle
import pytest

import ernie_vil2
from ernie_vil2 import cli
from ernie_vil2.artefact.folder import Artefact
from ernie_vil2.commands import convert as convert_command
from ernie_vil2.data.tokenize import Tokenizer
from ernie_vil2.data.transforms import eval_transform
from ernie_vil2.export.programs import export
from ernie_vil2.preprocessing import CLIP_MEAN, CLIP_STD
from ernie_vil2.serving.predictor import Predictor
from tests.support.shapes import COLORS, SHAPES, draw, write_set
from tests.support.training_runs import metrics, train, weights
from tests.weights.clip.conftest import write
from tools import eval as eval_tool
from tools import export as export_tool


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """The folder of a converted model, with data and its vocabulary beside it."""
    folder = tmp_path_factory.mktemp("chinese_clip")
    write_set(folder / "train.tsv", copies=2, seed=0)
    write_set(folder / "test.tsv", copies=1, seed=1)
    specials = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]"]
    words = [*specials, "a", "the", "picture", "contains", ",", *COLORS, *SHAPES]
    (folder / "words.txt").write_text("\n".join(words))
    convert(write("chinese_clip-vit", folder / "theirs"), folder, folder / "ours")
    return folder


def convert(source, folder, out):
    argv = ["--from", "chinese_clip", source, "--vocab", folder / "words.txt"]
    argv += ["--to", "ernie_vil2", "--out", out]
    assert cli.run(convert_command.main, list(map(str, argv))) == 0


def overrides(folder):
    return [
        f"Global.output_dir={folder / 'out'}",
        "Global.device=cpu",
        f"DataLoader.Train.dataset.path={folder / 'train.tsv'}",
        f"DataLoader.Eval.dataset.path={folder / 'test.tsv'}",
        "DataLoader.Train.num_workers=0",
        "DataLoader.Eval.num_workers=0",
        "Metric.bootstrap=50",
    ]


def test_one_step_of_training(converted):
    ours = converted / "ours"
    options = [
        *overrides(converted),
        f"Global.pretrained={ours}",
        "Global.max_steps=1",
        "Global.log_interval=1",
        "Global.eval_interval=0",
        "Global.sample_views=0",
        "DataLoader.Train.batch_size=16",
        "LRScheduler.warmup_steps=0",
        "LRScheduler.name=Constant",
    ]
    out = train(ours / "config.yaml", *options)
    assert np.isfinite(metrics(out)[1])
    before, after = ernie_vil2.load(ours).state_dict(), weights(out)
    assert before.keys() == after.keys()
    changed = {n for n, array in after.items() if not np.array_equal(array, before[n].numpy())}
    for part in ("image_tower.backbone.blocks.0.attn.qkv.weight", "text_projection.weight"):
        assert part in changed
    assert any(name.startswith("text_tower.bert.encoder.layers.0.") for name in changed)


def test_evaluation_and_export(converted, tmp_path):
    ours = converted / "ours"
    argv = ["-c", str(ours / "config.yaml"), "-w", str(ours)]
    options = ["-o", *overrides(converted)]
    assert cli.run(eval_tool.main, [*argv, "--out", str(tmp_path / "eval"), *options]) == 0
    report = json.loads((tmp_path / "eval" / "report.json").read_text())
    assert report["text_to_image"]["queries"] == 16
    exported = tmp_path / "exported"
    assert cli.run(export_tool.main, [*argv, "--save-dir", str(exported), *options]) == 0
    assert Artefact.open(exported).tokenizer().straight_quotes
    check_program(exported, ours, 32)


def test_a_resnet_is_exported(converted, tmp_path):
    source, ours = write("chinese_clip-rn50", tmp_path / "theirs"), tmp_path / "ours"
    convert(source, converted, ours)
    model = ernie_vil2.load(ours)
    tokenizer = Tokenizer(ours / "vocab.txt", max_len=12)
    export(model, tokenizer, tmp_path / "exported", CLIP_MEAN, CLIP_STD, preprocessing="clip")
    check_program(tmp_path / "exported", ours, 64, "clip")


def check_program(exported, weights, size, preprocessing="chinese_clip"):
    """The program gives what the model gives, of pictures prepared as they are for it."""
    images = [draw(color, "circle", np.random.default_rng(0)) for color in COLORS]
    model = ernie_vil2.load(weights)
    prepare = eval_transform(size, name=preprocessing)
    with paddle.no_grad():
        pixels = paddle.to_tensor(np.stack([prepare(image) for image in images]))
        expected = model.encode_image(pixels).numpy()
    np.testing.assert_allclose(Predictor(exported).encode_image(images), expected, atol=1e-5)
