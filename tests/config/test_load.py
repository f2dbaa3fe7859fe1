"""The configuration: inheritance, overrides, types, one-line errors."""

import copy
import pickle
import subprocess
import sys

import pytest
import yaml

from ernie_vil2.config import strict_yaml
from ernie_vil2.config.load import Config, check_arch, load_config
from ernie_vil2.config.schema import SCHEMA
from tests.support.configs import BASE, BASE_TREE, MINIMAL, error_of

# -- The files in configs/ -------------------------------------------------------------------------


def test_base_is_loaded_as_it_is_written():
    raw = strict_yaml.parse(BASE.read_text(encoding="utf-8"), "base.yaml")
    # the one thing that reading fills in over a null
    assert raw["Transform"]["mean"] is None and raw["Transform"]["std"] is None
    raw["Transform"].update(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    assert raw == BASE_TREE


def test_the_normalisation_is_that_of_the_preprocessing():
    """Unless a file states its own, as those that were written before there was a choice."""
    clip = load_config(BASE, ["Transform.eval=CLIP"]).Transform
    assert (clip.eval, clip.mean[0], clip.std[0]) == ("clip", 0.48145466, 0.26862954)
    own = load_config(BASE, ["Transform.eval=clip", "Transform.mean=[0.5, 0.5, 0.5]"]).Transform
    assert (own.mean, own.std) == ((0.5, 0.5, 0.5), clip.std)
    message = error_of(load_config, BASE, ["Transform.eval=clips"])
    assert "Transform.eval" in message and "official, paddlenlp, chinese_clip, clip" in message


def test_all_configs_load():
    for path in BASE.parent.glob("*.yaml"):
        load_config(path)


def test_importing_it_is_cheap():
    code = "import sys, ernie_vil2.config.load; print({m.split('.')[0] for m in sys.modules})"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert "'yaml'" in loaded.stdout
    for heavy in ("paddle", "numpy", "cv2", "paddlenlp"):
        assert f"'{heavy}'" not in loaded.stdout


# -- Config ----------------------------------------------------------------------------------------


def test_config_reads_by_key_and_by_attribute_and_is_frozen():
    config = load_config(BASE)
    assert config.Global.seed == config["Global"]["seed"] == 42
    assert config.Loss.pairs[0].views == ("image1", "image2")
    assert dict(**config.Arch.Text)["hidden_size"] == 768
    with pytest.raises(AttributeError, match="frozen"):
        config.Global.seed = 1
    with pytest.raises(AttributeError, match="frozen"):
        del config.Global.seed
    with pytest.raises(TypeError):
        config["Global"]["seed"] = 1
    with pytest.raises(AttributeError, match='did you mean "seed"'):
        _ = config.Global.sed
    assert hasattr(config.Global, "nothing") is False
    plain = config.to_dict()
    plain["Loss"]["pairs"][0]["views"][0] = plain["Global"]["seed"] = None
    assert config == load_config(BASE)


def test_config_survives_pickle_and_copy():
    config = load_config(BASE)
    for other in (pickle.loads(pickle.dumps(config)), copy.deepcopy(config), copy.copy(config)):
        assert isinstance(other, Config)
        assert other == config
        assert other.Loss.pairs == config.Loss.pairs


def test_dump_loads_as_an_equal_config(tmp_path):
    # Strings that YAML would read as something else, numbers without a short form.
    names = [
        "1e-4",
        "3e5",
        "12",
        "true",
        "null",
        "2024-01-01",
        "=",
        "a: b",
        " x ",
        "😀",
        "~",
        "1_0e3",
    ]
    for i, name in enumerate(names):
        source = Config({**BASE_TREE, "Global": {**BASE_TREE["Global"], "output_dir": name}})
        source.dump(tmp_path / f"{i}.yaml")
        assert load_config(tmp_path / f"{i}.yaml").Global.output_dir == name
    overrides = ["LRScheduler.learning_rate=0.1234567890123456789", "Optimizer.epsilon=1e-300"]
    config = load_config(BASE, overrides)
    config.dump(tmp_path / "config.yaml")
    again = load_config(tmp_path / "config.yaml")
    assert again == config
    text = (tmp_path / "config.yaml").read_text(encoding="utf-8")
    assert "该图片包含：{}" in text
    assert list(yaml.safe_load(text)) == list(config) == list(SCHEMA.fields)
    assert repr(again.to_dict()) == repr(config.to_dict())  # key order, and floats stay floats


# -- Inheritance -----------------------------------------------------------------------------------


def test_base_is_relative_to_the_file_and_merged(write, monkeypatch, tmp_path):
    write(MINIMAL + "Global: {seed: 1, epochs: 7}\nMetric: {ks: [1, 2, 3]}\n", "a/root.yaml")
    write("_BASE_: ../a/root.yaml\nGlobal: {seed: 2}\n", "b/middle.yaml")
    top = write("_BASE_: b/middle.yaml\nMetric: {ks: [4]}\n", "top.yaml")
    monkeypatch.chdir("/")
    config = load_config(top)
    assert (config.Global.seed, config.Global.epochs, config.Metric.ks) == (2, 7, (4,))
    assert "_BASE_" not in config


def test_cycle_of_bases(write):
    one = write("_BASE_: two.yaml\n", "one.yaml")
    write("_BASE_: one.yaml\n", "two.yaml")
    message = error_of(load_config, one)
    assert "two.yaml" in message
    assert "leads back" in message
    assert "leads back" in error_of(load_config, write("_BASE_: self.yaml\n", "self.yaml"))


def test_missing_base_names_both_files(write):
    message = error_of(load_config, write("_BASE_: nowhere.yaml\n"))
    assert "nowhere.yaml" in message
    assert "delta.yaml" in message
    for value in ("3", "[a.yaml]", "''"):
        assert "_BASE_ is" in error_of(load_config, write(f"_BASE_: {value}\n"))


def test_an_error_names_the_file_it_is_in(write):
    write(MINIMAL + "Global: {seed: abc}\n", "bad_base.yaml")
    top = write("_BASE_: bad_base.yaml\nGlobal: {epochs: 1}\n", "top.yaml")
    assert "bad_base.yaml: Global.seed is 'abc'" in error_of(load_config, top)


# -- Components ------------------------------------------------------------------------------------


def test_another_name_drops_the_other_components_keys(write):
    path = write(
        "_BASE_: base\n"
        "Arch: {Image: {name: EfficientNetB5, img_size: 256, drop: 0.4, out_dim: 768}}\n"
        "Transform: {size: 256}\n"
        "DataLoader: {Train: {dataset: {name: jsonl, path: x, images: y}}}\n"
    )
    config = load_config(path)
    assert config.Arch.Image.to_dict() == {
        **{"name": "EfficientNetB5", "pretrained": False, "img_size": 256, "out_dim": 768},
        **{
            "activation": None,
            "recompute": False,
            "patch_dropout": 0.0,
            "fused_attention": True,
            "lora": {"rank": None, "alpha": 16.0, "modules": ".", "dropout": 0.0},
            "drop": 0.4,
        },
    }
    assert config.DataLoader.Train.dataset == {"name": "jsonl", "path": "x", "images": "y"}
    assert config.Arch.Text == load_config(BASE).Arch.Text


def test_common_keys_survive_another_name(write):
    write(
        "_BASE_: base\nTransform: {size: 32}\nArch:\n"
        "  Image: {pretrained: true, out_dim: 8, activation: tanh, recompute: true, img_size: 32}\n"
        "  Text: {pretrained: true, recompute: true, hidden_dropout_prob: 0.2,"
        " attention_probs_dropout_prob: 0}\n",
        "parent.yaml",
    )
    child = write(
        "_BASE_: parent.yaml\nArch: {Image: {name: ResNet50}, Text: {name: ernie-2.0-base-en}}"
    )
    arch = load_config(child).Arch
    lora = load_config(BASE).Arch.Image.lora
    assert arch.Image == {
        "lora": lora,
        **{"name": "ResNet50", "pretrained": True, "out_dim": 8, "activation": "tanh"},
        **{"recompute": True, "patch_dropout": 0.0, "fused_attention": True, "img_size": 32},
    }
    assert arch.Text == {
        "lora": lora,
        **{"name": "ernie-2.0-base-en", "pretrained": True, "recompute": True},
        **{"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.0, "epsilon": 1e-5},
    }


def test_the_same_name_keeps_the_components_keys(write):
    path = write("_BASE_: base\nArch: {Image: {name: CLIP_vit_base_patch16_224, depth: 2}}\n")
    image = load_config(path).Arch.Image
    assert (image.depth, image.num_heads) == (2, 12)
    # A base that leaves the name to its heirs says nothing of another component.
    write("Arch: {Image: {depth: 3}}\n", "nameless.yaml")
    heir = write(MINIMAL + "_BASE_: nameless.yaml\n", "heir.yaml")
    assert load_config(heir).Arch.Image.depth == 3


@pytest.mark.parametrize(
    "overrides",
    [
        ["Arch.Image.name=ResNet50", "Arch.Image.class_num=0"],
        ["Arch.Image.class_num=0", "Arch.Image.name=ResNet50"],
        ["Arch.Image={name: ResNet50, class_num: 0}"],
        ["Arch.Image.class_num=0", "Arch={Image: {name: ResNet50}}"],
        ["Arch.Image.name=ViT", "Arch.Image.class_num=0", "Arch.Image.name=ResNet50"],
    ],
)
def test_override_of_a_name_drops_likewise_in_any_order(overrides):
    image = load_config(BASE, overrides).Arch.Image
    assert image.class_num == 0
    assert image.name == "ResNet50"
    assert not {"depth", "patch_size", "epsilon"} & set(image)
    assert image.img_size == 224


def test_override_of_a_dataset_name_drops_its_path():
    bare = load_config(BASE, ["DataLoader.Eval.dataset.name=jsonl"])
    assert bare.DataLoader.Eval.dataset == {"name": "jsonl"}
    changed = load_config(
        BASE, ["DataLoader.Eval.dataset.path=p", "DataLoader.Eval.dataset.name=jsonl"]
    )
    assert changed.DataLoader.Eval.dataset == {"name": "jsonl", "path": "p"}


# -- Files that are wrong --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["its content is null", "a mapping"]),
        ("- 1\n", ["its content is [1]", "a mapping"]),
        ("Glboal: {}\n", ["unknown key Glboal", 'did you mean "Global"']),
        ('"Glo\\nbal": {}\n', ["unknown key 'Glo\\nbal'"]),
        ("Global.seed: 1\n", ["unknown key Global.seed"]),
        ("Global:\n", ["Global is null", "a mapping with output_dir"]),
        (MINIMAL.replace("name: ResNet50", ""), ["Arch.Image.name is missing"]),
        (MINIMAL.replace("vocab_file: vocab.txt", ""), ["Tokenizer.vocab_file is missing"]),
        (MINIMAL + "Loss: {pairs: [{weight: 1}]}\n", ["Loss.pairs.0.views is missing"]),
    ],
)
def test_wrong_files(write, text, parts):
    message = error_of(load_config, write(text))
    for part in ["delta.yaml", *parts]:
        assert part in message


def test_files_that_cannot_be_read(tmp_path):
    assert "none.yaml: No such file" in error_of(load_config, tmp_path / "none.yaml")
    assert "Is a directory" in error_of(load_config, tmp_path)
    assert "null" in error_of(load_config, "a\0b")


# -- check_arch ------------------------------------------------------------------------------------

TINY = {
    "Image": {"name": "CLIP_vit_base_patch16_224", "img_size": 64, "depth": 2},
    "Text": {"name": "ernie-3.0-base-zh", "vocab_size": 997},
}


def test_check_arch_of_a_mapping_leaves_foreign_sections_alone():
    source = {"Arch": copy.deepcopy(TINY), "Trainer": object(), "Global": {"seed": "any"}}
    arch = check_arch(source)
    assert arch.embed_dim is None
    assert (arch.Image.depth, arch.Image.recompute) == (2, False)
    assert (arch.Text.vocab_size, arch.Text.hidden_dropout_prob) == (997, 0.1)
    assert "hidden_size" not in arch.Text
    assert source["Arch"] == TINY
    with pytest.raises(AttributeError, match="frozen"):
        arch.Image.depth = 3
    assert check_arch(load_config(BASE)) == check_arch({"Arch": arch, **BASE_TREE})


def test_check_arch_of_a_file(write):
    assert check_arch(BASE) == check_arch(str(BASE)) == load_config(BASE).Arch
    alone = write(yaml.safe_dump({"Arch": TINY}))
    assert check_arch(alone) == check_arch({"Arch": TINY})
    assert "unknown key Archs" in error_of(check_arch, write("Archs: {}\n"))


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ({}, ["Arch is missing"]),
        ({"Arch": None}, ["Arch is null"]),
        ({"Arch": {**TINY, "embed": 3}}, ["unknown key Arch.embed", "embed_dim"]),
        ({"Arch": {"Image": TINY["Image"]}}, ["Arch.Text.name is missing"]),
        ({"Arch": {**TINY, "embed_dim": "8"}}, ["Arch.embed_dim is '8'"]),
        ({"Arch": {**TINY, "Image": {"name": "x", "y": object}}}, ["Arch.Image.y"]),
        ({"Arch": {**TINY, "Image": {"name": "x", 3: 1}}}, ["Arch.Image", "3"]),
    ],
)
def test_check_arch_of_a_wrong_mapping(source, parts):
    message = error_of(check_arch, source)
    for part in ["the given config", *parts]:
        assert part in message
