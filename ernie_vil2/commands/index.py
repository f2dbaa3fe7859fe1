"""Index folders of pictures, so that `tools/search.py` and `tools/serve.py --db` find them. Again:
only what changed. No network is used, and nothing is written into the folders."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ernie_vil2 import cli, runtime
from ernie_vil2.errors import UserError

if TYPE_CHECKING:
    from ernie_vil2.artefact.folder import Artefact
    from ernie_vil2.search.batches import Embed
    from ernie_vil2.search.collection import Collection
    from ernie_vil2.search.indexer import Indexer, Summary

BAD = "bad.jsonl"
_MOST = 16  # threads that read and decode, unless more are asked for


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("exported", metavar="EXPORTED", help="folder that tools/export.py wrote")
    parser.add_argument(
        "folders",
        nargs="*",
        metavar="FOLDER",
        help="with pictures, and those below it (the folders, and options for them, of last time)",
    )
    parser.add_argument(
        "--db",
        required=True,
        metavar="DB",
        help="the collection: a folder to keep it in, or http://HOST:19530/NAME of a Milvus server",
    )
    _add_what(parser)
    parser.add_argument(
        "--rebuild",
        action="store_true",
        help="make the collection anew, of all its folders, beside the old one, which is searched "
        "meanwhile; needed for another model",
    )
    parser.add_argument(
        "--watch", action="store_true", help="go on, and index what changes, until Ctrl-C"
    )
    parser.add_argument(
        "--interval",
        type=cli.whole(1, 86_400),
        default=30,
        metavar="SECONDS",
        help="between two looks of --watch (%(default)s)",
    )
    parser.add_argument(
        "--bad",
        type=Path,
        metavar="FILE",
        help=f"where what cannot be read is listed ({BAD} in DB; of a Milvus server NAME.{BAD})",
    )
    _add_model(parser)
    return parser


def _add_what(parser: argparse.ArgumentParser) -> None:
    """Which pictures, and what is kept of them."""
    parser.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="GLOB",
        help="leave out what fits, as in .gitignore: screenshots, *.gif, 2019/raw, **/drafts/; may "
        "be given again",
    )
    parser.add_argument(
        "--follow-links", action="store_true", help="go into folders that symbolic links lead to"
    )
    parser.add_argument(
        "--tags-file",
        type=Path,
        metavar="FILE",
        help='lines {"id": path, "tags": [...]}, as of tools/prepare_data.py tag; the path is '
        "absolute or begins in FOLDER",
    )
    parser.add_argument(
        "--allow-empty",
        action="store_true",
        help="a FOLDER that is empty or gone takes its pictures out of the collection; else it is "
        "taken for a disk that is not there",
    )


def _add_model(parser: argparse.ArgumentParser) -> None:
    cli.add_running(parser)
    parser.add_argument(
        "--threads", type=cli.whole(1, 1024), metavar="N", help="of the model (all usable cores)"
    )
    parser.add_argument(
        "--workers",
        type=cli.whole(1, 256),
        metavar="N",
        help=f"threads that read and decode (one for each core, at most {_MOST})",
    )
    parser.add_argument(
        "--batch-size",
        type=cli.whole(1, 4096),
        default=64,
        metavar="N",
        help="pictures of a run of the model, at most: no more than it does in a second "
        "(%(default)s)",
    )


def main(argv: list[str] | None = None) -> int:
    args = arguments().parse_intermixed_args(argv)
    _check(args)
    runtime.prepare()
    warnings.filterwarnings("ignore", module=r"PIL\.")  # what is bad is listed
    from ernie_vil2.artefact.folder import Artefact
    from ernie_vil2.search import folders
    from ernie_vil2.search.searcher import calibrate
    from ernie_vil2.search.watch import watch
    from ernie_vil2.serving.collection_model import CollectionModel

    options = folders.folder_options(args.exclude, args.follow_links, args.tags_file)
    wanted = dict.fromkeys(folders.real_paths(args.folders), options)
    artefact = Artefact.open(args.exported)
    artefact.program("image", args.precision)
    bad = _bad_path(args, args.db)
    with _terminable(), _opened(args, artefact, wanted) as collection:
        indexer = _indexer(args, artefact, collection, wanted)
        if args.watch:
            watch(indexer, collection, args.interval, lambda x: print(_told(x, bad), flush=True))
            print("stopped")
            return 0
        summary = indexer.update()
        found = collection.optimize()
        # or the first search would have to
        calibrate(collection, CollectionModel(collection, args.exported))
    print(_told(summary, bad))
    if found["index"]:
        print(f"index {found['index']}, recall@10 {found['recall']:.3f} against exact search")
    return 0


def _check(args: argparse.Namespace) -> None:
    """Raise UserError for arguments that do not belong together."""
    if args.rebuild and args.watch:
        raise UserError("--rebuild ends when all is made anew: run it first, and --watch after it")
    if not args.folders and (args.exclude or args.follow_links or args.tags_file):
        raise UserError(
            "--exclude, --follow-links and --tags-file are of the folders that are named with "
            "them: name a FOLDER"
        )
    if args.rebuild and "://" in args.db:
        raise UserError(
            f"--rebuild: {args.db} lies on a server: index into a collection of another name "
            "there, and search that one"
        )


@contextlib.contextmanager
def _opened(
    args: argparse.Namespace, artefact: Artefact, wanted: dict[str, Any]
) -> Iterator[Collection]:
    """The collection to write to; `wanted` gets the folders that it remembers, if any are needed.

    Raises:
        UserError: also where it would be made of nothing.
    """
    from ernie_vil2.search.folders import remember, remembered
    from ernie_vil2.search.identity import model_identity
    from ernie_vil2.search.open import open_collection
    from ernie_vil2.search.rebuild import rebuilt

    on_server = "://" in args.db
    is_new = not on_server and not os.path.exists(args.db)
    if is_new and not wanted:
        raise UserError(f"{args.db}: there is no such collection yet: name a FOLDER to index")
    for path in wanted:
        if is_new and not os.path.isdir(path):
            raise UserError(f"{path} is no folder: name one that holds pictures")
    identity, dim = model_identity(artefact), artefact.embed_dim
    if args.rebuild and not is_new:
        wanted.update({**remembered(_notes(args.db)), **wanted})
        opened: Any = rebuilt(args.db, identity, dim)
    else:
        opened = contextlib.closing(open_collection(args.db, identity, dim=dim, write=True))
    with opened as collection:
        if not wanted:
            wanted.update(remembered(collection.notes))
        if not wanted:
            raise UserError(f"{args.db} remembers no folder: name a FOLDER to index")
        remember(collection, wanted)
        # so that tools/search.py need not be told
        exported = os.path.realpath(args.exported)
        if collection.notes.get("exported") != exported:
            collection.note(exported=exported)
        yield collection


def _notes(uri: str) -> Mapping[str, Any]:
    """Of a collection that may be of any model, or damaged, for which it is made anew."""
    from ernie_vil2.search.open import open_collection

    with contextlib.suppress(UserError), contextlib.closing(open_collection(uri)) as collection:
        return dict(collection.notes)
    return {}


def _indexer(
    args: argparse.Namespace, artefact: Artefact, collection: Collection, wanted: Mapping[str, Any]
) -> Indexer:
    from ernie_vil2.search.bad import BadPictures
    from ernie_vil2.search.batches import Embedder
    from ernie_vil2.search.folders import make_folders
    from ernie_vil2.search.indexer import Indexer

    return Indexer(
        collection,
        make_folders(wanted, args.allow_empty),
        artefact.transform(),
        Embedder(lambda: _model(args, artefact), args.batch_size),
        BadPictures(_bad_path(args, collection.uri)),
        args.workers or min(runtime.usable_cores(), _MOST),
    )


def _model(args: argparse.Namespace, artefact: Artefact) -> Embed:
    """The image tower, compared with its golden vectors; the text tower is not needed."""
    from ernie_vil2.serving.tower import Tower, TowerOptions

    options = TowerOptions(args.precision, args.device, args.threads, args.batch_size)
    tower = Tower(artefact, "image", options)
    tower.verify()
    _take_sigterm()  # from Paddle
    return tower


def _bad_path(args: argparse.Namespace, uri: str) -> Path:
    """Where a collection's bad pictures are listed."""
    if args.bad:
        return Path(args.bad)
    if "://" in uri:
        return Path(f"{uri.rstrip('/').rpartition('/')[2]}.{BAD}")
    return Path(uri) / BAD


def _told(summary: Summary, bad: Path) -> str:
    """What an update did, for people."""
    lines = [str(summary)]
    if summary.bad:
        lines.append(f"what cannot be read, and why: {bad}")
    if summary.foreign:
        kinds = ", ".join(f"{suffix} {count}" for suffix, count in summary.foreign.most_common())
        lines.append(f"in formats that are not read: {kinds}")
    return "\n".join(lines)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Inside, SIGTERM is what Ctrl-C is: what is done is kept."""
    before = signal.getsignal(signal.SIGTERM)
    _take_sigterm()
    try:
        yield
    finally:
        if before is not None:
            _on_sigterm(before)


def _take_sigterm() -> None:
    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    _on_sigterm(interrupt)


def _on_sigterm(action: Any) -> None:
    with contextlib.suppress(ValueError):  # a thread of another program may not
        signal.signal(signal.SIGTERM, action)
