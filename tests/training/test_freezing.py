"""Towers of which only the last layers learn."""

import numpy as np
import paddle
import pytest

from ernie_vil2.config.load import load_config
from ernie_vil2.data.tokenize import Tokenizer
from ernie_vil2.training.build import build_objective
from tests.support.shapes import write_run
from tests.support.training_runs import train, weights

RESNET = "Arch.Image={name: CLIP_rn50, img_size: 32, embed_dim: 64, out_dim: 16}"


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"))


def learning(config, *overrides):
    """The objective, its layers in eval mode, and the names of what learns."""
    config = load_config(config, overrides)
    objective, still = build_objective(config, Tokenizer(**config.Tokenizer))
    names = {n for n, p in objective.model.named_parameters() if not p.stop_gradient}
    return objective, still, names


def of(tower, names):
    return {name for name in names if name.startswith(f"{tower}_tower.")}


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_the_last_layers_of_transformers_learn(config, layers):
    """Both towers of two blocks, frozen below; what follows the blocks always learns."""
    objective, still, names = learning(
        config,
        "Arch.Text.num_hidden_layers=2",
        f"Optimizer.unlocked_layers={{image: {layers}, text: {layers}}}",
    )
    assert still == []
    for tower, blocks, ends in (
        ("image", "backbone.blocks.", "backbone.norm."),
        ("text", "ernie.encoder.layers.", "ernie.pooler."),
    ):
        every = of(tower, dict(objective.model.named_parameters()))
        expected = {
            name
            for name in every
            if name.startswith(f"{tower}_tower.{ends}")
            or any(name.startswith(f"{tower}_tower.{blocks}{i}.") for i in range(2 - layers, 2))
        }
        assert of(tower, names) == expected != set()
    assert {"temperature", "image_projection.weight", "text_projection.weight"} <= names
    # below, nothing is kept for a backward
    seen = {}
    for i, block in enumerate(objective.model.image_tower.backbone.blocks):
        block.register_forward_post_hook(lambda x, _, y, i=i: seen.update({i: y.stop_gradient}))
    objective.model.encode_image(paddle.zeros([1, 3, 32, 32]))
    assert seen == {i: i < 2 - layers for i in range(2)}


def test_more_layers_than_there_are_is_one_line(config, capsys):
    train(config, "Optimizer.unlocked_layers.image=3", code=2)
    said = capsys.readouterr().err.splitlines()[-1]
    assert "Optimizer.unlocked_layers.image is 3, but the tower has 2: expected" in said


def test_statistics_of_frozen_stages_stay(config, tmp_path):
    """A ResNet's last stage and the attention that pools learn, and move theirs."""
    ways = [RESNET, "Optimizer.unlocked_layers.image=2", "DataLoader.Eval=null"]
    out = train(config, *ways, f"Global.output_dir={tmp_path}", "Global.save_interval=1")
    first, last = weights(out, "step_00000002"), weights(out, "step_00000004")
    moved = {name for name in of("image", first) if not np.array_equal(first[name], last[name])}
    unlocked = ("image_tower.backbone.layer4.", "image_tower.backbone.attnpool.")
    assert moved <= {name for name in first if name.startswith(unlocked)}
    assert {name for name in first if name.startswith(unlocked[0]) and "_mean" in name} <= moved
    assert moved - {name for name in first if "bias" in name} != set()
