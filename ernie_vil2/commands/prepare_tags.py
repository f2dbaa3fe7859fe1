"""The command `prepare-data tag`: tags for every record of a data set, from what finds them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ernie_vil2 import cli
from ernie_vil2.commands import data_jobs
from ernie_vil2.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from ernie_vil2.tagging.tags import Tagger

# What gives tags, and which options belong to it alone.
_KINDS = {
    "detector": ("labels", "model_config", "language"),
    "classifier": ("labels", "model_config", "language"),
    "model": ("vocabulary", "prompts"),
    "captions": ("language",),
}
_OWN = ("labels", "model_config", "language", "vocabulary", "prompts")


def add(commands: Any) -> None:
    """Add it to the sub-commands of a parser."""
    tag = commands.add_parser("tag", help="tags from a detector, captions or a trained model")
    data_jobs.add_source(tag)
    data_jobs.add_job(tag)
    tag.add_argument(
        "--from",
        dest="origin",
        nargs="+",
        required=True,
        metavar=("KIND", "DIR"),
        help="detector DIR (that PaddleDetection exported), classifier DIR (PaddleClas), model DIR "
        "(tools/export.py), or captions",
    )
    tag.add_argument("--threshold", type=score, metavar="X", help="least score (what DIR says)")
    tag.add_argument("--at-most", type=cli.positive, metavar="N", help="tags of a record (any)")
    tag.add_argument(
        "--order",
        choices=["score", "area"],
        default="score",
        help="the surest first, or the largest (%(default)s)",
    )
    tag.add_argument(
        "--language",
        choices=["en", "zh"],
        help="of the tags (en); with captions only those in it (each in its own)",
    )
    tag.add_argument(
        "--labels",
        metavar="FILE",
        help="of the detector or classifier, a line each: name, or name, English and Chinese with "
        "tabs between (what its configuration lists)",
    )
    tag.add_argument("--model-config", metavar="FILE", help="its configuration, if not in DIR")
    tag.add_argument(
        "--vocabulary",
        metavar="FILE",
        help="words for --from model, a line each, or the tags.json of other tags",
    )
    tag.add_argument(
        "--prompts", metavar="FILE", help="templates for these, with {}, a line each (those of DIR)"
    )
    tag.add_argument("--device", default="cpu", help="cpu, gpu or gpu:1 (%(default)s)")
    tag.add_argument(
        "--batch-size", type=cli.positive, default=16, metavar="N", help="pictures (%(default)s)"
    )
    tag.set_defaults(run=tag_command)


def score(text: str) -> float:
    """A score, or a cosine."""
    value = float(text)
    if not -1 <= value <= 1:  # NaN too
        raise argparse.ArgumentTypeError(f"{cli.shortened(text)} is no number from -1 to 1")
    return value


def tag_command(args: argparse.Namespace) -> None:
    from ernie_vil2.data.jobs.engine import Engine
    from ernie_vil2.tagging import job

    tagger, source, out = _tagger(args), data_jobs.source_of(args), Path(args.out)
    engine = data_jobs.engine_of(args)
    if args.device != "cpu" and args.processes is None:  # which share the GPU
        engine = Engine(args.engine, 1)
    summary = job.tag_set(
        out,
        source,
        tagger,
        _options(args, tagger),
        engine,
        args.batch_size,
        args.piece,
        args.restart,
    )
    print(
        f"{summary['tagged']} of {summary['records']} records have tags, of "
        f"{summary['different']} words; {summary['bad']} are bad; tags_file: {out / job.TAGS}"
    )


def _tagger(args: argparse.Namespace) -> Tagger:
    """What `--from` names."""
    from ernie_vil2.artefact.description import read_prompts
    from ernie_vil2.tagging.captions import CaptionTagger
    from ernie_vil2.tagging.classifier import Classifier
    from ernie_vil2.tagging.detector import Detector
    from ernie_vil2.tagging.similarity import SimilarityTagger
    from ernie_vil2.tagging.tags import Choice

    kind, *folder = args.origin
    _check(kind, folder, args)
    choice = Choice(args.threshold, args.at_most, args.order)
    if kind == "captions":
        return CaptionTagger(choice, args.language)
    if kind == "model":
        prompts = read_prompts(args.prompts) if args.prompts else None
        return SimilarityTagger(folder[0], args.vocabulary, choice, prompts, args.device)
    make = Detector if kind == "detector" else Classifier
    return make(
        folder[0],
        choice,
        args.language,
        args.device,
        config=args.model_config,
        label_file=args.labels,
    )


def _check(kind: str, folder: list[str], args: argparse.Namespace) -> None:
    """Raise UserError for options that do not belong together."""
    if kind not in _KINDS:
        raise UserError(f"--from {kind}{did_you_mean(kind, _KINDS)}")
    if len(folder) != (kind != "captions"):
        expected = "no folder" if kind == "captions" else "the folder of one exported model"
        raise UserError(f"--from {' '.join(args.origin)}: expected {expected} after {kind}")
    for name in _OWN:
        if getattr(args, name) is not None and name not in _KINDS[kind]:
            raise UserError(f"--{name.replace('_', '-')} says nothing with --from {kind}")
    if kind == "model" and args.vocabulary is None:
        raise UserError("--from model needs --vocabulary FILE, the words to choose from")
    if args.order == "area" and kind != "detector":
        raise UserError(f"--order area with --from {kind}: only a detector says where things are")


def _options(args: argparse.Namespace, tagger: Tagger) -> dict[str, Any]:
    """What the tags depend on beside the model's weights: options, and the content of files."""
    from ernie_vil2.files import durable

    files = [args.labels, args.vocabulary, args.prompts]
    if hasattr(tagger, "files"):
        files.append(tagger.files.path)
    return {
        "threshold": args.threshold,
        "at_most": args.at_most,
        "order": args.order,
        "language": args.language,
        "contents": [durable.sha256(Path(file)) if file else None for file in files],
    }
