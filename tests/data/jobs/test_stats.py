"""A data set's numbers against a count by hand, and their page in a browser."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from ernie_vil2 import cli
from ernie_vil2.data.jobs import columns, stats
from ernie_vil2.data.tokenize import Tokenizer
from tests.support.browser import rendered
from tests.support.files import contents
from tests.support.pictures import encoded, png_of
from tests.support.shapes import write_run
from tools.prepare_data import main

TEXTS = [
    "a red circle",
    "一只猫坐在窗台上",
    "iPhone 手机壳",
    "おいしい寿司",
    "42",
    "Ein Hund läuft",
]


@pytest.mark.parametrize(
    ("text", "name"),
    zip([*TEXTS, "кошка", "<b>cat</b>"], ["en", "zh", "zh", "other", "other", "en", "other", "en"]),
)
def test_language_by_script(text, name):
    assert columns.LANGUAGES[columns.language(text)] == name


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A set of 120 rows, its rows as tuples, and the folder that stats has written."""
    base = tmp_path_factory.mktemp("stats")
    rng = np.random.default_rng(0)
    rows, lines = [], []
    for number in range(115):
        size = tuple(int(x) for x in rng.integers(10, 400, 2))
        kind = ("JPEG", "PNG", "WEBP")[number % 3]
        exif = Image.Exif()
        exif[0x0112] = 6 if kind == "JPEG" and number % 2 else 1
        color = tuple(int(x) for x in rng.integers(0, 256, 3))
        image = encoded(Image.new("RGB", size, color), kind, exif=exif)
        upright = size[::-1] if exif[0x0112] == 6 else size
        text, tags = TEXTS[int(rng.integers(6))], ["cat", "dog", "sky"][: number % 4]
        rows.append((kind, upright, image, text, tags))
    rows += [rows[5], rows[9], (*rows[7][:3], "another text", []), rows[5]]
    for kind, _, image, text, tags in rows:
        lines.append(f"{text}\t{kind}\t{base64.b64encode(image).decode()}\t{'|'.join(tags)}\n")
    lines.append("<script>no</script>\trow\n")
    (base / "a.tsv").write_text("".join(lines), encoding="utf-8")
    words = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]", "a", "red", "circle", "猫"]
    (base / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    command = ["stats", "--dataset", "name=tsv", f"path={base / 'a.tsv'}", "--piece", "25"]
    command += ["--vocab", str(base / "vocab.txt"), "--processes"]
    assert cli.run(main, [*command, "2", "--out", str(base / "out")]) == 0
    assert cli.run(main, [*command, "0", "--out", str(base / "again")]) == 0
    return base, rows


def test_the_numbers_are_those_of_numpy(measured):
    base, rows = measured
    report = json.loads((base / "out" / stats.REPORT).read_text(encoding="utf-8"))
    assert (report["rows"], report["records"], report["bad"]["count"]) == (120, 119, 1)
    width, height = np.array([row[1] for row in rows]).T
    tokenizer = Tokenizer(base / "vocab.txt")
    expected = {
        ("pictures", "width"): width,
        ("pictures", "height"): height,
        ("pictures", "shorter side"): np.minimum(width, height),
        ("pictures", "width / height"): width / height,
        ("pictures", "bytes"): np.array([len(row[2]) for row in rows]),
        ("texts", "characters"): np.array([len(row[3]) for row in rows]),
        ("texts", "tokens"): np.array([tokenizer.count(row[3]) for row in rows]),
        ("texts", "captions"): np.ones(len(rows)),
        ("tags", "tags"): np.array([len(row[4]) for row in rows]),
    }
    for (group, name), values in expected.items():
        found = report[group][name]
        assert found["count"] == 119 and found["sum"] == pytest.approx(values.sum()), name
        assert (found["min"], found["max"]) == (values.min(), values.max())
        assert found["mean"] == pytest.approx(values.mean())
        for key, value in found["quantiles"].items():
            assert value == pytest.approx(np.percentile(values, int(key.split()[0])))
        edges = [*found["histogram"]["from"], np.inf]
        counts = [int(((values >= a) & (values < b)).sum()) for a, b in zip(edges, edges[1:])]
        assert found["histogram"]["count"] == counts and max(counts) > 0
    kinds = [row[0] for row in rows]
    assert report["pictures"]["format"] == {kind: kinds.count(kind) for kind in sorted(set(kinds))}
    names = dict(zip(TEXTS, ["en", "zh", "zh", "other", "other", "en"]))
    languages = [names.get(row[3], "en") for row in rows]
    assert report["texts"]["language"] == {x: languages.count(x) for x in ("zh", "en", "other")}
    assert report["tags"]["records with tags"] == sum(bool(row[4]) for row in rows)
    images, pairs = {row[2] for row in rows}, {row[2:4] for row in rows}
    expected = {"image": 119 - len(images), "image and captions": 119 - len(pairs)}
    assert report["duplicates"] == expected and expected["image"] > 3


def test_the_files_are_the_same_for_any_number_of_processes(measured):
    base, _ = measured
    out = contents(base / "out", ".work")
    assert out == contents(base / "again", ".work") and set(out) == {stats.REPORT, stats.PAGE}


def test_the_page_in_a_browser(measured, tmp_path):
    base, _ = measured
    source = (base / "out" / stats.PAGE).read_text(encoding="utf-8")
    assert "http" not in source.replace("http-equiv", "")
    page = rendered((base / "out" / stats.PAGE).as_uri(), tmp_path)
    assert "119 records" in page and page.count("<svg") == 11
    assert "2 columns, expected text" in page
    widths = [float(part.split('"')[0]) for part in page.split('height="11" width="')[1:]]
    assert max(widths) == 130 and min(widths) >= 0


def test_what_a_page_shows_is_escaped(tmp_path):
    image = io.BytesIO()
    Image.new("RGB", (8, 8)).save(image, "PNG")
    line = f"x\ty\t{base64.b64encode(image.getvalue()).decode()}\n"
    path = tmp_path / "<script>alert(1)<"
    path.write_text(line, encoding="utf-8")
    out = tmp_path / "out"
    command = ["stats", "--dataset", "name=tsv", f"path={path}", "--out", str(out)]
    assert cli.run(main, [*command, "--processes", "0"]) == 0
    page = (out / stats.PAGE).read_text(encoding="utf-8")
    assert "<script" not in page and "&lt;script&gt;alert(1)" in page
    assert json.loads((out / stats.REPORT).read_text(encoding="utf-8"))["texts"]["tokens"] is None


def test_tokens_are_counted_by_the_configuration_s_tokenizer(tmp_path):
    out = tmp_path / "out"
    command = ["stats", "-c", str(write_run(tmp_path)), "--eval", "--out", str(out)]
    assert cli.run(main, [*command, "--processes", "0"]) == 0
    report = json.loads((out / stats.REPORT).read_text(encoding="utf-8"))
    assert report["texts"]["tokens"]["sum"] == 16 * 3  # "a red circle"
    assert report["dataset"]["path"].endswith("test.tsv")


def test_headers_of_hostile_pictures(tmp_path):
    """A bomb, an empty file, half a header: each is one bad row."""
    hostile = [png_of(50_000, 50_000, b""), b"x", encoded(Image.new("RGB", (9, 9)), "PNG")[:20]]
    rows = [f"a\tb\t{base64.b64encode(image).decode()}\n" for image in hostile]
    (tmp_path / "a.tsv").write_text("".join(rows), encoding="utf-8")
    out = tmp_path / "out"
    command = ["stats", "--dataset", "name=tsv", f"path={tmp_path / 'a.tsv'}", "--out", str(out)]
    assert cli.run(main, [*command, "--processes", "0"]) == 0
    report = json.loads((out / stats.REPORT).read_text(encoding="utf-8"))
    assert report["records"] == 0 and report["bad"]["count"] == 3
    assert all(reason.startswith("image: ") for reason in report["bad"]["reasons"])
    assert report["pictures"]["width"] is None and (out / stats.PAGE).exists()
