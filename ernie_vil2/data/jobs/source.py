"""What a job reads, as the command line names it, and by what its change is noticed."""

from __future__ import annotations

import contextlib
import functools
import glob
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ernie_vil2.config import strict_yaml
from ernie_vil2.config.load import load_config
from ernie_vil2.data.formats.build import build_reader
from ernie_vil2.data.formats.reader import Reader
from ernie_vil2.data.records import BadRecord, Record
from ernie_vil2.errors import UserError

_SAMPLES = 16  # records that are looked at


@dataclass(frozen=True)
class Source:
    """A data set that a process opens when it first reads; pickled, it carries no open file.

    Attributes:
        dataset: its entry in a configuration, `name` and the format's options.
        evaluation: read as an evaluation does, for which an image without a text is a record too.
        tokenizer: the configuration's entry `Tokenizer`, if there was one.
    """

    dataset: Mapping[str, Any]
    evaluation: bool = False
    tokenizer: Mapping[str, Any] | None = None

    @functools.cached_property
    def reader(self) -> Reader:
        reader = build_reader(**self.dataset)
        return reader.evaluation() if self.evaluation else reader

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "reader"}

    def get(self, number: int) -> Record | BadRecord:
        """A record, or why it is none."""
        try:
            return self.reader[number]
        except BadRecord as error:
            return error

    def records(self, numbers: Sequence[int]) -> Iterator[tuple[int, Record | BadRecord]]:
        """(number, record or why it is none) of a piece's records."""
        self.reader.prefetch(np.asarray(numbers, np.int64))
        for number in numbers:
            yield number, self.get(number)

    def identity(self) -> dict[str, Any]:
        """What another source, or this one after a change, does not have; plain values.

        The content of files is not read but for some records of all the set, so a picture that is
        replaced in a folder may go unnoticed.
        """
        numbers = np.unique(np.linspace(0, len(self.reader) - 1, _SAMPLES).astype(int)).tolist()
        digest = hashlib.sha256()
        for _, record in self.records(numbers):
            if isinstance(record, BadRecord):
                parts: Sequence[Any] = (record.source, record.reason)
            else:
                image = hashlib.sha256(record.image).hexdigest()
                parts = (record.source, record.id, image, record.captions, record.tags)
            digest.update(repr(parts).encode(errors="surrogatepass"))
        return {
            "data set": dict(self.dataset),
            "evaluation": self.evaluation,
            "number of rows": len(self.reader),
            "content": digest.hexdigest(),
            "files": {path: _state(path) for path in sorted(set(_files(self.dataset)))},
        }


def _files(value: Any) -> Iterator[str]:
    """Files on this machine that a data set's options name, by pattern too."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _files(item)
    elif isinstance(value, str):
        with contextlib.suppress(OSError, ValueError):
            yield from filter(
                os.path.isfile, [value] if os.path.exists(value) else glob.glob(value)
            )


def _state(path: str) -> list[int]:
    stat = os.stat(path)
    return [stat.st_size, stat.st_mtime_ns]


# -- From the command line -------------------------------------------------------------------------


def from_config(path: str, overrides: Sequence[str] = (), evaluation: bool = False) -> Source:
    """What a configuration trains on, or evaluates on."""
    config = load_config(path, overrides)
    section = config.DataLoader.Eval if evaluation else config.DataLoader.Train
    if section is None:
        raise UserError(f"{path} has no DataLoader.Eval: leave --eval out")
    return Source(section.dataset.to_dict(), evaluation, config.Tokenizer.to_dict())


def from_options(options: Sequence[str], evaluation: bool = False) -> Source:
    """What `name=tsv path=a.tsv` names; values in YAML."""
    dataset: dict[str, Any] = {}
    for option in options:
        key, equals, text = option.partition("=")
        if not equals or not key.isidentifier():
            raise UserError(f"--dataset {option}: expected KEY=VALUE, for example name=tsv")
        dataset[key] = strict_yaml.parse(text, f"--dataset {option}")
    if not isinstance(dataset.get("name"), str):
        raise UserError("--dataset has no name=FORMAT: for example --dataset name=tsv path=a.tsv")
    return Source(dataset, evaluation)
