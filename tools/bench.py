#!/usr/bin/env python
"""Tables of what is exact, what it costs, how fast it is: `python tools/bench.py loss`."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import data, index, inference, loss, records, scale, search, step

from ernie_vil2 import cli, runtime
from ernie_vil2.errors import UserError

BENCHMARKS = {
    "loss": loss,
    "scale": scale,
    "inference": inference,
    "data": data,
    "step": step,
    "records": records,
    "index": index,
    "search": search,
}


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="|".join(BENCHMARKS))
    for name, benchmark in BENCHMARKS.items():
        about = benchmark.ABOUT
        command = commands.add_parser(name, description=about, help=about)
        command.add_argument(
            "--json", type=Path, metavar="FILE", help="write the raw numbers there"
        )
        command.add_argument(
            "--quick", action="store_true", help="tiny sizes: a try of the command"
        )
        benchmark.add_arguments(command)
    options = parser.parse_args(argv)
    benchmark = BENCHMARKS[options.command]
    if options.quick:
        vars(options).update(benchmark.QUICK)
    if options.json and not options.json.absolute().parent.is_dir():
        raise UserError(f"--json {options.json}: there is no such folder, make it first")
    benchmark.check(options)
    if not sys.platform.startswith("linux"):
        raise UserError("memory is read from /proc: run it on Linux")
    runtime.prepare()

    from benchmarks.common import Report

    settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items()}
    report = Report(settings)
    benchmark.run(report, options)
    if options.json:
        report.write(options.json)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
