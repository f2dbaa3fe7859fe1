"""From a data set's entry in a configuration to its reader.

FORMATS is the table of the formats that have a name. A reader of your own needs no entry there: its
dotted path is the name, and what else stands beside it are its arguments.

    dataset: {name: mypackage.mymodule.MyReader, root: photos, year: 2024}

`mypackage.mymodule:MyReader` says the same.

`MyReader` is a class or a function; `MyReader(root="photos", year=2024)` gives a sequence of
records:

- `len(reader)` is the number of rows, 1 or more, and does not change.
- `reader[i]`, for i from 0 to below that, is a `Record` (`ernie_vil2/data/records.py`), the same
  one each time. A row that is no record raises `BadRecord`: training skips it and writes it down.
- It is read in forked worker processes: what cannot be shared after a fork, such as an open file
  whose position moves or a connection, is opened when the first row is asked for. If it can be
  pickled as well, processes that are started anew can have it too.
- `reader.evaluation()`, where there is such a method, is the same set as an evaluation reads it, in
  which a record may be an image without captions, or a text without an image. A reader without it
  is used as it is.
- `reader.find(source)`, where there is such a method, is the number of the record with that source,
  or None: `prepare_data.py replay` need then not read all of the set.

A class may derive from `Reader` (`reader.py`), which has `evaluation`, and places from the end.
What a user can do wrong, such as a missing file, is a `UserError` of one line.
"""

from __future__ import annotations

import importlib
import inspect
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from ernie_vil2.data.formats import rows
from ernie_vil2.data.formats.arrow import arrow_reader
from ernie_vil2.data.formats.chinese_clip import ChineseClipReader
from ernie_vil2.data.formats.class_folders import ClassFoldersReader
from ernie_vil2.data.formats.coco import coco_reader
from ernie_vil2.data.formats.folder import FolderReader
from ernie_vil2.data.formats.lmdb import LmdbReader
from ernie_vil2.data.formats.mixture import MixtureReader, mixture_reader
from ernie_vil2.data.formats.parquet import ParquetReader
from ernie_vil2.data.formats.reader import Reader
from ernie_vil2.data.formats.shards import ShardsReader
from ernie_vil2.data.formats.tagged import TagsFile, tagged
from ernie_vil2.data.formats.tsv import TsvReader
from ernie_vil2.data.records import Record
from ernie_vil2.errors import UserError, did_you_mean


def _mixture(
    sources: Mapping[str, Any], temperature: float | None = None, on_end: str = "repeat"
) -> MixtureReader:
    return mixture_reader(build_reader, sources, temperature, on_end)


FORMATS: dict[str, Callable[..., Reader]] = {
    "tsv": TsvReader,
    "folder": FolderReader,
    "chinese_clip": ChineseClipReader,
    "coco": coco_reader,
    "shards": ShardsReader,
    "parquet": ParquetReader,
    "lmdb": LmdbReader,
    "arrow": arrow_reader,
    "class_folders": ClassFoldersReader,
    "mixture": _mixture,
}


def build_reader(name: str, tags_file: Any = None, **options: Any) -> Reader:
    """The reader of the format `name`, a key of FORMATS or the dotted path of the user's own.

    Args:
        tags_file: of `TagsFile`: the records get its tags in place of their own.

    Raises:
        UserError: an unknown name or option, a missing file, an empty set; of a user's own, also
            what cannot be imported or is no sequence of records.
    """
    if tags_file is not None:
        return tagged(build_reader(name, **options), TagsFile(tags_file))
    if name in FORMATS:
        _check_options(name, FORMATS[name], options)
        return FORMATS[name](**options)
    module, _, attribute = name.partition(":") if ":" in name else name.rpartition(".")
    if not all(part.isidentifier() for part in (*module.split("."), attribute)):
        raise UserError(f'no data set format "{name}"{did_you_mean(name, FORMATS)}')
    make = _imported(name, module, attribute)
    _check_options(name, make, options)
    reader = _as_reader(name, make(**options))
    rows.refuse_empty(reader, name)
    return reader


def _check_options(name: str, make: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Raise UserError unless `make` can be called with `options`, as far as its signature says."""
    try:
        parameters = inspect.signature(make).parameters.values()
    except (TypeError, ValueError):  # some of what is written in C has none
        return
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    known = [p.name for p in named]
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        for option in options:
            if option not in known:
                raise UserError(
                    f'data set format {name} has no option "{option}"{did_you_mean(option, known)}'
                )
    for parameter in named:
        if parameter.default is parameter.empty and options.get(parameter.name) is None:
            raise UserError(f"data set format {name} needs the option {parameter.name}")


# -- A user's own ----------------------------------------------------------------------------------


def _imported(path: str, name: str, attribute: str) -> Callable[..., Any]:
    """What stands at the dotted path `path`, `attribute` of module `name`, and can be called."""
    try:
        module = importlib.import_module(name)
    except Exception as error:  # whatever the lines of a user's module may raise
        raise UserError(f"data set format {path}: {name} {_not_imported(name, error)}") from error
    if not hasattr(module, attribute):
        known = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise UserError(
            f'data set format {path}: {name} has no "{attribute}"{did_you_mean(attribute, known)}'
        )
    make = getattr(module, attribute)
    if not callable(make):
        raise UserError(
            f"data set format {path} is of type {type(make).__name__}: expected a class or a "
            "function that gives a sequence of records"
        )
    return make


def _not_imported(module: str, error: Exception) -> str:
    reason = " ".join(str(error).split())
    if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
        return f"cannot be imported: {reason} (is its folder in PYTHONPATH?)"
    if not isinstance(error, (ImportError, SyntaxError)):  # these say themselves what and where
        place = traceback.extract_tb(error.__traceback__)[-1]
        reason = f"{type(error).__name__}: {reason} ({place.filename}, line {place.lineno})"
    return f"cannot be imported: {reason}"


def _as_reader(name: str, records: Any) -> Reader:
    if isinstance(records, Reader):
        return records
    for method in ("__len__", "__getitem__"):
        if not hasattr(type(records), method):
            raise UserError(
                f"data set format {name} gave a {type(records).__name__}, which has no {method}: "
                "expected a sequence of records"
            )
    return _OwnReader(name, records)


class _OwnReader(Reader):
    """A user's sequence as a Reader, which says so where an item is no Record."""

    def __init__(self, name: str, records: Any):
        self._name, self._records = name, records

    def __len__(self) -> int:
        return len(self._records)

    def _get(self, position: int) -> Record:
        record = self._records[position]
        if not isinstance(record, Record):
            raise UserError(
                f"item {position} of data set format {self._name} is a {type(record).__name__}: "
                "expected a Record"
            )
        return record

    def find(self, source: str) -> int | None:
        find = getattr(self._records, "find", None)
        number = find(source) if callable(find) else None
        return number if isinstance(number, int) else None

    def evaluation(self) -> Reader:
        evaluation = getattr(self._records, "evaluation", None)
        return _as_reader(self._name, evaluation()) if callable(evaluation) else self
