"""From a data set's entry in a configuration to its reader, of the table or the user's own."""

import base64
import importlib
import json
import multiprocessing
import pickle
import sys
from pathlib import Path

import pytest

from ernie_vil2 import cli
from ernie_vil2.data.formats.build import build_reader
from ernie_vil2.errors import UserError
from tests.support.rows import bad, png, write
from tests.support.shapes import write_run
from tools import train as train_tool

# -- Formats of the table --------------------------------------------------------------------------


def test_wrong_options_are_one_line(tmp_path):
    empty = tmp_path / "empty.tsv"
    empty.write_bytes(b"")
    full = write(tmp_path / "full.tsv", b"a\tb\tAAAA")
    for options, said in [
        ({"name": "tvs"}, 'did you mean "tsv"'),
        ({"name": "tsv", "path": full, "seperator": "|"}, "seperator"),
        ({"name": "tsv", "path": full, "tag_seperator": "|"}, 'did you mean "tag_separator"'),
        ({"name": "tsv"}, "needs the option path"),
        ({"name": "tsv", "path": str(tmp_path / "no.tsv")}, "no.tsv does not exist"),
        ({"name": "tsv", "path": str(tmp_path / "*.png")}, "no file matches"),
        ({"name": "tsv", "path": []}, "empty"),
        ({"name": "tsv", "path": 5}, "5"),
        ({"name": "tsv", "path": str(tmp_path)}, "is no file"),
        ({"name": "tsv", "path": str(empty)}, "empty"),
        ({"name": "folder", "root": str(tmp_path / "no"), "jsonl": full}, "image folder"),
        ({"name": "coco", "root": str(tmp_path), "annotations": full}, "no JSON object"),
    ]:
        with pytest.raises(UserError) as caught:
            build_reader(**options)
        assert said in str(caught.value) and "\n" not in str(caught.value), caught.value


# -- A user's own ----------------------------------------------------------------------------------

MODULE = '''
"""Pictures beside text files: id, caption, tags."""
from pathlib import Path

from ernie_vil2.data.formats.reader import Reader
from ernie_vil2.data.records import BadRecord, Record

COUNT = 3


def _read(path):
    id, caption, *tags = path.read_text(encoding="utf-8").split("\\n")
    image = path.with_suffix(".png").read_bytes()
    if not caption:
        raise BadRecord(f"{path}:2", "no caption")
    return Record(id, image, (caption,), tuple(tags), f"{path}:1")


class Pairs:
    """Of no class of ours."""

    def __init__(self, root, *, ending=".txt"):
        self.paths = sorted(Path(root).glob("*" + ending))

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, number):
        return _read(self.paths[number])


class TwoWays(Pairs):
    def evaluation(self):
        return self.paths[:2]


class Derived(Reader):
    def __init__(self, root):
        self.pairs = Pairs(root)

    def __len__(self):
        return len(self.pairs)

    def _get(self, position):
        record = self.pairs[position]
        return record if self.least_captions else Record(record.id, b"", (), (), record.source)


def anything(**options):
    return [options]


def numbers(root):
    return iter([1])


def nothing():
    return []
'''


@pytest.fixture
def module(tmp_path, monkeypatch) -> str:
    """The name of a real module of a package of the user's."""
    package = tmp_path / "modules" / "own_package"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "pairs.py").write_text(MODULE)
    (package / "lacking.py").write_text("import no_such_library\n")
    (package / "unfinished.py").write_text("def reader(:\n")
    (package / "broken.py").write_text("\nlimit = int('many\\nmore')\n")
    monkeypatch.syspath_prepend(tmp_path / "modules")
    yield "own_package.pairs"
    for name in [name for name in sys.modules if name.split(".")[0] == "own_package"]:
        del sys.modules[name]


def write_pairs(folder: Path, rows) -> str:
    """rows: (id, PNG, caption, tags)."""
    folder.mkdir()
    for number, (image_id, image, caption, tags) in enumerate(rows):
        (folder / f"{number:03d}.png").write_bytes(image)
        (folder / f"{number:03d}.txt").write_text("\n".join([image_id, caption, *tags]))
    return str(folder)


@pytest.fixture
def root(tmp_path) -> str:
    return write_pairs(
        tmp_path / "pairs",
        [("a", png(1), "eins", ["x", "y"]), ("b", png(2), "", []), ("c", png(3), "drei", [])],
    )


@pytest.mark.parametrize("name", [".Pairs", ".TwoWays", ".Derived", ":Pairs", ":Derived"])
def test_a_class_of_the_users(module, root, name):
    reader = build_reader(f"{module}{name}", root=root)
    assert len(reader) == 3
    assert (reader[0].id, reader[0].image, reader[0].captions) == ("a", png(1), ("eins",))
    assert reader[0].tags == ("x", "y") and reader[-1] == reader[2]
    assert bad(reader, 1).source.endswith("001.txt:2")
    for place in (3, -4):
        with pytest.raises(IndexError):
            reader[place]


def test_an_evaluation_reads_what_the_users_class_says(module, root):
    plain = build_reader(f"{module}.Pairs", root=root)
    assert plain.evaluation()[2] == plain[2] and len(plain.evaluation()) == 3
    derived = build_reader(f"{module}.Derived", root=root)
    assert derived.evaluation()[0].captions == () and derived[0].captions == ("eins",)
    paths = build_reader(f"{module}.TwoWays", root=root).evaluation()
    assert len(paths) == 2
    with pytest.raises(UserError, match=r"item 1 of .*pairs\.TwoWays is a PosixPath"):
        paths[1]


def test_options_go_to_the_users_function_as_they_are(module):
    with pytest.raises(UserError, match="is a dict: expected a Record"):
        build_reader(f"{module}.anything", path="x", deep={"a": [1]})[0]
    function = importlib.import_module(module).anything
    assert function(path="x", deep={"a": [1]}) == [{"path": "x", "deep": {"a": [1]}}]


@pytest.mark.parametrize(
    "name, options, said",
    [
        ("no_package.Reader", {}, "no_package cannot be imported: No module named 'no_package'"),
        ("no_package.Reader", {}, "PYTHONPATH"),
        ("own_package.prs.Pairs", {}, "No module named 'own_package.prs' (is its folder in PYTH"),
        ("own_package.lacking.Pairs", {}, "own_package.lacking cannot be imported: No module"),
        ("own_package.lacking.Pairs", {}, "'no_such_library'"),
        ("own_package.unfinished.Pairs", {}, "invalid syntax (unfinished.py, line 1)"),
        ("own_package.broken.Pairs", {}, "cannot be imported: ValueError: invalid literal"),
        ("own_package.broken.Pairs", {}, "broken.py, line 2)"),
        ("own_package.pairs.Pars", {}, 'own_package.pairs has no "Pars"; did you mean "Pairs"?'),
        ("own_package.pairs.COUNT", {}, "is of type int: expected a class or a function"),
        ("own_package.pairs.Pairs", {}, "needs the option root"),
        ("own_package.pairs.Pairs", {"root": ".", "endin": ""}, 'did you mean "ending"?'),
        ("own_package.pairs.Pairs", {"root": "nowhere"}, "holds no record"),
        ("own_package.pairs.nothing", {}, "holds no record: the data set is empty"),
        ("own_package.pairs.numbers", {"root": ""}, "gave a list_iterator, which has no __len__"),
        ("builtins.set", {}, "gave a set, which has no __getitem__"),
        ("own_package.pairs:Pars", {}, 'own_package.pairs has no "Pars"; did you mean "Pairs"?'),
        ("no_package:Reader", {}, "no_package cannot be imported: No module named 'no_package'"),
        ("own_package.pairs:", {}, 'no data set format "own_package.pairs:"'),
        (":Pairs", {}, 'no data set format ":Pairs"'),
        ("own_package:pairs:Pairs", {}, 'no data set format "own_package:pairs:Pairs"'),
        (".Pairs", {}, 'no data set format ".Pairs"'),
        ("own package.Pairs", {}, 'no data set format "own package.Pairs"'),
    ],
)
def test_what_is_wrong_with_the_users_own_is_one_line(module, name, options, said):
    with pytest.raises(UserError) as caught:
        build_reader(name, **options)
    assert said in str(caught.value) and "\n" not in str(caught.value), caught.value


def _captions(reader) -> list:
    return [reader[number].captions for number in (0, 2)]


@pytest.mark.parametrize("start", ["fork", "spawn"])
@pytest.mark.parametrize("name", ["Pairs", "Derived"])
def test_the_users_reader_is_pickled_into_other_processes(module, root, start, name):
    reader = build_reader(f"{module}.{name}", root=root)
    assert _captions(pickle.loads(pickle.dumps(reader))) == [("eins",), ("drei",)]
    with multiprocessing.get_context(start).Pool(1) as pool:
        assert pool.apply(_captions, [reader]) == [("eins",), ("drei",)]


def _runs(tmp_path, module: str) -> tuple:
    """A configuration, and the overrides that have a reader of the user's give its records.

    The eighth training record has no caption.
    """
    config = write_run(tmp_path)
    overrides = []
    for file, part in (("train.tsv", "Train"), ("test.tsv", "Eval")):
        path = tmp_path / file
        rows = [row.split("\t") for row in path.read_text().splitlines()]
        if part == "Train":
            rows[7][0] = ""
            write(path, *("\t".join(row).encode() for row in rows))
        pairs = [
            (image_id, base64.b64decode(image), caption, tags.split("|"))
            for caption, image_id, image, tags in rows
        ]
        folder = write_pairs(tmp_path / part, pairs)
        overrides.append(f"DataLoader.{part}.dataset={{name: {module}.Pairs, root: {folder}}}")
    return config, overrides


def _metrics(out: Path) -> list:
    """What a run wrote down but for the time that it took."""
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    told = "train/loss", "train/image", "train/text", "train/gradient_norm", "eval/"
    return [{name: line[name] for name in line if name.startswith(told)} for line in lines]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_with_the_users_reader_is_that_of_the_same_records(module, tmp_path, workers):
    config, own = _runs(tmp_path, module)
    own[0] = own[0].replace(".Pairs", ":Pairs")
    for name, overrides in {"own": own, "tsv": []}.items():
        overrides = [*overrides, f"Global.output_dir={tmp_path / name}"]
        overrides.append(f"DataLoader.Train.num_workers={workers}")
        assert cli.run(train_tool.main, ["-c", str(config), "-o", *overrides]) == 0
        (line,) = (tmp_path / name / "bad_records.jsonl").read_text().splitlines()
        assert json.loads(line)["source"].endswith({"own": "007.txt:2", "tsv": "train.tsv:8"}[name])
    assert len(_metrics(tmp_path / "own")) == 5
    assert _metrics(tmp_path / "own") == _metrics(tmp_path / "tsv")


def test_the_tool_ends_with_code_2_and_one_line(module, tmp_path, capsys):
    config = write_run(tmp_path)
    argv = ["-c", str(config), "-o", "DataLoader.Train.dataset={name: own_package.pairs.Pars}"]
    assert cli.run(train_tool.main, argv) == 2
    (message,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error:")]
    assert 'did you mean "Pairs"' in message
