"""Evaluate retrieval: `python tools/eval.py -c configs/demo.yaml -w output/demo`."""

from __future__ import annotations

import argparse

from ernie_vil2 import cli
from ernie_vil2.config.load import load_config
from ernie_vil2.evaluation.pipeline import evaluate


def arguments() -> argparse.ArgumentParser:
    parser = cli.parser("Evaluate image-text retrieval on the set of DataLoader.Eval.")
    add = parser.add_argument
    cli.add_weights(parser)
    add("--out", metavar="DIR", help="for report.json and page.html (Global.output_dir/eval)")
    add("--examples", type=int, default=12, help="queries of each kind on the page")
    add(
        "--predictions",
        metavar="FILE",
        help="write the images found for each text in Chinese-CLIP's JSONL, and the texts of each "
        "image beside it, for a.jsonl in a.tr.jsonl",
    )
    add(
        "--skip-bad",
        action="store_true",
        help="leave rows out that cannot be read, and name them in bad_records.jsonl of --out",
    )
    return parser


def main(argv: list | None = None) -> int:
    args = arguments().parse_args(argv)
    if args.examples < 0:
        raise cli.UserError(f"--examples is {args.examples}: expected 0 or more queries")
    config = load_config(args.config, args.override)
    if config.DataLoader.Eval is None:
        raise cli.UserError(f"{args.config} has no DataLoader.Eval: name the set to evaluate on")
    evaluate(
        args.weights,
        config,
        args.out,
        examples=args.examples,
        predictions=args.predictions,
        skip_bad=args.skip_bad,
    )
    return 0
