"""Embed a folder of pictures, a file of texts or any data set with an exported model, and write the
vectors as clip-retrieval does: img_emb/*.npy, text_emb/*.npy, metadata/*.parquet. Interrupted, the
same command goes on where it was."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ernie_vil2 import cli, runtime
from ernie_vil2.commands import data_jobs
from ernie_vil2.errors import UserError

if TYPE_CHECKING:
    from ernie_vil2.data.jobs.source import Source


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("exported", metavar="EXPORTED", help="folder that tools/export.py wrote")
    parser.add_argument(
        "source",
        nargs="?",
        metavar="SOURCE",
        help="a folder of pictures, or a .txt file with a text a line; else -c or --dataset",
    )
    data_jobs.add_source(parser, required=False, override=["--override"])
    data_jobs.add_job(parser, ["-o", "--out"], "1, with all cores", "256 or more; GPU: 4096")
    parser.add_argument(
        "--images",
        action="store_true",
        help="the pictures; with --texts too a row is a caption with its picture's vector beside "
        "(without both: what SOURCE has)",
    )
    parser.add_argument("--texts", action="store_true", help="the captions, a row each")
    parser.add_argument(
        "--dtype",
        choices=["float32", "float16", "int8"],
        default="float16",
        help="of the numbers; int8: whole multiples of the scale in manifest.json (%(default)s)",
    )
    parser.add_argument(
        "--rows",
        type=cli.positive,
        default=100_000,
        metavar="N",
        help="of a file, at most (%(default)s)",
    )
    parser.add_argument("--jsonl", action="store_true", help="lines of JSON too, in DIR/jsonl")
    cli.add_running(parser)
    parser.add_argument(
        "--threads", type=cli.whole(1, 1024), metavar="N", help="of a process (its share of cores)"
    )
    parser.add_argument(
        "--batch-size",
        type=cli.whole(1, 4096),
        default=32,
        metavar="N",
        help="pictures or texts that the model takes at a time (%(default)s)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    # intermixed: SOURCE may stand behind options too
    args = arguments().parse_intermixed_args(argv)
    _check(args)
    from ernie_vil2.data.jobs.engine import Engine
    from ernie_vil2.embedding import job
    from ernie_vil2.embedding.piece import Model

    source = _source(args)
    # threads change no bit of a vector, so any number of processes writes the same files
    processes = args.processes if args.processes is not None or args.engine == "ray" else 1
    share = 1 if args.engine == "ray" else runtime.usable_cores() // max(1, processes or 1)
    model = Model(
        str(Path(args.exported).resolve()),
        args.precision,
        args.device,
        args.threads or max(1, share),
        args.batch_size,
    )
    towers = [tower for tower, asked in (("image", args.images), ("text", args.texts)) if asked]
    options = job.Options(
        towers or job.towers_of(source), args.dtype, args.rows, args.jsonl, args.piece
    )
    out, engine = Path(args.out), Engine(args.engine, processes)
    made = job.embed_set(out, source, model, options, engine, args.restart)
    left_out = f"; {made['bad']} left out: see {out / job.BAD}" if made["bad"] else ""
    print(
        f"{made['rows']} rows ({' and '.join(made['towers'])}) of {made['number of rows']} records "
        f"in {len(made['shards'])} shard(s), {made['dtype']}, in {out}{left_out}"
    )


def _check(args: argparse.Namespace) -> None:
    """Raise UserError for arguments that do not belong together."""
    if (args.source is None) == (args.config is None and args.dataset is None):
        told = "two sources" if args.source else "no source"
        raise UserError(
            f"{told}: give a folder of pictures or a .txt file, or else --dataset or -c"
        )
    if args.source and args.eval:
        raise UserError("--eval goes with --dataset or -c: a folder or a .txt file has one reading")
    if args.engine == "ray" and args.device != "cpu":
        raise UserError(
            f"--engine ray with --device {args.device}: the processes of Ray have cores alone; "
            "leave --engine out to use this machine's GPU"
        )


def _source(args: argparse.Namespace) -> Source:
    if args.source is None:
        return data_jobs.source_of(args)
    if args.override:
        raise UserError("--override changes a configuration: give its file with -c")
    from ernie_vil2.embedding import sources

    return sources.given(args.source)
