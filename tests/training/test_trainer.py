"""Training runs end to end, through the tool's own main(argv), in one process."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import paddle
import pytest

import ernie_vil2
from ernie_vil2 import cli
from ernie_vil2.config.load import load_config
from ernie_vil2.files.safetensors import read_safetensors
from tests.support.paths import ROOT, SCRIPTS
from tests.support.shapes import write_run
from tools import eval as eval_tool
from tools import train as train_tool


def train(config: Path, *overrides, resume=None, code=0) -> Path:
    """Run the tool; returns output_dir."""
    argv = ["-c", str(config)]
    argv += ["-o", *overrides] if overrides else []
    argv += ["--resume", str(resume)] if resume else []
    assert cli.run(train_tool.main, argv) == code
    return Path(load_config(config, overrides).Global.output_dir)


def metrics(out: Path, name: str = "train/loss") -> dict:
    """step -> value."""
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line[name] for line in lines if name in line}


def weights(out: Path, which: str = "latest", file: str = "model.safetensors") -> dict:
    return read_safetensors(out / "checkpoints" / which / file)


def assert_same(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert np.array_equal(one[name], other[name]), name


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of four steps: its configuration and output."""
    config = write_run(tmp_path_factory.mktemp("run"))
    return config, train(config)


def test_a_run_writes_down_everything(run):
    config, out = run
    assert {p.name for p in out.iterdir()} >= {"config.yaml", "train.log", "metrics.jsonl", "vdl"}
    assert (out / "checkpoints" / "latest").resolve().name == "step_00000004"
    assert (out / "checkpoints" / "best").resolve().name == "step_00000004"
    assert load_config(out / "config.yaml") == load_config(config)
    log = (out / "train.log").read_text()
    assert "versions: python" in log and "step 3: loss" in log
    assert list(metrics(out)) == [1, 2, 3, 4]
    for name in (
        "train/image1-image2",
        "train/text1-text2/accuracy",
        "train/logit_scale",
        "train/learning_rate",
        "train/gradient_norm",
        "train/pairs_per_second",
        "train/data_wait",
        "eval/text_to_image/R@10",
    ):
        assert metrics(out, name), name


def test_visualdl_has_curves_and_views(run):
    from visualdl import LogReader

    (record,) = (run[1] / "vdl").iterdir()
    reader = LogReader(file_path=str(record))
    tags = reader.get_tags()
    assert "train/loss" in tags["scalar"]
    assert {"views/0/image1", "views/0/image2"} <= set(tags["image"])
    assert {"views/0/text1", "views/0/text2"} <= set(tags["text"])


def test_evaluation_of_a_checkpoint(run, tmp_path, capsys):
    config, out = run
    argv = ["-c", str(config), "-w", str(out / "checkpoints" / "latest"), "--out", str(tmp_path)]
    assert cli.run(eval_tool.main, argv) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["text_to_image"]["R@1"] == metrics(out, "eval/text_to_image/R@1")[4]
    assert "data:image/jpeg;base64," in (tmp_path / "page.html").read_text()
    assert "R@10" in capsys.readouterr().out


def test_load_gives_the_trained_model(run):
    _, out = run
    model = ernie_vil2.load(out / "checkpoints" / "latest")
    stored = weights(out)
    assert_same({n: t.numpy() for n, t in model.state_dict().items()}, stored)
    embeds = model.encode_image(paddle.randn([2, 3, 32, 32]))
    assert np.allclose(np.linalg.norm(embeds.numpy(), axis=1), 1, atol=1e-5)


def test_it_learns(tmp_path):
    """Sixteen things, one drawing each held out: chance of R@5 is 31 %; it reaches 94 to 100 %."""
    config = write_run(tmp_path)
    out = train(
        config,
        "Global.max_steps=250",
        "Global.epochs=99",
        "LRScheduler.learning_rate=0.002",
        "Transform.jitter.prob=0",  # colours tell these things apart
        "Transform.gray_prob=0",
    )
    loss = metrics(out)
    assert loss[250] < 0.8 * loss[1]
    assert metrics(out, "eval/text_to_image/R@5")[250] >= 0.7


def test_resume_is_exact(tmp_path):
    """Four steps at once, or two and two more: the same weights, moments and losses."""
    ema = {"EMA": {"decay": 0.9}}
    config = write_run(tmp_path, **ema)
    whole = train(config, f"Global.output_dir={tmp_path}/whole", "Global.save_interval=2")
    broken = tmp_path / "broken"
    (broken / "checkpoints").mkdir(parents=True)
    shutil.copytree(
        whole / "checkpoints" / "step_00000002", broken / "checkpoints" / "step_00000002"
    )
    train(config, f"Global.output_dir={broken}", resume="auto")
    assert list(metrics(broken)) == [3, 4]
    assert metrics(broken)[4] == metrics(whole)[4]
    for file in ("model.safetensors", "training.safetensors"):
        assert_same(weights(broken, file=file), weights(whole, file=file))


def test_a_new_run_keeps_the_old_checkpoints(tmp_path):
    config = write_run(tmp_path)
    out = train(config, "Global.max_steps=1")
    train(config, "Global.max_steps=2")
    assert (out / "checkpoints.1" / "step_00000001").is_dir()
    assert (out / "checkpoints" / "latest").resolve().name == "step_00000002"


def test_rotation_keeps_the_newest_and_the_best(tmp_path):
    config = write_run(tmp_path)
    out = train(
        config, "Global.save_interval=1", "Global.eval_interval=1", "Global.keep_checkpoints=2"
    )
    steps = sorted(p.name for p in (out / "checkpoints").glob("step_*"))
    best = (out / "checkpoints" / "best").resolve().name
    assert steps == sorted({"step_00000003", "step_00000004", best})
    recalls = metrics(out, "eval/mean_recall")
    assert max(recalls, key=recalls.get) == int(best[-8:])


def test_frozen_tower_stays(tmp_path):
    config = write_run(tmp_path)
    out = train(config, "Optimizer.freeze=[image]", "Global.save_interval=1")
    first, last = weights(out, "step_00000002"), weights(out, "step_00000004")
    for name in first:
        assert name.startswith("image_tower.") == np.array_equal(first[name], last[name]), name


@pytest.mark.parametrize(
    "overrides",
    [
        ["Optimizer.name=Lamb", "Optimizer.layer_decay=0.7"],
        ["Arch.Image.recompute=true", "Arch.Text.recompute=true"],
        [
            "Views.image=[image1]",
            "Views.text=[caption1]",
            "Loss.pairs=[{views: [image1, caption1]}]",
        ],
        [
            "Views.text=[caption1, caption2, tags1, tags2]",
            "Loss.pairs=[{views: [image1, caption1]}, {views: [image2, tags2]}, "
            "{views: [caption2, tags1], temperature: 0.1, learnable: true}]",
        ],
        ["DataLoader.Train.num_workers=2", "DataLoader.Eval.num_workers=1"],
        ["DataLoader.Eval=null", "Global.histogram_interval=2"],
    ],
    ids=["lamb", "recompute", "one pair", "six views", "workers", "no evaluation"],
)
def test_variants_run(tmp_path, overrides):
    out = train(write_run(tmp_path), *overrides)
    assert all(np.isfinite(loss) for loss in metrics(out).values())


def test_logit_scale_is_really_clamped(tmp_path):
    config = write_run(tmp_path)
    out = train(config, "Loss.logit_scale.max=14.3", "LRScheduler.learning_rate=0.5")
    assert weights(out)["temperature"][0] <= np.float32(np.log(14.3)) + 1e-6
    assert max(metrics(out, "train/logit_scale").values()) <= 14.3001


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


def test_a_broken_picture_is_skipped_in_training_and_an_error_in_evaluation(tmp_path, capsys):
    config = write_run(tmp_path)
    rows = (tmp_path / "train.tsv").read_text().splitlines()
    rows[7] = rows[7][: len(rows[7]) // 2]
    (tmp_path / "train.tsv").write_text("\n".join(rows) + "\n")
    out = train(config)
    (line,) = (out / "bad_records.jsonl").read_text().splitlines()
    assert json.loads(line)["source"].endswith("train.tsv:8")
    assert "1 bad records" in (out / "train.log").read_text()

    shutil.copy(tmp_path / "train.tsv", tmp_path / "test.tsv")
    assert cli.run(eval_tool.main, ["-c", str(config), "-w", str(out)]) == 2
    (message,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error:")]
    assert "test.tsv:8" in message


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
        (["AMP.level=O1"], "O0"),
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_saves_and_leaves(tmp_path, number):
    config = write_run(tmp_path)
    argv = ["-c", str(config), "-o", "Global.max_steps=100000", "Global.epochs=100000"]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "tools" / "train.py"), *argv],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    out = tmp_path / "out"
    deadline = time.monotonic() + 120
    while not (out / "metrics.jsonl").is_file() or not metrics(out):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "--resume auto" in err and "Traceback" not in err
    stopped_at = max(metrics(out))
    saved = int((out / "checkpoints" / "latest").resolve().name[-8:])
    assert saved == stopped_at
    train(config, f"Global.max_steps={saved + 1}", "Global.epochs=100000", resume="auto")
    assert max(metrics(out)) == saved + 1


def test_a_short_run_ends_with_an_evaluation_and_has_a_best(tmp_path):
    out = train(write_run(tmp_path), "Global.max_steps=2", "Global.eval_interval=1000")
    assert list(metrics(out, "eval/mean_recall")) == [2]
    assert (out / "checkpoints" / "best").resolve().name == "step_00000002"

    out = train(write_run(tmp_path), "Global.max_steps=1", "Global.eval_interval=0")
    assert "eval/mean_recall" not in (out / "metrics.jsonl").read_text().splitlines()[-1]
    assert not (out / "checkpoints" / "best").exists()


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


def waiting_evaluation(folder: Path, *overrides) -> tuple:
    """A run in a process group of its own, in its first evaluation: (process, workers' ids)."""
    overrides = [
        *("Global.eval_interval=1", "Global.max_steps=3", "DataLoader.Eval.batch_size=1"),
        *("DataLoader.Eval.num_workers=2", "DataLoader.Train.num_workers=2", *overrides),
    ]
    process = subprocess.Popen(
        [
            *(
                sys.executable,
                str(SCRIPTS / "waiting_evaluation.py"),
                str(folder),
            ),
            *("-c", str(write_run(folder)), "-o", *overrides),
        ],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    pids, workers, deadline = folder / "pids", set(), time.monotonic() + 120
    while len(workers) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
        workers = {*map(int, pids.read_text().split())} if pids.is_file() else set()
    return process, workers


def test_sigterm_to_the_group_in_an_evaluation_saves_and_leaves(tmp_path):
    process, workers = waiting_evaluation(tmp_path)
    os.killpg(process.pid, signal.SIGTERM)
    (tmp_path / "go").touch()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "--resume auto" in err and "Traceback" not in err and "SystemError" not in err
    latest = tmp_path / "out" / "checkpoints" / "latest"
    assert latest.resolve().name == "step_00000001"
    assert json.loads((latest / "state.json").read_text())["evaluated_at"] is None
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


def test_a_killed_evaluation_worker_costs_nothing(tmp_path):
    process, workers = waiting_evaluation(tmp_path, "Global.max_steps=1")
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    (tmp_path / "go").touch()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0 and "restarted" in err
    assert list(metrics(tmp_path / "out", "eval/mean_recall")) == [1]


def test_evaluation_workers_end_with_a_killed_parent(tmp_path):
    process, _ = waiting_evaluation(tmp_path)
    process.kill()
    (tmp_path / "go").touch()
    process.communicate(timeout=60)  # until its workers too have closed the pipe, or it raises


@pytest.mark.parametrize("tool", ["train", "eval", "convert", "prepare_data"])
def test_help_is_quick(tool):
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / f"{tool}.py"), "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "usage:" in done.stdout
    assert time.perf_counter() - start < 5  # a second on a quiet machine; paddle takes longer


@pytest.mark.slow
@pytest.mark.parametrize("name", ["base", "base_cnn"])
def test_published_towers_train_at_full_size(tmp_path, name):
    write_run(tmp_path)
    out = train(
        ROOT / "configs" / f"{name}.yaml",
        f"Global.output_dir={tmp_path}/{name}",
        "Global.max_steps=2",
        "Global.log_interval=1",
        f"Tokenizer.vocab_file={tmp_path}/vocab.txt",
        "DataLoader.Train.batch_size=4",
        f"DataLoader.Train.dataset.path={tmp_path}/train.tsv",
        f"DataLoader.Eval.dataset.path={tmp_path}/test.tsv",
    )
    assert np.isfinite(list(metrics(out).values())).all()
    argv = ["-c", str(out / "config.yaml"), "-w", str(out), "--out", str(tmp_path / "eval")]
    assert cli.run(eval_tool.main, argv) == 0
