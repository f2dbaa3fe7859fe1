"""What the configuration's tests share: base.yaml, the least of a file, how an error is caught."""

import pytest

from ernie_vil2.config.kinds import Section
from ernie_vil2.config.load import load_config
from ernie_vil2.config.schema import SCHEMA
from ernie_vil2.errors import UserError
from tests.support.paths import ROOT

BASE = ROOT / "configs" / "base.yaml"
BASE_TREE = load_config(BASE).to_dict()

# The least that a file of its own has to state.
MINIMAL = """
Arch:
  Image: {name: ResNet50}
  Text: {name: ernie-3.0-base-zh}
Tokenizer: {vocab_file: vocab.txt}
DataLoader:
  Train: {dataset: {name: tsv, path: train.tsv}}
"""


def error_of(function, *args) -> str:
    """The message of the UserError that `function(*args)` raises, which is one line."""
    with pytest.raises(UserError) as caught:
        function(*args)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


def get(tree, path):
    for key in path:
        tree = tree[key]
    return tree


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
