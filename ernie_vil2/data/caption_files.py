"""Captions that name pictures by their ids, as data sets publish them, made lines for `folder`.

| file               | what it holds                             | published by                    |
|--------------------|-------------------------------------------|---------------------------------|
| lines of text      | "ID#0 CAPTION", with a tab or a space     | Flickr30k(-CN), COCO-CN         |
| `.json`, one array | {"image_id": "ID.jpg", "caption": [...]}  | AI Challenger (AIC-ICC)         |

What follows the first "#" of an id is not looked at, and it may be missing, as in Flickr30k-CNA.
Such a file does not say in which folder a picture lies: it is looked for by its id.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from ernie_vil2.data.formats import rows
from ernie_vil2.data.records import BadRecord
from ernie_vil2.errors import UserError
from ernie_vil2.files.durable import replacing

_PART_OF_SPEECH = re.compile(r":[A-Za-z]+$")  # of a word of Flickr30k-CN's test set
_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")


class Written(NamedTuple):
    """What `write_folder_rows` did.

    Attributes:
        images, captions: how many were written.
        missing: ids of pictures that are nowhere below the folder.
        bad: what stood in the files and is no caption.
    """

    images: int
    captions: int
    missing: list[str]
    bad: list[BadRecord]


def write_folder_rows(
    files: list[str],
    images: str,
    out: Path,
    only: Collection[str] | None = None,
    limit: int | None = None,
    segmented: bool = False,
) -> Written:
    """A line a picture, {"image", "id", "captions"}, in the order of the files.

    Args:
        files: of captions; those of one picture are put together.
        images: the folder below which the pictures lie, the `root` of the data set.
        out: the file to write.
        only: ids of the pictures to take; None: all.
        limit: the first so many of these; None: all.
        segmented: words of the captions stand apart, maybe with their part of speech behind a
            colon: join them.

    Raises:
        UserError: a file that cannot be read; nothing to write; two pictures with one id.
    """
    captions: dict[str, list[str]] = {}
    bad: list[BadRecord] = []
    for path in files:
        for found in _captions(path):
            if isinstance(found, BadRecord):
                bad.append(found)
            elif only is None or found[0] in only:
                captions.setdefault(found[0], []).append(_joined(found[1], segmented))
    taken = list(captions)[:limit]
    places = _places(images, set(taken))
    missing = [image_id for image_id in taken if image_id not in places]
    there = [image_id for image_id in taken if image_id in places]
    if not there:
        reason = f"; the first line that is none: {bad[0]}" if bad and not captions else ""
        raise UserError(
            f"none of {len(taken)} pictures with captions in {', '.join(files)} is below {images}: "
            f"expected files such as {next(iter(taken), 'ID')}.jpg{reason}"
        )
    with replacing(out) as draft, open(draft, "w", encoding="utf-8") as file:
        for image_id in there:
            row = {"image": places[image_id], "id": image_id, "captions": captions[image_id]}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return Written(len(there), sum(len(captions[i]) for i in there), missing, bad)


def read_ids(path: str) -> set[str]:
    """The ids of a file, one a line, with or without ".jpg"."""
    with open(rows.file(path), encoding="utf-8-sig") as file:
        return {_bare(line.strip()) for line in file if line.strip()}


def _captions(path: str) -> Iterator[tuple[str, str] | BadRecord]:
    """(id, caption) of each; what is none as a BadRecord."""
    path = rows.file(path)
    with open(path, "rb") as file:
        if path.endswith(".json"):
            yield from _of_array(path, file.read())
            return
        for number, line in enumerate(file, 1):
            source = f"{path}:{number}"
            try:
                words = rows.decode(line, source).split(maxsplit=1)
                if not words:
                    continue  # a blank line
                caption = words[1] if len(words) > 1 else None
                image_id = _bare(words[0].partition("#")[0])
                yield image_id, rows.text(caption, "caption", source)
            except BadRecord as error:
                yield error


def _of_array(path: str, data: bytes) -> Iterator[tuple[str, str] | BadRecord]:
    """AI Challenger's captions."""
    try:
        elements = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON: {error}") from None
    if not isinstance(elements, list):
        raise UserError(
            f"{path} is a JSON {type(elements).__name__}: expected AI Challenger's array of "
            '{"image_id", "caption"}; COCO\'s captions and Karpathy\'s splits are read as they '
            "are, {name: coco, ...}"
        )
    for number, element in enumerate(elements, 1):
        source = f"{path}:{number}"
        try:
            if not isinstance(element, dict):
                raise BadRecord(source, f"a JSON {type(element).__name__}, expected an object")
            image_id = _bare(rows.text(element.get("image_id"), '"image_id"', source))
            for caption in rows.texts(element.get("caption"), '"caption"', source):
                yield image_id, caption
        except BadRecord as error:
            yield error


def _joined(caption: str, segmented: bool) -> str:
    if not segmented:
        return caption
    return "".join(_PART_OF_SPEECH.sub("", word) for word in caption.split())


def _bare(name: str) -> str:
    """An id without the ending of a picture's file."""
    stem, ending = os.path.splitext(name)
    return stem if ending.lower() in _ENDINGS else name


def _places(folder: str, wanted: Collection[str]) -> dict[str, str]:
    """id -> path within the folder, of the pictures of `wanted` that are below it."""
    found: dict[str, str] = {}
    root = rows.folder(folder)
    for at, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            image_id = _bare(name)
            if image_id == name or image_id not in wanted:
                continue
            path = os.path.relpath(os.path.join(at, name), root)
            if image_id in found:
                raise UserError(
                    f"{found[image_id]} and {path} of {folder} have the id {image_id} both: name a "
                    "folder with one of them"
                )
            found[image_id] = path
    return found
