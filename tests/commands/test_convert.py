"""tools/convert.py writes beside and renames, and into nobody's folder unless it is told to."""

import os
import shutil

import paddle
import pytest
import yaml

import ernie_vil2
from ernie_vil2 import cli
from ernie_vil2.commands import convert as command
from ernie_vil2.data.tokenize import Tokenizer
from ernie_vil2.files import durable
from ernie_vil2.models.dual_encoder import build_model
from ernie_vil2.weights.ours import save_checkpoint
from tests.support.official_form import ARCH
from tests.support.told import error_line


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A converted model of ours, with a vocabulary."""
    folder = tmp_path_factory.mktemp("weights")
    words = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]", "a"]
    (folder / "words.txt").write_text("\n".join(words))
    save_checkpoint(build_model(ARCH), folder / "ours", folder / "words.txt")
    return folder / "ours"


@pytest.fixture
def ours(original, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(original, tmp_path / "ours")


def run(source, to, out, *more, code=0):
    argv = ["--from", str(source), "--to", to, "--out", str(out), *map(str, more)]
    assert cli.run(command.main, argv) == code


def refused(capsys, said, source, to, out):
    run(source, to, out, code=2)
    assert said in error_line(capsys.readouterr().err)


def listing(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_vocabulary_goes_along(ours, tmp_path):
    run(ours, "paddlenlp", "nlp")
    run("nlp", "ernie_vil2", "again/deeper")
    for folder in (tmp_path / "nlp", tmp_path / "again" / "deeper"):
        assert Tokenizer(folder / "vocab.txt").vocab == Tokenizer(ours / "vocab.txt").vocab
    assert not list(tmp_path.rglob(".*"))


def test_again_into_the_same_place(ours, tmp_path):
    for to, out in (("paddlenlp", "nlp"), ("ernie_vil2", "new"), ("official", "o.pdparams")):
        run(ours, to, out)
        before = listing(tmp_path)
        run(ours, to, out)
        assert listing(tmp_path) == before


@pytest.mark.parametrize(
    "to, out, said",
    [
        ("official", "new/", "is a folder: for --to official name a .pdparams file"),
        ("official", "ours", "is a folder"),
        ("paddlenlp", "file", "is a file: for --to paddlenlp name a folder"),
        ("ernie_vil2", "file", "is a file"),
        ("ernie_vil2", "file/below", "file/below cannot be written (a folder above it is a file)"),
        ("official", "file/o.pdparams", "cannot be written (a folder above it is a file)"),
        ("official", "x" * 300, "cannot be written: File name too long"),
        ("official", "", "expected the path of a file or folder"),
        ("official", "file", "is another file: name another place, or add --force"),
        ("ernie_vil2", "ours", "is where the weights come from"),
        ("paddlenlp", "ours/../ours", "is where the weights come from"),
        ("paddlenlp", "link", "is where the weights come from"),
        ("ernie_vil2", "run", "lies in the folder of a run"),
        ("official", "run/o.pdparams", "lies in the folder of a run"),
        ("paddlenlp", "run/checkpoints/step_00000001", "lies in the folder of a run"),
        ("paddlenlp", "full", "holds other files, such as notes.md"),
    ],
)
def test_places_that_are_refused(ours, tmp_path, capsys, to, out, said):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("ours")
    (tmp_path / "run" / "checkpoints" / "step_00000001").mkdir(parents=True)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.md").write_text("mine")
    before = listing(tmp_path)
    refused(capsys, said, ours, to, out)
    assert listing(tmp_path) == before


def test_force(ours, tmp_path):
    before = ernie_vil2.load(ours).state_dict()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.md").write_text("mine")
    run(ours, "paddlenlp", "full", "--force")
    assert (tmp_path / "full" / "notes.md").read_text() == "mine"
    run(ours, "ernie_vil2", "ours", "--force")
    run(ours, "paddlenlp", "ours", "--force")
    assert sorted(os.listdir(ours)) == ["config.json", "model_state.pdparams", "vocab.txt"]
    for folder in (tmp_path / "full", ours):
        for name, tensor in ernie_vil2.load(folder).state_dict().items():
            assert paddle.equal_all(tensor, before[name]), name


def test_an_official_file_over_itself(ours, tmp_path, capsys):
    run(ours, "official", "o.pdparams")
    (tmp_path / "arch.yaml").write_text(yaml.safe_dump({"Arch": ARCH}))
    argv = ["--from", "o.pdparams", "-c", "arch.yaml", "--to", "official", "--out", "o.pdparams"]
    before = (tmp_path / "o.pdparams").read_bytes()
    assert cli.run(command.main, argv) == 2
    assert "is where the weights come from" in capsys.readouterr().err
    assert cli.run(command.main, [*argv, "--force"]) == 0
    assert (tmp_path / "o.pdparams").read_bytes() == before


@pytest.mark.parametrize("to, out", [("official", "o.pdparams"), ("paddlenlp", "nlp")])
def test_a_full_disk_leaves_what_was_there(ours, tmp_path, monkeypatch, capsys, to, out):
    run(ours, to, out)
    before = listing(tmp_path)

    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable, "sync", full)
    capsys.readouterr()
    refused(capsys, "cannot be written (No space left on device)", ours, to, out)
    assert listing(tmp_path) == before


def test_exchange_without_the_system_call(tmp_path, monkeypatch):
    for _ in range(2):
        one, other = tmp_path / "one", tmp_path / "other"
        one.mkdir()
        (one / "new").touch()
        other.mkdir()
        durable.exchange(one, other)
        assert (other / "new").exists() and not list(one.iterdir())
        shutil.rmtree(one), shutil.rmtree(other)
        monkeypatch.setattr(durable.ctypes, "CDLL", lambda *_, **__: object())
