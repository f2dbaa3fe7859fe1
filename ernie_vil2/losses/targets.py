"""Which records of all ranks are a row's positives and negatives, by kind of pair.

A pair of views is judged by what the two show: the image, or a text that was drawn for the record
(sources "text", "caption", "tags"). Rows whose `ids` of a source agree show the same.

| pair of        | as in          | positive                   | left out                       |
|----------------|----------------|----------------------------|--------------------------------|
| image, image   | image1-image2  | same image                 | another image, any text equal  |
| image, text    | image1-text1   | same image, or same text   | nothing                        |
| text, text     | text1-text2    | same text                  | another text of the same image |
| two sources    | caption1-tags1 | same text of either source | other texts of the same image  |

All else is a negative, and a record is always its own positive. In a source that has no ids no two
records agree.

The rule behind it: two views are positives where some record of the batch shows just these two. A
picture and the caption that another record also has are such a pair. Two pictures with one caption
are not (alt-texts and lists of tags repeat all the time), but they may well show the same things,
so they are no safe negatives either: what is left out stands in no softmax's denominator, in no
sigmoid's sum, and does not count for the accuracy.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import paddle

from ernie_vil2 import distributed
from ernie_vil2.views import IMAGE, SOURCES, TEXTS

_RECORD = "record"  # a source in which a record agrees with itself alone


class Rule(NamedTuple):
    """A line of the table: agreeing in a source of the first kind is positive, else of the second
    left out. Of two kinds of pairs that differ by sources without ids the rules are equal.
    """

    positive: tuple[str, ...]
    left_out: tuple[str, ...]


def _rule(sources: tuple[str, str], known: Iterable[str]) -> Rule:
    positive = (_RECORD, *dict.fromkeys(sources))
    if set(sources) == {IMAGE}:
        left_out = TEXTS
    elif IMAGE in sources:
        left_out = ()
    else:
        left_out = (IMAGE,)
    return Rule(*(tuple(s for s in each if s in known) for each in (positive, left_out)))


def looked_at(sources: tuple[str, str]) -> set[str]:
    """The sources whose ids a pair of these two needs."""
    return set().union(*_rule(sources, SOURCES))


class Targets:
    """The relation of B local rows to the N = WB columns of all ranks, without a B x N mask.

    ids, column_ids: source -> int64 [B], [N], the same sources in both.
    valid, column_valid: bool [B], [N]; what is False is neither anchor, positive nor negative.
    first: the column that is row 0's record; the other rows' follow.
    """

    def __init__(self, ids: Mapping, valid, column_ids: Mapping, column_valid, first: int = 0):
        rows, count = valid.shape[0], column_valid.shape[0]
        records = paddle.arange(count)
        self._rows = {_RECORD: records[first : first + rows], **ids}
        self._columns = {_RECORD: records, **column_ids}
        self.column_valid = column_valid
        # The mean over the valid rows of all ranks is the mean over ranks of these weighted sums.
        total = column_valid.astype("float32").sum().clip(min=1.0)
        self.row_weight = valid.astype("float32") * (count / rows / total)  # [B]

    @classmethod
    def gather(cls, ids: Mapping, rows: int, valid: paddle.Tensor | None) -> Targets:
        """Of this rank's `rows` records and those of all ranks, in one collective.

        ids: source -> int64 [B], maybe of none. valid None: all are valid.
        """
        if valid is None:
            valid = paddle.ones([rows], dtype="bool")
        keys = paddle.stack([*ids.values(), valid.astype("int64")], axis=1)  # [B, K + 1]
        columns = distributed.all_gather(keys).unbind(1)  # (K + 1) x [WB]
        column_ids, column_valid = dict(zip(ids, columns)), columns[-1].astype("bool")
        return cls(ids, valid, column_ids, column_valid, distributed.rank() * rows)

    def rule(self, sources: tuple[str, str]) -> Rule:
        """That of a pair of views of these two sources, given which ids are known."""
        return _rule(sources, self._rows)

    def masks(self, rule: Rule) -> tuple[paddle.Tensor, paddle.Tensor]:
        """The positives, bool [B, N], and the positives and negatives, [B, N] or [N] for each row.

        Both of valid columns alone.
        """
        positive = self._agree(rule.positive, self._columns)
        if not rule.left_out:
            return positive & self.column_valid, self.column_valid
        left_out = self._agree(rule.left_out, self._columns) & ~positive
        return positive & self.column_valid, self.column_valid & ~left_out

    def entries(self, columns: paddle.Tensor, rules: Iterable[Rule]) -> dict[Rule, list[tuple]]:
        """Rule -> [positives, left out] of the block [B, C] of `columns`, int64 [C].

        Each is (row, place in the flattened block), int64 [P] both, P the number of such entries.
        Valid or not: who asks leaves out columns that are not.
        """
        sources = dict.fromkeys(s for rule in rules for each in rule for s in each)
        ids = {source: self._columns[source].gather(columns) for source in sources}
        place = self._agree(sources, ids).flatten().nonzero().flatten()  # the few that matter
        row, column = place // len(columns), place % len(columns)
        if _is_empty(place):
            return {rule: [(row, place), (row, place)] for rule in rules}
        agree = {s: self._rows[s].gather(row) == ids[s].gather(column) for s in sources}  # [P]
        found = {}
        for rule in rules:
            positive = _any(agree[source] for source in rule.positive)
            left_out = [agree[source] & ~positive for source in rule.left_out]
            which = positive, _any(left_out) if left_out else paddle.zeros_like(positive)
            found[rule] = [_picked(row, place, each) for each in which]
        return found

    def _agree(self, sources: Iterable[str], ids: Mapping) -> paddle.Tensor:
        """bool [B, C]: rows and columns that agree in any of `sources`; ids: source -> [C]."""
        return _any(self._rows[source].unsqueeze(1) == ids[source] for source in sources)


def _any(masks: Iterable[paddle.Tensor]) -> paddle.Tensor:
    return functools.reduce(paddle.logical_or, masks)


def _picked(row: paddle.Tensor, place: paddle.Tensor, which: paddle.Tensor) -> tuple:
    """Those entries of which `which` is True."""
    index = which.nonzero().flatten()
    if index.shape[0] == place.shape[0]:
        return row, place
    return (index, index) if _is_empty(index) else (row.gather(index), place.gather(index))


def _is_empty(entries: paddle.Tensor) -> bool:
    """Whether to do without: paddle 2.6 has no index_add of nothing, a GPU no empty grid."""
    return entries.shape[0] == 0
