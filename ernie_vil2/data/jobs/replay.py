"""Show the records of a ledger again: what is wrong with each now, and the bytes of its picture."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from ernie_vil2.data.formats import rows
from ernie_vil2.data.image_file import ImageError
from ernie_vil2.data.jobs.check import problem
from ernie_vil2.data.jobs.engine import pieces
from ernie_vil2.data.jobs.picture import read_header
from ernie_vil2.data.jobs.source import Source
from ernie_vil2.data.records import Record
from ernie_vil2.errors import UserError


@dataclass(frozen=True)
class Line:
    """Of a ledger.

    Attributes:
        number: of the record, where the ledger has it.
    """

    source: str
    reason: str
    number: int | None


def read_ledger(path: Path) -> list[Line]:
    """The lines of a ledger of a training run, of `check` or of `shard`; torn ones are left out."""
    lines = []
    for text in path.read_bytes().splitlines():
        try:
            line = json.loads(text)
            number = line.get("record")
            number = number if isinstance(number, int) else None
            lines.append(Line(str(line["source"]), str(line.get("reason", "")), number))
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    if not lines:
        raise UserError(f'{path} has no line with a "source": expected a ledger, JSON a line')
    return lines


def replay(
    source: Source, lines: Sequence[Line], save: Path | None = None
) -> Iterator[tuple[Line, str | None, str]]:
    """(line, what is wrong now or None, where it is and what it holds) for each line.

    Args:
        save: folder for the pictures' bytes as they are.
    """
    for place, (line, number) in enumerate(zip(lines, find(source, lines))):
        if number is None:
            yield line, "it is not in this data set", ""
            continue
        record = source.get(number)
        told = f"record {number}"
        if isinstance(record, Record):
            told += f", {_told(record)}"
            if save is not None and record.image:
                name = re.sub(r"[^\w.-]+", "_", Path(line.source).name)[-80:]
                save.mkdir(parents=True, exist_ok=True)
                path = save / f"{place:06d}-{name}{_suffix(record.image)}"
                path.write_bytes(record.image)
                told += f", saved as {path}"
        yield line, problem(record), told


def find(source: Source, lines: Sequence[Line]) -> list[int | None]:
    """The number of each line's record, as far as there is one of its source.

    First where the ledger or the reader (a method `find(source)`) says that it lies, or where the
    row in the source would be; what is not there is looked for in all of the set.
    """
    size = len(source.reader)
    numbers: list[int | None] = []
    for line in lines:
        guesses = (n for n in _guesses(source, line) if 0 <= n < size)
        numbers.append(next((n for n in guesses if source.get(n).source == line.source), None))
    missing = {line.source for line, number in zip(lines, numbers) if number is None}
    found: dict[str, int] = {}
    if missing:
        with tqdm(desc="search", total=size, unit=" records") as bar:
            for piece in pieces(size):
                for number, record in source.records(piece):
                    if record.source in missing:
                        found.setdefault(record.source, number)
                bar.update(len(piece))
                if len(found) == len(missing):
                    break
    return [found.get(line.source) if n is None else n for line, n in zip(lines, numbers)]


def _guesses(source: Source, line: Line) -> Iterator[int]:
    if line.number is not None:
        yield line.number
    known = source.reader.find(line.source)
    if known is not None:
        yield known
    yield rows.place(line.source)[1]


def _told(record: Record) -> str:
    try:
        header = read_header(record.image)
        picture = f"{header.format} of {header.width} x {header.height}"
    except ImageError:
        picture = "no picture that can be opened"
    caption = record.captions[0] if record.captions else ""
    return f"{picture}, {len(record.image)} bytes, {caption[:60]!r}"


def _suffix(image: bytes) -> str:
    try:
        return f".{read_header(image).format.lower()}"
    except ImageError:
        return ".bin"


def told(line: Line, wrong: str | None, about: str) -> str:
    """A line of `replay` for people."""
    state = f"still bad: {wrong}" if wrong else f"readable now; it was: {line.reason}"
    return f"{line.source}: {state}" + (f" ({about})" if about else "")
