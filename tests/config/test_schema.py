"""The schema is base.yaml's: the same keys, the same defaults."""

import yaml

from ernie_vil2.config.kinds import OPTIONAL, ListOf, Section
from ernie_vil2.config.load import load_config
from ernie_vil2.config.schema import SCHEMA
from tests.support.configs import BASE, BASE_LEAVES, get, kind_at


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
