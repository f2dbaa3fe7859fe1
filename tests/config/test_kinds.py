"""Every key refuses what is of another type or out of range, and says what it expects."""

import copy

import pytest
import yaml

from ernie_vil2.config.load import load_config
from tests.support.configs import BASE, BASE_LEAVES, BASE_TREE, error_of, get, kind_at


def wrong_values(value, nullable):
    """Values of other types than that of `value`."""
    yield {"wrong": 1}
    if not nullable:
        yield None
    if isinstance(value, bool):
        yield from (0, 1, 1.0, "true", [True])
    elif isinstance(value, int):
        yield from (True, 1.5, float(value), "7", [value])
    elif isinstance(value, float):
        yield from (False, "0.5 ", [value], float("nan"), float("inf"))
    elif isinstance(value, str):
        yield from (True, 7, 0.5, [value], "")
    elif isinstance(value, list):
        yield from (0, "text", True, [None], [*value, True])
    else:
        yield from ([], [1, "a"], True if value is None else None)


@pytest.mark.parametrize(("path", "value"), BASE_LEAVES, ids=lambda p: str(p)[:50])
def test_every_leaf_of_base_refuses_other_types(tmp_path, minimal, path, value):
    kind, file = kind_at(path), tmp_path / "wrong.yaml"
    for wrong in wrong_values(value, kind.null):
        if wrong == "" and path[-1] == "separator":  # the only string that may be empty
            continue
        if wrong == [value] and list in getattr(kind, "types", ()):  # several files of one set
            continue
        # In a file. A list is written whole, with one wrong item.
        tree = copy.deepcopy(BASE_TREE)
        get(tree, path[:-1])[path[-1]] = wrong
        top = path[0]
        file.write_text(yaml.safe_dump({top: tree[top]}))
        message = error_of(load_config, file)
        dotted = ".".join(map(str, path))
        assert f"wrong.yaml: {dotted}" in message, wrong
        # As an override.
        text = (
            yaml.safe_dump(wrong, default_flow_style=True, width=10**6).replace("\n...", "").strip()
        )
        message = error_of(load_config, minimal, [f"{dotted}={text}"])
        assert f"-o: {dotted}" in message, wrong
        assert "expected" in message


@pytest.mark.parametrize(
    "override",
    [
        "Global.device=gpux",
        "Global.seed=-1",
        "Global.seed=4294967296",
        "Global.epochs=0",
        "Global.max_steps=0",
        "Global.log_interval=0",
        "Global.eval_interval=-1",
        "Global.max_steps=1e3",
        "Arch.embed_dim=0",
        "Arch.Image.activation=relu",
        "Arch.Image.img_size=0",
        "Arch.Text.hidden_dropout_prob=1.0",
        "Arch.Text.hidden_dropout_prob=-0.1",
        "Tokenizer.max_len=2",
        "Views.image=[]",
        "Views.image=[image3]",
        "Views.image=[text1]",
        "Views.image=[image1, image1]",
        "Views.text=[image1]",
        "Views.draw.tags_prob=1.1",
        "Views.draw.per=epoch",
        "Views.tags.zh.template=no place for the tags",
        "Views.tags.zh.template='{} {}'",
        "Views.tags.zh.template='{0.__class__}'",
        "Transform.jitter.hue=0.6",
        "Transform.blur.kernel=4",
        "Transform.blur.sigma=[2.0]",
        "Transform.blur.sigma=[2.0, 0.1]",
        "Transform.blur.sigma=[0, 1]",
        "Transform.crop_scale=[0.5, 1.1]",
        "Transform.mean=[0.5, 0.5]",
        "Transform.std=[0.5, 0.5, 0]",
        "Loss.pairs=[]",
        "Loss.pairs.0.views=[image1]",
        "Loss.pairs.0.views=[image1, image1]",
        "Loss.pairs.0.views=[image1, image3]",
        "Loss.pairs.0.weight=-1",
        "Loss.pairs.0.temperature=0",
        "Loss.logit_scale.max=.inf",
        "Optimizer.name=Adam",
        "Optimizer.beta1=1.0",
        "Optimizer.clip_norm=0",
        "Optimizer.layer_decay=1.5",
        "Optimizer.freeze=[loss]",
        "Optimizer.groups.0.match='('",
        "LRScheduler.learning_rate=0",
        "LRScheduler.warmup_steps=-1",
        "AMP.level=O3",
        "AMP.dtype=float32",
        "EMA.decay=1.0",
        "DataLoader.Train.batch_size=0",
        "DataLoader.Train.num_workers=-1",
        "DataLoader.Train.shuffle=shards",
        "DataLoader.Train.shuffle={mode: shards, windows: 3}",
        "DataLoader.Train.shuffle.mode=local",
        "DataLoader.Train.shuffle.window=0",
        "DataLoader.Train.shuffle.window=1.5",
        "Metric.ks=[0]",
        # numbers that nobody means
        "Global.epochs=" + "9" * 400,
        "Global.epochs=1000000001",
        "Tokenizer.max_len=100000000000",
        "Transform.blur.kernel=99999",
        "Transform.size=1000000",
        "Transform.jitter.brightness=1e300",
        "Arch.Text.vocab_size=1" + "0" * 30,
        "Arch.Image.depth=1000000",
        "Loss.logit_scale.init=-1" + "0" * 400,
        "DataLoader.Train.batch_size=1000000000000",
        "DataLoader.Train.num_workers=100000",
        "DataLoader.Train.worker_timeout=1e300",
        "Distributed.hang_timeout=1e300",
        "Metric.bootstrap=1000000000000",
        "Metric.ks=[1000000000000]",
        # what no file name and no text may hold
        'Global.output_dir="a\\0b"',
        'Global.output_dir="a\\ud800b"',
        'DataLoader.Train.dataset.path=["a\\0b"]',
        'DataLoader.Train.dataset.of_a_component="a\\0b"',
        'Optimizer.name="AdamW\\0"',
    ],
)
def test_values_out_of_range(override):
    key = override.split("=")[0]
    message = error_of(load_config, BASE, [override])
    assert message.startswith(f"-o: {key}")
    assert "; expected " in message


def test_the_whole_message():
    assert error_of(load_config, BASE, ["AMP.level=O3"]) == (
        "-o: AMP.level is 'O3'; expected one of O0, O1, O2"
    )
    assert error_of(load_config, BASE, ["Global.max_steps=true"]) == (
        "-o: Global.max_steps is true; expected an integer from 1 to 1000000000, or null"
    )


def test_every_number_has_an_upper_bound():
    """What another key asks for later is bounded without saying so."""
    for path, value in BASE_LEAVES:
        kind = kind_at(path)
        if int in getattr(kind, "types", ()):
            assert value is None or kind.valid(value), path
            assert not kind.valid(10**400) and not kind.valid(10**400 + 1), path


def test_the_bound_is_said():
    message = error_of(load_config, BASE, ["Transform.blur.kernel=99999"])
    assert message.endswith("expected an odd integer from 1 to 255")
    message = error_of(load_config, BASE, ["Tokenizer.max_len=100000000000"])
    assert message.endswith("expected an integer from 3 to 65536")
    message = error_of(load_config, BASE, ['Global.output_dir="a\\0b"'])
    assert message == (
        "-o: Global.output_dir is 'a\\x00b'; expected text without a null character "
        "or half a character"
    )


@pytest.mark.parametrize(
    ("override", "key", "spelt"),
    [
        ("Optimizer.name=adamw", "Optimizer", "AdamW"),
        ("Optimizer.name=LAMB", "Optimizer", "Lamb"),
        ("LRScheduler.name=cosine", "LRScheduler", "Cosine"),
        ("LRScheduler.name=CONSTANT", "LRScheduler", "Constant"),
    ],
)
def test_names_in_any_case(override, key, spelt):
    assert load_config(BASE, [override])[key]["name"] == spelt
