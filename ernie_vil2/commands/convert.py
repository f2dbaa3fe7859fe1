"""Convert weights between the official code's, PaddleNLP's, CLIP's and our own format."""

from __future__ import annotations

import argparse

from ernie_vil2 import cli
from ernie_vil2.weights.conversion import CLIP, FORMATS, convert


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add(
        "--from",
        dest="source",
        required=True,
        nargs="+",
        metavar=("[KIND]", "PATH"),
        help="official .pdparams; a folder: PaddleNLP's ErnieViLModel or a checkpoint of ours; or "
        "a name that PaddleNLP has released, as ernie_vil-2.0-base-zh (downloaded); for weights "
        f"of PyTorch first their kind: {', '.join(CLIP)}",
    )
    add(
        "-c",
        "--config",
        metavar="FILE",
        help="YAML with Arch; needed for an official file, for another img_size, and with "
        "Arch.Text for an image tower alone",
    )
    add("--to", required=True, choices=FORMATS)
    add(
        "--out",
        required=True,
        metavar="PATH",
        help="a folder; for official the .pdparams file, for chinese_clip, openai, open_clip a .pt",
    )
    add("--vocab", metavar="FILE", help="the vocabulary (by default the one beside the weights)")
    add("--merge", action="store_true", help="add LoRA adapters to the weights below them")
    add("--base", metavar="PATH", help="the weights below adapters (by default where they were)")
    add("--partial", action="store_true", help="convert although keys are missing or do not fit")
    add(
        "--force",
        action="store_true",
        help="write into a run folder, over the source, or among other files",
    )
    return parser


def main(argv: list | None = None) -> int:
    args = arguments().parse_args(argv)
    *kinds, source = args.source
    if len(kinds) > 1:
        raise cli.UserError(
            f"--from has {len(args.source)} values: expected a path, or a kind and a path"
        )
    kind = kinds[0] if kinds else None
    convert(
        source,
        args.to,
        args.out,
        args.config,
        args.partial,
        args.force,
        kind,
        args.vocab,
        args.merge,
        args.base,
    )
    print(f"wrote {args.out}")
    return 0
