"""Check the GPUs of this machine: `bash tools/gpu_check.sh`, which makes the environment first."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from ernie_vil2 import cli
from ernie_vil2.errors import UserError
from tools.gpu_check import cards
from tools.gpu_check.parts import PARTS, Part, run
from tools.gpu_check.rows import HEAD, Row, Setting, exit_code, line, summary

NO_GPU = "no GPU that Paddle can use: --rehearse runs the checks on the CPU"
_REHEARSED = 2  # processes
_SLACK = 8.0  # a CPU may be slow, and shared


def main(argv: list | None = None) -> int:
    options = _parser().parse_args(argv)
    # so that what a part started is ended with it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    parts = [part for part in PARTS if not options.parts or part.name in options.parts]
    environment = dict(os.environ)
    gpus: tuple[str, ...] = ()
    if not options.rehearse:
        gpus = _chosen(options.gpus, cards.visible(environment))
    with tempfile.TemporaryDirectory(prefix="gpu_check-") as temporary:
        folder = options.keep or Path(temporary)
        setting = Setting(gpus, len(gpus) or _REHEARSED, str(folder.absolute()))
        where = f"{len(gpus)} GPU(s)" if gpus else f"REHEARSAL: the CPU, {_REHEARSED} processes"
        print(f"{where}, {len(parts)} parts\n\n{HEAD}")
        start = time.monotonic()
        found = [(part, row) for part in parts for row in _shown(part, setting, environment)]
        seconds = time.monotonic() - start
    rows = [row for _, row in found]
    code = exit_code(rows)
    print(f"\n{summary(rows)}; {seconds:.0f} s; {options.json}; exit code {code}")
    content = {
        "rehearsal": not gpus,
        "gpus": list(gpus),
        "processes": setting.processes,
        "seconds": round(seconds, 1),
        "exit_code": code,
        "rows": [{"part": part.name, **row._asdict()} for part, row in found],
    }
    options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tools/gpu_check.sh", description=__doc__)
    add = parser.add_argument
    add("--gpus", type=cli.positive, metavar="N", help="use the first N; all by default")
    add("--rehearse", action="store_true", help="run on the CPU, to try the checks themselves")
    add("--json", type=Path, default=Path("gpu_check.json"), help="where the results go")
    add("--keep", type=Path, metavar="FOLDER", help="keep logs and runs there")
    names = [part.name for part in PARTS]
    add("--parts", nargs="+", choices=names, metavar="PART", help=f"of {', '.join(names)}")
    return parser


def _chosen(wanted: int | None, there: tuple[str, ...]) -> tuple[str, ...]:
    if not there:
        raise UserError(NO_GPU)
    if wanted and wanted > len(there):
        raise UserError(f"--gpus {wanted}: Paddle sees {len(there)}, so give at most that")
    return there[:wanted]


def _shown(part: Part, setting: Setting, environment: dict[str, str]) -> Iterable[Row]:
    """The rows of a part, each printed as it comes."""
    slack = 1.0 if setting.on_gpu else _SLACK
    own = setting._replace(folder=str(Path(setting.folder) / part.name))
    rows = []
    for row in run(part, own, environment, slack):
        rows.append(row._replace(check=f"{part.name}: {row.check.removeprefix(part.name + ': ')}"))
        print(line(rows[-1]), flush=True)
    return rows


if __name__ == "__main__":
    sys.exit(cli.run(main))
