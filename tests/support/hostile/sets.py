"""Data sets of every format that hold the hostile corpus between good records."""

from __future__ import annotations

import base64
import json
import os
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ernie_vil2.data.decode import decode_image
from ernie_vil2.data.image_file import ImageError
from tests.support.hostile import rows
from tests.support.hostile.pictures import pictures, scene
from tests.support.hostile.tars import good_record, tar_records
from tests.support.pictures import encoded

_EVERY = 4  # a good record after so many hostile ones
_ENDINGS = (".jpg", ".PNG", ".webp", ".gif", ".txt", "", ".tar.gz")  # mostly wrong ones


@dataclass
class Sample:
    """What becomes a record: a picture and a caption, or a row as it stands in the file."""

    name: str
    picture: bytes = b""
    caption: str = ""
    row: bytes = b""
    good: bool = True
    neighbour: bool = False  # compared with the set without hostile ones


@dataclass
class HostileSet:
    """A data set.

    Attributes:
        dataset: of the configuration.
        bad: the sources that have to be in the ledger -> which sample it is.
        neighbours: sources of the good records that stand between.
    """

    dataset: dict[str, Any]
    bad: dict[str, str] = field(default_factory=dict)
    neighbours: set[str] = field(default_factory=set)

    def note(self, sample: Sample, source: str) -> None:
        if not sample.good:
            self.bad[source] = sample.name
        if sample.neighbour:
            self.neighbours.add(source)


def _refused(data: bytes) -> bool:
    try:
        decode_image(data)
    except ImageError:
        return True
    return False


def _plain(*seed: int) -> bytes:
    return encoded(Image.fromarray(scene(np.random.default_rng(seed))))


def samples(own_rows, tame: bool) -> list[Sample]:
    """The corpus for a format of these rows, good records between; tame: a good one for each."""
    hostile = []
    for p in pictures():
        good = not _refused(p.data) if isinstance(p.shows, str) else p.shows is not None
        hostile.append(Sample(p.name, p.data, "a red circle", good=good))
    for name, (text, good) in rows.captions().items():
        hostile.append(Sample(f"caption: {name}", _plain(2), text, good=good))
    hostile += [Sample(row.name, row=row.data, good=row.good) for row in own_rows]
    found = []
    for number, sample in enumerate(hostile):
        if number % _EVERY == 0:
            found.append(Sample("", _plain(0, number), "a blue square", neighbour=True))
        found.append(Sample("", _plain(1, number), "a cross") if tame else sample)
    return found


def write(name: str, folder: Path, tame: bool = False) -> HostileSet:
    """The set of a format in `folder`."""
    folder.mkdir()
    return _WRITERS[name](folder, tame)


def _fill(row: bytes, image: bytes | str, image_id: str = "") -> bytes:
    image = image if isinstance(image, bytes) else image.encode()
    return row.replace(b"{image}", image).replace(b"{id}", image_id.encode())


def tsv_line(sample: Sample, number: int) -> bytes:
    """A sample as a row of the official TSV."""
    if not sample.picture:
        return _fill(sample.row, base64.b64encode(_plain(2)))
    text = sample.caption.encode("utf-8", "surrogatepass")  # half a character is no UTF-8
    return b"%s\timage%d\t%s\tred|blue" % (text, number, base64.b64encode(sample.picture))


def _tsv(folder: Path, tame: bool) -> HostileSet:
    path = folder / "train.tsv"
    found, lines = HostileSet({"name": "tsv", "path": str(path)}), []
    for number, sample in enumerate(samples(rows.tsv(), tame)):
        lines.append(tsv_line(sample, number))
        found.note(sample, f"{path}:{number + 1}")
    path.write_bytes(b"\n".join(lines))
    return found


def _folder(folder: Path, tame: bool) -> HostileSet:
    root, path = folder / "images", folder / "train.jsonl"
    root.mkdir()
    (root / "plain.png").write_bytes(_plain(2))
    _odd_files(root / "odd", folder / "outside.png")
    found, lines = HostileSet({"name": "folder", "root": str(root), "jsonl": str(path)}), []
    for number, sample in enumerate(samples(rows.folder(), tame)):
        if sample.picture:
            name = f"图 {number}{_ENDINGS[number % len(_ENDINGS)]}"
            (root / name).write_bytes(sample.picture)
            row = {"image": name, "captions": [sample.caption], "id": number, "tags": ["red"]}
            lines.append(json.dumps(row).encode())
        else:
            lines.append(_fill(sample.row, "plain.png"))
        found.note(sample, f"{path}:{number + 1}")
    path.write_bytes(b"\n".join(lines))
    return found


def _odd_files(folder: Path, outside: Path) -> None:
    folder.mkdir()
    outside.write_bytes(_plain(3))
    links = {"outside": outside, "loop": "loop", "zero": "/dev/zero", "folder": outside.parent}
    for name, target in {**links, "gone": "nowhere"}.items():
        (folder / name).symlink_to(target)
    os.mkfifo(folder / "pipe")
    (folder / "empty").touch()
    here = os.getcwd()
    os.chdir(folder)  # the path of a socket must be short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("socket")
    finally:
        os.chdir(here)


def _joined(tame: bool, text_rows, image_rows):
    """(images with a text each, rows of texts, rows of images), hostile rows last.

    So that images with texts are the same records at the same places in a tame set.
    """
    hostile = samples([], tame=False)
    captions = [s for s in hostile if not s.good and s.name.startswith("caption")]
    pairs = zip(hostile, samples([], tame))
    images = [sample for original, sample in pairs if original not in captions]
    wrong = [] if tame else captions
    texts = [] if tame else [Sample(r.name, row=r.data, good=r.good) for r in text_rows]
    broken = [] if tame else [Sample(r.name, row=r.data, good=r.good) for r in image_rows]
    return images, wrong, texts, broken


def _chinese_clip(folder: Path, tame: bool) -> HostileSet:
    imgs, texts = folder / "imgs.tsv", folder / "texts.jsonl"
    found = HostileSet({"name": "chinese_clip", "imgs": str(imgs), "texts": str(texts)})
    plain = base64.b64encode(_plain(2))
    images, captions, text_rows, image_rows = _joined(
        tame, rows.chinese_clip(), rows.chinese_clip_images()
    )
    image_lines = [b"host\t" + plain]
    text_lines = [b'{"text_id": 0, "text": "a dot", "image_ids": ["host"]}']
    for number, sample in enumerate(images):
        found.note(sample, f"{imgs}:{len(image_lines) + 1}")
        image_lines.append(b"image%d\t%s" % (number, base64.b64encode(sample.picture)))
        row = {"text_id": number, "text": sample.caption, "image_ids": [f"image{number}"]}
        text_lines.append(json.dumps(row).encode())
    for sample in captions + text_rows:
        found.note(sample, f"{texts}:{len(text_lines) + 1}")
        row = {"text_id": 0, "text": sample.caption, "image_ids": ["host"]}
        text_lines.append(
            _fill(sample.row, b"", "host") if sample.row else json.dumps(row).encode()
        )
    for sample in image_rows:
        found.note(sample, f"{imgs}:{len(image_lines) + 1}")
        image_lines.append(_fill(sample.row, plain))
    imgs.write_bytes(b"\n".join(image_lines) + b"\n")
    texts.write_bytes(b"\n".join(text_lines))
    return found


def _coco(folder: Path, tame: bool) -> HostileSet:
    path, root = folder / "captions.json", folder / "images"
    root.mkdir()
    (root / "plain.png").write_bytes(_plain(2))
    found = HostileSet({"name": "coco", "annotations": str(path), "root": str(root)})
    images, captions, text_rows, image_rows = _joined(tame, rows.coco(), rows.coco_images())
    elements = [b'{"id": "host", "file_name": "plain.png"}']
    texts = [b'{"id": 0, "image_id": "host", "caption": "a dot"}']
    for number, sample in enumerate(images):
        name = f"{number}{_ENDINGS[number % len(_ENDINGS)]}"
        (root / name).write_bytes(sample.picture)
        found.note(sample, f"{path}:{len(elements) + 1}")
        elements.append(json.dumps({"id": number, "file_name": name}).encode())
        row = {"id": number, "image_id": number, "caption": sample.caption}
        texts.append(json.dumps(row).encode())
    for sample in captions + text_rows:
        found.note(sample, f"{path}:annotations:{len(texts) + 1}")
        row = {"id": 0, "image_id": "host", "caption": sample.caption}
        texts.append(_fill(sample.row, b"", "host") if sample.row else json.dumps(row).encode())
    for sample in image_rows:
        found.note(sample, f"{path}:{len(elements) + 1}")
        elements.append(_fill(sample.row, "plain.png"))
    parts = b",\n".join(elements), b",\n".join(texts)
    path.write_bytes(b'{"images": [%s], "annotations": [%s]}' % parts)
    return found


def _shards(folder: Path, tame: bool) -> HostileSet:
    """Shards of pictures and captions, one of what only tars can hold, and others of no records."""
    found = HostileSet({"name": "shards", "path": str(folder / "*.tar")})
    every, shards = samples([], tame), 4
    for shard in range(shards):
        path, parts = folder / f"{shard}.tar", []
        for number, sample in list(enumerate(every))[shard::shards]:
            ending = ("png", "jpg", "webp", "GIF")[number % 4]
            parts.append(good_record(f"k{number}", sample.picture, sample.caption, ending))
            found.note(sample, f"{path}:k{number}")
        _write_tar(path, parts)
    path, parts = folder / "odd.tar", []
    for number, odd in enumerate(tar_records(_plain(2))):
        near = Sample("", _plain(0, number), "a blue square", neighbour=True)
        parts.append(good_record(f"n{number}", near.picture, near.caption))
        found.note(near, f"{path}:n{number}")
        parts.append(good_record(f"t{number}", _plain(1, number)) if tame else odd.data)
        if not tame:
            found.note(Sample(odd.name, good=odd.good), f"{path}:{odd.key}")
    _write_tar(path, parts)
    last = good_record("cut", _plain(4))
    _write_tar(folder / "cut.tar", [good_record("whole", _plain(5)), last])
    if not tame:
        with open(folder / "cut.tar", "r+b") as file:
            file.truncate(file.seek(0, os.SEEK_END) - 1024 - len(last) + 700)
        found.note(Sample("a shard that was cut off", good=False), f"{folder / 'cut.tar'}:cut")
    for name, data in {"empty": b"", "zeros": bytes(10_240), "one": bytes(512)}.items():
        (folder / f"{name}.tar").write_bytes(data)
    return found


def _write_tar(path: Path, parts: list[bytes]) -> None:
    path.write_bytes(b"".join(parts) + bytes(1024))


def _parquet(folder: Path, tame: bool) -> HostileSet:
    """Pictures and captions as columns, in texts of which half a character is no UTF-8."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / "train.parquet"
    found, every = HostileSet({"name": "parquet", "path": str(path)}), samples([], tame)
    texts = [sample.caption.encode("utf-8", "surrogatepass") for sample in every]
    columns = {
        "image": pa.array([sample.picture for sample in every], pa.binary()),
        "caption": pa.array(texts, pa.binary()).view(pa.string()),
        "id": [f"image{number}" for number in range(len(every))],
    }
    pq.write_table(pa.table(columns), path, row_group_size=20)
    for number, sample in enumerate(every):
        found.note(sample, f"{path}:{number + 1}")
    return found


_WRITERS = {
    "tsv": _tsv,
    "folder": _folder,
    "chinese_clip": _chinese_clip,
    "coco": _coco,
    "shards": _shards,
    "parquet": _parquet,
}
