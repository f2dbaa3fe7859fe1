"""Which records of all ranks are a row's positives and negatives, by kind of pair.

A pair of views is judged by what the two show: the image, or a text that was drawn for the record
(sources "text", "caption", "tags"). Rows whose `ids` of a source agree show the same.

| pair of        | as in          | positive                   | left out                       |
|----------------|----------------|----------------------------|--------------------------------|
| image, image   | image1-image2  | same image                 | another image, any text equal  |
| image, text    | image1-text1   | same image, or same text   | nothing                        |
| text, text     | text1-text2    | same text                  | another text of the same image |
| two sources    | caption1-tags1 | same text of either source | other texts of the same image  |

All else is a negative, and a record is always its own positive. In a source without ids no two
records agree.

The rule behind the table: two views are positives where some record of the batch shows just these
two. An image and a caption that another record has too are such a pair. Two images with one caption
are not, since alt-texts and lists of tags repeat all the time. But they may well show the same
things, so they are no safe negatives either, and are left out: of the softmax's denominator, of the
sigmoid's sum and of the accuracy.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

import paddle

from ernie_vil2 import distributed
from ernie_vil2.views import IMAGE, SOURCES, TEXTS

Ids = Mapping[str, paddle.Tensor]  # source -> int64 [B]
Entries = tuple[paddle.Tensor, paddle.Tensor]  # of a block: rows, places in it; int64 [P]

_RECORD = "record"  # a source in which a record agrees with itself alone


class Rule(NamedTuple):
    """A line of the table. Two kinds of pairs have equal rules if only sources without ids differ.

    Attributes:
        positive: rows that agree in one of these sources are positives.
        left_out: rows that do not, but agree in one of these, are left out.
    """

    positive: tuple[str, ...]
    left_out: tuple[str, ...]


def _rule(sources: tuple[str, str], known: Iterable[str]) -> Rule:
    positive = (_RECORD, *dict.fromkeys(sources))
    left_out: tuple[str, ...]
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


class Records:
    """What this rank knows of its B records, and other ranks have to know of them.

    Args:
        ids: source -> int64 [B]; may be empty. All ranks have the same sources.
        valid: bool [B]; what is False is neither anchor, positive nor negative.
    """

    def __init__(self, ids: Ids, valid: paddle.Tensor):
        self.ids, self.valid = ids, valid

    def rule(self, sources: tuple[str, str]) -> Rule:
        """The rule for views of these two sources, given which ids are known."""
        return _rule(sources, [_RECORD, *self.ids])

    def keys(self) -> paddle.Tensor:
        """Ids and validity as they travel to other ranks, int64 [B, K + 1]."""
        return paddle.stack([*self.ids.values(), self.valid.astype("int64")], axis=1)

    def against(self, keys: paddle.Tensor, first: int) -> Targets:
        """The relation of these records to columns whose `keys` have come.

        Args:
            first: the column that is row 0's record, if the others came with it; see `Targets`.
        """
        *ids, valid = keys.unbind(1)  # (K + 1) x [N]
        columns = dict(zip(self.ids, ids))
        return Targets(self.ids, self.valid, columns, valid.astype("bool"), first)

    def row_weight(self, count: int, valid_count: paddle.Tensor) -> paddle.Tensor:
        """Float32 [B], with which rows are added up to this rank's share of the loss.

        The mean over ranks of these sums is the mean over the valid rows of all ranks.

        Args:
            count, valid_count: the records of all ranks, and how many are valid (a float32 scalar).
        """
        rows = self.valid.shape[0]
        return self.valid.astype("float32") * (count / rows / valid_count.clip(min=1.0))

    def gather(self) -> Targets:
        """Their relation to the records of all ranks, in one collective."""
        first = distributed.rank() * self.valid.shape[0]
        return self.against(distributed.all_gather(self.keys()), first)


class Targets:
    """The relation of B local rows to N columns, without a B x N mask.

    Args:
        ids, column_ids: source -> int64 [B], [N], the same sources in both.
        valid, column_valid: bool [B], [N]; what is False is neither anchor, positive nor negative.
        first: the column that is row 0's record; the other rows' follow. Outside of 0 to N - 1
            where the rows are not among these columns.
    """

    def __init__(
        self,
        ids: Ids,
        valid: paddle.Tensor,
        column_ids: Ids,
        column_valid: paddle.Tensor,
        first: int = 0,
    ):
        self.records = Records(ids, valid)
        rows, columns = valid.shape[0], column_valid.shape[0]
        self._rows = {_RECORD: paddle.arange(first, first + rows), **ids}
        self._columns = {_RECORD: paddle.arange(columns), **column_ids}
        self.column_valid = column_valid

    def rule(self, sources: tuple[str, str]) -> Rule:
        """The rule for views of these two sources, given which ids are known."""
        return self.records.rule(sources)

    def valid_columns(self) -> paddle.Tensor:
        """How many of the columns are valid, a float32 scalar."""
        return self.column_valid.astype("float32").sum()

    def row_weight(self) -> paddle.Tensor:
        """That of the records, where the columns are the records of all ranks."""
        return self.records.row_weight(self.column_valid.shape[0], self.valid_columns())

    def masks(self, rule: Rule) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Which columns are positives of a row, and which it sees at all; valid columns alone.

        Returns:
            The positives, bool [B, N]; the positives and negatives, bool [B, N], or [N] where they
            are the same for each row.
        """
        positive = self._agree(rule.positive, self._columns)
        if not rule.left_out:
            return positive & self.column_valid, self.column_valid
        left_out = self._agree(rule.left_out, self._columns) & ~positive
        return positive & self.column_valid, self.column_valid & ~left_out

    def entries(
        self, columns: paddle.Tensor, rules: Collection[Rule]
    ) -> dict[Rule, list[Entries | None]]:
        """The positives, and what is left out, of some columns only.

        Args:
            columns: int64 [C]; the caller passes valid ones alone.

        Returns:
            Rule -> [positives, left out] of the block [B, C], each as (row, place in the flattened
            block), int64 [P] both, where P is the number of such entries; None where it is 0.
        """
        sources = dict.fromkeys(s for rule in rules for each in rule for s in each)
        ids = {source: self._columns[source].gather(columns) for source in sources}
        place = places(self._agree(sources, ids).reshape([-1]))  # the few that matter
        if place is None:
            return {rule: [None, None] for rule in rules}
        row, column = place // len(columns), place % len(columns)
        agree = {s: self._rows[s].gather(row) == ids[s].gather(column) for s in sources}  # [P]
        found = {}
        for rule in rules:
            positive = _any(agree[source] for source in rule.positive)
            found[rule] = [_picked(row, place, positive), None]
            if rule.left_out:
                left_out = _any(agree[source] for source in rule.left_out) & ~positive
                found[rule][1] = _picked(row, place, left_out)
        return found

    def _agree(self, sources: Iterable[str], ids: Ids) -> paddle.Tensor:
        """bool [B, C]: rows and columns that agree in any of `sources`; ids: source -> [C]."""
        return _any(self._rows[source].unsqueeze(1) == ids[source] for source in sources)


def _any(masks: Iterable[paddle.Tensor]) -> paddle.Tensor:
    return functools.reduce(paddle.logical_or, masks)


def places(mask: paddle.Tensor) -> paddle.Tensor | None:
    """Where a bool [n] is True, int64 [P]; None where it nowhere is, for no operator to get that.

    On a GPU the grid of an empty tensor is an error that shows at a later launch.
    """
    found = mask.nonzero()  # [P, 1]
    return found.flatten() if found.shape[0] else None


def _picked(row: paddle.Tensor, place: paddle.Tensor, which: paddle.Tensor) -> Entries | None:
    """The entries for which `which` is True."""
    index = places(which)
    if index is None:
        return None
    all_of_them = index.shape[0] == place.shape[0]
    return (row, place) if all_of_them else (row.gather(index), place.gather(index))
