"""Records: what every format gives, what is refused, and that memory stays flat."""

import base64
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from ernie_vil2.data.formats import index
from ernie_vil2.data.records import BadRecord, Ledger, build_reader
from ernie_vil2.errors import UserError
from tests.support.paths import ROOT

FORK = multiprocessing.get_context("fork")


def png(value: int) -> bytes:
    """A real picture whose base64 has signs in which the two alphabets differ."""
    noise = np.random.default_rng(value).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    return cv2.imencode(".png", noise)[1].tobytes()


def b64(data: bytes) -> bytes:
    return base64.b64encode(data)


def write(path: Path, *rows, end: bytes = b"\n") -> str:
    rows = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path.write_bytes(end.join(rows) + end)
    return str(path)


def bad(reader, position: int) -> BadRecord:
    with pytest.raises(BadRecord) as caught:
        reader[position]
    assert "\n" not in str(caught.value) and caught.value.source in str(caught.value)
    return caught.value


def test_tsv_reads_every_kind_of_base64(tmp_path):
    image = next(image for image in map(png, range(99)) if {43, 47} <= set(b64(image)))
    image += b"." * (-len(image) % 3 + 1)  # so that there is padding
    urlsafe = base64.urlsafe_b64encode(image)
    assert urlsafe != b64(image) and urlsafe.endswith(b"==")
    encoded = [b64(image), urlsafe, b64(image).rstrip(b"="), urlsafe.rstrip(b"=")]
    rows = [b"text %d\tid\t%s" % (i, data) for i, data in enumerate(encoded)]
    reader = build_reader("tsv", path=write(tmp_path / "a.tsv", *rows))
    assert [record.image for record in reader] == [image] * 4
    assert reader[3].captions == ("text 3",) and reader[-1] == reader[3] and reader[0].id == "id"


def test_tsv_tags_bom_crlf_and_no_last_line_feed(tmp_path):
    path = tmp_path / "a.tsv"
    rows = ["一只猫\t7\t%s\t猫| 动物 |", "a cat\t7\t%s\t", "no tags\t8\t%s"]
    text = "\r\n".join(row % b64(png(1)).decode() for row in rows)
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    reader = build_reader("tsv", path=str(path))
    assert [r.captions[0] for r in reader] == ["一只猫", "a cat", "no tags"]
    assert [r.tags for r in reader] == [("猫", "动物"), (), ()]
    assert [r.source for r in reader] == [f"{path}:{row}" for row in (1, 2, 3)]
    assert all(r.image == png(1) for r in reader)
    commas = write(tmp_path / "b.tsv", b"a\tb\t" + b64(png(1)) + b"\tx, y")
    assert build_reader("tsv", path=commas, tag_separator=",")[0].tags == ("x", "y")


@pytest.mark.parametrize(
    "row, reason",
    [
        (b"", "blank"),
        (b" \t ", "blank"),
        (b"\r", "blank"),
        (b"text\tid", "2 columns"),
        (b"text\tid\tAAAA\tx\ty", "5 columns"),
        (b"te\0xt\tid\tAAAA", "NUL"),
        (b"\xff\xfe\tid\tAAAA", "UTF-8"),
        (b"text\tid\tAAAA\t\xff", "UTF-8"),
        (b"\tid\tAAAA", "text is empty"),
        (b"text\t \tAAAA", "image id is empty"),
        (b"text\tid\t", "base64"),
        (b"text\tid\tAAAAA", "base64"),
        (b"text\tid\tAA=A", "base64"),
        (b"text\tid\tAA*A", "base64"),
        (b"text\tid\tAA\xc3\xa9A", "base64"),
    ],
)
def test_tsv_bad_rows_are_named_and_keep_their_place(tmp_path, row, reason):
    good = b"text\tid\t" + b64(png(1))
    path = write(tmp_path / "a.tsv", good, row, good)
    reader = build_reader("tsv", path=path)
    assert len(reader) == 3 and reader[2].source == f"{path}:3"
    error = bad(reader, 1)
    assert error.source == f"{path}:2" and reason in error.reason
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_a_row_larger_than_any_picture_is_a_bad_record(tmp_path, monkeypatch):
    monkeypatch.setattr(index, "MAX_ROW_BYTES", 1000)
    path = write(tmp_path / "a.tsv", b"text\tid\tAAAA", b"x" * 1001, b"x" * 1000)
    reader = build_reader("tsv", path=path)
    assert reader[0].captions == ("text",)
    assert bad(reader, 1).reason == "a row of 1001 bytes, at most 1000 are read"
    assert "1 columns" in bad(reader, 2).reason


def test_tsv_many_files_by_list_and_pattern(tmp_path):
    for name, count in (("b", 2), ("a", 3), ("none", 0), ("c", 1)):
        rows = [b"%s%d\tid\tAAAA" % (name.encode(), i) for i in range(count)]
        path = tmp_path / f"{name}.tsv"
        path.write_bytes(b"".join(row + b"\n" for row in rows))
    reader = build_reader("tsv", path=str(tmp_path / "*.tsv"))
    assert [r.captions[0] for r in reader] == ["a0", "a1", "a2", "b0", "b1", "c0"]
    listed = build_reader("tsv", path=[str(tmp_path / "c.tsv"), str(tmp_path / "[ab].tsv")])
    assert [r.captions[0] for r in listed] == ["c0", "a0", "a1", "a2", "b0", "b1"]
    assert listed[4].source == f"{tmp_path / 'b.tsv'}:1"
    with pytest.raises(IndexError):
        listed[6]


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


def test_folder(tmp_path):
    root = tmp_path / "images"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "a.png").write_bytes(png(1))
    (root / "empty.png").write_bytes(b"")
    (root / "huge.png").touch()
    os.truncate(root / "huge.png", 200_000_000_000)  # a hole, which takes no room
    (tmp_path / "secret.png").write_bytes(b"secret")
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    image = {"image": "sub/a.png"}
    good = [
        {**image, "captions": ["一只猫", "a cat"], "tags": ["猫"], "id": 7},
        {"image": "./sub//a.png", "caption": "a cat"},
    ]
    wrong = [
        ({"image": "../secret.png", "caption": "x"}, "leaves"),
        ({"image": str(tmp_path / "secret.png"), "caption": "x"}, "leaves"),
        ({"image": "link.png", "caption": "x"}, "leaves"),
        ({"image": "no.png", "caption": "x"}, "No such file"),
        ({"image": "sub", "caption": "x"}, "is no file"),
        ({"image": "empty.png", "caption": "x"}, "empty"),
        ({"image": "a\0b", "caption": "x"}, "NUL"),
        ({"caption": "x"}, '"image" is missing'),
        (image, "captions is missing"),
        ({"image": "huge.png", "caption": "x"}, "200000000000 bytes, at most 1073741824"),
        ({**image, "captions": []}, "captions is empty"),
        ({**image, "captions": "x"}, "no list"),
        ({**image, "captions": [1]}, "no string"),
        ({**image, "caption": "\ud800"}, "half a character"),
        ({**image, "caption": "x", "tags": "x"}, "tags is no list"),
        ({**image, "caption": "x", "id": [1]}, "id is no string"),
        ([1], "expected an object"),
        (b"{", "JSON"),
        (b"[" * 100_000, "JSON"),
        (b'{"caption": "\xff"}', "UTF-8"),
        (b"", "blank"),
    ]
    path = write(tmp_path / "a.jsonl", *good, *(row for row, _ in wrong))
    reader = build_reader("folder", root=str(root), jsonl=path)
    assert reader[0].captions == ("一只猫", "a cat") and reader[0].tags == ("猫",)
    assert (reader[0].id, reader[1].id) == ("7", "sub/a.png")
    assert reader[0].image == reader[1].image == png(1)
    for row, (_, reason) in enumerate(wrong, start=2):
        error = bad(reader, row)
        assert reason in error.reason and error.source == f"{path}:{row + 1}", error
    empty = 2 + wrong.index(({**image, "captions": []}, "captions is empty"))
    distractor = reader.evaluation()[empty]
    assert (distractor.captions, distractor.image) == ((), png(1))
    assert bad(reader, empty)  # for training still


def test_chinese_clip(tmp_path):
    images = [b"%d\t%s" % (i, b64(png(i))) for i in range(4)]
    imgs = write(tmp_path / "test_imgs.tsv", *images, b"broken", images[2])
    texts = write(
        tmp_path / "test_texts.jsonl",
        {"text_id": 1, "text": "二", "image_ids": [2]},
        {"text_id": 2, "text": "零和二", "image_ids": [0, 2]},
        b"{not json",
        {"text_id": 3, "text": "谁", "image_ids": [99]},
        {"text_id": 4, "text": "没有", "image_ids": []},
        {"text_id": 5, "text": "三", "image_ids": ["3"]},
    )
    reader = build_reader("chinese_clip", imgs=imgs, texts=texts)
    found = {reader[i].id: reader[i].captions for i in range(3)}
    assert found == {"0": ("零和二",), "2": ("二", "零和二"), "3": ("三",)}
    assert all(reader[i].image == png(int(reader[i].id)) for i in range(3))
    assert len(reader) == 6
    sources = [bad(reader, i).source for i in (3, 4, 5)]
    assert sources == [f"{imgs}:5", f"{texts}:3", f"{texts}:5"]
    assert reader.counts == {
        "images_without_text": 1,
        "repeated_images": 1,
        "texts_of_unknown_images": 1,
    }

    whole = reader.evaluation()
    assert len(whole) == 8 and len(reader) == 6
    assert [whole[i].id for i in range(5)] == ["0", "1", "2", "3", ""]
    assert (whole[1].captions, whole[1].image) == ((), png(1))  # a distractor
    assert (whole[4].captions, whole[4].image) == (("没有",), b"")
    assert whole[0].text_ids == ((1, 2),) and whole[2].text_ids == ((0, 1), (1, 2))
    assert whole[4].text_ids == ((4, 4),)
    assert [bad(whole, i).source for i in (5, 6, 7)] == [f"{imgs}:5", f"{texts}:3", f"{texts}:4"]
    assert "99" in bad(whole, 7).reason


def coco_folder(tmp_path) -> str:
    (tmp_path / "images" / "val").mkdir(parents=True)
    for i in range(3):
        (tmp_path / "images" / "val" / f"{i}.png").write_bytes(png(i))
    return str(tmp_path / "images")


def test_coco_captions(tmp_path):
    root = coco_folder(tmp_path)
    content = {
        "info": {"nested": [1, {"images": [1, 2]}], "é": "é"},
        "annotations": [
            {"image_id": 1, "id": 10, "caption": "第一"},
            {"image_id": 0, "id": 11, "caption": "zero"},
            {"image_id": 1, "id": 12, "caption": "one"},
            {"image_id": 0, "id": 13},
        ],
        "licenses": 3.5,
        "images": [{"id": i, "file_name": f"val/{i}.png"} for i in range(3)],
    }
    path = tmp_path / "captions.json"
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8-sig")
    reader = build_reader("coco", annotations=str(path), root=root)
    assert [reader[i].captions for i in (0, 1)] == [("zero",), ("第一", "one")]
    assert [reader[i].image for i in (0, 1)] == [png(0), png(1)]
    assert reader[1].source == f"{path}:2" and reader.counts["images_without_text"] == 1
    assert len(reader) == 3 and bad(reader, 2).source == f"{path}:annotations:4"
    whole = reader.evaluation()
    assert [whole[i].captions for i in range(3)] == [("zero",), ("第一", "one"), ()]
    assert whole[1].text_ids == ((0, 10), (2, 12))
    with pytest.raises(UserError, match="no splits"):
        build_reader("coco", annotations=str(path), root=root, split="val")


@pytest.mark.parametrize("where", ["id", "image_id", "other"])
def test_a_number_of_any_length_in_coco_is_one_bad_row_at_most(tmp_path, where):
    root = coco_folder(tmp_path)
    digits = "9" * 5000
    image = {"id": 1, "file_name": "val/1.png"}
    text = {"image_id": 1, "caption": "one"}
    content = {"images": [image], "annotations": [text], "other": 1}
    whole = json.dumps(content)[:-2] + f"[{digits}]}}"
    extra = {
        "id": ('"images": [', f'"images": [{{"id": {digits}, "file_name": "val/0.png"}}, '),
        "image_id": (
            '"annotations": [',
            f'"annotations": [{{"caption": "x", "image_id": {digits}}}, ',
        ),
        "other": ("", ""),
    }
    path = tmp_path / "captions.json"
    path.write_text(whole.replace(*extra[where], 1))
    reader = build_reader("coco", annotations=str(path), root=root)
    assert reader[0].captions == ("one",)
    if where == "other" or sys.version_info < (3, 11):
        return  # an older Python reads the number
    assert len(reader) == 2
    error = bad(reader, 1)
    assert "invalid JSON" in error.reason and "digits" in error.reason


def test_karpathy_splits(tmp_path):
    root = coco_folder(tmp_path)
    splits = ["train", "test", "restval"]
    images = [
        {
            "filename": f"{i}.png",
            "filepath": "val",
            "split": split,
            "imgid": i,
            "sentences": [{"raw": f"{split} {n}", "tokens": []} for n in range(5)],
        }
        for i, split in enumerate(splits)
    ]
    images += [{**images[1], "cocoid": 77}, 3, {**images[1], "sentences": []}]
    path = tmp_path / "dataset_coco.json"
    path.write_text(json.dumps({"dataset": "coco", "images": images}))
    options = {"name": "coco", "annotations": str(path), "root": root}
    test = build_reader(**options, split="test")
    assert [test[0].id, test[1].id] == ["1", "77"] and test[0].image == png(1)
    assert test[0].captions == tuple(f"test {n}" for n in range(5))
    assert len(test) == 4 and [bad(test, i).source[-2:] for i in (2, 3)] == [":5", ":6"]
    distractor = test.evaluation()[3]
    assert (distractor.id, distractor.captions, distractor.image) == ("1", (), png(1))
    train = build_reader(**options, split=["train", "restval"])
    assert [train[0].id, train[1].id, len(train)] == ["0", "2", 3]
    assert len(build_reader(**options)) == 6
    path.write_text(json.dumps({"images": images[:4]}))
    with pytest.raises(UserError, match='did you mean "test"'):
        build_reader(**options, split="tset")


def test_json_is_read_in_small_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("ernie_vil2.data.formats.json_scan._BLOCK", 1)
    elements = [{"a": '"]}\\'}, -12.5e3, "é", [], {"b": [{"c": 1}]}, 123]
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"x": elements, "y": [], "z": 12}, ensure_ascii=False))
    x, y, missing = index.json_arrays(str(path), "x", "y", "w")
    assert [json.loads(x.read(i)) for i in range(len(x))] == elements
    assert len(y) == len(missing) == 0
    for broken in ('{"x": [1,]}', '{"x": [1', "[]", "", '{"x": [1} ', '{"x" [1]}', '{"x": [nul]}'):
        path.write_text(broken)
        with pytest.raises(UserError, match="no JSON object"):
            index.json_arrays(str(path), "x")


def read_all(reader) -> list:
    return [(os.getpid(), record.captions[0], record.image) for record in reader]


def test_readers_work_in_forked_and_pickled_form(tmp_path):
    rows = [b"text %d\tid\t%s" % (i, b64(png(i))) for i in range(20)]
    reader = build_reader("tsv", path=write(tmp_path / "a.tsv", *rows))
    expected = [(f"text {i}", png(i)) for i in range(20)]
    assert [item[1:] for item in read_all(reader)] == expected
    with FORK.Pool(3) as pool:
        pickled = pool.map(read_all, [reader] * 3, chunksize=1)
    assert all([item[1:] for item in result] == expected for result in pickled)
    queue = FORK.Queue()
    workers = [FORK.Process(target=lambda: queue.put(read_all(reader))) for _ in range(3)]
    for worker in workers:
        worker.start()
    results = [queue.get(timeout=30) for _ in workers]
    assert len({result[0][0] for result in results}) == 3
    assert all([item[1:] for item in result] == expected for result in results)
    joined = build_reader(
        "chinese_clip",
        imgs=write(tmp_path / "i.tsv", b"1\tAAAA"),
        texts=write(tmp_path / "t.jsonl", {"text": "x", "image_ids": [1]}),
    )
    assert pickle.loads(pickle.dumps(joined))[0] == joined[0]


def indexes(folder: Path) -> dict:
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*.index")}


def test_index_is_used_again_and_renewed_when_the_file_changes(tmp_path):
    path = write(tmp_path / "a.tsv", b"one\tid\tAAAA")
    build_reader("tsv", path=path)
    (place, built), *others = indexes(tmp_path).items()
    assert not others
    assert build_reader("tsv", path=path)[0].captions == ("one",)
    assert indexes(tmp_path) == {place: built}
    write(tmp_path / "a.tsv", b"two\tid\tAAAA", b"three\tid\tAAAA")
    assert [r.captions[0] for r in build_reader("tsv", path=path)] == ["two", "three"]
    whole = place.read_bytes()
    for damaged in (b"", whole[:100], whole[:-8], b"x" * len(whole)):
        place.write_bytes(damaged)
        assert [r.captions[0] for r in build_reader("tsv", path=path)] == ["two", "three"]
        assert place.read_bytes() == whole
    os.utime(path, ns=(1, 1))
    build_reader("tsv", path=path)
    assert place.read_bytes() != whole


def test_a_damaged_index_is_built_again(tmp_path):
    """Any flipped bit of its numbers, though they still look like places."""
    path = write(tmp_path / "a.tsv", b"one\tid\tAAAA", b"two\tid\tAAAA")
    build_reader("tsv", path=path)
    ((place, _),) = indexes(tmp_path).items()
    whole = place.read_bytes()
    for byte in range(4096, len(whole)):
        damaged = bytearray(whole)
        damaged[byte] ^= 1
        place.unlink()  # a new file, as this process trusts what it has seen
        place.write_bytes(damaged)
        assert [r.captions[0] for r in build_reader("tsv", path=path)] == ["one", "two"]
        assert place.read_bytes() == whole


def captions_of(count, width):
    return [b"%0*d\tid\tAAAA" % (width, i) for i in range(count)]


@pytest.mark.parametrize("count", [3, 30_000])
def test_other_content_of_the_same_size_and_time_is_indexed_anew(tmp_path, count):
    path = tmp_path / "a.tsv"
    write(path, *captions_of(count, 9))
    build_reader("tsv", path=str(path))
    stat = path.stat()
    rows = captions_of(count, 9)
    rows = [row + b"A" * 8 for row in rows[: count // 3]] + [row[4:] for row in rows[count // 3 :]]
    content = b"\n".join(rows)
    path.write_bytes(content + b"\n" * (stat.st_size - len(content)))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size and path.stat().st_mtime_ns == stat.st_mtime_ns
    reader = build_reader("tsv", path=str(path))
    for row in (0, count // 3 - 1):
        assert reader[row].captions == (b"%09d".decode() % row,)
    assert reader[count // 3].captions == (f"{count // 3:05d}",)


def test_no_caption_is_cut_where_content_changed_between_samples(tmp_path):
    path = tmp_path / "a.tsv"
    write(path, *captions_of(30_000, 9))
    build_reader("tsv", path=str(path))
    stat = path.stat()
    with open(path, "r+b") as file:  # a line feed two bytes later, past the first sample
        file.seek(400 * 18)
        file.write(b"%09d\tid\tAAAAAA\n" % 400 + b"%07d\tid\tAAAA\n" % 401)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    reader = build_reader("tsv", path=str(path))
    for row in (400, 401):
        assert "not the one that was indexed" in bad(reader, row).reason
    assert [reader[row].captions for row in (399, 402)] == [("000000399",), ("000000402",)]


BUILDER = """
import os, signal, sys
from ernie_vil2.data.formats import index
def build(write):
    write("x", [1, 2, 3])
    os.kill(os.getpid(), signal.SIGKILL)
index.cached([sys.argv[1]], "lines", build)
"""


def test_a_killed_builder_leaves_nothing_that_is_taken_for_data(tmp_path):
    path = write(tmp_path / "a.tsv", b"one\tid\tAAAA")
    command = [sys.executable, "-c", BUILDER, path]
    assert subprocess.run(command, cwd=ROOT).returncode == -9
    (draft,) = set(tmp_path.iterdir()) - {Path(path)}
    reader = build_reader("tsv", path=str(tmp_path / "*"))
    assert len(reader) == 1 and draft.exists()  # it may still be written, for all one knows
    os.utime(draft, (1, 1))
    for index_file in indexes(tmp_path):
        index_file.unlink()
    assert len(build_reader("tsv", path=str(tmp_path / "*"))) == 1
    assert not draft.exists() and len(list(tmp_path.iterdir())) == 2


def test_index_goes_to_the_cache_folder_where_the_datas_cannot_hold_it(tmp_path, monkeypatch):
    folder, home = tmp_path / "data", tmp_path / "home"
    folder.mkdir()
    path = write(folder / "a.tsv", b"one\tid\tAAAA")
    build_reader("tsv", path=path)
    (place,) = indexes(folder)
    place.unlink()
    place.mkdir()  # even root cannot put a file in its place
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    assert build_reader("tsv", path=path)[0].captions == ("one",)
    assert len(indexes(home)) == 1 and sorted(folder.iterdir()) == [place, Path(path)]
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path(path) / "no"))
    with pytest.raises(UserError, match="XDG_CACHE_HOME"):
        build_reader("tsv", path=path)


def test_concurrent_builders_each_get_a_whole_index(tmp_path):
    rows = [b"text %d\tid\tAAAA" % i for i in range(5000)]
    path = write(tmp_path / "a.tsv", *rows)
    with FORK.Pool(4) as pool:
        results = pool.map(last_caption, [path] * 8, chunksize=1)
    assert results == ["text 4999"] * 8
    assert sorted(p.name for p in tmp_path.iterdir())[1:] == ["a.tsv"]  # the index and the data


def last_caption(path: str) -> str:
    return build_reader("tsv", path=path)[-1].captions[0]


def test_memory_stays_flat(tmp_path):
    """200 MB in rows of 1 MB: neither indexing nor reading holds more than a few rows."""
    image = b64(os.urandom(750_000))
    with open(tmp_path / "big.tsv", "wb") as file:
        for i in range(200):
            file.write(b"text %d\tid\t%s\n" % (i, image))
    script = """
import resource, sys
from ernie_vil2.data.records import build_reader
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
build_reader("tsv", path=sys.argv[1])  # so that all code is loaded
before = peak()
reader = build_reader("tsv", path=sys.argv[2])
for i in range(0, 200, 20):
    assert reader[i].captions == (f"text {i}",)
print(len(reader), (peak() - before) // 1024)
"""
    small = write(tmp_path / "small.tsv", b"a\tb\tAAAA")
    command = [sys.executable, "-c", script, small, str(tmp_path / "big.tsv")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    count, grown = map(int, done.stdout.split())
    assert count == 200 and grown < 20, f"memory grew by {grown} MB"


def test_ledger_of_several_processes(tmp_path):
    path = tmp_path / "run" / "bad.jsonl"
    ledger = Ledger(path)
    assert ledger.count == 0

    def add():
        for i in range(50):
            ledger.add(BadRecord(f"数据.tsv:{i}", "first\nline"))
        ledger.add(BadRecord(f"own:{os.getpid()}", "x"))

    workers = [FORK.Process(target=add) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == 54 == len({line["source"] for line in lines}) == ledger.count
    assert lines[0]["reason"] == "first line"
    path.write_text(path.read_text() + '{"source": "torn')  # a process died here
    again = pickle.loads(pickle.dumps(Ledger(path)))
    again.add(BadRecord("数据.tsv:0", "seen before the resume"))
    again.add(BadRecord("new:1", "y"))
    assert again.count == ledger.count == 55
    with pytest.raises(UserError, match="cannot write"):
        Ledger(path / "no" / "bad.jsonl").add(BadRecord("a:1", "b"))
