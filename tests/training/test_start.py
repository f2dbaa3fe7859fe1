"""Where a run begins: beside an earlier one's files, from weights, from a checkpoint, or never."""

import json
import shutil

import numpy as np
import paddle
import pytest

from ernie_vil2 import cli
from tests.support.shapes import write_run
from tests.support.training_runs import metrics, train, weights
from tools import eval as eval_tool
from tools import train as train_tool


def test_a_new_run_keeps_the_old_checkpoints(tmp_path):
    config = write_run(tmp_path)
    out = train(config, "Global.max_steps=1")
    train(config, "Global.max_steps=2")
    assert (out / "checkpoints.1" / "step_00000001").is_dir()
    assert (out / "checkpoints" / "latest").resolve().name == "step_00000002"


def test_start_from_weights(run, tmp_path):
    config, out = run
    again = train(
        config,
        f"Global.output_dir={tmp_path}/again",
        f"Global.pretrained={out}/checkpoints/latest",
        "LRScheduler.learning_rate=1.0e-30",
        "Global.max_steps=1",
    )
    before, after = weights(out), weights(again)
    for name in before:
        np.testing.assert_allclose(after[name], before[name], atol=1e-6)


def test_start_from_weights_of_another_resolution_and_length(run, tmp_path):
    config, out = run
    again = train(
        config,
        f"Global.output_dir={tmp_path}/again",
        f"Global.pretrained={out}",
        "LRScheduler.learning_rate=1.0e-30",
        "Global.max_steps=1",
        "Arch.Image.img_size=48",
        "Transform.size=48",
        "Arch.Text.max_position_embeddings=12",
    )
    text = (again / "train.log").read_text()
    assert "pos_embed resized from 4 x 4 to 6 x 6 (bicubic)" in text
    assert "position_embeddings.weight cut from 16 to the first 12" in text


def test_start_from_damaged_weights(run, tmp_path, capsys):
    config, out = run
    shutil.copytree(out / "checkpoints" / "latest", tmp_path / "weights")
    with open(tmp_path / "weights" / "model.safetensors", "r+b") as file:
        file.seek(2000)
        byte = file.read(1)
        file.seek(2000)
        file.write(bytes([byte[0] ^ 1]))
    overrides = f"Global.output_dir={tmp_path}/again", f"Global.pretrained={tmp_path}/weights"
    train(config, *overrides, code=2)
    assert "weights is damaged (model.safetensors does not match" in capsys.readouterr().err


@pytest.fixture
def other_vocab(run, tmp_path):
    """The run's vocabulary with two tokens swapped."""
    words = (run[0].parent / "vocab.txt").read_text().split("\n")
    words[6], words[7] = words[7], words[6]
    (tmp_path / "other.txt").write_text("\n".join(words))
    return f"Tokenizer.vocab_file={tmp_path}/other.txt"


def test_start_with_another_vocabulary_only_when_asked_for(run, other_vocab, tmp_path, capsys):
    config, out = run
    overrides = [
        other_vocab,
        f"Global.output_dir={tmp_path}/again",
        f"Global.pretrained={out}",
        "Global.max_steps=1",
    ]
    train(config, *overrides, code=2)
    message = capsys.readouterr().err
    assert "other.txt is not the vocabulary of" in message and "2 rows differ" in message
    train(config, *overrides, "Global.pretrained_other_vocab=true")


def test_a_resume_refuses_another_vocabulary(run, other_vocab, tmp_path, capsys):
    config, out = run
    overrides = other_vocab, f"Global.output_dir={tmp_path}/again", "Global.max_steps=5"
    train(config, *overrides, resume=out / "checkpoints" / "latest", code=2)
    message = capsys.readouterr().err
    assert "other.txt is not the vocabulary that" in message and "2 tokens differ" in message


@pytest.mark.parametrize(
    "overrides,said",
    [
        (["Global.sed=1"], 'did you mean "seed"'),
        (["DataLoader.Train.dataset.path=nowhere.tsv"], "nowhere.tsv"),
        (["DataLoader.Train.dataset.path=empty.tsv"], "empty.tsv"),
        (["DataLoader.Train.batch_size=65"], "64 records, a global batch 65"),
        (["Arch.Image.name=CLIP_vit_bas_patch16_224"], "CLIP_vit_base_patch16_224"),
        (["Arch.embed_dim=null", "Arch.Text.hidden_size=48"], "embed_dim"),
        (["Tokenizer.vocab_file=nowhere.txt"], "nowhere.txt"),
        (["Arch.Text.vocab_size=4"], "vocab_size"),
        (["Global.device=gpu"], "requirements-gpu.txt"),
        (["AMP.level=O1", "AMP.dtype=float16"], "AMP.dtype to bfloat16"),
        (["Global.pretrained=nowhere"], "nowhere"),
        (["Tokenizer.max_len=17"], "at most Arch.Text.max_position_embeddings, 16"),
        (["Arch.Text.max_position_embeddings=null"], "max_position_embeddings not given"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys, overrides, said):
    if paddle.device.cuda.device_count() and "gpu" in overrides[0].lower():
        pytest.skip("there is a GPU")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.tsv").touch()
    argv = ["-c", str(write_run(tmp_path)), "-o", *overrides]
    assert cli.run(train_tool.main, argv) == 2
    (message,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error:")]
    assert said in message


def test_checkpoint_of_another_model(run, tmp_path, capsys):
    _, out = run
    config = write_run(tmp_path, Arch={"embed_dim": 24})
    for main, argv in (
        (eval_tool.main, ["-c", str(config), "-w", str(out)]),
        (train_tool.main, ["-c", str(config), "--resume", str(out / "checkpoints" / "latest")]),
    ):
        assert cli.run(main, argv) == 2
        (message,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error:")]
        assert "projection" in message


def test_bare_resume_is_auto(run, tmp_path):
    config, out = run
    copy = shutil.copytree(out, tmp_path / "copy", symlinks=True)
    argv = ["--resume", "-c", str(config), "-o", f"Global.output_dir={copy}", "Global.max_steps=5"]
    assert cli.run(train_tool.main, argv) == 0
    assert list(metrics(copy)) == [*metrics(out), 5]


def test_a_bad_evaluation_row_is_told_before_the_first_step(tmp_path, capsys):
    config = write_run(tmp_path)
    out = train(config, "Global.max_steps=1")
    steps = (out / "metrics.jsonl").read_text()
    rows = (tmp_path / "test.tsv").read_text().splitlines()
    rows[11] = rows[11][:300]
    (tmp_path / "test.tsv").write_text("\n".join(rows) + "\n")
    for workers in (0, 2):
        train(config, f"DataLoader.Eval.num_workers={workers}", code=2)
        (message,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error:")]
        assert "test.tsv:12:" in message and "skip_bad" in message
    assert (out / "metrics.jsonl").read_text() == steps
    assert not (out / "checkpoints.1").exists()  # the last run's are where they were

    train(config, "Global.max_steps=1", "Global.eval_interval=0")
    out = train(config, "DataLoader.Eval.skip_bad=true")
    (line,) = (out / "eval" / "bad_records.jsonl").read_text().splitlines()
    assert json.loads(line)["source"].endswith("test.tsv:12")
    assert "1 bad rows were left out" in (out / "train.log").read_text()
