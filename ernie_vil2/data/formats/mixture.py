"""Several sources as one set, read in training in proportions that the user states."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ernie_vil2.config.kinds import OPTIONAL, Leaf, choice, component, number, section
from ernie_vil2.config.load import thaw
from ernie_vil2.config.messages import wrong
from ernie_vil2.data.arrays import Numbers
from ernie_vil2.data.formats.reader import Reader
from ernie_vil2.data.mixture_order import ON_END, MixtureOrder, source_seed, tempered
from ernie_vil2.data.orders import Shuffle
from ernie_vil2.data.records import Record
from ernie_vil2.errors import UserError
from ernie_vil2.limits import POSITIVE, PROBABILITY

_WHERE = "data set format mixture"
_NAME = re.compile(r"\w[\w.-]*")  # it stands in the names of curves
_WEIGHT = number(POSITIVE, OPTIONAL)


def _weighted_keys(value: dict[Any, Any]) -> bool:
    return bool(value) and all(
        isinstance(key, str) and type(weight) in (int, float) and POSITIVE.allows(weight)
        for key, weight in value.items()
    )


# What a source has beside the options of its format.
_SOURCE = component(
    name=Leaf("the name of a format", (str,), str.strip),
    weight=_WEIGHT,
    views=section(
        tags_prob=number(PROBABILITY, OPTIONAL),
        per=choice("batch", "sample", default=OPTIONAL),
    ),
    captions=Leaf(
        "a mapping of captions' keys to weights above 0, as {alt: 1, synthetic: 2}",
        (dict,),
        _weighted_keys,
        OPTIONAL,
    ),
)


class MixtureReader(Reader):
    """The records of several readers, one after the other.

    A record gets its source's name, also before its id: equal ids of two sources are two images.

    Args:
        readers: source -> its records.
        weights: of each in training, in the same sequence.
        views: source -> what it has of `Drawing` (`data/views.py`) for its own.
        on_end: as `MixtureOrder`.

    Attributes:
        names: of the sources.
        ends: int64 [K], the number after each source's last record.
        views: as given.
    """

    def __init__(
        self,
        readers: Mapping[str, Reader],
        weights: list[float],
        views: Mapping[str, Mapping[str, Any]],
        on_end: str,
    ):
        self.names, self._readers = list(readers), list(readers.values())
        self._weights, self._on_end = weights, on_end
        self.views = dict(views)
        self.ends = np.cumsum([len(reader) for reader in self._readers])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def order(self, seed: int, shuffle: Shuffle) -> MixtureOrder:
        """As a reader's; sources without shards are read in the order of all their records."""
        in_shards = [reader.shard_lengths is not None for reader in self._readers]
        others = True if isinstance(shuffle, Mapping) and any(in_shards) else shuffle
        orders = {
            name: reader.order(source_seed(seed, name), shuffle if shards else others)
            for name, reader, shards in zip(self.names, self._readers, in_shards)
        }
        lengths = [len(reader) for reader in self._readers]
        return MixtureOrder(orders, lengths, self._weights, self._on_end)

    def prefetch(self, positions: Numbers) -> None:
        sources = np.searchsorted(self.ends, positions, side="right")
        for source in np.unique(sources):
            reader = self._readers[source]
            start = int(self.ends[source]) - len(reader)
            reader.prefetch(positions[sources == source] - start)

    def find(self, source: str) -> int | None:
        for reader, end in zip(self._readers, self.ends.tolist()):
            number = reader.find(source)
            if number is not None:
                return int(end - len(reader) + number)
        return None

    def evaluation(self) -> Reader:
        return self.each(lambda name, reader: reader.evaluation())

    def each(self, change: Callable[[str, Reader], Reader]) -> MixtureReader:
        """The same mixture with `change(name, reader)` in place of each source's reader."""
        readers = {name: change(name, r) for name, r in zip(self.names, self._readers)}
        return MixtureReader(readers, self._weights, self.views, self._on_end)

    def _get(self, position: int) -> Record:
        source = int(np.searchsorted(self.ends, position, side="right"))
        reader, name = self._readers[source], self.names[source]
        record = reader[position - int(self.ends[source]) + len(reader)]
        every = len(self._readers)  # texts' rows of all sources, none twice
        return dataclasses.replace(
            record,
            id=f"{name}/{record.id}" if record.id else "",
            text_ids=tuple((row * every + source, text_id) for row, text_id in record.text_ids),
            data_set=name,
        )


def mixture_reader(
    build: Callable[..., Reader],
    sources: Any,
    temperature: float | None = None,
    on_end: str = "repeat",
) -> MixtureReader:
    """The reader of `{name: mixture, sources: {web: {name: tsv, weight: 3, ...}, ...}}`.

    Args:
        build: `build_reader`, for each source's own options.
        sources: name -> a format's name and options, and of the mixture `weight`, `views`
            (`tags_prob` and `per` of `Views.draw`) and `captions`, key -> weight.
        temperature: instead of weights, see `tempered`.
        on_end: as `MixtureOrder`.

    Raises:
        UserError: whatever is wrong with these, in one line.
    """
    parsed = _parsed(thaw(sources))
    on_end = choice(*ON_END).check(on_end, "on_end", _WHERE, True)
    if temperature is not None:
        _WEIGHT.check(temperature, "temperature", _WHERE, True)
    stated = _check_weights(parsed, temperature)
    readers, views = {}, {}
    for name, options in parsed.items():
        views[name] = dict(options["views"])
        if "captions" in options:
            views[name]["captions"] = options["captions"]
        options = {k: v for k, v in options.items() if k not in ("weight", "views", "captions")}
        try:
            readers[name] = build(**options)
        except UserError as error:
            raise UserError(f"{_WHERE}: sources.{name}: {error}") from error
    weights = stated or tempered([len(r) for r in readers.values()], temperature or 1.0)
    return MixtureReader(readers, weights, views, on_end)


def _parsed(sources: Any) -> dict[str, dict[str, Any]]:
    """The sources by name, in whatever order they stand, each checked but for its format's own
    options."""
    if not isinstance(sources, dict) or not sources:
        raise wrong(_WHERE, "sources", sources, "a mapping of sources' names to their data sets")
    parsed = {}
    for name in sources:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise wrong(_WHERE, "a name of sources", name, "letters, digits, _, - and .")
    for name, options in sorted(sources.items()):
        parsed[name] = _SOURCE.check(options, f"sources.{name}", _WHERE, True)
        if parsed[name]["name"] == "mixture":
            raise UserError(
                f"{_WHERE}: sources.{name} is a mixture itself: name its sources here instead"
            )
    return parsed


def _check_weights(
    parsed: Mapping[str, Mapping[str, Any]], temperature: float | None
) -> list[float] | None:
    """The stated weights; None where there are none."""
    without = [name for name, options in parsed.items() if "weight" not in options]
    if len(without) == len(parsed):
        return None
    if temperature is not None:
        raise UserError(
            f"{_WHERE} has temperature {temperature:g} and weights: state one of them, since the "
            "temperature makes weights of the sources' sizes"
        )
    if without:
        raise UserError(
            f"{_WHERE}: sources.{without[0]} has no weight and others have: give each one, or none"
        )
    return [options["weight"] for options in parsed.values()]
