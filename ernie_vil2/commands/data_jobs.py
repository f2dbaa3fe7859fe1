"""The commands of `prepare-data` that go over a whole data set: shard, stats, check, replay."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
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

    stats = commands.add_parser("stats", help="the numbers of a data set, as JSON and as a page")
    add_source(stats)
    add_job(stats)
    stats.add_argument(
        "--vocab",
        metavar="FILE",
        help="count tokens of this vocabulary (that of the configuration)",
    )
    stats.set_defaults(run=stats_command)

    check = commands.add_parser("check", help="read and decode everything, list what is bad")
    add_source(check)
    add_job(check)
    check.set_defaults(run=check_command)

    replay = commands.add_parser("replay", help="show the records of a ledger again")
    replay.add_argument(
        "ledger", metavar="LEDGER", help="bad_records.jsonl of a run or of check, skipped.jsonl"
    )
    add_source(replay)
    replay.add_argument("--save", metavar="DIR", help="write the pictures' bytes there")
    replay.set_defaults(run=replay_command)


def add_source(
    parser: argparse.ArgumentParser, required: bool = True, override: Sequence[str] = cli.OVERRIDE
) -> None:
    """Add `-c` with `-o`, and `--dataset`: where the records come from.

    Args:
        required: one of both.
        override: what `-o` is called, where that is the output's name.
    """
    source = parser.add_mutually_exclusive_group(required=required)
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
    cli.add_override(parser, override)
    parser.add_argument(
        "--eval",
        action="store_true",
        help="read as an evaluation does, of a configuration DataLoader.Eval.dataset",
    )


def add_job(
    parser: argparse.ArgumentParser,
    out: Sequence[str] = ("--out",),
    processes: str = "a core each",
    piece: str = "1000 or more",
) -> None:
    """Add `--out`, `--restart`, `--processes`, `--engine` and `--piece`.

    Args:
        out: what `--out` is called.
        processes, piece: what there are without these options.
    """
    parser.add_argument(*out, required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--restart", action="store_true", help="begin anew where DIR holds a job, done or not"
    )
    parser.add_argument(
        "--processes",
        type=cli.whole(0, 9999),
        metavar="N",
        help=f"at a time ({processes}); 0: no process of its own",
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
        help=f"records that are done or not done as a whole ({piece})",
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


def stats_command(args: argparse.Namespace) -> None:
    from ernie_vil2.data.jobs import stats

    source, out = source_of(args), Path(args.out)
    report = stats.write_stats(
        source, out, args.vocab, engine_of(args), args.piece, restart=args.restart
    )
    print(
        f"{report['records']} records, {report['bad']['count']} bad rows, "
        f"{report['duplicates']['image and captions']} repeated; {out / stats.REPORT}, "
        f"{out / stats.PAGE}"
    )


def check_command(args: argparse.Namespace) -> int:
    from ernie_vil2.data.jobs.check import LEDGER, check

    out = Path(args.out)
    summary = check(source_of(args), out, engine_of(args), args.piece, args.restart)
    told = f"see {out / LEDGER}" if summary["bad"] else "all can be read"
    print(f"{summary['bad']} of {summary['rows']} records are bad: {told}")
    return 1 if summary["bad"] else 0


def replay_command(args: argparse.Namespace) -> int:
    from ernie_vil2.data.jobs import replay

    lines = replay.read_ledger(Path(args.ledger))
    save = Path(args.save) if args.save else None
    bad = 0
    for line, wrong, about in replay.replay(source_of(args), lines, save):
        bad += wrong is not None
        print(replay.told(line, wrong, about))
    print(f"{bad} of {len(lines)} are still bad")
    return 1 if bad else 0
