"""What a check found, as a row of the table."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple


class Row(NamedTuple):
    """One line of the table and of gpu_check.json.

    Attributes:
        value: what was found, a number or a word.
        bound: what was asked for; "" of a figure that is only told.
        passed: None where the check could not run here, for the reason in `note`.
        seconds: since the row before.
    """

    check: str
    value: float | str
    bound: str
    passed: bool | None
    seconds: float = 0.0
    note: str = ""


class NotRun(Exception):
    """Why a check cannot run on this machine, in a line that begins with what it needs."""


NEEDS_GPU = "needs a GPU"


class Setting(NamedTuple):
    """Where and how the checks run.

    Attributes:
        gpus: their labels, as CUDA_VISIBLE_DEVICES has them; () rehearses on the CPU.
        processes: of a launch, one a GPU.
        folder: of this part alone, for what it writes.
    """

    gpus: tuple[str, ...]
    processes: int
    folder: str

    @property
    def on_gpu(self) -> bool:
        return bool(self.gpus)

    @property
    def device(self) -> str:
        """As `Global.device` takes it."""
        return "gpu" if self.gpus else "cpu"

    @property
    def path(self) -> Path:
        """The folder, made."""
        path = Path(self.folder)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def need_gpu(self) -> None:
        """Raises NotRun on a CPU."""
        if not self.on_gpu:
            raise NotRun(NEEDS_GPU)

    def need_processes(self) -> None:
        """Raises NotRun where there is one process."""
        if self.processes < 2:
            raise NotRun("needs 2 GPUs: one is used")


Check = Callable[[Setting], Iterable[Row]]


def at_most(check: str, value: float, bound: float, note: str = "") -> Row:
    """Passed where `value` is a number up to `bound`."""
    return Row(check, float(value), f"<= {bound:g}", bool(value <= bound), note=note)


def at_least(check: str, value: float, bound: float, note: str = "") -> Row:
    """Passed where `value` is a number from `bound` on."""
    return Row(check, float(value), f">= {bound:g}", bool(value >= bound), note=note)


def holds(check: str, passed: bool, value: float | str, bound: str, note: str = "") -> Row:
    """Passed where `passed`."""
    return Row(check, value, bound, bool(passed), note=note)


def figure(check: str, value: float | str, note: str = "") -> Row:
    """A number that is told and not judged."""
    return Row(check, value, "", True, note=note)


def not_run(check: str, why: str) -> Row:
    """Of a check that this machine cannot run."""
    return Row(check, "-", "", None, note=why)


def failed(check: str, why: str, value: float | str = "-") -> Row:
    """Of a check that gave no number to judge."""
    return Row(check, value, "", False, note=why)


def exit_code(rows: Iterable[Row]) -> int:
    """0 where no row failed and one passed at least, else 1."""
    verdicts = [row.passed for row in rows]
    return 0 if True in verdicts and False not in verdicts else 1


HEAD = f"{'check':<58} {'value':>12}  {'bound':<12} {'result':<8} {'s':>6}  note"


def line(row: Row) -> str:
    """A row of the table on the terminal."""
    result = {True: "pass" if row.bound else "-", False: "FAIL", None: "not run"}[row.passed]
    cells = f"{row.check:<58} {_number(row.value):>12}  {row.bound:<12} {result:<8}"
    return f"{cells} {row.seconds:>6.1f}  {row.note}".rstrip()


def summary(rows: Iterable[Row]) -> str:
    """How many rows there are of each kind, and why those did not run that did not."""
    rows = list(rows)
    count = {kind: sum(row.passed is kind for row in rows) for kind in (True, False, None)}
    why: dict[str, int] = {}
    for row in rows:
        if row.passed is None:
            reason = row.note.partition(":")[0]
            why[reason] = why.get(reason, 0) + 1
    reasons = "".join(f"; {number} {reason}" for reason, number in why.items())
    return f"{count[True]} passed or told, {count[False]} FAILED, {count[None]} not run{reasons}"


def _number(value: float | str) -> str:
    if isinstance(value, str):
        return value
    if value and not 1e-3 <= abs(value) < 1e6 and math.isfinite(value):
        return f"{value:.1e}"
    return f"{value:.4g}"
