"""Records of tar shards that are damaged, odd or made to do harm, header by header."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

BLOCK = 512


@dataclass(frozen=True)
class TarRecord:
    """What stands in a shard between two records.

    key: of the record that it makes; the ledger has it where that is none.
    """

    name: str
    data: bytes
    key: str
    good: bool = False


def header(name: bytes, size: int | bytes, kind=b"0", link=b"", magic=b"ustar\x0000") -> bytes:
    """A header under a right checksum, whatever it says."""
    digits = size if isinstance(size, bytes) else b"%011o\0" % size
    block = bytearray(BLOCK)
    for at, content in ((0, name), (100, b"0000644\0"), (124, digits), (156, kind), (157, link)):
        block[at : at + len(content)] = content
    block[257 : 257 + len(magic)] = magic
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % BLOCK)


def member(name: bytes | str, content: bytes, **options) -> bytes:
    name = name.encode() if isinstance(name, str) else name
    return header(name, options.pop("size", len(content)), **options) + padded(content)


def pax(name: bytes, **records: str) -> bytes:
    """The extended header of the member that follows."""
    content = b""
    for key, value in records.items():
        rest = f" {key.replace('_', '.')}={value}\n".encode()
        length = len(rest) + 1
        length = len(rest) + len(str(length + len(str(length)) - 1))
        content += str(length).encode() + rest
    return member(name, content, kind=b"x")


def good_record(key: str, image: bytes, caption: str = "a cross", ending: str = "png") -> bytes:
    row = {"caption": caption, "id": key, "tags": ["red"]}
    return member(f"{key}.{ending}", image) + member(f"{key}.json", json.dumps(row).encode())


def tar_records(image: bytes) -> Iterator[TarRecord]:
    """Each is one record of a shard. `image` is a good picture of more than a block."""
    text = b"a red circle"
    for number, (name, data, good, *key) in enumerate(_records(image, text)):
        # {} is the key, six bytes as they stand in names
        own = f"odd{number:03}"
        data = data(own) if callable(data) else data
        yield TarRecord(name, data, key[0] if key else own, good)


def _records(image: bytes, text: bytes):
    """(name, data or a function of a key, whether it is good, and its key where it has its own)."""

    def with_text(first):
        return lambda key: first(key.encode()) + member(f"{key}.txt", text)

    def kind_of(kind, link=b""):
        return with_text(lambda key: header(key + b".png", 0, kind, link))

    for what, kind, link in (
        ("a link to /etc/passwd", b"2", b"/etc/passwd"),
        ("a link to its neighbour", b"2", b"n0.png"),
        ("a link to itself", b"2", b"../set"),
        ("a hard link to /etc/passwd", b"1", b"/etc/passwd"),
        ("a character device", b"3", b""),
        ("a block device", b"4", b""),
        ("a pipe", b"6", b""),
        ("a sparse file", b"S", b""),
        ("another type", b"Z", b""),
        ("a folder instead of the image", b"5", b""),
    ):
        yield what, kind_of(kind, link), False
    for key in ("../../outside", "/tmp/outside", "a/../../outside", "..", "../.."):
        if "outside" in key:
            pair = member(f"{key}.png", image) + member(f"{key}.txt", text)
            yield f"the name {key}", pair, False, key
    yield from _sizes(image, text, with_text)
    yield from _names(image, text)
    both = member("twin.png", image) + member("twin.txt", text)
    yield "a key", both, True, "twin"
    yield "the key again", both, False, "twin"

    def put(*parts):
        return lambda key: b"".join(member(f"{key}.{end}", content) for end, content in parts)

    yield "two of a kind", put(("png", image), ("png", image), ("txt", text)), False
    yield "no image", put(("txt", text)), False
    yield "no text", put(("png", image)), False
    yield "an image of no bytes", put(("png", b""), ("txt", text)), False
    yield "a text of NUL", put(("png", image), ("txt", bytes(9))), False
    yield "a text in Latin-1", put(("png", image), ("txt", b"\xe9")), False
    rows = (
        b"[]",
        b"1",
        b"null",
        b"{",
        b"[" * 100_000,
        b'{"caption": 1}',
        b'{"caption": "\\ud800"}',
    )
    rows += (b'{"id": [1]}', b'{"tags": "red"}', b'{"tags": [1]}', b"\xff", b'"' * 1000)
    for row in rows:
        what = f"the JSON {row[:20].decode('latin-1')}"
        yield what, put(("png", image), ("json", row), ("txt", text)), False
    yield "other members", put(("npy", b"x" * 999), ("png", image), ("txt", text)), True
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w") as archive:
        info = tarfile.TarInfo("inner.png")
        archive.addfile(info)
    behind = padded(image) + inner.getvalue()
    yield "a tar behind the image, in it", put(("png", behind), ("txt", text)), True
    yield "a tar as the image", put(("png", inner.getvalue()), ("txt", text)), False


def _sizes(image: bytes, text: bytes, with_text):
    """Right ones in odd forms, and lies."""

    def image_of(size, data=image, **options):
        return with_text(lambda key: member(key + b".png", data, size=size, **options))

    count = len(image)
    yield "a size in base 256", image_of(b"\x80" + count.to_bytes(11, "big")), True
    yield "a size between spaces", image_of(b"%10o \0" % count), True
    lies = {
        "a block more": count + BLOCK,
        "40 blocks more": count + 40 * BLOCK,
        "4 GB": 1 << 32,
        "nothing": 0,
        "a byte": 1,
        "2^62 bytes": b"\x80" + (1 << 62).to_bytes(11, "big"),
        "2^95 bytes": b"\x80" + b"\xff" * 11,
        "less than nothing": b"\xff" * 12,
        "minus one": b"-0000000001\0",
        "no number": b"eleven\0",
        "nines": b"99999999999\0",
    }
    for what, size in lies.items():
        if what != "40 blocks more":  # which would hide a neighbour that is whole
            yield f"a size that says {what}", image_of(size), False
    for what, size in {
        "minus": "-5",
        "no number": "x",
        "far": "9" * 23,
        "2^60": str(1 << 60),
    }.items():
        name = f"a pax size: {what}"
        yield (
            name,
            with_text(lambda k, s=size: pax(k + b".png", size=s) + member(k + b".png", image)),
            False,
        )
    right = str(count)
    yield (
        "a pax size",
        with_text(
            lambda key: pax(key + b".png", size=right) + member(key + b".png", image, size=0)
        ),
        True,
    )
    yield (
        "a pax sparse file",
        with_text(
            lambda key: pax(key + b".png", GNU_sparse_size="99") + member(key + b".png", image)
        ),
        False,
    )

    def damaged(key):
        whole = bytearray(member(key + b".png", image))
        whole[150] ^= 1
        return bytes(whole)

    yield "a wrong checksum", with_text(damaged), False


def _names(image: bytes, text: bytes):
    def named(name: bytes, **options):
        return member(name + b".png", image, **options) + member(name + b".txt", text, **options)

    yield "a name that is no UTF-8", named(b"\xff\xfe"), True, "\\xff\\xfe"
    yield "a name with a line feed", named(b"a\nb"), True, "a\nb"
    yield "a name of 100 bytes", named(b"x" * 96), True, "x" * 96
    yield "a name of control characters", named(b"\x1b[31m\x07"), True, "\x1b[31m\x07"
    yield "a name from right to left", named("\u202eabc".encode()), True, "\u202eabc"
    yield "the oldest format", named(b"v7", magic=b""), True, "v7"

    def by_pax(path: str) -> bytes:
        png, txt = (pax(b"p", path=path + end) for end in (".png", ".txt"))
        return png + member(b"p.png", image) + txt + member(b"p.txt", text)

    yield "a pax path", by_pax("图/" * 60 + "a"), True, "图/" * 60 + "a"
    yield "a pax path out of the folder", by_pax("../../pax"), False, "../../pax"
