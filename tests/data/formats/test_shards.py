"""Tar shards: what a record is, what is none, and that nothing else suffers from it."""

import json
import os
import pickle
import tarfile

import numpy as np
import pytest

from ernie_vil2.data.formats.build import build_reader
from ernie_vil2.data.records import BadRecord
from ernie_vil2.errors import UserError
from tests.support.rows import bad, png
from tests.support.tars import header_at, lie, link, pair, patch, write_tar


def outcomes(reader) -> dict[str, str]:
    """Of each record, by the part of its source behind the shard: its caption, or what is wrong."""
    found = {}
    for position in range(len(reader)):
        try:
            record = reader[position]
            source, said = record.source, record.captions[0]
        except BadRecord as error:
            source, said = error.source, error.reason
        name = source.rpartition(".tar:")[2]
        assert name not in found, source
        found[name] = said
    return found


def test_what_img2dataset_writes(tmp_path):
    """As its WebDatasetSampleWriter does: jpg, json, txt, in alphabetical order."""
    members = []
    for number in range(3):
        key = f"00000{number:04}"
        row = {"url": "http://x", "caption": f"图 {number}", "key": key, "status": "success"}
        members += [(f"{key}.jpg", png(number)), (f"{key}.json", row)]
        members += [(f"{key}.txt", f"图 {number}".encode())]
    path = write_tar(tmp_path / "00000.tar", *members)
    reader = build_reader("shards", path=path)
    with tarfile.open(path) as archive:
        images = [archive.extractfile(f"00000{n:04}.jpg").read() for n in range(3)]
    for number, record in enumerate(reader):
        assert record.captions == (f"图 {number}",) and record.image == images[number]
        assert (record.tags, record.id) == ((), record.source)
        assert record.source == f"{path}:00000{number:04}"
    assert len({record.id for record in reader}) == 3


def test_captions_tags_and_ids(tmp_path):
    image = png(1)
    rows = {
        "both": {"caption": "of json", "tags": ["猫", "dog"], "id": 7},
        "several": {"caption": ["one", "two"], "id": "a"},
        "captions": {"captions": ["one", "two"]},
        "null": {"caption": None, "tags": None, "id": None},
        "blank": {"caption": " "},
        "other": {"alt": "an alt", "labels": ["x"], "md5": "q"},
    }
    members = []
    for key, row in rows.items():
        members += [(f"{key}.JPG", image), (f"{key}.json", row), (f"{key}.txt", b" of txt\n")]
    path = write_tar(tmp_path / "a.tar", *members, ("last.webp", image), ("last.txt", b"x"))
    reader = build_reader("shards", path=path)
    assert [record.captions for record in reader] == [
        ("of json",), ("one", "two"), ("one", "two"), ("of txt",), ("of txt",), ("of txt",), ("x",),
    ]  # fmt: skip
    assert [record.id for record in reader][:4] == ["7", "a", f"{path}:captions", f"{path}:null"]
    assert [record.tags for record in reader] == [("猫", "dog"), (), (), (), (), (), ()]
    assert [reader.texts(n) for n in (0, 1)] == [("of json", "猫", "dog"), ("one", "two")]
    named = build_reader("shards", path=path, caption_key="alt", tags_key="labels", id_key="md5")
    assert (named[5].captions, named[5].tags, named[5].id) == (("an alt",), ("x",), "q")
    assert build_reader("shards", path=path, id_key="__key__")[5].id == "other"


def test_of_several_images_the_first_kind_counts_and_other_members_are_left_alone(tmp_path):
    path = write_tar(
        tmp_path / "a.tar",
        ("./README", b"x"),
        ("a.mask.png", b"mask"),
        ("a.png", b"PNG"),
        ("a.jpg", b"JPG"),
        ("a.npy", b"numbers" * 999),
        ("a.txt", b"text"),
        ("._a.jpg", b"what macOS adds"),
        *pair("b"),
    )
    reader = build_reader("shards", path=path)
    assert [record.image for record in reader] == [b"JPG", png(0)]


def test_an_evaluation_takes_an_image_without_a_text(tmp_path):
    path = write_tar(
        tmp_path / "a.tar", ("a.png", png(1)), ("b.png", png(2)), ("b.txt", b" "), ("c.txt", b"x")
    )
    reader = build_reader("shards", path=path)
    assert [bad(reader, n).reason[:10] for n in range(3)] == ["no caption"] * 2 + ["no image: "]
    evaluation = reader.evaluation()
    assert [evaluation[n].captions for n in range(2)] == [(), ()]
    assert evaluation[1].image == png(2) and "no image" in bad(evaluation, 2).reason


def test_what_is_no_record(tmp_path):
    image = ("png", png(1))
    wrong = {
        "no-image": [("txt", b"x")],
        "no-caption": [image],
        "list": [image, ("json", [1])],
        "broken": [image, ("json", b"{")],
        "deep": [image, ("json", b"[" * 100_000)],
        "latin": [image, ("txt", b"\xff")],
        "nul": [image, ("txt", b"a\0b")],
        "half": [image, ("json", {"caption": "\ud800"})],
        "number": [image, ("json", {"caption": 7})],
        "tags": [image, ("txt", b"x"), ("json", {"tags": "x"})],
        "id": [image, ("txt", b"x"), ("json", {"id": [1]})],
        "empty": [("png", b""), ("txt", b"x")],
        "twice": [image, ("png", png(2)), ("txt", b"x")],
        "same": [image, ("PNG", png(2)), ("txt", b"x")],
        "/absolute": [image, ("txt", b"x")],
        "../above": [image, ("txt", b"x")],
        "a/../../b": [image, ("txt", b"x")],
    }
    members = [(f"{k}.{kind}", data) for k, parts in wrong.items() for kind, data in parts]
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(3))
    links = [link("symbolic.png", str(secret)), ("symbolic.txt", b"x")]
    links += [link("hard.png", "no-caption.png", tarfile.LNKTYPE), ("hard.txt", b"x")]
    links += [link("device.png", "", tarfile.BLKTYPE), link("pipe.png", "", tarfile.FIFOTYPE)]
    path = write_tar(tmp_path / "a.tar", *pair("first", 1), *members, *links, *pair("last", 2))
    reader = build_reader("shards", path=path)
    reasons = {
        "first": "text 1",
        "no-image": "no image: expected .jpg, .jpeg, .png, .webp, .gif, .bmp",
        "no-caption": 'no caption, neither in .txt nor as "caption"',
        "list": "a JSON list, expected an object",
        "broken": "invalid JSON",
        "deep": "invalid JSON",
        "latin": "invalid UTF-8",
        "nul": "holds NUL",
        "half": "half a character",
        "number": '"caption" is no string',
        "tags": '"tags" is no list',
        "id": "id is no string",
        "empty": "image .png is empty",
        "twice": "two members .png",
        "same": "two members .png",
        "/absolute": "leaves the shard's folder",
        "../above": "leaves the shard's folder",
        "a/../../b": "leaves the shard's folder",
        "symbolic": "symbolic.png is no file but a symbolic link",
        "hard": "hard.png is no file but a hard link",
        "device": "block device",
        "pipe": "pipe",
        "last": "text 2",
    }
    found = outcomes(reader)
    assert found.keys() == reasons.keys()
    for key, reason in reasons.items():
        assert reason in found[key], (key, found[key])
    assert bad(reader, 1).source == f"{path}:no-image"
    assert sorted(p.name for p in tmp_path.iterdir())[1:] == ["a.tar", "secret.png"]  # and an index


def test_a_key_that_comes_back(tmp_path):
    path = write_tar(tmp_path / "a.tar", *pair("a"), *pair("b"), ("a.json", {}), *pair("c"))
    reader = build_reader("shards", path=path)
    assert [reader[n].captions for n in (0, 1, 3)] == [("text 0",)] * 3
    assert (
        bad(reader, 2).source == f"{path}:a"
        and "stood in this shard before" in bad(reader, 2).reason
    )


def good(*keys: str, **bad: str) -> dict[str, str]:
    return {**dict.fromkeys(keys, "text 0"), **bad}


DAMAGED, CUT = "no tar header", "reaches beyond the shard's end"


@pytest.mark.parametrize(
    ("size", "reason"),
    [(1, DAMAGED), (600, DAMAGED), (4000, DAMAGED), (10**6, CUT), (8**11 - 1, CUT), (0, DAMAGED)],
)
def test_a_member_that_lies_about_its_size_costs_its_own_record(tmp_path, size, reason):
    members = [("b.jpg", os.urandom(1800)), ("b.txt", b"x")]
    path = write_tar(tmp_path / "a.tar", *pair("a"), *members, *pair("c"), *pair("d"))
    lie(path, "b.jpg", size)
    found = outcomes(build_reader("shards", path=path))
    assert reason in found.pop("b") and found == good("a", "c", "d")


def test_a_damaged_header_costs_its_own_record(tmp_path):
    path = write_tar(tmp_path / "a.tar", *pair("a"), *pair("b"), *pair("c"))
    patch(path, header_at(path, "b.png") + 150, b"9")
    found = outcomes(build_reader("shards", path=path))
    assert DAMAGED in found.pop("b") and found == good("a", "c")


@pytest.mark.parametrize("name", ["c.png", "c.txt"])
def test_a_shard_that_was_cut_off(tmp_path, name):
    """Anywhere in its last record: what is before is there, and what is left of it is one bad."""
    path = write_tar(tmp_path / "a.tar", *pair("a"), *pair("b"), *pair("c"))
    at = header_at(path, name)
    for length in (at + 1, at + 200, at + 512, at + 513):
        cut = tmp_path / f"{length}.tar"
        cut.write_bytes((tmp_path / "a.tar").read_bytes()[:length])
        found = outcomes(build_reader("shards", path=str(cut)))
        assert {key: found.pop(key) for key in "ab"} == good("a", "b"), length
        assert len(found) <= 2 and "text 0" not in found.values(), (length, found)


def test_shards_that_are_empty_or_no_tars(tmp_path):
    (tmp_path / "0.tar").write_bytes(b"")
    write_tar(tmp_path / "1.tar")
    write_tar(tmp_path / "2.tar", *pair("a"))
    (tmp_path / "3.tar").write_bytes(b"<html>not found</html>" * 99)
    (tmp_path / "4.tar").write_bytes(bytes(700))
    reader = build_reader("shards", path=str(tmp_path / "*.tar"))
    found = outcomes(reader)
    assert found.pop("a") == "text 0" and DAMAGED in found.pop("byte 0") and not found
    for name, message in [
        ("0", "holds no record"),
        ("1", "no record"),
        ("3", "3.tar:byte 0: no tar"),
    ]:
        with pytest.raises(UserError, match=message):
            build_reader("shards", path=str(tmp_path / f"{name}.tar"))


def test_bits_that_flip_cost_few_records_and_no_crash(tmp_path):
    rng = np.random.default_rng(0)
    keys = [f"{n:03}" for n in range(30)]
    write_tar(tmp_path / "a.tar", *(member for key in keys for member in pair(key)))
    whole = (tmp_path / "a.tar").read_bytes()
    for number in range(40):
        data = bytearray(whole)
        for at in rng.integers(0, len(data), 3):
            data[at] ^= 1 << rng.integers(8)
        flipped = tmp_path / f"flipped-{number}.tar"
        flipped.write_bytes(bytes(data))
        found = outcomes(build_reader("shards", path=str(flipped)))
        assert sum(found.get(key) == "text 0" for key in keys) >= 27, found
        flipped.unlink()


def test_a_shard_that_is_replaced_while_it_is_read(tmp_path):
    path = write_tar(tmp_path / "a.tar", *pair("a", 1), *pair("b", 2))
    reader = build_reader("shards", path=path)
    write_tar(tmp_path / "a.tar", ("a.png", os.urandom(900)), ("b.png", b"x" * 900), *pair("c"))
    assert all("not the one that was indexed" in bad(reader, n).reason for n in range(2))
    os.unlink(path)
    other = pickle.loads(
        pickle.dumps(build_reader("shards", path=write_tar(tmp_path / "b.tar", *pair("a"))))
    )
    other[0]
    os.unlink(tmp_path / "b.tar")
    assert other[0].captions == ("text 0",)  # it is held open
    gone = pickle.loads(pickle.dumps(reader))
    with pytest.raises(UserError, match="cannot read"):
        gone[0]


def test_a_shard_that_is_away_is_one_bad_record_by_its_name(tmp_path):
    paths = [write_tar(tmp_path / f"{n}.tar", *pair("a"), *pair("b")) for n in range(2)]
    reader = build_reader("shards", path=paths)
    os.unlink(paths[0])
    assert {bad(reader, n).source for n in (0, 1)} == {paths[0]}
    assert "No such file" in bad(reader, 0).reason and reader[2].captions == ("text 0",)


def test_few_shards_are_open_at_a_time(tmp_path):
    paths = [write_tar(tmp_path / f"{n:03}.tar", *pair("a", n)) for n in range(70)]
    reader = build_reader("shards", path=str(tmp_path / "*.tar"))

    def opened() -> int:
        links = [os.path.join("/proc/self/fd", fd) for fd in os.listdir("/proc/self/fd")]
        return sum(os.readlink(x) in paths for x in links if os.path.islink(x))

    for _ in range(2):
        assert [record.captions[0] for record in reader] == [f"text {n}" for n in range(70)]
    assert opened() == 32 < len(paths)
    del reader
    assert opened() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "no.tar"}, "no.tar does not exist"),
        ({"path": "no*.tar"}, "no file matches"),
        ({"path": "a.tar", "caption_key": ""}, "caption_key is ''"),
        ({"path": "a.tar", "tags_key": 3}, "tags_key is 3"),
        ({"path": "a.tar", "tag_key": "x"}, 'no option "tag_key"'),
    ],
)
def test_wrong_options(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    write_tar(tmp_path / "a.tar", *pair("a"))
    with pytest.raises(UserError, match=message) as error:
        build_reader("shards", **options)
    assert "\n" not in str(error.value)


def test_json_is_not_needed_as_bytes(tmp_path):
    path = write_tar(
        tmp_path / "a.tar", ("a.jpg", b"x"), ("a.json", json.dumps({"caption": "é"}).encode())
    )
    assert build_reader("shards", path=path)[0].captions == ("é",)


def test_an_extended_header_that_nothing_follows(tmp_path):
    """A scan must not find it again and again."""
    path = write_tar(tmp_path / "a.tar", *pair("a"), *pair("猫" * 60), *pair("c"))
    long = header_at(path, "猫" * 60 + ".png")
    with open(path, "rb") as file:
        assert file.read()[long + 156 : long + 157] == b"x"
    patch(path, long + 1024, b"\xff" * 512)  # the header behind the extended one
    found = outcomes(build_reader("shards", path=path))
    assert {key: found.pop(key) for key in ("a", "c")} == good("a", "c")
    assert len(found) == 2 and DAMAGED in found.pop(f"byte {long}")
    assert "no image" in found.pop("猫" * 60)
