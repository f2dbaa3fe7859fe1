"""Ends a run whose records mostly cannot be read, instead of training it on next to nothing."""

from __future__ import annotations

import json
import re
from collections import Counter, deque
from pathlib import Path

from ernie_vil2.errors import UserError

_WINDOW = 1000  # records whose share counts
_REASONS = 3  # that the summary names
_PARTICULAR = re.compile(  # numbers and names of files, in a reason
    r"[^\s:,()]*[\d/][^\s:,()]*|[^\s:,()]+\.\w+"
)


class BadShare:
    """Counts, among the last records trained on, those that could not be read; alike on every rank.

    Args:
        bound: the share above which the run ends; None: it never does.
        records: in the training set; a small one is judged after an epoch.
        ledger: the file of bad records, for the summary.
    """

    def __init__(self, bound: float | None, records: int, ledger: str | Path):
        self.bound, self.ledger = bound, Path(ledger)
        self.enough = min(_WINDOW, records)
        self.steps: deque[tuple[int, int]] = deque()  # (bad, all) of each
        self.bad = self.records = 0

    def add(self, bad: int, records: int) -> None:
        """Count a step: of all ranks' `records`, `bad` could not be read."""
        self.steps.append((bad, records))
        self.bad, self.records = self.bad + bad, self.records + records
        while self.records - self.steps[0][1] >= _WINDOW:
            bad, records = self.steps.popleft()
            self.bad, self.records = self.bad - bad, self.records - records

    def check(self, at_end: bool = False) -> None:
        """Raise UserError, with a summary, where too many were bad.

        Args:
            at_end: there will be no more, so that fewer than usual are judged too.
        """
        if self.bound is None or self.records < (1 if at_end else self.enough):
            return
        if self.bad > self.bound * self.records:
            raise UserError(
                f"{self.bad:,} of the last {self.records:,} records could not be read, and "
                f"Faults.bad_share is {self.bound:g}{self._summary()}: mend the files that "
                f"DataLoader.Train.dataset names, or raise the bound; {self.ledger} lists all"
            )

    def _summary(self) -> str:
        """The commonest kinds of reasons, each with an example."""
        kinds: Counter = Counter()
        examples: dict[str, str] = {}
        try:
            with open(self.ledger, encoding="utf-8", errors="replace") as file:
                for line in file:
                    try:
                        entry = json.loads(line)
                        source, reason = entry["source"], entry["reason"]
                    except (ValueError, KeyError, TypeError):
                        continue  # torn by a full disk or a kill
                    kind = _PARTICULAR.sub("...", reason)
                    kinds[kind] += 1
                    examples.setdefault(kind, source)
        except OSError:  # the ledger could not be written
            return ""
        common = kinds.most_common(_REASONS)
        parts = [f"{count} x {kind} ({examples[kind]})" for kind, count in common]
        return f" ({', '.join(parts)})" if parts else ""
