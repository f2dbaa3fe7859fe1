"""Export a model: `python tools/export.py -c configs/demo.yaml -w output/demo --save-dir DIR`."""

from __future__ import annotations

import argparse

from ernie_vil2 import cli
from ernie_vil2.artefact.description import PRECISIONS, PROMPTS, read_prompts
from ernie_vil2.config.load import load_config
from ernie_vil2.data.class_names import read_names
from ernie_vil2.export.pipeline import Options, export_model


def arguments() -> argparse.ArgumentParser:
    parser = cli.parser("Export a model for Paddle Inference and Paddle Serving.")
    add = parser.add_argument
    cli.add_weights(parser)
    add("--save-dir", required=True, metavar="DIR", help="folder to write, or to replace")
    add(
        "--precision",
        nargs="+",
        choices=PRECISIONS,
        default=["fp32"],
        help="fp32 always; int8 for CPUs, bf16 for CPUs and GPUs, fp16 for GPUs",
    )
    add("--onnx", action="store_true", help="write ONNX programs too")
    add(
        "--tensorrt",
        nargs="?",
        type=cli.whole(1, 4096),
        const=32,
        default=0,
        metavar="N",
        help="collect the shapes that TensorRT needs, of up to N images or texts a run (%(const)s)",
    )
    add(
        "--paddlenlp-names",
        action="store_true",
        help="write get_image_features and get_text_features too, for PaddleNLP's infer.py",
    )
    add("--preprocess", action="store_true", help="image program takes uint8 pixels [B, S, S, 3]")
    add(
        "--prompts",
        metavar="NAME",
        help="zero-shot templates with {} for the label: a file, one a line, or openai_imagenet, "
        "chinese_clip_imagenet, chinese_clip ...",
    )
    add(
        "--classes",
        metavar="NAMES",
        help="write the zero-shot classifier of these classes too: a file, a name a line, or "
        "imagenet_en, imagenet_zh",
    )
    for name, kind, help in (
        ("records", cli.positive, "of DataLoader.Eval to compare on"),
        ("calibration", cli.positive, "of DataLoader.Train for int8"),
        ("min_cosine", float, "with fp32's embeddings"),
        ("max_recall_drop", float, "of the mean recall, in 0..1"),
    ):
        default = getattr(Options, name)
        flag = f"--{name.replace('_', '-')}"
        add(flag, type=kind, default=default, help=f"{help} ({default})")
    return parser


def main(argv: list | None = None) -> int:
    args = arguments().parse_args(argv)
    config = load_config(args.config, args.override)
    options = Options(
        args.precision,
        args.onnx,
        args.preprocess,
        read_prompts(args.prompts) if args.prompts else PROMPTS,
        args.records,
        args.calibration,
        args.min_cosine,
        args.max_recall_drop,
        args.tensorrt,
        args.paddlenlp_names,
        read_names(args.classes).names if args.classes else (),
    )
    export_model(args.weights, config, args.save_dir, options, config_name=args.config)
    return 0
