"""tools/merge.py: float64 means of weights, soups, and what is refused in one line."""

import json

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file

import ernie_vil2
from ernie_vil2 import cli
from ernie_vil2.commands import merge
from ernie_vil2.config.load import load_config
from ernie_vil2.models.dual_encoder import build_model
from ernie_vil2.weights.ours import save_checkpoint
from tests.support.shapes import write_run
from tests.support.told import error_line

FILE = "model.safetensors"


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def models(config):
    """Three models of one structure, with other numbers each; the second has a zero of its own."""
    folders = []
    for seed in range(3):
        folders.append(write(config, f"model{seed}", seed))
    return folders


def write(config, name, seed, *overrides, vocab=None):
    paddle.seed(seed)
    settings = load_config(config, overrides)
    model = build_model(settings.Arch)
    if seed == 1:
        model.image_projection.weight.set_value(paddle.full([32, 16], -0.0))
    folder = config.parent / name
    tokenizer = {"max_len": settings.Tokenizer.max_len, "lowercase": True}
    save_checkpoint(model, folder, vocab or settings.Tokenizer.vocab_file, tokenizer=tokenizer)
    return folder


def run(*argv, code=0):
    assert cli.run(merge.main, [str(part) for part in argv]) == code


@pytest.mark.parametrize("alpha", [0, 0.3, 1])
def test_the_mean_is_float64s(models, tmp_path, alpha):
    run(*models[:2], "--alpha", alpha, "--out", tmp_path / "out")
    one, other = (load_file(folder / FILE) for folder in models[:2])
    found = load_file(tmp_path / "out" / FILE)
    assert found.keys() == one.keys()
    for name, array in found.items():
        a, b = one[name].astype("f8"), other[name].astype("f8")
        assert array.dtype == np.float32
        assert np.array_equal(array, ((1 - alpha) * a + alpha * b).astype("f4")), name
    if alpha in (0, 1):  # down to the sign of a zero
        assert (tmp_path / "out" / FILE).read_bytes() == (models[alpha] / FILE).read_bytes()
    assert (tmp_path / "out/vocab.txt").read_bytes() == (models[0] / "vocab.txt").read_bytes()
    ernie_vil2.load(tmp_path / "out")


def test_a_uniform_soup(models, tmp_path):
    run(*models, "--soup", "uniform", "--out", tmp_path / "out")
    states = [load_file(folder / FILE) for folder in models]
    for name, array in load_file(tmp_path / "out" / FILE).items():
        expected = np.mean([state[name].astype("f8") for state in states], axis=0)
        np.testing.assert_array_max_ulp(array, expected.astype("f4"), maxulp=1)


def test_the_line_and_a_greedy_soup_are_scored(models, config, tmp_path, capsys):
    old = config.parent / "old.yaml"
    old.write_text(f"_BASE_: {config.name}\nGlobal: {{seed: 1}}\n")
    ways = ["--eval", config, old, "-o", "Metric.bootstrap=0", "--out", tmp_path / "out"]
    run(*models[:2], "--alphas", 0, 0.5, 1, *ways)
    found = json.loads((tmp_path / "out/merge.json").read_text())
    assert [point["alpha"] for point in found["points"]] == [0, 0.5, 1]
    assert found["alpha"] == 0.5 and set(found["sets"]) == {"run", "old"}
    page = (tmp_path / "out/merge.html").read_text()
    assert page.count("<svg") == 2 and "text to image R@10" in page
    for name in ("merge_line.png", "merge_sets.png"):
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")
    capsys.readouterr()
    # again into the same place; the greedy soup is at least as good as the best alone
    run(*models, "--soup", "greedy", *ways)
    soup = json.loads((tmp_path / "out/merge.json").read_text())
    alone = soup["alone"]
    ends = [found["points"][end]["recalls"]["run"]["mean recall"] for end in (0, -1)]
    assert [alone[str(folder)] for folder in models[:2]] == ends
    assert soup["weights"][0] == max(alone, key=alone.get)
    assert soup["recalls"]["run"]["mean recall"] >= max(alone.values())


@pytest.mark.parametrize(
    "overrides,said",
    [
        (["Arch.Text.num_hidden_layers=2"], "only {other} has text_tower.ernie.encoder.layers.1"),
        (["Arch.embed_dim=8"], "image_projection.weight has shape [32, 16] and [32, 8]"),
        (["Arch.Image.hidden_act=gelu"], "Arch.Image.hidden_act is quick_gelu and gelu"),
        (["vocabulary"], "their vocabularies differ"),
    ],
)
def test_other_structures_are_refused(models, config, tmp_path, capsys, overrides, said):
    vocab = None
    if overrides == ["vocabulary"]:
        overrides, vocab = [], tmp_path / "vocab.txt"
        vocab.write_text((models[0] / "vocab.txt").read_text().replace("red", "pink"))
    other = write(config, f"other{len(said)}", 5, *overrides, vocab=vocab)
    run(models[0], other, "--out", tmp_path / "out", code=2)
    line = error_line(capsys.readouterr().err)
    assert f"{models[0]} and {other} cannot be merged" in line
    assert said.format(other=other) in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "flags,said",
    [
        (["a"], "name two or more"),
        (["a", "b", "c"], "add --soup uniform"),
        (["a", "b", "--soup", "greedy"], "name its configuration in --eval"),
        (["a", "b", "--soup", "uniform", "--alpha", "0.5"], "leave --alpha"),
        (["a", "b", "--alphas", "0.5"], "name a configuration there"),
    ],
)
def test_options_that_contradict(tmp_path, capsys, flags, said):
    run(*flags, "--out", tmp_path / "out", code=2)
    assert said in error_line(capsys.readouterr().err)
