"""`embed` over whole sets. The files are read with NumPy, pyarrow and FAISS alone."""

import hashlib
import io
import json
import math
import os
import subprocess
import sys

import faiss
import numpy as np
import pyarrow.parquet as pq
import pytest

from ernie_vil2 import cli
from ernie_vil2.artefact.folder import Artefact
from ernie_vil2.search.identity import model_identity
from ernie_vil2.serving.predictor import Predictor
from tests.embedding.conftest import CUT
from tests.support.packed import WRITERS
from tests.support.shapes import COLORS, SHAPES, draw
from tools.embed import main


def arrays(files, kind):
    """One array of all shards, in the order in which their names sort."""
    found = [np.load(io.BytesIO(files[name])) for name in sorted(files) if name.startswith(kind)]
    return np.concatenate(found)


def table(files):
    """The rows of all shards, as dicts."""
    names = [name for name in sorted(files) if name.startswith("metadata/")]
    return [row for name in names for row in pq.read_table(io.BytesIO(files[name])).to_pylist()]


def test_pictures_of_a_folder(embed, tiny_artefact, set_of_shapes, capsys):
    folder = set_of_shapes[0] / "pictures"
    files = embed("out", folder, "--dtype", "float32", *CUT)
    assert "16 rows (image) of 17 records in 2 shard(s), float32" in capsys.readouterr().out
    names = sorted(path.name for path in folder.iterdir() if path.name != "damaged.png")
    rows = table(files)
    assert [row["key"] for row in rows] == names
    assert [row["image_path"] for row in rows] == [str(folder / name) for name in names]
    assert list(rows[0]) == ["image_path", "key", "record", "source"]
    vectors = arrays(files, "img_emb/")
    expected = Predictor(tiny_artefact).encode_image([folder / name for name in names])
    assert vectors.dtype == np.float32 and np.abs(vectors - expected).max() < 1e-6
    (bad,) = map(json.loads, files["bad_records.jsonl"].decode().splitlines())
    assert bad["source"] == str(folder / "damaged.png") and "not an image" in bad["reason"]
    assert bad["record"] not in [row["record"] for row in rows]
    # nothing was written among the pictures
    assert len(list(folder.iterdir())) == 17


def test_the_manifest_says_what_is_there(embed, tiny_artefact, as_data_set):
    files = embed("out", *as_data_set, "--images", *CUT, "--jsonl")
    manifest = json.loads(files.pop("manifest.json"))
    assert manifest["model"] == model_identity(Artefact.open(tiny_artefact))
    told = {name: manifest[name] for name in ("rows", "bad", "dim", "dtype", "towers")}
    assert told == {"rows": 16, "bad": 2, "dim": 12, "dtype": "float16", "towers": ["image"]}
    assert manifest["number of rows"] == 18 and manifest["data set"]["name"] == "folder"
    listed = {}
    for shard in manifest["shards"]:
        listed.update({name: (of["bytes"], of["sha256"]) for name, of in shard["files"].items()})
    files.pop("bad_records.jsonl")
    assert listed == {
        name: (len(data), hashlib.sha256(data).hexdigest()) for name, data in files.items()
    }
    assert [shard["rows"] for shard in manifest["shards"]] == [13, 3]


def test_captions_have_rows_of_their_own(embed, tiny_artefact, set_of_shapes, as_data_set):
    """Both towers: row n of all three files is of one caption, with its picture's vector."""
    _, records = set_of_shapes
    files = embed("both", *as_data_set, "--dtype", "float32", *CUT)
    rows = table(files)
    expected = [(r["id"], n, c) for r in records for n, c in enumerate(r["captions"])]
    assert [(r["key"], r["caption_number"], r["caption"]) for r in rows] == expected
    images, texts = arrays(files, "img_emb/"), arrays(files, "text_emb/")
    assert len(images) == len(texts) == len(rows) == 31
    predictor = Predictor(tiny_artefact)
    of_texts = predictor.encode_text([row["caption"] for row in rows])
    assert np.abs(texts - of_texts).max() < 1e-6
    alone = embed("images", *as_data_set, "--images", "--dtype", "float32", *CUT)
    of_key = dict(zip([row["key"] for row in table(alone)], arrays(alone, "img_emb/")))
    assert all((vector == of_key[row["key"]]).all() for row, vector in zip(rows, images))
    # texts alone have the same rows, but for the picture that is damaged
    alone = embed("texts", *as_data_set, "--texts", "--dtype", "float32", *CUT)
    assert not [name for name in alone if name.startswith("img_emb")]
    assert [r["caption"] for r in table(alone) if r["caption"] != "a"] == [r[2] for r in expected]


@pytest.mark.parametrize("name", WRITERS)
def test_any_data_set(embed, tiny_artefact, tmp_path, name):
    """The process has read some records before another thread of it reads all."""
    rng = np.random.default_rng(0)
    images = [draw(color, shape, rng) for color in COLORS for shape in SHAPES]
    options = [f"{key}={value}" for key, value in WRITERS[name](tmp_path, images).items()]
    source = ["--dataset", f"name={name}", *options]
    files = embed("out", *source, "--dtype", "float32", *CUT, "--processes", "0")
    assert [row["caption"] for row in table(files)] == [f"text {n}" for n in range(16)]
    expected = Predictor(tiny_artefact).encode_image(images)
    assert np.abs(arrays(files, "img_emb/") - expected).max() < 1e-6


def test_what_lacks_one_side_is_left_out(embed, set_of_shapes, tmp_path, as_data_set):
    lines = (set_of_shapes[0] / "rows.jsonl").read_text().splitlines()[:2]
    bare = json.dumps({"image": "red-line.png", "captions": []})
    (tmp_path / "rows.jsonl").write_text("\n".join([*lines, bare]) + "\n")
    source = [*as_data_set[:3], f"jsonl={tmp_path / 'rows.jsonl'}", "--eval"]
    files = embed("both", *source)
    assert b"no caption: --images embeds it" in files["bad_records.jsonl"]
    assert len(table(files)) == 3
    assert len(table(embed("images", *source, "--images"))) == 3  # one of them without a caption


def test_lines_of_text(embed, tiny_artefact, tmp_path):
    (tmp_path / "texts.txt").write_text("a red circle\n\nthe blue line\na\n")
    files = embed("out", "--dtype", "float32", tmp_path / "texts.txt")
    assert [(row["key"], row["caption"]) for row in table(files)] == [
        ("1", "a red circle"),
        ("3", "the blue line"),
        ("4", "a"),
    ]
    expected = Predictor(tiny_artefact).encode_text(["a red circle", "the blue line", "a"])
    assert np.abs(arrays(files, "text_emb/") - expected).max() < 1e-6
    assert list(table(files)[0]) == ["caption", "key", "caption_number", "record", "source"]


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_dtypes(embed, as_data_set, dtype):
    files = embed("out", *as_data_set, "--dtype", dtype, "--jsonl", *CUT)
    full = embed("full", *as_data_set, "--dtype", "float32", *CUT)
    manifest = json.loads(files["manifest.json"])
    for kind, name in (("image", "img_emb"), ("text", "text_emb")):
        stored, exact = arrays(files, name), arrays(full, name).astype(np.float64)
        assert stored.dtype == dtype
        norms = np.linalg.norm(exact, axis=1) * np.linalg.norm(stored.astype(np.float64), axis=1)
        cosine = ((exact * stored).sum(1) / norms).min()
        assert manifest["least_cosine"][kind] <= cosine + 1e-12
        assert cosine - 1.1e-6 < manifest["least_cosine"][kind]
        if dtype == "int8":
            scale = manifest["scale"][kind]
            assert np.abs(stored * scale - exact).max() <= scale / 2 * 1.001
            assert cosine > math.sqrt(1 - 12 * (scale / 2) ** 2) and cosine > 0.999
            assert np.abs(stored).max() == 127  # the scale is of the whole set, not of a shard
        lines = "".join(files[f"jsonl/{name}_{n}.jsonl"].decode() for n in range(3)).splitlines()
        for line, row, vector in zip(map(json.loads, lines), table(files), stored):
            assert (
                line["id"] == row["key"] and line.get("caption", row["caption"]) == row["caption"]
            )
            assert (np.array(line["embedding"], dtype) == vector).all()
        assert len(lines) == len(stored) == 31
        saved = io.BytesIO()
        np.save(saved, stored[:13])
        assert saved.getvalue() == files[f"{name}/{name}_0.npy"]


def test_faiss_finds_what_numpy_finds(embed, as_data_set):
    files = embed("out", *as_data_set, *CUT)
    images, texts = (arrays(files, kind).astype(np.float32) for kind in ("img_emb", "text_emb"))
    index = faiss.IndexFlatIP(images.shape[1])
    index.add(images)
    found, _ = index.search(texts, 5)
    cosines = texts.astype(np.float64) @ images.astype(np.float64).T
    assert np.abs(found - -np.sort(-cosines, axis=1)[:, :5]).max() < 1e-5


def test_nothing_that_can_be_read(embed, tmp_path, capsys):
    (tmp_path / "texts.txt").write_text(" \n\0\n")
    files = embed("out", tmp_path / "texts.txt", "--texts", "--dtype", "int8")
    assert sorted(files) == ["bad_records.jsonl", "manifest.json"]
    assert files["bad_records.jsonl"].count(b"\n") == 2
    said = capsys.readouterr().out
    assert "0 rows (text) of 2 records in 0 shard(s)" in said and "2 left out: see" in said


def test_names_of_many_shards_sort(embed, tmp_path):
    (tmp_path / "texts.txt").write_text("".join(f"a {'red ' * (n % 5)}\n" for n in range(21)))
    files = embed("out", tmp_path / "texts.txt", "--rows", "2", "--piece", "3")
    names = [name for name in sorted(files) if name.startswith("text_emb")]
    assert names == [f"text_emb/text_emb_{number:02d}.npy" for number in range(11)]
    assert [row["key"] for row in table(files)] == [str(number + 1) for number in range(21)]


# -- Mistakes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no source: give a folder of pictures or a .txt file"),
        (["x", "--dataset", "name=tsv"], "two sources"),
        (["x", "--eval"], "--eval goes with --dataset or -c"),
        (["x", "--override", "Global.seed=1"], "--override changes a configuration"),
        (["nowhere"], "nowhere does not exist"),
        (["{pictures}", "--precision", "bf17"], "has no precision bf17"),
        (["{pictures}", "--engine", "ray", "--device", "gpu"], "leave --engine out"),
    ],
)
def test_mistakes_are_one_line(tiny_artefact, set_of_shapes, tmp_path, capsys, arguments, said):
    filled = [text.format(pictures=set_of_shapes[0] / "pictures") for text in arguments]
    assert cli.run(main, [str(tiny_artefact), *filled, "-o", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and said in line


def test_a_model_that_gives_no_numbers(tiny_artefact, as_data_set, tmp_path, capsys, monkeypatch):
    real = Predictor.embed_pixels
    monkeypatch.setattr(Predictor, "embed_pixels", lambda *given: real(*given) * np.nan)
    command = [str(tiny_artefact), *as_data_set, "--processes", "0", "-o", str(tmp_path / "out")]
    assert cli.run(main, command) == 2
    assert "rows.jsonl:1: its vector in fp32 is not finite, and 30" in capsys.readouterr().err


def test_another_model_or_another_picture_is_another_job(
    embed, tiny_artefact, set_of_shapes, tmp_path, capsys
):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for path in sorted((set_of_shapes[0] / "pictures").iterdir())[:3]:
        (folder / path.name).write_bytes(path.read_bytes())
    embed("out", folder)
    command = [str(tiny_artefact), str(folder), "-o", str(tmp_path / "out")]
    capsys.readouterr()
    assert cli.run(main, [*command, "--dtype", "int8"]) == 2
    assert "holds a job with dtype 'float16', not 'int8': --restart" in capsys.readouterr().err
    os.utime(path := next(folder.iterdir()), ns=(1, 1))
    assert cli.run(main, command) == 2 and path.exists()
    assert "holds a job with other pictures" in capsys.readouterr().err
    assert cli.run(main, [str(tmp_path / "nowhere"), str(folder), "-o", str(tmp_path / "new")]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from ernie_vil2.commands import embed\n"
        "try: embed.main(['--help'])\n"
        "except SystemExit: print(sorted({'numpy', 'paddle', 'yaml', 'cv2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
