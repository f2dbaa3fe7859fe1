"""Chinese-CLIP's LMDB: the records of the files it was built from, and no code of its pickles."""

import base64
import json
import os
import pickle
import shutil
import sys

import lmdb
import pytest

from ernie_vil2.data.formats.build import build_reader
from ernie_vil2.errors import UserError
from tests.support.rows import bad, png, write


def put(path, items: dict) -> None:
    os.makedirs(path)
    with (
        lmdb.open(str(path), map_size=1 << 26) as environment,
        environment.begin(write=True) as txn,
    ):
        for key, value in items.items():
            txn.put(str(key).encode(), value)


def build(folder, images: dict, pairs: list, **more) -> str:
    """images: id -> base64; pairs: pickles; more: what stands in `pairs` besides."""
    put(folder / "imgs", {**images, "num_images": b"%d" % len(images)})
    put(folder / "pairs", {**dict(enumerate(pairs)), "num_samples": b"%d" % len(pairs), **more})
    return str(folder)


def from_files(folder, imgs: str, texts: str, protocol: int) -> str:
    """What build_lmdb_dataset.py makes of a `*_imgs.tsv` and a `*_texts.jsonl`."""
    with open(imgs) as file:
        images = dict(line.strip().split("\t") for line in file)
    pairs = []
    with open(texts, encoding="utf-8") as file:
        for row in map(json.loads, file):
            for image_id in row["image_ids"]:
                pair = image_id, row["text_id"], row["text"]
                pairs.append(pickle.dumps(pair, protocol))
    return build(folder, {key: value.encode() for key, value in images.items()}, pairs)


def url_safe(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data)


def but_source(record) -> tuple:
    return record.id, record.image, record.captions, record.tags, record.text_ids


@pytest.mark.parametrize("protocol", range(6))
def test_the_records_are_those_of_the_files_it_was_built_from(tmp_path, protocol):
    ids = sorted(map(str, [7, 30, 4, 1000, 52, 8]))  # as LMDB sorts them
    imgs = write(
        tmp_path / "imgs.tsv", *(b"%s\t%s" % (i.encode(), url_safe(png(int(i)))) for i in ids)
    )
    texts = write(
        tmp_path / "texts.jsonl",
        {"text_id": 11, "text": "一只猫", "image_ids": [7]},
        {"text_id": 12, "text": "两张图", "image_ids": [1000, 4]},
        {"text_id": 13, "text": "两张图", "image_ids": [4]},  # another text, with the same words
        {"text_id": "14", "text": "猫 and a dog", "image_ids": ["7"]},
        {"text_id": 15, "text": "谁", "image_ids": [99]},
        {"text_id": 16, "text": "五十二", "image_ids": [52, 52]},
    )
    plain = build_reader("chinese_clip", imgs=imgs, texts=texts)
    packed = build_reader("lmdb", path=from_files(tmp_path / "train", imgs, texts, protocol))
    assert [r.id for r in map(packed.__getitem__, range(4))] == ["1000", "4", "52", "7"]
    assert len(packed) == len(plain) == 4 and packed.counts == plain.counts
    assert [but_source(packed[n]) for n in range(4)] == [but_source(plain[n]) for n in range(4)]
    everything, expected = packed.evaluation(), plain.evaluation()
    assert len(everything) == len(expected) == 7
    assert [but_source(everything[n]) for n in range(6)] == [
        but_source(expected[n]) for n in range(6)
    ]
    assert "not all images that it names are there: 99" in bad(everything, 6).reason
    assert bad(everything, 6).source == f"{tmp_path}/train/pairs:5"
    assert packed[0].source == f"{tmp_path}/train/imgs:1000"


def test_rows_that_are_no_records(tmp_path):
    images = {"1": url_safe(png(1)), "2": b"####", "4": b""}
    good = (1, 1, "good")
    wrong = [
        ((2, 2), "no tuple of image id, text id and text"),
        ("text", "no tuple"),
        ((1, 2, None), "text is missing"),
        ((1, 2, " "), "text is empty"),
        ((1, 2, b"bytes"), "a pickle that cannot be read: it holds more than plain values"),
        (([1], 2, "x"), "image id is no string"),
        ((1, 2.5, "x"), "BINFLOAT"),
        ((1, {}, "x"), "EMPTY_DICT"),
    ]
    pairs = [good, *(value for value, _ in wrong), (2, 3, "two"), (4, 4, "four")]
    pairs = [pickle.dumps(pair) for pair in pairs]
    pairs[3:3] = [b"", b"junk", pickle.dumps(good)[:-5]]
    path = build(tmp_path / "train", images, pairs)
    reader = build_reader("lmdb", path=path)
    assert reader[0].captions == ("good",) and len(reader) == 3 + 8 + 3
    for place, key, reason in [(1, "2", "invalid base64"), (2, "4", "invalid base64: 0 signs")]:
        assert bad(reader, place).source == f"{path}/imgs:{key}"
        assert reason in bad(reader, place).reason
    reasons = [reason for _, reason in wrong]
    reasons[2:2] = ["cannot be read"] * 3
    for number, reason in enumerate(reasons, start=1):
        error = bad(reader, 2 + number)
        assert error.source == f"{path}/pairs:{number}" and reason in error.reason, error


class Malice:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("protocol", range(6))
def test_a_malicious_pickle_is_a_bad_record_and_never_run(tmp_path, protocol):
    mark = tmp_path / "run"
    pairs = [pickle.dumps((1, 1, "good"), protocol), pickle.dumps((1, 2, Malice(mark)), protocol)]
    reader = build_reader("lmdb", path=build(tmp_path / "a", {"1": url_safe(png(1))}, pairs))
    assert reader[0].captions == ("good",)
    assert "refused" in bad(reader, 1).reason and "pickle" in bad(reader, 1).reason
    assert not mark.exists()
    pickle.loads(pairs[1])  # it is one
    assert mark.exists()


def test_a_missing_pair_is_a_bad_row(tmp_path):
    path = build(tmp_path / "a", {"1": url_safe(png(1))}, [pickle.dumps((1, 1, "x"))], other=b"y")
    with (
        lmdb.open(path + "/pairs", map_size=1 << 26) as environment,
        environment.begin(write=True) as txn,
    ):
        txn.delete(b"0")
        txn.put(b"num_samples", b"1")
    assert bad(build_reader("lmdb", path=path), 0).reason == "the key is missing"


def test_a_database_that_is_built_anew_is_read_anew(tmp_path):
    first = build(tmp_path / "a", {"1": url_safe(png(1))}, [pickle.dumps((1, 1, "first"))])
    assert build_reader("lmdb", path=first)[0].captions == ("first",)
    shutil.rmtree(first)
    build(tmp_path / "a", {"1": url_safe(png(1))}, [pickle.dumps((1, 1, "second"))])
    assert build_reader("lmdb", path=first)[0].captions == ("second",)


def test_wrong_options_are_one_line(tmp_path, monkeypatch):
    image, pair = {"1": url_safe(png(1))}, pickle.dumps((1, 1, "x"))
    build(tmp_path / "lmdb" / "train", image, [pair])
    os.makedirs(tmp_path / "none" / "pairs")
    build(tmp_path / "empty", image, [])
    build(tmp_path / "few", image, [pair], num_samples=b"3")
    build(tmp_path / "unfinished", image, [pair], num_samples=b"")
    junk = build(tmp_path / "junk", image, [pair])
    (tmp_path / "junk" / "imgs" / "data.mdb").write_bytes(b"junk" * 4096)
    torn = build(tmp_path / "torn", {n: url_safe(png(n)) * 50 for n in range(20)}, [pair])
    os.truncate(torn + "/imgs/data.mdb", 3 * 4096)
    for name, said in [
        ("lmdb", f"did you mean {tmp_path}/lmdb/train?"),
        ("none", "data.mdb does not exist"),
        ("nowhere", "is no folder"),
        ("empty", "holds no record"),
        ("few", "has 1 pairs, of 3 that it says"),
        ("unfinished", 'no number under the key "num_samples"'),
        (junk, "junk/imgs/data.mdb is damaged or no LMDB"),
        (torn, "torn/imgs/data.mdb has 12288 bytes"),
    ]:
        with pytest.raises(UserError) as caught:
            build_reader("lmdb", path=str(tmp_path / name))
        assert said in str(caught.value) and "\n" not in str(caught.value), caught.value
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(UserError, match=r'lmdb.*pip install "ernie_vil2\[data\]"'):
        build_reader("lmdb", path=str(tmp_path / "lmdb" / "train"))
