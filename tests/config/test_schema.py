"""The schema: it is base.yaml's, every key refuses what it must, and so do keys together."""

import copy
import re

import pytest
import yaml

from ernie_vil2.config.hints import HINTS
from ernie_vil2.config.load import load_config
from ernie_vil2.config.schema import OPTIONAL, SCHEMA, ListOf, Section
from tests.config.test_load import BASE, BASE_TREE, MINIMAL, error_of, get


@pytest.fixture
def minimal(tmp_path):
    path = tmp_path / "minimal.yaml"
    path.write_text(MINIMAL)
    return path


def leaves(tree, path=()):
    """(path, value) of everything in the tree that is no filled mapping, list items included."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from leaves(value, (*path, key))
    else:
        yield path, tree
        for i, value in enumerate(tree if isinstance(tree, list) else ()):
            yield from leaves(value, (*path, i))


BASE_LEAVES = list(leaves(BASE_TREE))


def kind_at(path):
    kind = SCHEMA
    for key in path:
        kind = kind.fields[key] if isinstance(kind, Section) else kind.item
    return kind


# -- base.yaml and the schema ----------------------------------------------------------------------


def keys_of(kind, path=()):
    """Dotted keys of a schema, "0" for a list's items; without those that an item may lack."""
    if isinstance(kind, Section):
        for name, field in kind.fields.items():
            if "0" in path and field.default is OPTIONAL:
                continue
            yield from keys_of(field, (*path, name))
    else:
        yield ".".join(path)
        if isinstance(kind, ListOf) and isinstance(kind.item, Section):
            yield from keys_of(kind.item, (*path, "0"))


def test_base_states_every_key_of_the_schema_and_no_other():
    raw = yaml.safe_load(BASE.read_text(encoding="utf-8"))
    stated = set()

    def walk(node, kind, path):
        if isinstance(kind, Section):
            assert set(node) <= set(kind.fields), path
            for name, value in node.items():
                walk(value, kind.fields[name], (*path, name))
        else:
            stated.add(".".join(path))
            if isinstance(kind, ListOf) and isinstance(kind.item, Section):
                for item in node:
                    walk(item, kind.item, (*path, "0"))

    walk(raw, SCHEMA, ())
    assert set(keys_of(SCHEMA)) - stated == set()
    allowed_beside = {"Optimizer.groups.0.weight_decay", "Optimizer.groups.0.lr_scale"}
    assert stated - set(keys_of(SCHEMA)) <= allowed_beside


def test_defaults_are_those_of_base(minimal):
    tree = load_config(minimal).to_dict()
    own = {
        **{("Global", "output_dir"): "output", ("Tokenizer", "vocab_file"): "vocab.txt"},
        ("Arch", "Image", "name"): "ResNet50",
        ("DataLoader", "Train", "dataset", "path"): "train.tsv",
    }
    for path, value in BASE_LEAVES:
        kind = kind_at(path)
        if path in own:
            assert get(tree, path) == own[path]
        elif path[:2] == ("DataLoader", "Eval"):
            assert tree["DataLoader"]["Eval"] is None
        elif kind.default is OPTIONAL and path[0] == "Arch":
            assert path[-1] not in get(tree, path[:-1])  # a size is there only when stated
        else:
            assert get(tree, path) == value, path


# -- Types -----------------------------------------------------------------------------------------


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


# -- Keys of other programs ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "remedy"),
    [
        ("Optimizer.lr=1e-4", "LRScheduler.learning_rate"),
        ("Optimizer.learning_rate=1e-4", "LRScheduler.learning_rate"),
        ("lr=1e-4", "LRScheduler.learning_rate"),
        ("Global.pretrained_model=x", "Global.pretrained"),
        ("Global.checkpoints=x", "--resume auto"),
        ("DataLoader.Train.batch_size_per_card=8", "DataLoader.Train.batch_size"),
        ("DataLoader.Train.sampler.batch_size_per_card=8", "DataLoader.Train.batch_size"),
        ("batch_size_per_card=8", "DataLoader.Train.batch_size"),
        ("Global.accum_freq=2", "DataLoader.Train.micro_batch_size"),
        ("gradient_accumulation_steps=2", "Distributed.gradient_merge"),
        ("Global.precision=bf16", "AMP.level"),
        ("precision=amp_bf16", "AMP.level"),
        ("AMP.bf16=true", "AMP.dtype"),
        ("Global.bf16=true", "AMP.dtype"),
        ("amp=true", "AMP.level"),
        ("Amp.level=O1", "AMP"),
        ("Global.num_train_epochs=3", "Global.epochs"),
        ("Optimizer.regularizer.coeff=0.1", "Optimizer.weight_decay"),
    ],
)
def test_another_programs_key_draws_a_hint(override, remedy):
    message = error_of(load_config, BASE, [override])
    assert message.startswith("-o: unknown key ")
    assert "known:" not in message
    assert remedy in message


def test_every_hint_names_a_key_that_there_is():
    for key, hint in HINTS.items():
        named = re.findall(r"\b[A-Z]\w+(?:\.[A-Za-z]\w*)+", hint)
        assert named or "--resume" in hint, key
        for name in named:
            kind_at(name.split("."))


# -- Keys that depend on one another ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["Views.image=[image1]"], ["Loss.pairs.0", "image2", "Views.image"]),
        (["Loss.pairs.1.views=[caption1, text2]"], ["Loss.pairs.1", "caption1", "Views.text"]),
        (["Loss.pairs.3.views=[image1, text1]"], ["Loss.pairs.3", "image1 and text1", "repeats"]),
        (["Loss.pairs.3.views=[text1, image1]"], ["Loss.pairs.3", "repeats"]),
        ([f"Loss.pairs.{i}.weight=0" for i in range(4)], ["Loss.pairs", "weight above 0"]),
        (["Loss.pairs.2.learnable=true"], ["Loss.pairs.2.learnable", "temperature"]),
        (["Loss.logit_scale.init=101"], ["Loss.logit_scale.init", "100.0"]),
        (["LRScheduler.min_lr=1"], ["LRScheduler.min_lr", "3e-05"]),
        (["Transform.blur.sigma.0=3"], ["Transform.blur.sigma", "smaller first"]),
        (["Transform.size=256"], ["Arch.Image.img_size is 224", "Transform.size, 256"]),
        (["Arch.Image.img_size=32"], ["Arch.Image.img_size is 32", "Transform.size, 224"]),
        (["Metric.best=recall"], ["Metric.best is 'recall'", 'did you mean "mean_recall"']),
        (["Metric.best=R@1"], ["Metric.best is 'R@1'", "known:", "image_to_text/R@1"]),
        (["Metric.best=text_to_image/R@2"], ["Metric.ks [1, 5, 10]", '"text_to_image/R@']),
        (["Metric.best=text_to_image/R@10", "Metric.ks=[1, 5]"], ["Metric.ks [1, 5]", "R@1"]),
        (["Metric.best=loss"], ["Metric.best is 'loss'", "known: image_to_text/R@1, "]),
    ],
)
def test_keys_that_contradict_one_another(overrides, parts):
    message = error_of(load_config, BASE, overrides)
    for part in ["base.yaml with -o", *parts]:
        assert part in message


def test_fewer_views_and_own_temperatures(tmp_path):
    path = tmp_path / "delta.yaml"
    path.write_text(
        f"_BASE_: {BASE}\n"
        "Views: {image: [image1], text: [tags1, caption1]}\nLoss:\n  pairs:\n"
        "    - {views: [image1, caption1], temperature: 0.1}\n"
        "    - {views: [tags1, image1], weight: 0, temperature: 1, learnable: true}\n"
    )
    first, second = load_config(path).Loss.pairs
    assert first == {"views": ("image1", "caption1"), "weight": 1.0, "temperature": 0.1}
    assert (second.temperature, second.learnable) == (1.0, True)


def test_sizes_agree_or_the_tower_takes_any():
    overrides = ["Arch.Image.img_size=32", "Transform.size=32"]
    assert load_config(BASE, overrides).Arch.Image.img_size == 32
    config = load_config(BASE, ["Arch.Image.img_size=null", "Transform.size=256"])
    assert config.Transform.size == 256


def test_every_recall_can_choose_the_best():
    for direction in ("text_to_image", "image_to_text"):
        for name in ("R@2", "R@30", "mean_recall"):
            best = f"{direction}/{name}"
            config = load_config(BASE, ["Metric.ks=[2, 30]", f"Metric.best={best}"])
            assert config.Metric.best == best
