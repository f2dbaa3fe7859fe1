"""Search in a collection of pictures: `python tools/search.py pictures.db "海边的猫" -k 20`."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ernie_vil2 import cli, runtime
from ernie_vil2.errors import UserError

if TYPE_CHECKING:
    from ernie_vil2.search.collection import Collection, Filter
    from ernie_vil2.search.query import Query
    from ernie_vil2.search.results import Found, Group
    from ernie_vil2.search.searcher import Searcher

LINE = "# probably not: half of random queries find better"
_EXAMPLES = """examples:
  search.py pictures.db 海边的猫
  search.py pictures.db "cat.jpg + 2:雪 - 人" -k 50
  search.py pictures.db 雪 --folder ~/Pictures/2024 --after 2024-01 --before 2024-03
  search.py pictures.db 猫 -0 --min 0.9 | xargs -0 cp -t found
A query is a text or a picture's file, or several, joined by + and - between spaces; 2: in front of
one is its weight; what is in double quotes is text. docs/search.md has the rest."""


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Search a collection of pictures in words or by pictures.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("db", help="the collection that tools/index.py made")
    add("query", nargs="*", metavar="QUERY", help="several words are one query")
    add("--similar", metavar="PATH|ID", help="pictures like this one of the collection")
    add("--duplicates", action="store_true", help="list groups of near-duplicates")
    add("-k", type=cli.whole(1, 100_000), default=20, help="at most so many hits (%(default)s)")
    add(
        "--min",
        type=cli.share,
        metavar="R",
        help="hide hits of a relevance below R: the share of random queries, 0 to 1, whose best "
        "hit stands out less",
    )
    add("--no-fold", action="store_true", help="list near-duplicates too, each as a hit")
    add("--model", metavar="EXPORTED", help="folder of the model (the one of tools/index.py)")
    _add_filters(parser.add_argument_group("which pictures are looked at"))
    _add_forms(parser.add_argument_group("form"))
    return parser


def _add_filters(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--folder", help="those in it and in the folders below")
    group.add_argument(
        "--after",
        metavar="DATE",
        help="taken then or later: 2024, 2024-05, 2024-05-01 or 2024-05-01T18:30, in UTC unless it "
        "ends in its zone, as +08:00",
    )
    group.add_argument("--before", metavar="DATE", help="taken before the beginning of that")
    group.add_argument(
        "--tag", action="append", default=[], help="with this tag; if given again with all of them"
    )


def _add_forms(group: argparse._ArgumentGroup) -> None:
    form = group.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object")
    form.add_argument(
        "-0", "--null", action="store_true", help="paths alone, NUL after each, for xargs -0"
    )


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    # no option begins so: a text that does is not taken for one
    argv = [f" {x}" if re.match(r"-([^\x00-\x7f]|[1-9])", x) else x for x in argv]
    args = arguments().parse_intermixed_args(argv)
    _check(args)
    runtime.prepare()
    from ernie_vil2.search.open import open_collection
    from ernie_vil2.search.searcher import Searcher
    from ernie_vil2.serving.collection_model import CollectionModel

    where = _where(args)
    query = None if args.duplicates else _query(args)
    with contextlib.closing(open_collection(args.db)) as collection:
        _tell_progress(collection)
        searcher = Searcher(collection, CollectionModel(collection, args.model))
        if query is None:
            _print_groups(args, searcher.duplicates(where))
            return 0
        found = searcher.search(query, args.k, 0, where, args.min, not args.no_fold)
        _print_found(args, found)
        _keep(args.db, searcher)
    return 0


def _check(args: argparse.Namespace) -> None:
    asked = [bool(args.query), args.similar is not None, args.duplicates]
    if sum(asked) != 1:
        raise UserError(
            f"{args.db}: expected one of a query, --similar and --duplicates, not "
            f"{'several' if any(asked) else 'none'} of them"
        )
    if args.duplicates and args.null:
        raise UserError("-0 has no place for groups: take --json with --duplicates")


def _where(args: argparse.Namespace) -> Filter:
    from ernie_vil2.search.collection import Filter
    from ernie_vil2.search.dates import parse_date

    return Filter(
        None if args.folder is None else os.path.realpath(os.path.expanduser(args.folder)),
        None if args.after is None else parse_date(args.after),
        None if args.before is None else parse_date(args.before),
        tuple(args.tag),
    )


def _query(args: argparse.Namespace) -> Query:
    from ernie_vil2.search.collection import picture_id
    from ernie_vil2.search.picture_files import indexed_path, picture_file
    from ernie_vil2.search.query import Query, parse_query

    if args.similar is None:
        return parse_query(" ".join(args.query), picture_file)
    if re.fullmatch("[0-9a-f]{20}", args.similar):
        return Query.like(args.similar)
    return Query.like(picture_id(indexed_path(args.similar)), args.similar)


def _keep(uri: str, searcher: Searcher) -> None:
    """Put down what random queries found, unless another process writes, or nobody may."""
    from ernie_vil2.search.open import open_collection
    from ernie_vil2.search.relevance import NOTE

    kept = searcher.background.kept()
    if kept is None:
        return
    sys.stdout.flush()  # the answer does not wait for it
    with (
        contextlib.suppress(UserError, OSError),
        contextlib.closing(open_collection(uri, write=True)) as collection,
    ):
        collection.note(**{NOTE: kept})


# -- what is printed -------------------------------------------------------------------------------


def _print_found(args: argparse.Namespace, found: Found) -> None:
    if args.json:
        _print_json(found.to_json())
    elif args.null:
        paths = (os.fsencode(hit.picture.path) + b"\0" for hit in found.hits)
        sys.stdout.buffer.writelines(paths)
    else:
        for place, hit in enumerate(found.hits):
            if not hit.likely and (place == 0 or found.hits[place - 1].likely):
                print(LINE)
            folded = f"  (+{len(hit.duplicates)})" if hit.duplicates else ""
            print(f"{hit.cosine:.4f}  {_on_one_line(hit.picture.path)}{folded}")
        if not found.hits:
            print("no picture found", file=sys.stderr)


def _tell_progress(collection: Collection) -> None:
    """Say that not all pictures may be there yet."""
    from ernie_vil2.search.progress import progress_of

    found = progress_of(collection)
    if found is not None:
        print(f"{collection.uri} is being indexed: {found['percent']} %", file=sys.stderr)


def _print_groups(args: argparse.Namespace, groups: Sequence[Group]) -> None:
    if args.json:
        _print_json({"groups": [group.to_json() for group in groups]})
        return
    for place, group in enumerate(groups):
        if place:
            print()
        for picture in group.pictures:
            size = f"{picture.width}x{picture.height}"
            print(f"{size:>11}  {picture.size:>9}  {_on_one_line(picture.path)}")


def _print_json(content: Any) -> None:
    print(json.dumps(content, ensure_ascii=False, indent=1))


def _on_one_line(path: str) -> str:
    """A name may hold a newline, or what a terminal obeys."""
    return "".join(x if x.isprintable() else x.encode("unicode_escape").decode() for x in path)
