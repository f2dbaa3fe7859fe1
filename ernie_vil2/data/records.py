"""What a data set is made of, whatever its format, and the ledger of what could not be read."""

import fcntl
import inspect
import json
import os
from dataclasses import dataclass

from ernie_vil2.errors import UserError, did_you_mean
from ernie_vil2.files.durable import append


@dataclass(frozen=True)
class Record:
    id: str  # of the image: equal ids are the same image
    image: bytes  # the encoded file, not decoded; empty: a text alone, which only evaluations read
    captions: tuple  # of str, at least one but in an evaluation
    tags: tuple  # of str, possibly empty
    source: str  # "file:row", rows counted from 1, for messages
    # (row in its file from 0, id) of each caption, where texts have rows of their own: captions of
    # one row are one text, whatever images they stand with; () means that each is a text of its own
    text_ids: tuple = ()


class BadRecord(ValueError):
    """A row that is no record. source: "file:row"; reason: what is wrong with it."""

    def __init__(self, source: str, reason: str):
        super().__init__(source, reason)
        self.source, self.reason = source, " ".join(str(reason).split())

    def __str__(self) -> str:
        return f"{' '.join(self.source.split())}: {self.reason}"


class Ledger:
    """The bad records of a run, each source once: a file of lines {"source", "reason"}.

    Several processes may add at once, and a resumed run goes on with the file that is there.
    """

    def __init__(self, path):
        self.path = os.fspath(path)
        self._sources, self._read = set(), 0

    def add(self, error: BadRecord) -> None:
        """Write `error` down unless its source is there. Raises UserError where that fails."""
        try:
            os.makedirs(os.path.dirname(os.path.abspath(self.path)), exist_ok=True)
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                fcntl.flock(file, fcntl.LOCK_EX)  # released by close
                self._catch_up(file)
                if error.source not in self._sources:
                    line = json.dumps({"source": error.source, "reason": error.reason}) + "\n"
                    torn = os.fstat(file).st_size > self._read  # a writer died within its line
                    append(file, (b"\n" if torn else b"") + line.encode())
            finally:
                os.close(file)
        except OSError as failure:
            raise UserError(f"cannot write {self.path}: {failure.strerror}") from failure

    @property
    def count(self) -> int:
        """Bad records known so far, those of all processes."""
        try:
            file = os.open(self.path, os.O_RDONLY)
        except OSError:
            return 0
        try:
            self._catch_up(file)
        finally:
            os.close(file)
        return len(self._sources)

    def _catch_up(self, file: int) -> None:
        """Read the whole lines that came since the last time."""
        size = os.fstat(file).st_size
        if size < self._read:  # begun anew
            self._sources, self._read = set(), 0
        new = os.pread(file, size - self._read, self._read)
        new = new[: new.rfind(b"\n") + 1]
        self._read += len(new)
        for line in new.splitlines():
            try:
                self._sources.add(json.loads(line)["source"])
            except (ValueError, KeyError, TypeError):
                continue  # the torn line


def build_reader(name: str, **options):
    """The reader called `name`: tsv, folder, chinese_clip or coco (`formats.py`, `coco.py`).

    A reader is a sequence: `len(reader)`, and `reader[i]` is a Record or raises BadRecord. It may
    be pickled and used in forked processes. Raises UserError: unknown name or option, a missing
    file, an empty set.
    """
    from ernie_vil2.data.formats import coco  # which themselves need Record
    from ernie_vil2.data.formats import joined as formats

    known = {
        "tsv": formats.TsvReader,
        "folder": formats.FolderReader,
        "chinese_clip": formats.ChineseClipReader,
        "coco": coco.coco_reader,
    }
    if name not in known:
        raise UserError(f'no data set format "{name}"{did_you_mean(name, known)}')
    parameters = inspect.signature(known[name]).parameters
    for option in options:
        if option not in parameters:
            raise UserError(
                f'data set format {name} has no option "{option}"{did_you_mean(option, parameters)}'
            )
    for option, parameter in parameters.items():
        if parameter.default is parameter.empty and options.get(option) is None:
            raise UserError(f"data set format {name} needs the option {option}")
    return known[name](**options)
