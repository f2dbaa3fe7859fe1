"""Evaluate: `python tools/eval.py -c configs/demo.yaml -w output/demo`."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

from ernie_vil2 import cli, runtime
from ernie_vil2.artefact.description import DESCRIPTION
from ernie_vil2.config.load import load_config
from ernie_vil2.evaluation.classify import classify
from ernie_vil2.evaluation.elevater import Submission
from ernie_vil2.evaluation.outputs import Outputs
from ernie_vil2.evaluation.pipeline import Load, evaluate
from ernie_vil2.evaluation.report import DIRECTIONS


def arguments() -> argparse.ArgumentParser:
    parser = cli.parser(
        "Evaluate image-text retrieval or zero-shot classification: a model (-c and -w, or for a "
        "folder of tools/export.py -w alone) on the set of DataLoader.Eval or the pictures of "
        "--images, what an official YAML names (--official), or files that another program wrote "
        "(--read).",
        required=False,
    )
    add = parser.add_argument
    cli.add_weights(parser, required=False)
    add("--task", choices=("retrieval", "classification"), default="retrieval", help="%(default)s")
    _add_classification(add)
    add(
        "--directions",
        nargs="+",
        choices=DIRECTIONS,
        help="of retrieval; text_to_image and image_to_text come together, image_to_image and "
        "text_to_text leave the query itself out (text_to_image image_to_text)",
    )
    add("--official", metavar="YAML", help="evaluate what run_infer.py's flat YAML names")
    add(
        "--read",
        nargs="+",
        metavar="FILE",
        help="score an official dump, features of images and of texts, or predictions",
    )
    add("--answers", metavar="FILE", help="the texts.jsonl that says which images a text has")
    add("--out", metavar="DIR", help="for report.json and page.html (Global.output_dir/eval)")
    add("--examples", type=int, default=12, help="queries of each kind on the page")
    add(
        "--predictions",
        metavar="FILE",
        help="write the images found for each text in Chinese-CLIP's JSONL, and the texts of each "
        "image beside it, for a.jsonl in a.tr.jsonl",
    )
    add(
        "--features",
        metavar="PREFIX",
        help="write PREFIX_imgs.img_feat.jsonl and PREFIX_texts.txt_feat.jsonl, as "
        "extract_features.py of PaddleNLP and of Chinese-CLIP",
    )
    add("--dump", metavar="FILE", help="write embeddings as the official run_infer.py")
    add(
        "--score",
        metavar="FILE",
        help="write the recalls of text to image as Chinese-CLIP's evaluation.py, and those of "
        "image to text beside it, for a.json in a.tr.json",
    )
    add("--muge", metavar="FILE", help="write what MUGE takes: query_id, query_text and item_ids")
    add(
        "--skip-bad",
        action="store_true",
        help="leave rows out that cannot be read, and name them in bad_records.jsonl of --out",
    )
    return parser


def _add_classification(add: Callable) -> None:
    add(
        "--images",
        metavar="DIR",
        help="a folder for each class, or a set of ELEVATER as Chinese-CLIP has them (label_cn.txt "
        "and test/), in place of DataLoader.Eval.dataset",
    )
    add(
        "--classes",
        metavar="NAMES",
        help="names of the classes, one a line or CLASS<tab>NAME, or imagenet_en, imagenet_zh "
        "(the set's own)",
    )
    add(
        "--templates",
        metavar="NAME",
        help="templates with {} for the class, a file, one a line, or openai_imagenet, "
        "chinese_clip_imagenet, chinese_clip ... (the model's own)",
    )
    add(
        "--elevater",
        metavar="FILE",
        help="with --images: write what the ELEVATER challenge takes, in the order of its "
        "index.json where the set has one; FILE's name is the data set's, as in cifar-100.json",
    )
    add(
        "--label",
        metavar="KEY",
        help="what says an image's class: a field of the set's rows, caption, tags (the last), "
        "tags.0 (class); in retrieval it makes images of one class right for one another",
    )


def main(argv: list | None = None) -> int:
    args = arguments().parse_args(argv)
    if args.examples < 0:
        raise cli.UserError(f"--examples is {args.examples}: expected 0 or more queries")
    outputs = Outputs(args.predictions, args.features, args.dump, args.score, args.muge)
    _check_source(args)
    _check_task(args)
    if args.read:
        from ernie_vil2.evaluation.from_files import evaluate_files

        evaluate_files(args.read, args.answers, args.config, args.override, args.out, outputs)
        return 0
    weights, out = args.weights, args.out
    if args.official:
        from ernie_vil2.evaluation.official_config import read_official

        config, weights, dump = read_official(
            args.official, args.config or "base", args.override, args.weights
        )
        out = out or dump.parent
        outputs = dataclasses.replace(outputs, dump=args.dump or dump)
    else:
        config = load_config(args.config or "base", [*_dataset(args), *args.override])
    if config.DataLoader.Eval is None:
        raise cli.UserError(f"{args.config} has no DataLoader.Eval: name the set to evaluate on")
    shared: dict = {"skip_bad": args.skip_bad, "load": _load(weights)}
    if args.task == "classification":
        names = None if args.images else args.classes  # else they are an option of the set
        of_classes = {
            "names": names,
            "templates": args.templates,
            "label": args.label or "class",
            "elevater": _submission(args),
        }
        classify(weights, config, out, **of_classes, **shared)
    else:
        of_pairs = {"examples": args.examples, "outputs": outputs, "label": args.label}
        evaluate(weights, config, out, directions=args.directions, **of_pairs, **shared)
    return 0


def _is_exported(weights: str | None) -> bool:
    return weights is not None and (Path(weights) / DESCRIPTION).is_file()


def _load(weights: str) -> Load | None:
    """How the weights are loaded, where they are not what was trained."""
    if not _is_exported(weights):
        return None
    runtime.prepare()  # before Paddle

    from ernie_vil2.serving.exported import load_exported

    return load_exported


def _dataset(args: argparse.Namespace) -> list[str]:
    """What --images changes in the configuration."""
    if not args.images:
        return []
    dataset = {"name": "class_folders", "root": args.images}
    if args.classes:
        dataset["names"] = args.classes
    return [f"DataLoader.Eval.dataset={json.dumps(dataset, ensure_ascii=False)}"]


def _submission(args: argparse.Namespace) -> Submission | None:
    if args.elevater is None:
        return None
    return Submission(Path(args.elevater), Path(args.images))


def _check_source(args: argparse.Namespace) -> None:
    """Refuse options that name no model, or more than one thing to evaluate."""
    if args.read and (args.official or args.weights):
        raise cli.UserError("--read scores files, --official and -w a model: name one of them")
    if not (args.read or args.official):
        for flag, value in (("-c", args.config), ("-w", args.weights)):
            if value is None and not (flag == "-c" and _is_exported(args.weights)):
                raise cli.UserError(
                    f"{flag} is missing: name it, or --official YAML, or --read FILE"
                )
        if not (args.config or args.out):
            raise cli.UserError("--out is missing: without -c nothing else names the folder for it")
    if args.answers and not args.read:
        raise cli.UserError("--answers belongs to --read: the set of DataLoader.Eval has its own")


def _check_task(args: argparse.Namespace) -> None:
    """Refuse options of the other task."""
    classification = args.task == "classification"
    if classification and (args.read or args.official):
        raise cli.UserError("--task classification evaluates a model: name it with -w")
    others = ("directions", "predictions", "features", "dump", "score", "muge")
    for name in others if classification else ("images", "classes", "templates", "elevater"):
        if getattr(args, name) is not None:
            task = "retrieval" if classification else "classification"
            raise cli.UserError(f"--{name} belongs to --task {task}")
    if args.elevater is not None and args.images is None:
        raise cli.UserError("--elevater belongs to --images DIR, a set of the challenge")
    if (args.read or args.official) and (args.directions or args.label):
        raise cli.UserError("--directions and --label need -w and a set: leave them out")
