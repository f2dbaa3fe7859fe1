"""Export a model: `python tools/export.py -c configs/demo.yaml -w output/demo --save-dir DIR`."""

import argparse
from pathlib import Path

from ernie_vil2 import cli, processor, runtime


def arguments() -> argparse.ArgumentParser:
    parser = cli.parser("Export a model for Paddle Inference and Paddle Serving.")
    add = parser.add_argument
    cli.add_weights(parser)
    add("--save-dir", required=True, metavar="DIR", help="folder to write, or to replace")
    add(
        "--precision",
        nargs="+",
        choices=("fp32", "bf16", "fp16", "int8"),
        default=["fp32"],
        help="fp32 always; bf16 and int8 for CPUs, fp16 for GPUs",
    )
    add("--onnx", action="store_true", help="write ONNX programs too")
    add("--preprocess", action="store_true", help="image program takes uint8 pixels [B, S, S, 3]")
    add("--prompts", metavar="FILE", help="zero-shot templates, one a line with {} for the label")
    add("--records", type=cli.positive, default=200, help="of DataLoader.Eval to compare on (200)")
    add("--calibration", type=cli.positive, default=64, help="of DataLoader.Train for int8 (64)")
    add("--min-cosine", type=float, default=0.99, help="with fp32's embeddings (0.99)")
    add("--max-recall-drop", type=float, default=0.01, help="of the mean recall, in 0..1 (0.01)")
    return parser


def main(argv=None) -> int:
    args = arguments().parse_args(argv)
    from ernie_vil2.config.load import load_config
    from ernie_vil2.export import place

    config = load_config(args.config, args.override)
    target = place.find(args.save_dir)
    for precision in set(args.precision) & set(processor.NEEDS):
        processor.check(precision, processor.flags())
    runtime.prepare()

    from ernie_vil2.artefact.description import PROMPTS
    from ernie_vil2.data.tokenize import Tokenizer
    from ernie_vil2.export.programs import export
    from ernie_vil2.serving.predictor import Predictor
    from ernie_vil2.weights.load import load
    from ernie_vil2.weights.vocabulary import check_vocabulary, own_vocabulary

    prompts = read_prompts(args.prompts) if args.prompts else PROMPTS
    model = load(args.weights, config)
    tokenizer = Tokenizer(**{**config.Tokenizer, **own_vocabulary(args.weights)})
    check_vocabulary(model, tokenizer, trained=True)
    with place.draft(target) as folder:
        artefact = export(
            model,
            tokenizer,
            folder,
            config.Transform.mean,
            config.Transform.std,
            prompts,
            args.preprocess,
            config.Transform.size,
            source=Path(args.weights).name,
        )
        difference = Predictor(artefact, verify=False).verify()
        print(f"fp32: largest difference from the model {max(difference.values()):.1e}")
        add_precisions(artefact, [name for name in args.precision if name != "fp32"], config, args)
        if args.onnx:
            difference = write_onnx(artefact)
            print(f"ONNX: largest difference from the model {max(difference.values()):.1e}")
        write_paddle_serving(artefact)
        artefact.save()  # last, since it has the checksums of all the others
    print(f"exported to {args.save_dir}")
    return 0


def add_precisions(artefact, precisions: list, config, args) -> None:
    """Make them and, where they run here, compare them with fp32; they join the description."""
    import paddle

    from ernie_vil2.export.measure import Measure, calibration
    from ernie_vil2.export.quantize import quantize

    if not precisions:
        return
    if config.DataLoader.Eval is None:
        raise cli.UserError(
            f"{args.config} has no DataLoader.Eval to compare {', '.join(precisions)} with fp32 on"
        )
    seed, dataset = config.Global.seed, config.DataLoader.Eval.dataset
    limits = args.min_cosine, args.max_recall_drop
    measure = Measure(artefact, dataset, args.records, *limits, seed)
    for precision in precisions:
        if precision == "int8":
            data = calibration(artefact, config.DataLoader.Train.dataset, args.calibration, seed)
            for tower, batches in data.items():
                quantize(artefact.folder / "fp32", artefact.folder / "int8", tower, batches)
        artefact.precisions[precision] = {"min_cosine": args.min_cosine}
        if precision == "fp16" and not paddle.device.cuda.device_count():
            print("fp16: not compared with fp32, since there is no GPU here")
            continue
        found = artefact.precisions[precision] = measure(precision)
        print(
            f"{precision}: lowest cosine with fp32 {found['image_cosine']:.4f} (image), "
            f"{found['text_cosine']:.4f} (text); mean recall {found['mean_recall']:.1%}, fp32's "
            f"{found['mean_recall_fp32']:.1%}, on {found['records']} records"
        )


def write_onnx(artefact) -> dict:
    from ernie_vil2.export.onnx import check_onnx, to_onnx

    to_onnx(artefact.folder / "fp32", artefact.folder / "onnx")
    return check_onnx(artefact.folder / "onnx", artefact)


def write_paddle_serving(artefact) -> None:
    from ernie_vil2.export.paddle_serving import write_serving

    if (artefact.folder / "fp32" / "image.pdmodel").is_file():
        write_serving(artefact.folder)
    else:
        print("no folders for Paddle Serving, which reads programs of Paddle 2.6 only")


def read_prompts(path: str) -> list:
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise cli.UserError(f"{path} cannot be read as UTF-8 text: {error}") from None
    from ernie_vil2.artefact.description import check_prompts

    return check_prompts([line.strip() for line in lines if line.strip()], path)
