"""`tools/train.py --doctor`: what a long run relies on, tried out on the processes as they are."""

from __future__ import annotations

import contextlib
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from ernie_vil2 import distributed
from ernie_vil2.config.load import Config
from ernie_vil2.doctor import checks, figures
from ernie_vil2.doctor.trial import Failed, Row, Skipped, Trial, one_line
from ernie_vil2.errors import UserError
from ernie_vil2.training.runlog import log, start_logging
from ernie_vil2.training.trainer import Trainer
from ernie_vil2.training.watchdog import Watchdog

_CHECKS: dict[str, Callable[[Trial], Row]] = {
    "same start": checks.same_start,
    "different data": checks.different_data,
    "gather": checks.gather,
    "gradients": checks.gradients,
    "logit scale": checks.logit_scale,
    "checkpoint": checks.checkpoint_round_trip,
    "gather speed": figures.gather_speed,
    "reduction speed": figures.reduction_speed,
    "data speed": figures.data_speed,
    "step speed": figures.step_speed,
    "expected speed": figures.expected_speed,
    "memory": figures.memory,
    "disk": figures.disk,
}
_HANG = 900.0  # seconds that a check may take ...
_ALONE = 120.0  # ... after a process raised, since the others may wait in a collective for it
_PAUSE = 5.0  # seconds that rank 0 has to print why, before the launcher ends it


def examine(config: Config) -> int:
    """Print a table on rank 0, a line a check; returns 0, or 1 where one failed.

    Nothing is written but a folder in output_dir, which is removed. Raises UserError as `Trainer`.
    """
    output = Path(config.Global.output_dir)
    existed = output.exists()
    folder = _temporary_folder(output)
    # the launcher sends it when another process ends, and the folder shall not stay
    handler = signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    start_logging(folder, is_main=False)  # warnings on the terminal, and no file
    try:
        there = {"Global": {**config.Global, "output_dir": str(folder)}}
        trainer = Trainer(Config({**config, **there}))
        trainer.watchdog.close()
        failed = _table(Trial(trainer))
        trainer.close()
    finally:
        if distributed.is_main():
            shutil.rmtree(folder, ignore_errors=True)
            if not existed:
                output.rmdir()
        signal.signal(signal.SIGTERM, handler)
    with contextlib.suppress(Exception):  # the first to leave with 1 has the launcher end the rest
        distributed.all_gather_objects(None)
    return 1 if failed else 0


def _temporary_folder(output: Path) -> Path:
    folder, error = output, None
    if distributed.is_main():
        try:
            output.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix=".doctor-", dir=output))
        except OSError as failure:
            error = failure.strerror
    folder, error = distributed.all_gather_objects((folder, error))[0]
    if error:
        raise UserError(f"{output} cannot be written: {error}; choose another Global.output_dir")
    return folder


def _table(trial: Trial) -> bool:
    """Run and print all checks; whether one failed."""
    _print("check", "result", "detail")
    _print("-" * 16, "-" * 14, "-" * 60)
    failed = False
    with Watchdog(_HANG, distributed.rank(), key="--doctor") as watchdog:
        for name, check in _CHECKS.items():
            watchdog.beat(f"check of {name}")
            note = trial.trainer.output / f"{name} raised on {distributed.rank()}"
            row = _outcome(check, trial, watchdog, note)
            try:
                row, lost = _agreed(row), False
            except Exception:  # one process raised while others were in a collective
                row, lost = _first_error(note.parent.glob(f"{name} raised on *"), row), True
            failed |= row.result == "FAIL"
            _print(name, *row)
            if lost:
                time.sleep(0 if distributed.is_main() else _PAUSE)
                break
    return failed


def _outcome(check: Callable, trial: Trial, watchdog: Watchdog, note: Path) -> Row:
    try:
        return check(trial)
    except Skipped as reason:
        return Row("skipped", str(reason))
    except Failed as reason:
        return Row("FAIL", str(reason))
    except Exception as error:
        row = Row("FAIL", one_line(error))
        log.warning("rank %d: %s", distributed.rank(), row.detail, exc_info=True)
        # the others may be where collectives cannot tell them
        watchdog.beat(f"a check that raised {row.detail}", _ALONE)
        with contextlib.suppress(OSError):
            note.write_text(f"rank {distributed.rank()}: {row.detail}")
        return row


def _first_error(notes: Iterable[Path], row: Row) -> Row:
    first = min(notes, key=lambda path: path.stat().st_mtime_ns, default=None)
    why = first.read_text() if first else row.detail
    return Row("FAIL", f"{why}; the processes are out of step, so this is the last check")


def _agreed(row: Row) -> Row:
    """Rank 0's row, or the first that failed."""
    rows = distributed.all_gather_objects(row)
    failed = [rank for rank, row in enumerate(rows) if row.result == "FAIL"]
    if not failed or len(set(rows)) == 1:
        return rows[0]
    return Row("FAIL", f"rank {failed[0]}: {rows[failed[0]].detail}")


def _print(name: str, result: str, detail: str) -> None:
    if distributed.is_main():
        print(f"{name:<16}  {result:<14}  {detail}", flush=True)
