"""An exported model's folder that is not what was exported is refused, in one line."""

import os
import re
import shutil

import numpy as np
import pytest
import yaml

from ernie_vil2.artefact.folder import Artefact
from ernie_vil2.errors import UserError
from tests.support.sealing import reseal


@pytest.fixture
def folder(tiny_artefact, tmp_path):
    return shutil.copytree(tiny_artefact, tmp_path / "model")


def load(folder) -> Artefact:
    """As every server does it."""
    artefact = Artefact.open(folder)
    artefact.tokenizer()
    artefact.golden()
    for tower in ("image", "text"):
        artefact.program(tower)
    return artefact


def refusal(folder) -> str:
    with pytest.raises(UserError) as error:
        load(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def flip(path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def files(folder) -> list:
    return sorted(Artefact.open(folder).files)


def test_a_flipped_bit_anywhere(tiny_artefact, folder):
    rng = np.random.default_rng(0)
    names = files(tiny_artefact)
    assert [name.split(".")[0] for name in names] == sorted(
        ["fp32/image", "fp32/text"] * 2 + ["golden", "vocab"]
    )
    for name in names:
        path = folder / name
        original = path.read_bytes()
        for at in (0, len(original) - 1, *rng.integers(len(original), size=3)):
            flip(path, at)
            assert f"{path} is damaged or was changed: its SHA-256" in refusal(folder)
            path.write_bytes(original)
    load(folder)


def test_changes_that_golden_vectors_do_not_tell(folder):
    lines = (folder / "vocab.txt").read_text().splitlines()
    path = folder / "vocab.txt"
    for changed in ([*lines[:-2], lines[-1], lines[-2]], lines[:-1], [*lines, "new"]):
        path.write_text("\n".join(changed))
        assert f"{path} is damaged or was changed" in refusal(folder)


def test_a_file_that_is_gone_cut_or_of_another_kind(folder):
    for name in files(folder):
        path = folder / name
        original = path.read_bytes()
        path.write_bytes(original[: len(original) // 2])
        assert name in refusal(folder)
        path.unlink()
        assert name.split(".")[0] in refusal(folder) and "missing" in refusal(folder)
        path.mkdir()
        assert name.split(".")[0] in refusal(folder)
        path.rmdir()
        path.write_bytes(original)
    load(folder)


@pytest.mark.parametrize(
    "content,message",
    [
        (None, "holds no inference.yml"),
        (b"{", "cannot be read"),
        (b"\xff", "cannot be read"),
        pytest.param(b"[" * 9999, "cannot be read", id="nested"),
        pytest.param(b"embed_dim: " + b"9" * 5000, "cannot be read", id="5000 digits"),
        (b"- format", "is list: expected what tools/export.py wrote"),
        (b"", "is NoneType"),
        (b"embed_dim: 3", "has format None; this version reads 2"),
        (b"format: 1", "format 1, which has no checksums of its files; this version reads 2: exp"),
        (b"format: 3", "has format 3; this version reads 2: export the model again"),
        (b"format: 2", "misstates 'image'"),
        (b"format: 2\nimage: 3\ntext: 4", "lacks or misstates"),
    ],
)
def test_descriptions_that_are_none(folder, content, message):
    path = folder / "inference.yml"
    path.unlink() if content is None else path.write_bytes(content)
    assert message in refusal(folder)


@pytest.mark.parametrize(
    "key,value,message",
    [
        ("embed_dim", 0, "says embed_dim 0: expected a whole number, 1 to 65536"),
        ("embed_dim", 12.0, "says embed_dim 12.0"),
        ("embed_dim", True, "says embed_dim True"),
        ("logit_scale", float("nan"), "says logit_scale nan: expected a finite number above 0"),
        ("logit_scale", float("inf"), "says logit_scale inf"),
        ("logit_scale", -1.0, "says logit_scale -1.0"),
        ("logit_scale", "14", "says logit_scale '14'"),
        pytest.param("logit_scale", 10**400, "says logit_scale of many digits", id="400 digits"),
        ("image.size", 10**9, "says image_size 1000000000"),
        ("image.mean", [0.5, 0.5], "says mean [0.5, 0.5]: expected three finite numbers"),
        ("image.std", [0.5, 0.5, 0.0], "says std"),
        ("image.preprocess", "no", "says preprocess 'no': expected true or false"),
        ("text.max_len", 9, "says max_len 9: expected max_positions, 8"),
        ("text.max_len", 2, "says max_len 2: expected a whole number, 3 to"),
        ("text.vocab_size", None, "says vocab_size None"),
        ("text.lowercase", 1, "says lowercase 1: expected true or false"),
        ("text.straight_quotes", "“", "says straight_quotes '“': expected true or false"),
        ("prompts", [], "has no prompt template"),
        ("prompts", "{}", "has no prompt template"),
        ("prompts", ["a photo"], "prompt template 'a photo' in"),
        ("prompts", [3], "prompt template 3 in"),
        ("precisions", {}, "says precisions {}"),
        ("precisions", {"fp64": {}}, "says precisions.fp64"),
        ("precisions", {"fp32": None}, "says precisions {'fp32': None}"),
        ("precisions", {"fp32": {"min_cosine": 2}}, "says precisions.fp32 {'min_cosine': 2}"),
        ("files", {}, "says files {}"),
        ("files", None, "says files None"),
        ("golden", {"device": 3}, "says golden {'device': 3}: expected the device and the prec"),
        ("tensorrt", {"max_batch": 3}, "says tensorrt {'max_batch': 3}: expected max_batch and"),
        ("tensorrt", {"max_batch": True, "max_len": 8}, "says tensorrt {'max_batch': True"),
        ("weights", {"sha256": 3}, "says weights {'sha256': 3}"),
        # what no rule could tell
        ("logit_scale", 9.0, "does not match its own checksum"),
        ("prompts", ["{} there"], "does not match its own checksum"),
        ("new", 1, "does not match its own checksum"),
    ],
)
def test_values_that_cannot_be(folder, key, value, message):
    path = folder / "inference.yml"
    content = yaml.safe_load(path.read_text())
    *sections, last = key.split(".")
    section = content
    for name in sections:
        section = section[name]
    section[last] = value
    path.write_text(yaml.safe_dump(content))
    found = refusal(folder)
    assert str(path) in found and message in found


def test_the_layout_of_the_description_does_not_matter(folder):
    path = folder / "inference.yml"
    content = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(dict(reversed(content.items())), default_flow_style=True))
    load(folder)


def test_an_export_of_before_says_nothing_of_gpus(folder):
    path = folder / "inference.yml"
    content = yaml.safe_load(path.read_text())
    for name in ("golden", "tensorrt"):
        del content[name]
    path.write_text(yaml.safe_dump(content))
    artefact = load(reseal(folder))
    assert artefact.golden_made == artefact.tensorrt == {}


def test_ids_beyond_the_table(tiny_artefact, folder):
    (folder / "vocab.txt").write_text(
        (tiny_artefact / "vocab.txt").read_text() + "".join(f"\nword{n}" for n in range(26))
    )
    Artefact.open(tiny_artefact)  # 15 tokens, 40 rows
    artefact = Artefact.open(reseal(folder))
    with pytest.raises(UserError, match=r"has ids up to 40, the text tower's table 40 rows"):
        artefact.tokenizer()


def test_golden_vectors_of_another_size(folder):
    golden = Artefact.open(folder).golden()
    changed = type(golden)(
        golden.images, golden.texts, golden.image_embeds[:, :3], golden.text_embeds
    )
    changed.save(folder / "golden.npz")
    with pytest.raises(UserError, match=r"golden.npz has embeddings \[3, 3\] of 3 items"):
        Artefact.open(reseal(folder)).golden()


def test_each_file_is_read_once(folder, monkeypatch):
    from ernie_vil2.artefact import seal

    read = []
    sha256 = seal.durable.sha256
    monkeypatch.setattr(seal.durable, "sha256", lambda path: read.append(path.name) or sha256(path))
    artefact = load(folder)
    for tower in ("image", "text"):
        artefact.program(tower)
    assert sorted(read) == sorted(
        path.name for path in folder.rglob("*.*") if path.suffix != ".yml"
    )


def test_folders_are_checked_whole(folder):
    server = folder / "serving_server" / "text"
    server.mkdir(parents=True)
    os.link(folder / "fp32" / "text.pdiparams", server / "text.pdiparams")
    Artefact.open(folder).save()
    Artefact.open(folder).check("serving_server")
    (server / "other.pdmodel").write_text("")
    with pytest.raises(UserError, match=r"other\.pdmodel is no part of what was exported"):
        Artefact.open(folder).check("serving_server")
    (server / "other.pdmodel").unlink()
    (server / "text.pdiparams").unlink()
    with pytest.raises(UserError, match=re.escape(f"{server / 'text.pdiparams'} is missing")):
        Artefact.open(folder).check("serving_server")
    with pytest.raises(UserError, match="onnx is no part of what was exported"):
        Artefact.open(folder).check("onnx")
