"""tools/index.py and then tools/search.py, with a model that was really exported."""

import json
import os
import re
import shutil
import subprocess
import sys
from datetime import datetime, timezone
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from ernie_vil2 import cli
from ernie_vil2.search.collection import picture_id
from ernie_vil2.search.open import open_collection
from ernie_vil2.search.relevance import NOTE
from tests.support.paths import ROOT
from tests.support.shapes import COLORS, SHAPES, draw
from tools import index as index_tool
from tools import search as search_tool

ODD = "a\nnew line.png"


def at(*date: int) -> int:
    return int(datetime(*date, tzinfo=timezone.utc).timestamp())


@pytest.fixture(scope="module")
def indexed(tmp_path_factory, tiny_artefact):
    """Pictures of 2023 and 2024, of which one is there three times, and their collection."""
    folder = tmp_path_factory.mktemp("search")
    pictures, rng = folder / "pictures", np.random.default_rng(0)
    tags, paths = [], []
    for year in (2023, 2024):
        (pictures / str(year)).mkdir(parents=True)
        for i, (color, shape) in enumerate((c, s) for c in COLORS for s in SHAPES):
            path = pictures / str(year) / f"{color} {shape}.png"
            path.write_bytes(draw(color, shape, rng))
            os.utime(path, (at(year, 1 + i % 12, 15),) * 2)
            tags.append({"id": str(path), "tags": [color, shape]})
            paths.append(path)
    one = Image.open(paths[0])
    for name in (ODD, "same.bmp"):
        one.resize((80, 80), Image.NEAREST).save(pictures / name)
        os.utime(pictures / name, (at(2025, 1, 1),) * 2)
        paths.append(pictures / name)
    (folder / "tags.jsonl").write_text("\n".join(map(json.dumps, tags)))
    argv = [str(tiny_artefact), str(pictures), "--db", str(folder / "db")]
    assert cli.run(index_tool.main, [*argv, "--tags-file", str(folder / "tags.jsonl")]) == 0
    return SimpleNamespace(
        db=str(folder / "db"), pictures=pictures, paths=paths, model=tiny_artefact
    )


@pytest.fixture
def search(indexed, capfd):
    """Arguments -> (exit code, standard output, standard error) of a search in the collection."""

    def search(*args, db=indexed.db):
        code = cli.run(search_tool.main, [db, *map(str, args)])
        printed = capfd.readouterr()
        return code, printed.out, printed.err

    return search


@pytest.fixture(scope="module")
def predictor(tiny_artefact):
    from ernie_vil2.serving.predictor import Predictor

    return Predictor(tiny_artefact, threads=1)


def exact(predictor, paths, vector) -> list:
    """(cosine, path), best first, in float64."""
    vectors = predictor.encode_image(list(paths)).astype("float64")
    return sorted(zip((vectors @ vector).tolist(), map(str, paths)), reverse=True)


def listed(out: str) -> list:
    """(score, path) of each line, without the mark and what is said of near-duplicates."""
    lines = [line for line in out.splitlines() if not line.startswith("#")]
    found = [re.fullmatch(r"(-?\d\.\d{4})  (.+?)(?:  \(\+\d+\))?", line) for line in lines]
    return [(float(x[1]), x[2].replace("\\n", "\n")) for x in found]


def assert_same(found, expected):
    assert len(found) == len(expected)
    np.testing.assert_allclose([x for x, _ in found], [x for x, _ in expected], atol=1e-4)
    cosine = {path: x for x, path in expected}
    assert {path for _, path in found} == cosine.keys()
    assert all(abs(cosine[path] - x) < 1e-4 for x, path in found)


def test_words_find_what_exact_search_finds(search, indexed, predictor):
    vector = predictor.encode_text(["a red circle"])[0].astype("float64")
    expected = exact(predictor, indexed.paths, vector)
    for args in (["a red circle"], ["a", "red", "circle"]):
        code, out, err = search(*args, "-k", 40, "--no-fold")
        assert code == 0 and err == ""
        assert_same(listed(out), expected)
    code, out, _ = search("-k", 3, "a", "red", "circle", "--no-fold")
    assert_same(listed(out), expected[:3])
    assert out.count("# probably not") == 1 or "#" not in out


def test_pictures_and_combinations(search, indexed, predictor, monkeypatch):
    one, other = indexed.paths[3], indexed.paths[20]
    code, out, _ = search(one, "-k", 1)
    assert code == 0 and listed(out) == [(1.0, str(one))]
    monkeypatch.chdir(one.parent)
    image, text = predictor.encode_image([one])[0], predictor.encode_text(["blue"])[0]
    negative = predictor.encode_image([other])[0]
    vector = image.astype("float64") + 2 * text - 0.5 * negative
    query = f"{one.name} + 2:blue - .5:{other}"
    code, out, _ = search(*query.split(" "), "-k", 40, "--no-fold")  # two names have spaces
    assert code == 0
    assert_same(listed(out), exact(predictor, indexed.paths, vector / np.linalg.norm(vector)))
    code, out, _ = search(f'"{one.name}"', "-k", 1)  # a text
    assert code == 0 and listed(out)[0][0] < 0.99


def test_similar_pictures_need_no_model(search, indexed, predictor, tmp_path):
    one = indexed.paths[5]
    rest = [path for path in indexed.paths if path != one]
    expected = exact(predictor, rest, predictor.encode_image([one])[0].astype("float64"))
    nowhere = str(tmp_path / "nowhere")
    for name in (one, picture_id(str(one)), os.path.relpath(one)):
        code, out, err = search("--similar", name, "-k", 40, "--no-fold", "--model", nowhere)
        assert code == 0, err
        assert_same(listed(out), expected)


def test_a_text_needs_no_image_tower(search, indexed, tmp_path):
    copy = tmp_path / "exported"
    shutil.copytree(indexed.model, copy)
    weights = copy / "fp32" / "image.pdiparams"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert search("red", "--model", copy)[0] == 0
    code, _, err = search(indexed.paths[0], "--model", copy)
    assert code == 2 and "image.pdiparams" in err


@pytest.mark.parametrize(
    "options, fits",
    [
        (["--folder", "2024"], lambda path: path.parent.name == "2024"),
        (["--tag", "red"], lambda path: path.name.startswith("red")),
        (["--tag", "red", "--tag", "line"], lambda path: path.name == "red line.png"),
        (["--after", "2023-05", "--before", "2023-06"], lambda path: month(path) == (2023, 5)),
        (["--before", "2024"], lambda path: month(path)[0] == 2023),
        (["--after", "2025-01-01", "--before", "2025-01-01T00:01"], lambda x: month(x)[0] == 2025),
        (["--after", "2025-01-01T00:00-01:00"], lambda path: False),
        (["--folder", "2024", "--tag", "blue", "--after", "2024-02"], None),
    ],
)
def test_filters(search, indexed, predictor, options, fits):
    if fits is None:

        def fits(path):
            return path.match("2024/blue*") and month(path) >= (2024, 2)

    options = [
        str(indexed.pictures / x) if x == "2024" and "--folder" in options else x for x in options
    ]
    vector = predictor.encode_text(["white line"])[0].astype("float64")
    expected = exact(predictor, [x for x in indexed.paths if fits(x)] or indexed.paths[:1], vector)
    code, out, err = search("white line", "-k", 10, "--no-fold", *options)
    assert code == 0
    if any(map(fits, indexed.paths)):
        assert_same(listed(out), expected[:10])
    else:
        assert out == "" and err == "no picture found\n"


def month(path) -> tuple:
    when = datetime.fromtimestamp(path.stat().st_mtime, timezone.utc)
    return when.year, when.month


def test_json(search, indexed):
    code, out, _ = search("a red circle", "--json", "-k", 5)
    content = json.loads(out)
    assert code == 0 and len(content["hits"]) == 5 and content["next"] == 5
    assert content["query"] == "a red circle" and content["line"] >= 0
    hit = content["hits"][0]
    assert hit["id"] == picture_id(hit["path"]) and 0 <= hit["relevance"] <= 1
    assert hit["likely"] == (content["line"] > 0)
    nothing = json.loads(search("red", "--folder", "/nowhere", "--json")[1])
    assert nothing["hits"] == [] and nothing["total"] == 0


def test_null_separates_any_name(search, indexed):
    code, out, _ = search(indexed.pictures / ODD, "-0", "-k", 40, "--no-fold")
    assert code == 0 and out.endswith("\0")
    assert sorted(out[:-1].split("\0")) == sorted(map(str, indexed.paths))
    code, out, _ = search(indexed.pictures / "same.bmp", "-k", 40)
    assert len(out.splitlines()) == len(listed(out)) + out.count("#")  # no name breaks a line


def test_near_duplicates_are_one_hit(search, indexed):
    three = {str(indexed.paths[0]), *map(str, indexed.paths[-2:])}
    code, out, _ = search(indexed.paths[0], "-k", 40)
    assert code == 0 and re.match(r"1\.0000  .*  \(\+2\)\n", out)
    assert len(three & {path for _, path in listed(out)}) == 1
    code, out, _ = search("--duplicates", "--json")
    groups = [{x["path"] for x in group["pictures"]} for group in json.loads(out)["groups"]]
    assert three in groups
    code, out, _ = search("--duplicates")
    first = out.split("\n\n")[0].splitlines()
    assert code == 0 and len(first) >= 3 and re.match(r" +80x80 +\d+  /", first[0])


def test_only_the_relevant_are_left_by_min(search, indexed):
    every = json.loads(search("a green cross", "--json", "-k", 40, "--no-fold")[1])["hits"]
    least = every[len(every) // 2]["relevance"]
    kept = json.loads(search("a green cross", "--json", "--no-fold", "-k", 40, "--min", least)[1])
    assert kept["hits"] == [x for x in every if x["relevance"] >= least]
    assert kept["total"] == len(kept["hits"])


def test_what_random_queries_find_is_kept_with_the_collection(search, indexed, tmp_path):
    db = str(tmp_path / "db")
    shutil.copytree(indexed.db, db)
    with_lock = open_collection(db, write=True)
    with_lock.note(**{NOTE: None})
    code, first, _ = search("red", db=db)
    assert code == 0 and NOTE not in with_lock.notes  # another process writes
    with_lock.close()
    assert search("red", db=db)[1] == first
    reader = open_collection(db)
    assert len(reader.notes[NOTE]["text"]) == 256
    assert search("red", db=db)[1] == first


@pytest.mark.parametrize(
    "args, message",
    [
        ([], "expected one of a query, --similar and --duplicates, not none"),
        (["red", "--duplicates"], "not several of them"),
        (["--duplicates", "-0"], "take --json with --duplicates"),
        (["nowhere.jpg"], "nowhere.jpg: there is no such picture"),
        (["red + nowhere.jpg"], "nowhere.jpg: there is no such picture"),
        (["{db}/collection.json.png"], "cannot be read as a picture: not an image"),
        (["red", "--after", "2024-02-30"], "date '2024-02-30'"),
        (["red", "--before", "yesterday"], "expected 2024, 2024-05, 2024-05-01"),
        (["red - red"], "cancel out"),
        (["red + + blue"], "expected a text or picture after '+'"),
        (["--similar", "nowhere.png"], "nowhere.png is no picture of"),
        (["red", "--model", "/nowhere"], "/nowhere, where the model of"),
    ],
)
def test_mistakes_are_one_line(search, indexed, tmp_path, args, message):
    (tmp_path / "collection.json.png").write_bytes(b"{}")
    code, out, err = search(*(x.replace("{db}", str(tmp_path)) for x in args))
    assert code == 2 and out == ""
    assert message in err and err.count("\n") == 1


def test_a_missing_collection_and_another_model_are_refused(search, indexed, tmp_path):
    code, _, err = search("red", db=str(tmp_path / "no.db"))
    assert code == 2 and "there is no such collection" in err and err.count("\n") == 1
    copy = tmp_path / "db"
    shutil.copytree(indexed.db, copy)
    made = open_collection(str(copy), write=True)
    made.note(model={**made.notes["model"], "weights": "0" * 64})
    made.close()
    code, _, err = search("red", db=str(copy))
    assert code == 2 and "another model" in err and err.count("\n") == 1


@pytest.mark.parametrize("value", ["2", "-1", "1e-1", "nan", "x"])
def test_a_relevance_is_a_share(search, value, capfd):
    with pytest.raises(SystemExit):
        search("red", f"--min={value}")
    assert "is no number from 0 to 1" in capfd.readouterr().err


def test_a_text_may_begin_as_an_option(search):
    assert search("-5 red")[0] == 0
    assert search("-红")[0] == 0
    assert search("--", "-red")[0] == 0


def test_as_a_process(indexed):
    command = [sys.executable, str(ROOT / "tools" / "search.py"), indexed.db, "red", "-k", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stderr == ""
    assert len(listed(done.stdout)) == 2
