"""Make the demo set (emoji), a vocabulary from your own texts (vocab), a data set of published
captions and a folder of pictures (captions), or go over a whole data set: write it as shards,
measure it, check it, look at its bad records, find tags (shard, stats, check, replay, tag)."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ernie_vil2 import cli
from ernie_vil2.commands import data_jobs, prepare_tags
from ernie_vil2.errors import UserError
from ernie_vil2.files import durable
from ernie_vil2.files.user_cache import user_cache

ROOT = Path(__file__).resolve().parents[2]


def cache_folder() -> Path:
    """Where downloads are kept: in a clone in its data folder, else where the user keeps others."""
    if (ROOT / "setup.py").is_file():
        return ROOT / "data" / ".cache"
    return user_cache()


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    emoji = commands.add_parser("emoji", help="the demo set: emoji drawn by four makers")
    emoji.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    emoji.add_argument(
        "--languages", nargs="+", default=["zh", "en"], metavar="LANG", help="of zh and en"
    )
    emoji.add_argument("--limit", type=cli.positive, metavar="N", help="only the first N emoji")
    emoji.add_argument(
        "--packages", metavar="DIR", help="folder that holds the npm tarballs: download nothing"
    )
    emoji.add_argument(
        "--cache",
        default=str(cache_folder()),
        metavar="DIR",
        help="where downloads are kept (default: %(default)s)",
    )
    emoji.set_defaults(run=emoji_command)

    vocab = commands.add_parser("vocab", help="a WordPiece vocabulary from your texts")
    vocab.add_argument("--out", required=True, metavar="FILE", help="vocabulary to write")
    vocab.add_argument(
        "--size", type=cli.positive, default=8000, help="tokens at most (%(default)s)"
    )
    vocab.add_argument(
        "--input",
        nargs="+",
        required=True,
        metavar="FILE",
        help="what training reads (.tsv, .jsonl, .json, .tar, .parquet, .arrow, an LMDB's data.mdb "
        "of pairs: captions and tags), or plain text (.txt)",
    )
    vocab.set_defaults(run=vocab_command)
    add_captions(commands)
    data_jobs.add(commands)
    prepare_tags.add(commands)
    return parser


def add_captions(commands: Any) -> None:
    """Add `captions` to the sub-commands of a parser."""
    captions = commands.add_parser(
        "captions", help="lines for {name: folder, ...} from captions as Flickr30k-CN, COCO-CN ..."
    )
    captions.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="lines ID#0 CAPTION (Flickr30k, Flickr30k-CN, COCO-CN), or AI Challenger's .json",
    )
    captions.add_argument(
        "--images", required=True, metavar="DIR", help="the pictures lie below it, as ID.jpg"
    )
    captions.add_argument("--out", required=True, metavar="FILE", help="JSONL to write")
    captions.add_argument("--only", metavar="FILE", help="ids of the pictures to take, one a line")
    captions.add_argument(
        "--limit", type=cli.positive, metavar="N", help="only the first N pictures"
    )
    captions.add_argument(
        "--segmented", action="store_true", help="words stand apart, as in seg.*: join them"
    )
    captions.set_defaults(run=captions_command)


def emoji_command(args: argparse.Namespace) -> None:
    from ernie_vil2.demo import emoji

    print(emoji.prepare(args.out, args.cache, args.packages, args.languages, args.limit))


def vocab_command(args: argparse.Namespace) -> None:
    from ernie_vil2.data import vocab
    from ernie_vil2.data.formats import rows, texts

    inputs, out = rows.files(args.input), Path(args.out)
    if any(out.exists() and out.samefile(path) for path in inputs):
        raise UserError(f"--out {out} is also an --input, which it would replace: name another")
    parts = (text for path in inputs for text in texts.read_texts(path))
    tokens = vocab.build_vocab(parts, args.size)
    with durable.replacing(out) as draft:
        draft.write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
    print(f"{len(tokens)} tokens in {args.out}")


def captions_command(args: argparse.Namespace) -> None:
    from ernie_vil2.data import caption_files
    from ernie_vil2.data.formats import rows

    only = caption_files.read_ids(args.only) if args.only else None
    done = caption_files.write_folder_rows(
        rows.files(args.files), args.images, Path(args.out), only, args.limit, args.segmented
    )
    print(
        f"{done.images} pictures with {done.captions} captions in {args.out}; left out: "
        f"{len(done.missing)} pictures that are not below {args.images}, {len(done.bad)} lines "
        "that are no captions"
    )
    for what, found in (("not there", done.missing), ("no caption", done.bad)):
        if found:
            print(f"the first that is {what}: {found[0]}")


def main(argv: Sequence[str] | None = None) -> int | None:
    args = arguments().parse_args(argv)
    return args.run(args)
