"""Captions and whole rows that are damaged, odd or made to do harm, for each format."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

MILLION = 10**6


@dataclass(frozen=True)
class Row:
    """A row of a file as it stands there, and whether it is a record.

    {image} in it stands for a good picture: in base64, or the path of its file.
    """

    name: str
    data: bytes
    good: bool = False


def captions() -> dict[str, tuple[str, bool]]:
    """name -> a caption that JSON can hold, and whether it is one."""
    bad = {
        "nothing": "",
        "spaces": " " * 1000,
        "white space of Unicode": "\u3000\u2003\u2028\u00a0",
        "NUL": "a red\0circle",
        "half a pair": "a \ud83d circle",
        "the other half": "\udc00",
        "halves in the wrong order": "\ude00\ud83d",
    }
    good = {
        "a megabyte of words": "red circle " * (MILLION // 11),
        "a megabyte without a space": "a" * MILLION,
        "a megabyte of ideographs": "红" * (MILLION // 3),
        "a megabyte of accents": "a" + "\u0301" * (MILLION // 2),
        "a hundred thousand ligatures": "\ufdfa" * 100_000,
        "a hundred thousand signs": "!" * 100_000,
        "one character": "a",
        "no width": "\u200b\u200d\ufeff",
        "another direction": "\u202ea red circle\u202c \u2066b\u2069 \u05d0\u0627",
        "control characters": "a\x01\x07\x1b[31m red\x7f\x85 circle",
        "no characters": "\uffff\ufdd0\U0010ffff",
        "private use": "\ue000\U000f0000",
        "a family": "\U0001f468\u200d\U0001f469\u200d\U0001f467\ufe0f",
        "special tokens": "[PAD] [CLS] [SEP] [MASK] [UNK] ##a",
        "a format string": "%s%n {0} ${HOME} `id` ';--",
    }
    return {
        **{name: (text, False) for name, text in bad.items()},
        **{name: (text, True) for name, text in good.items()},
    }


def tsv() -> Iterator[Row]:
    """Rows of the official TSV."""
    columns = {
        "one column": b"a red circle",
        "two columns": b"a red circle\tid",
        "five columns": b"a\tid\t{image}\tred\tblue",
        "a thousand columns": b"\t" * 1000,
        "no image": b"a red circle\tid\t",
        "an empty id": b"a red circle\t\t{image}",
        "an id of spaces": b"a red circle\t  \t{image}",
        "spaces instead of tabs": b"a red circle id {image}",
        "no row": b"",
        "a row of spaces": b"   ",
        "NUL in the text": b"a \0 circle\tid\t{image}",
        "NUL in the image": b"a red circle\tid\t{image}\0",
        "a row of NUL": bytes(10_000),
        "UTF-16": "a\tid".encode("utf-16"),
    }
    for what, data in columns.items():
        yield Row(what, data)
    encodings = {"Latin-1": b"\xe9", "cut": b"\xe7\xba", "overlong": b"\xc0\x80"}
    encodings |= {"a surrogate": b"\xed\xa0\x80", "beyond Unicode": b"\xf5\x80\x80\x80"}
    for what, wrong in encodings.items():
        yield Row(f"text: {what}", b"a " + wrong + b"\tid\t{image}")
        yield Row(f"tags: {what}", b"a red circle\tid\t{image}\tred|" + wrong)
    yield Row("id: Latin-1", b"a red circle\t\xe9\t{image}")
    wrong_base64 = {
        "a sign": b"!!!!",
        "one letter": b"A",
        "padding": b"====",
        "5 letters": b"AAAAA",
    }
    wrong_base64 |= {"a space": b"AAAA AAAA", "not ASCII": b"\xff\xfe", "a URL": b"http://a/b.jpg"}
    for what, wrong in wrong_base64.items():
        yield Row(f"base64: {what}", b"a red circle\tid\t" + wrong)
    good = {
        "a carriage return": b"a red circle\tcr\t{image}\r",
        "no tags": b"a red circle\tnone\t{image}\t",
        "separators alone": b"a red circle\tsep\t{image}\t||| |",
        "100,000 tags": b"a red circle\tmany\t{image}\t" + b"red|" * 100_000,
        "an id of 100 kB": b"a red circle\t" + b"i" * 100_000 + b"\t{image}",
        "spaces around base64": b"a red circle\tspaces\t {image} ",
    }
    for what, data in good.items():
        yield Row(what, data, good=True)


def _not_objects() -> Iterator[Row]:
    texts = ["[]", "1", "-1e999", "NaN", '"a"', "null", "true", "{", "{]", '{"a": }', "{'a': 1}"]
    for text in texts:
        yield Row(f"JSON: {text}", text.encode())
    yield Row("JSON: deep", b"[" * 100_000 + b"]" * 100_000)
    yield Row("JSON: deep and open", b'{"a":' * 100_000)
    yield Row("JSON: a control character", b'{"a": "\x01"}')
    yield Row("JSON: Latin-1", b'{"a": "\xe9"}')
    yield Row("JSON: NUL", b'{"a": "\0"}')


def _objects(good: dict, wrong: dict[str, list]) -> Iterator[Row]:
    """`good` with one key missing, then with each of the values that are `wrong` for it."""
    for key, values in wrong.items():
        without = {k: v for k, v in good.items() if k != key}
        yield Row(f"no {key}", json.dumps(without).encode())
        for value in values:
            what = f"{key}: {json.dumps(value)[:60]}"
            yield Row(what, json.dumps({**good, key: value}).encode())


def _odd(key: str, start: str) -> Iterator[Row]:
    """Objects with what no reader asks for; `start` is a good one without its last brace."""
    yield Row("a deep value", f'{start}, "x": {"[" * 100_000}{"]" * 100_000}}}'.encode())
    yield Row("10,000 digits", f'{start}, "x": {"9" * 10_000}}}'.encode())
    for what, value in {"NaN": "NaN", "infinity": "-Infinity", "1e999": "1e999"}.items():
        yield Row(what, f'{start}, "x": {value}}}'.encode(), good=True)
    yield Row("a key twice", f'{start}, "{key}": "a blue square"}}'.encode(), good=True)
    keys = "".join(f', "{number}": {number}' for number in range(10_000))
    yield Row("10,000 keys", f"{start}{keys}}}".encode(), good=True)


def folder() -> Iterator[Row]:
    """Lines of the JSONL of an image folder, in which `odd/` has odd things."""
    good = {"image": "{image}", "caption": "a red circle", "id": "a"}
    yield from _not_objects()
    yield from _odd("caption", '{"image": "{image}", "id": "odd", "caption": "a red circle"')
    paths = [
        "",
        " ",
        ".",
        "..",
        "/",
        "/etc/passwd",
        "../outside.png",
        "odd/../../outside.png",
        "\0",
    ]
    paths += ["missing.png", "a" * 300, "a/" * 3000, "\ud800.png", "~/a.png", "file:///etc/passwd"]
    paths += ["odd/outside", "odd/loop", "odd/zero", "odd/pipe", "odd/socket", "odd/empty", "odd"]
    paths += ["odd/folder/outside.png", "odd/gone", 1, None, [], {}, True]
    yield from _objects(good, {"image": paths})
    wrong = {"caption": [None, 1, [], {}, True], "id": [[], {}, 1.5, True, "", " ", "\ud800"]}
    # without an id the path is one
    yield from (row for row in _objects(good, wrong) if row.name != "no id")
    wrong = {"captions": [[], "text", {}, 1, None, [None], [""], ["a", 1], [["a"]], ["\ud800"]]}
    wrong |= {"tags": ["red", {"a": 1}, 1, [None], [1], [""], ["\udc00"], [["red"]]]}
    optional = _objects({**good, "captions": ["a"]}, wrong)
    yield from (row for row in optional if row.name not in ("no captions", "no tags"))


def chinese_clip() -> Iterator[Row]:
    """Lines of `*_texts.jsonl`; {id} is the id of a good image."""
    good = {"text_id": 1, "text": "a red circle", "image_ids": ["{id}"]}
    yield from _not_objects()
    yield from _odd("text", '{"text_id": 7, "image_ids": ["{id}"], "text": "a red circle"')
    ids = [None, "a", 1, {}, [None], [[]], [1.5], [True], [""], [" "], ["\ud800"], []]
    yield from _objects(good, {"text": [None, 1, [], {}, "", " ", "\0"], "image_ids": ids})


def chinese_clip_images() -> Iterator[Row]:
    """Rows of `*_imgs.tsv`, none of which gives an id."""
    rows = {
        "no tab": b"id",
        "no id": b"\t{image}",
        "spaces": b"  ",
        "nothing": b"",
        "NUL": b"i\0\t{image}",
        "an id of 5,000 bytes": b"i" * 5000 + b"\t{image}",
        "Latin-1": b"\xe9\t{image}",
    }
    for what, data in rows.items():
        yield Row(what, data)


def coco() -> Iterator[Row]:
    """Elements of "annotations"; {id} is the id of a good image."""
    good = {"id": 1, "image_id": "{id}", "caption": "a red circle"}
    for text in ("[]", "1", "null", "NaN", '"a"', "[[[]]]"):
        yield Row(f"JSON: {text}", text.encode())
    yield Row("JSON: deep", b"[" * 100_000 + b"]" * 100_000)
    yield from _odd("caption", '{"id": 7, "image_id": "{id}", "caption": "a red circle"')
    ids = [None, [], {}, 1.5, True, "", "\ud800"]
    yield from _objects(good, {"caption": [None, 1, [], {}, "", " ", "\0"], "image_id": ids})


def coco_images() -> Iterator[Row]:
    """Elements of "images"."""
    good = {"id": 1, "file_name": "{image}"}
    wrong = {"id": [None, [], 1.5, ""], "file_name": [None, [], 1, "", "\0"]}
    yield from _objects(good, wrong)
    yield Row("JSON: 1", b"1")
    yield Row("JSON: deep", b'{"id": ' * 100_000 + b"1" + b"}" * 100_000)
