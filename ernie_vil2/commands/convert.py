"""Convert weights between the official code's, PaddleNLP's and our own format."""

from __future__ import annotations

import argparse

from ernie_vil2.weights.conversion import FORMATS, convert


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add(
        "--from",
        dest="source",
        required=True,
        metavar="PATH",
        help="official .pdparams; a folder: PaddleNLP's ErnieViLModel or a checkpoint of ours; or "
        "a name that PaddleNLP has released, as ernie_vil-2.0-base-zh (downloaded)",
    )
    add(
        "-c",
        "--config",
        metavar="FILE",
        help="YAML with Arch; needed for an official file, and for another img_size",
    )
    add("--to", required=True, choices=FORMATS)
    add("--out", required=True, metavar="PATH", help="a folder; for official the .pdparams file")
    add("--partial", action="store_true", help="convert although keys are missing or do not fit")
    add(
        "--force",
        action="store_true",
        help="write into a run folder, over the source, or among other files",
    )
    return parser


def main(argv: list | None = None) -> int:
    args = arguments().parse_args(argv)
    convert(args.source, args.to, args.out, args.config, args.partial, args.force)
    print(f"wrote {args.out}")
    return 0
