"""Runs that train adapters: small checkpoints, resumes, and what is made of them afterwards."""

import shutil
from pathlib import Path

import numpy as np
import paddle
import pytest

import ernie_vil2
from ernie_vil2 import cli
from ernie_vil2.commands import convert
from ernie_vil2.config.load import load_config
from ernie_vil2.errors import UserError
from ernie_vil2.export.pipeline import export_model
from ernie_vil2.files.durable import read_json
from ernie_vil2.files.safetensors import read_safetensors
from ernie_vil2.models.lora import adapted, is_adapter
from ernie_vil2.serving.predictor import Predictor
from tests.support.halves import half_trainer
from tests.support.shapes import write_run
from tests.support.training_runs import assert_same, metrics, train, weights, write_base

RANKS = ["Arch.Image.lora.rank=4", "Arch.Text.lora.rank=4", "Arch.Text.lora.dropout=0.1"]
FILES = ("model.safetensors", "training.safetensors")
RESNET = "Arch.Image={name: CLIP_rn50, img_size: 32, embed_dim: 64, out_dim: 16}"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of four steps: configuration, what starts it, output, and the base."""
    folder = tmp_path_factory.mktemp("run")
    config = write_run(folder, LRScheduler={"learning_rate": 0.02, "warmup_steps": 0})
    base = write_base(config, folder / "base")
    start = [f"Global.pretrained={base}", *RANKS, "EMA.decay=0.9"]
    return config, start, train(config, *start, "Global.save_interval=2"), base


@pytest.fixture(scope="module")
def model(run):
    return ernie_vil2.load(run[2])


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(0)
    return rng.normal(size=[4, 3, 32, 32]).astype("float32"), rng.integers(5, 18, [4, 12])


def embed(model, inputs):
    with paddle.no_grad():
        return [x.numpy() for x in model(*map(paddle.to_tensor, inputs))]


def apart(one, other):
    return max(abs(a - b).max() for a, b in zip(one, other))


def test_a_checkpoint_holds_what_learned_and_names_the_rest(run):
    _, _, out, base = run
    found = weights(out)
    whole = ernie_vil2.load(base).state_dict()
    others = {name for name in found if not is_adapter(name)}
    assert others == {"temperature", "image_projection.weight", "text_projection.weight"}
    assert len(found) - len(others) == 2 * len(adapted(ernie_vil2.load(out)))
    assert all(abs(found[n] - whole[n].numpy()).max() > 0 for n in others)
    assert all(found[n].any() for n in found if n.endswith("lora_B"))
    note = read_json(out / "checkpoints/latest/base.json", sealed=True)
    assert note["weights"] == str(base)
    assert note["tensors"] == len(whole) - len(others)


def test_a_resume_ends_at_the_same_bits(run, tmp_path):
    config, start, out, _ = run
    step = "checkpoints/step_00000002"
    shutil.copytree(out / step, tmp_path / step)
    train(config, *start, f"Global.output_dir={tmp_path}", resume="auto")
    assert metrics(tmp_path)[4] == metrics(out)[4]
    for file in FILES:
        assert_same(weights(tmp_path, file=file), weights(out, file=file))


def test_merged_and_exported_are_the_adapted(run, model, inputs, tmp_path, capsys):
    config, start, out, base = run
    expected = embed(model, inputs)
    assert apart(expected, embed(ernie_vil2.load(base), inputs)) > 0.01
    argv = ["--from", str(out), "--to", "ernie_vil2", "--out"]
    for name, flags in (("merged", ["--merge"]), ("adapters", [])):
        assert cli.run(convert.main, [*argv, str(tmp_path / name), *flags]) == 0
        other = ernie_vil2.load(tmp_path / name)
        assert len(adapted(other)) == (0 if flags else len(adapted(model)))
        assert apart(expected, embed(other, inputs)) <= 1e-5
    assert sorted(read_safetensors(tmp_path / "adapters" / FILES[0])) == sorted(weights(out))
    argv = ["--from", str(out), "--to", "official", "--out", str(tmp_path / "a.pdparams")]
    assert cli.run(convert.main, argv) == 2
    assert "has adapters, which --to official cannot hold: add --merge" in capsys.readouterr().err
    assert cli.run(convert.main, ["--from", str(base), *argv[2:], "--merge"]) == 2
    assert "has no adapters to merge" in capsys.readouterr().err

    lines = []
    folder = export_model(out, load_config(config, start), tmp_path / "exported", say=lines.append)
    assert lines[0] == f"merged the adapters of {len(adapted(model))} layers into their weights"
    tower = Predictor(folder)
    pixels, ids = inputs
    assert apart([tower.embed_pixels(pixels), tower.embed_ids(ids)], expected) <= 1e-5


def test_another_base_is_refused_and_a_moved_one_named(run, inputs, model, tmp_path):
    config, _, out, base = run
    copy = Path(shutil.copytree(out / "checkpoints/latest", tmp_path / "copy"))
    other = write_base(config, tmp_path / "other", 4)
    with pytest.raises(UserError, match=r"is not what the adapters in .*its numbers are others"):
        ernie_vil2.load(copy, base=other)
    # the same numbers in another file are the same base
    paddle.save(ernie_vil2.load(base).state_dict(), str(tmp_path / "base.pdparams"))
    found = ernie_vil2.load(copy, base=tmp_path / "base.pdparams")
    assert apart(embed(found, inputs), embed(model, inputs)) == 0
    away = base.rename(tmp_path / "away")
    try:
        with pytest.raises(UserError, match=r"were made for .* does not exist.*Global.pretrained"):
            ernie_vil2.load(copy)
        found = ernie_vil2.load(copy, load_config(config, [f"Global.pretrained={away}"]))
        assert apart(embed(found, inputs), embed(model, inputs)) == 0
    finally:
        away.rename(base)


def test_what_adapters_begin_from(run, tmp_path, capsys):
    config, start, out, base = run
    # from adapters whole weights may begin, and more adapters not
    train(config, f"Global.pretrained={out}", f"Global.output_dir={tmp_path}", "Global.max_steps=1")
    assert len(weights(tmp_path)) == len(ernie_vil2.load(base).state_dict())
    for changes, said in (
        ([f"Global.pretrained={out}"], "has adapters itself, and new ones need whole weights"),
        (
            [
                f"Global.pretrained={base}",
                "Global.pretrained_partial=true",
                "Arch.Text.num_hidden_layers=2",
            ],
            "text_tower.ernie.encoder.layers.1",
        ),
    ):
        argv = [*RANKS, *changes, f"Global.output_dir={tmp_path / 'new'}"]
        train(config, *argv, code=2)
        assert said in capsys.readouterr().err.splitlines()[-1]
    train(config, *start, f"Global.output_dir={tmp_path}", resume="auto", code=2)
    assert "is of a run without adapters" in capsys.readouterr().err


@pytest.mark.parametrize("level", ["O1", "O2"])
def test_in_half_precision_the_base_stays_and_a_resume_is_exact(run, tmp_path, level):
    config, start, _, _ = run

    def trainer(steps, folder, **named):
        out = f"Global.output_dir={tmp_path / folder}"
        made = half_trainer(config, *start, f"AMP.level={level}", out, **named)
        for _, batches in zip(range(steps), made.batches()):
            made.step(batches)
        made.save()
        made.checkpoints.wait()
        made.close()
        return tmp_path / folder

    through, half_way = trainer(3, "through"), trainer(2, "resumed")
    trainer(1, "resumed", resume="auto")
    for file in FILES:
        assert_same(weights(through, file=file), weights(half_way, file=file))
    assert {x.dtype for x in weights(through).values()} == {np.dtype("float32")}
    ernie_vil2.load(through)  # its base is whole, not halves


def test_a_resnets_statistics_stay(run, tmp_path):
    config, start, _, _ = run
    base = write_base(config, tmp_path / "base", 3, RESNET)
    start = [RESNET, f"Global.pretrained={base}", *RANKS[:1], f"Global.output_dir={tmp_path}"]
    out = train(config, *start, "Global.max_steps=2", "DataLoader.Eval=null")
    found = [name for name in weights(out) if name.startswith("image_tower.")]
    assert len(found) == 8 and all(".attnpool." in name for name in found)
    before, after = (ernie_vil2.load(x).state_dict() for x in (base, out))
    name = "image_tower.backbone.bn1._mean"
    assert np.array_equal(before[name].numpy(), after[name].numpy())
    # of a tower that learns they move, and are in the checkpoint
    start = [*start[:2], *RANKS[1:], f"Global.output_dir={tmp_path / 'text'}"]
    out = train(config, *start, "Global.max_steps=2", "DataLoader.Eval=null")
    assert not np.array_equal(weights(out)[name], before[name].numpy())
