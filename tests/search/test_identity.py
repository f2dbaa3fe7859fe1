"""Which model vectors are of."""

import dataclasses
import hashlib
import json
import shutil

import pytest

from ernie_vil2.artefact.folder import Artefact
from ernie_vil2.search.identity import model_identity


@pytest.fixture
def artefact(tiny_artefact) -> Artefact:
    return Artefact.open(tiny_artefact)


def test_it_is_json_and_of_what_lies_in_the_folder(artefact):
    identity = model_identity(artefact)
    assert json.loads(json.dumps(identity)) == identity
    vocabulary = (artefact.folder / "vocab.txt").read_bytes()
    assert identity["vocabulary"] == hashlib.sha256(vocabulary).hexdigest()
    assert identity["weights"] == artefact.weights["sha256"]
    assert {len(digest) for digest in identity.values()} == {64}


def test_it_is_the_models_and_not_the_folders(artefact, tmp_path):
    shutil.copytree(artefact.folder, tmp_path / "copy")
    assert model_identity(Artefact.open(tmp_path / "copy")) == model_identity(artefact)
    in_program = dataclasses.replace(artefact, preprocess=True, precisions={"int8": {}})
    assert model_identity(in_program) == model_identity(artefact)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("weights", {"weights": {"source": "other", "sha256": "0" * 64}}),
        ("vocabulary", {"files": {"vocab.txt": "0" * 64}}),
        ("transform", {"image_size": 17}),
        ("transform", {"mean": [0.5, 0.456, 0.406]}),
        ("transform", {"std": [0.5, 0.224, 0.225]}),
        ("transform", {"preprocessing": "paddlenlp"}),
    ],
)
def test_it_changes_with_each_part(artefact, part, change):
    before = model_identity(artefact)
    after = model_identity(dataclasses.replace(artefact, **change))
    assert {name for name in before if before[name] != after[name]} == {part}
