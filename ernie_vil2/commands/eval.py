"""Evaluate retrieval: `python tools/eval.py -c configs/demo.yaml -w output/demo`."""

from __future__ import annotations

import argparse
import dataclasses

from ernie_vil2 import cli
from ernie_vil2.config.load import load_config
from ernie_vil2.evaluation.outputs import Outputs
from ernie_vil2.evaluation.pipeline import evaluate


def arguments() -> argparse.ArgumentParser:
    parser = cli.parser(
        "Evaluate image-text retrieval: a model (-c and -w) on the set of DataLoader.Eval, what an "
        "official YAML names (--official), or files that another program wrote (--read).",
        required=False,
    )
    add = parser.add_argument
    cli.add_weights(parser, required=False)
    add("--official", metavar="YAML", help="evaluate what run_infer.py's flat YAML names")
    add(
        "--read",
        nargs="+",
        metavar="FILE",
        help="score an official dump, features of images and of texts, or predictions",
    )
    add("--answers", metavar="FILE", help="the texts.jsonl that says which images a text has")
    add("--out", metavar="DIR", help="for report.json and page.html (Global.output_dir/eval)")
    add("--examples", type=int, default=12, help="queries of each kind on the page")
    add(
        "--predictions",
        metavar="FILE",
        help="write the images found for each text in Chinese-CLIP's JSONL, and the texts of each "
        "image beside it, for a.jsonl in a.tr.jsonl",
    )
    add(
        "--features",
        metavar="PREFIX",
        help="write PREFIX_imgs.img_feat.jsonl and PREFIX_texts.txt_feat.jsonl, as "
        "extract_features.py of PaddleNLP and of Chinese-CLIP",
    )
    add("--dump", metavar="FILE", help="write embeddings as the official run_infer.py")
    add(
        "--score",
        metavar="FILE",
        help="write the recalls of text to image as Chinese-CLIP's evaluation.py, and those of "
        "image to text beside it, for a.json in a.tr.json",
    )
    add("--muge", metavar="FILE", help="write what MUGE takes: query_id, query_text and item_ids")
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
    outputs = Outputs(args.predictions, args.features, args.dump, args.score, args.muge)
    _check_source(args)
    if args.read:
        from ernie_vil2.evaluation.from_files import evaluate_files

        evaluate_files(args.read, args.answers, args.config, args.override, args.out, outputs)
        return 0
    weights, out = args.weights, args.out
    if args.official:
        from ernie_vil2.evaluation.official_config import read_official

        config, weights, dump = read_official(
            args.official, args.config or "base", args.override, args.weights
        )
        out = out or dump.parent
        outputs = dataclasses.replace(outputs, dump=args.dump or dump)
    else:
        config = load_config(args.config, args.override)
    if config.DataLoader.Eval is None:
        raise cli.UserError(f"{args.config} has no DataLoader.Eval: name the set to evaluate on")
    evaluate(weights, config, out, examples=args.examples, outputs=outputs, skip_bad=args.skip_bad)
    return 0


def _check_source(args: argparse.Namespace) -> None:
    """Refuse options that name no model, or more than one thing to evaluate."""
    if args.read and (args.official or args.weights):
        raise cli.UserError("--read scores files, --official and -w a model: name one of them")
    if not (args.read or args.official):
        for flag, value in (("-c", args.config), ("-w", args.weights)):
            if value is None:
                raise cli.UserError(
                    f"{flag} is missing: name it, or --official YAML, or --read FILE"
                )
    if args.answers and not args.read:
        raise cli.UserError("--answers belongs to --read: the set of DataLoader.Eval has its own")
