"""The commands of `prepare-data` that go over a whole data set: shard, stats, check, replay."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ernie_vil2 import cli
from ernie_vil2.errors import UserError

if TYPE_CHECKING:
    from ernie_vil2.data.jobs.engine import Engine
    from ernie_vil2.data.jobs.source import Source


def add(commands: Any) -> None:
    """Add them to the sub-commands of a parser."""
    shard = commands.add_parser("shard", help="tar shards without duplicates, from any data set")
    add_source(shard)
    add_job(shard)
    shard.add_argument(
        "--dedup",
        choices=["pair", "image", "none"],
        default="pair",
        help="of records with equal bytes of picture and captions, or of picture alone, the first "
        "stays (%(default)s)",
    )
    shard.add_argument(
        "--near",
        type=cli.whole(0, 15),
        metavar="BITS",
        help="also drop pictures that look like an earlier one: at most so many of the 64 bits of "
        "their dHash differ",
    )
    shard.add_argument(
        "--side",
        type=cli.positive,
        metavar="PIXELS",
        help="pictures with a longer side are written anew, as JPEGs of this longer side",
    )
    shard.add_argument(
        "--quality", type=cli.whole(1, 100), default=90, help="of these JPEGs (%(default)s)"
    )
    size = shard.add_mutually_exclusive_group()
    size.add_argument("--records", type=cli.positive, metavar="N", help="of a shard")
    size.add_argument(
        "--megabytes", type=cli.positive, default=256, help="of a shard, about (%(default)s)"
    )
    shard.set_defaults(run=shard_command)


def add_source(parser: argparse.ArgumentParser) -> None:
    """Add `-c` with `-o`, and `--dataset`: where the records come from."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "-c",
        "--config",
        metavar="FILE",
        help="configuration whose DataLoader.Train.dataset to read",
    )
    source.add_argument(
        "--dataset",
        nargs="+",
        metavar="KEY=VALUE",
        help="the data set itself, such as name=tsv path=train.tsv",
    )
    parser.add_argument(
        "-o",
        "--override",
        action="extend",
        nargs="+",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="override keys of the configuration",
    )
    parser.add_argument(
        "--eval",
        action="store_true",
        help="read as an evaluation does, of a configuration DataLoader.Eval.dataset",
    )


def add_job(parser: argparse.ArgumentParser) -> None:
    """Add `--out`, `--restart`, `--processes`, `--engine` and `--piece`."""
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--restart", action="store_true", help="begin anew where DIR holds a job, done or not"
    )
    parser.add_argument(
        "--processes",
        type=cli.whole(0, 9999),
        metavar="N",
        help="at a time (a core each); 0: no process of its own",
    )
    parser.add_argument(
        "--engine",
        choices=["local", "ray"],
        default="local",
        help="where: on this machine, or on a Ray cluster that shares DIR (%(default)s)",
    )
    parser.add_argument(
        "--piece",
        type=cli.positive,
        metavar="N",
        help="records that are done or not done as a whole (1000 or more)",
    )


def source_of(args: argparse.Namespace) -> Source:
    """What `add_source`'s arguments name."""
    from ernie_vil2.data.jobs import source

    if args.config:
        return source.from_config(args.config, args.override, args.eval)
    if args.override:
        raise UserError("-o changes a configuration: give its file with -c, or leave -o out")
    return source.from_options(args.dataset, args.eval)


def engine_of(args: argparse.Namespace) -> Engine:
    """What `add_job`'s arguments name."""
    from ernie_vil2.data.jobs.engine import Engine

    return Engine(args.engine, args.processes)


def shard_command(args: argparse.Namespace) -> None:
    from ernie_vil2.data.jobs.shard import Options, write_shards

    options = Options(
        dedup=args.dedup,
        near=args.near,
        side=args.side,
        quality=args.quality,
        records=args.records,
        size=args.megabytes << 20,
        piece=args.piece,
    )
    out = Path(args.out)
    manifest = write_shards(source_of(args), out, options, engine_of(args), args.restart)
    skipped = manifest["skipped"]
    print(
        f"{manifest['records']} of {manifest['source']['records']} records in "
        f"{len(manifest['shards'])} shards, {manifest['bytes'] / 1e6:.1f} MB, in {out}; left out: "
        f"{skipped['bad']} bad, {skipped['same']} repeated, {skipped['near']} near duplicates"
    )
