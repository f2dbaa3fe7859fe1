"""`-o Section.key=value`: what it sets, what it leaves alone, what it refuses."""

import copy

import pytest

from ernie_vil2.config.load import load_config
from tests.support.configs import BASE, BASE_TREE, error_of, get


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("Global.max_steps=2", "Global.max_steps", 2),
        ("Optimizer.freeze=[image]", "Optimizer.freeze", ["image"]),
        ("Global.output_dir=a=b", "Global.output_dir", "a=b"),
        ("Global.output_dir='1'", "Global.output_dir", "1"),
        ("Global.output_dir=2024-01-01", "Global.output_dir", "2024-01-01"),
        ("Global.output_dir==", "Global.output_dir", "="),
        ("Loss.pairs.0.weight=0.5", "Loss.pairs.0.weight", 0.5),
        ("Loss.pairs.3={weight: 2}", "Loss.pairs.3.weight", 2.0),
        ("Loss.pairs.1.temperature=5e-2", "Loss.pairs.1.temperature", 0.05),
        ("Transform.crop_scale=[0.5, 1]", "Transform.crop_scale", [0.5, 1.0]),
        ("Transform.blur.sigma.1=3", "Transform.blur.sigma.1", 3.0),
        ("Transform.mean=[0, 0.5, 1]", "Transform.mean", [0.0, 0.5, 1.0]),
        ("Views.tags.en.separator='; '", "Views.tags.en.separator", "; "),
        ("LRScheduler.learning_rate=1e-4", "LRScheduler.learning_rate", 1e-4),
        ("Optimizer.clip_norm=null", "Optimizer.clip_norm", None),
        ("Optimizer.name=Lamb", "Optimizer.name", "Lamb"),
        ("Arch.Image.depth=null", "Arch.Image.depth", None),
        ("Optimizer.groups.0.lr_scale=.1e1", "Optimizer.groups.0.lr_scale", 1.0),
        ("Arch.Image.window.size=[1, {a: b}]", "Arch.Image.window.size", [1, {"a": "b"}]),
        ("EMA={decay: 0.9998}", "EMA.decay", 0.9998),
        ("DataLoader.Train.shuffle=false", "DataLoader.Train.shuffle", False),
        ("DataLoader.Eval=", "DataLoader.Eval", None),
    ],
)
def test_override_sets_that_key_alone(override, path, value):
    tree = load_config(BASE, [override]).to_dict()
    expected = copy.deepcopy(BASE_TREE)
    *parents, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    node = expected
    for key in parents:
        node = node.setdefault(key, {}) if isinstance(node, dict) else node[key]
    node[last] = value
    assert tree == expected
    found = get(tree, (*parents, last))
    assert (type(found), found) == (type(value), value)


def test_a_value_or_a_mapping(tmp_path, minimal):
    def shuffle(*overrides):
        shuffle = load_config(minimal, overrides).to_dict()["DataLoader"]["Train"]["shuffle"]
        load_config(minimal, overrides).dump(tmp_path / "again.yaml")
        again = load_config(tmp_path / "again.yaml")
        assert again.to_dict()["DataLoader"]["Train"]["shuffle"] == shuffle
        return shuffle

    key = "DataLoader.Train.shuffle"
    assert shuffle() is True
    assert shuffle(f"{key}.mode=shards") == {"mode": "shards", "window": 16}
    assert shuffle(f"{key}={{mode: Shards, window: 3}}") == {"mode": "shards", "window": 3}
    assert shuffle(f"{key}.mode=shards", f"{key}.window=4") == {"mode": "shards", "window": 4}
    assert "shuffle.mode is missing" in error_of(load_config, minimal, [f"{key}.window=4"])


def test_override_of_a_default_keeps_its_siblings(minimal):
    config = load_config(minimal, ["Loss.pairs.3.weight=0.25", "Views.tags.en.separator=/"])
    assert [pair.weight for pair in config.Loss.pairs] == [1, 1, 1, 0.25]
    assert config.Views.tags.zh.template == "该图片包含：{}"
    assert load_config(minimal).Loss.pairs[3].weight == 1.0  # the schema's own list is not changed


def test_override_by_index_reaches_into_the_files_own_list(write):
    path = write("_BASE_: base\nLoss: {pairs: [{views: [text2, image2], temperature: 0.5}]}\n")
    (pair,) = load_config(path, ["Loss.pairs.0.weight=3"]).Loss.pairs
    assert pair == {"views": ("text2", "image2"), "weight": 3.0, "temperature": 0.5}


def test_later_override_wins_and_lists_can_be_set_then_indexed():
    config = load_config(
        BASE, ["Global.seed=1", "Metric.ks=[7, 8]", "Global.seed=2", "Metric.ks.1=9"]
    )
    assert config.Global.seed == 2
    assert config.Metric.ks == (7, 9)
    assert load_config(
        BASE, ["DataLoader.Eval=null", "DataLoader.Eval.batch_size=1"]
    ).DataLoader.Eval


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("Global.seed", ["-o 'Global.seed'", "SECTION.KEY=VALUE"]),
        ("=1", ["SECTION.KEY=VALUE"]),
        ("Global..seed=1", ["SECTION.KEY=VALUE"]),
        ("two\nlines", ["SECTION.KEY=VALUE"]),
        ("Global.sead=1", ["-o: unknown key Global.sead", 'did you mean "seed"']),
        ("Globl.seed=1", ["unknown key Globl", 'did you mean "Global"']),
        ("_BASE_=x.yaml", ["unknown key _BASE_"]),
        ("Global.seed.x=1", ["-o: Global.seed is", "expected an integer"]),
        ("Global=null", ["-o: Global is null", "mapping"]),
        ("Loss.pairs.4.weight=1", ["Loss.pairs.4", "list of length 4"]),
        ("Loss.pairs.-1.weight=1", ["Loss.pairs.-1", "list of length 4"]),
        ("Loss.pairs.first.weight=1", ["Loss.pairs.first", "list of length 4"]),
        ("Optimizer.freeze.0=image", ["Optimizer.freeze", "length 0", "-o Optimizer.freeze=[...]"]),
        ("Transform.crop_scale.0=0.5", ["Transform.crop_scale is null", "set it whole"]),
        ("Loss.pairs.0.wait=1", ["unknown key Loss.pairs.0.wait", "weight"]),
        ("Global.seed=[1", ["-o Global.seed='[1'", "not valid YAML"]),
        ("Global.seed=!!python/object/apply:os.getcwd []", ["the tag", "not allowed"]),
        ("Arch.Image.x={a: 1, a: 2}", ["the key a stands twice"]),
        ("Arch.Image.x=!!binary aGk=", ["-o: Arch.Image.x is b'hi'"]),
        ("Arch.Image.x={1: 2}", ["Arch.Image.x", "quotes"]),
        ("Arch.Image.x=0x_", ["not valid YAML", "quote"]),
        ("Arch.Image.x=!!bool maybe", ["not valid YAML", "maybe"]),
        ("Arch.Image.x=*nowhere", ["not valid YAML", "nowhere"]),
        ('Arch.Image.x="\\0', ["not valid YAML"]),
        ("Arch.Image.x=" + "[" * 5000, ["not valid YAML", "deep"]),
        ("Global.seed=" + "9" * 5000, ["Global.seed", "999"]),
    ],
)
def test_wrong_overrides(override, parts):
    message = error_of(load_config, BASE, [override])
    for part in parts:
        assert part in message
