"""Average weights: `python tools/merge.py output/base output/finetuned --out merged`."""

from __future__ import annotations

import argparse

from ernie_vil2 import cli, runtime
from ernie_vil2.errors import UserError
from ernie_vil2.weights.conversion import check_out

_ALPHA = 0.5  # what WiSE-FT takes where no set chooses
_LINE = [i / 10 for i in range(11)]


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Average the weights of models of one architecture: between two of them "
        "(--alpha; WiSE-FT), or a soup of many (--soup)."
    )
    add = parser.add_argument
    add(
        "models",
        nargs="+",
        metavar="WEIGHTS",
        help="what ernie_vil2.load takes: a checkpoint or run folder, a .pdparams, a released "
        "name; of two the first is alpha 0, as the model before fine-tuning",
    )
    add("--out", required=True, metavar="DIR", help="folder to write, a checkpoint of ours")
    add("--alpha", type=cli.share, metavar="A", help=f"share of the second model ({_ALPHA})")
    add(
        "--soup",
        choices=("uniform", "greedy"),
        help="the mean of all; or of those that the first set of --eval chooses",
    )
    add(
        "--eval",
        dest="sets",
        nargs="+",
        default=[],
        metavar="CONFIG",
        help="configurations with a DataLoader.Eval each, as of the new and of an old set: a page "
        "shows recalls on them along the line between two models",
    )
    add(
        "--alphas",
        nargs="+",
        type=cli.share,
        metavar="A",
        help="where on the line to evaluate (0 0.1 ... 1)",
    )
    add("-c", "--config", metavar="FILE", help="YAML with Arch, for an official file")
    cli.add_override(parser)
    add("--force", action="store_true", help="write into a run folder, or among other files")
    return parser


def main(argv: list | None = None) -> int:
    args = arguments().parse_args(argv)
    _check(args)
    for source in args.models:
        check_out(args.out, "ernie_vil2", source, args.force)
    runtime.prepare()  # before Paddle

    from ernie_vil2.studies.merging import Merger

    merger = Merger.of(args.models, args.config, args.sets, args.override, print)
    if args.soup:
        found = merger.uniform() if args.soup == "uniform" else merger.greedy()
    else:
        alpha = _ALPHA if args.alpha is None else args.alpha
        found = merger.line(alpha, args.alphas or _LINE)
    merger.save(args.out, found)
    print(f"wrote {args.out}")
    return 0


def _check(args: argparse.Namespace) -> None:
    """Refuse options that contradict one another."""
    count = len(args.models)
    if count < 2:
        raise UserError("one model alone is named: name two or more to average")
    if count > 2 and not args.soup:
        raise UserError(f"{count} models are named, and --alpha is between two: add --soup uniform")
    if args.soup and (args.alpha is not None or args.alphas):
        raise UserError("--soup has equal shares: leave --alpha and --alphas out")
    if args.soup == "greedy" and not args.sets:
        raise UserError("--soup greedy needs a set that chooses: name its configuration in --eval")
    if args.alphas and not args.sets:
        raise UserError("--alphas are where --eval evaluates: name a configuration there")
    if args.override and not args.sets:
        raise UserError("-o changes the configurations of --eval: name one there")
