"""One part in its process: `python -m tools.gpu_check.part MODULE SETTING ROWS`.

Rows are written as they are found, so that those before a crash are kept.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path

from tools.gpu_check.rows import Check, NotRun, Row, Setting, failed, not_run


def rows_of(checks: Mapping[str, Check], setting: Setting) -> Iterator[Row]:
    """The rows of all checks, with their seconds; one that raises fails, and the next goes on."""
    for title, check in checks.items():
        since = time.perf_counter()

        def stamped(row: Row) -> Row:
            nonlocal since
            start, since = since, time.perf_counter()
            return row._replace(seconds=round(since - start, 2))

        try:
            for row in check(setting):
                yield stamped(row)
        except NotRun as why:
            yield stamped(not_run(title, str(why)))
        except Exception as error:
            traceback.print_exc()
            yield stamped(failed(title, reason(f"{type(error).__name__}: {error}")))


def reason(text: str) -> str:
    """The one line of what a process said that names its error."""
    lines = [line.strip() for line in text.splitlines() if line.strip("- ")]
    named = [line for line in lines if re.match(r"(error: |[\w.]*(Error|Exception)\b)", line)]
    # processes that lost another one tell of that, and not of why
    named = [line for line in named if "gloo/transport" not in line] or named
    told = named[-1] if named else lines[-1] if lines else "it said nothing"
    return told[:300]


def main(module: str, setting: str, rows: str) -> None:
    from ernie_vil2 import runtime

    runtime.prepare()
    fields = json.loads(setting)
    here = Setting(**{**fields, "gpus": tuple(fields["gpus"])})
    checks = importlib.import_module(module).CHECKS
    with open(Path(rows), "a", encoding="utf-8") as file:
        for row in rows_of(checks, here):
            file.write(json.dumps(row._asdict()) + "\n")
            file.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
