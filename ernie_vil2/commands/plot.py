"""Draw the curves of runs: `python tools/plot.py output/demo output/other --out curves`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ernie_vil2.errors import UserError

PAGE = "curves.html"
_ALWAYS = ["train/loss", "eval/mean_recall", "eval/text_to_image/R@10", "eval/image_to_text/R@10"]


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Loss and recall curves of runs as PNG files and one HTML page."
    )
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", help="output folder of a training")
    add("--out", default="curves", metavar="DIR", help="folder to write (%(default)s)")
    add(
        "--names",
        nargs="+",
        metavar="NAME",
        help=f"of metrics.jsonl, or all ({', '.join(_ALWAYS)}, as far as a run has them)",
    )
    return parser


def main(argv: list | None = None) -> int:
    args = arguments().parse_args(argv)

    from ernie_vil2.studies import page, plots
    from ernie_vil2.studies.curves import read_curves

    curves = {}
    for run in map(Path, args.runs):
        curves[str(run)] = read_curves(run)
    there = sorted({name for one in curves.values() for name in one.names})
    names = [name for name in _ALWAYS if name in there]
    if args.names:
        names = there if args.names == ["all"] else args.names
        for name in names:
            if name not in there:
                raise UserError(f"no run has {name}: expected some of {', '.join(there)}")
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        figure = plots.line_plot({label: [one] for label, one in curves.items()}, name)
        plots.png(figure, out / f"{name.replace('/', '_').replace('@', '')}.png")
    page.write_curves_page(out / PAGE, curves, names)
    print(f"{len(names)} plots of {len(curves)} runs: {out / PAGE} and {out}/*.png")
    return 0
