"""Run a study: `python tools/study.py configs/studies/emoji.yaml`."""

from __future__ import annotations

import argparse

from ernie_vil2 import cli
from ernie_vil2.errors import UserError
from ernie_vil2.studies.plan import read_plan


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Train and evaluate the variants of a study with several seeds, and compare "
        "them on a page. What is done is not done again: after an interruption it goes on."
    )
    add = parser.add_argument
    add("study", metavar="FILE", help="YAML; ernie_vil2/studies/plan.py says what it holds")
    add(
        "-p",
        "--parameters",
        action="extend",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="instead of values that FILE gives its parameters, e.g. -p data=photos",
    )
    add("--output-dir", metavar="DIR", help="instead of that of FILE")
    add("--processes", type=cli.positive, default=1, metavar="N", help="runs at a time (1)")
    add("--ranks", type=cli.positive, default=1, metavar="N", help="processes, GPUs, of a run (1)")
    return parser


def main(argv: list | None = None) -> int:
    args = arguments().parse_args(argv)
    plan = read_plan(args.study, dict(map(_parameter, args.parameters)), args.output_dir)

    from ernie_vil2.studies.study import PAGE, SUMMARY, run_study

    summary = run_study(plan, args.processes, args.ranks)
    for budget, numbers in summary.items():
        print(f"\nequal {budget}; %, mean over {len(plan.seeds)} seeds")
        for line in _table(numbers, list(plan.figures)):
            print(line)
    print(f"\n{plan.output_dir / PAGE}, {plan.output_dir / SUMMARY}")
    return 0


def _parameter(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals or not value:
        raise UserError(f'-p {text}: expected NAME=VALUE, e.g. "data=photos"')
    return name, value


def _table(numbers: dict, figures: list[str]) -> list[str]:
    rows = [["", *figures, "steps", "seconds"]]
    for name, row in numbers.items():
        cells = [f"{100 * row['figures'][title]['mean']:.1f}" for title in figures]
        rows.append([name, *cells, f"{row['steps']:.0f}", f"{row['seconds']:.0f}"])
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["   ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
