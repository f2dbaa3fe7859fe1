"""A whole export: from weights and a configuration to a folder that servers read."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ernie_vil2 import processor, runtime
from ernie_vil2.artefact.description import CLASSIFIER, PRECISIONS, PROMPTS
from ernie_vil2.config.load import Config
from ernie_vil2.errors import UserError, did_you_mean
from ernie_vil2.export import place

if TYPE_CHECKING:  # which needs OpenCV
    from ernie_vil2.artefact.folder import Artefact
    from ernie_vil2.models.dual_encoder import DualEncoder
    from ernie_vil2.serving.predictor import Predictor


@dataclass(frozen=True)
class Options:
    """What an export holds beside the fp32 programs, and what is demanded of it.

    Attributes:
        precisions: of `PRECISIONS`; fp32 is always made.
        onnx: write ONNX programs too.
        paddlenlp_names: write the programs that PaddleNLP's ernie-vil2.0 exports too.
        tensorrt: collect the shapes that TensorRT needs, of up to so many images or texts; 0: none.
        preprocess: the image program takes uint8 pixels [B, S, S, 3].
        prompts: templates for zero-shot classification, `{}` for the label.
        classes: names of the classes of a classifier to lie beside the programs.
        records: of `DataLoader.Eval`, to compare the other precisions with fp32 on.
        calibration: records of `DataLoader.Train`, to calibrate int8 on.
        min_cosine: the least that an embedding may have with fp32's.
        max_recall_drop: the most that the mean recall may fall, in 0..1.
    """

    precisions: Sequence[str] = ("fp32",)
    onnx: bool = False
    preprocess: bool = False
    prompts: Sequence[str] = PROMPTS
    records: int = 200
    calibration: int = 64
    min_cosine: float = 0.99
    max_recall_drop: float = 0.01
    tensorrt: int = 0
    paddlenlp_names: bool = False
    classes: Sequence[str] = ()


def export_model(
    weights: str | os.PathLike,
    config: Config,
    save_dir: str | os.PathLike,
    options: Options | None = None,
    *,
    config_name: str = "the configuration",
    say: Callable[[str], object] = print,
) -> Path:
    """Write a model's programs for all that serves them, each proved against the model itself.

    Args:
        weights: as `ernie_vil2.load` takes them.
        config: with `Transform`; with `DataLoader.Eval` for other precisions than fp32.
        save_dir: the folder to write; an export that is there is replaced, once the new one is
            whole.
        options: None: fp32 alone.
        config_name: for messages.
        say: called with each line for the user.

    Returns:
        The real path of `save_dir`.

    Raises:
        UserError: a place that holds something else, weights that cannot be used, a precision that
            this processor lacks or that loses too much, an ONNX program with other numbers.
    """
    options = options or Options()
    target = place.find(save_dir)
    for precision in options.precisions:
        if precision not in PRECISIONS:
            raise UserError(f'no precision "{precision}"{did_you_mean(precision, PRECISIONS)}')
    runtime.prepare()  # before Paddle

    from ernie_vil2.serving import gpu

    for precision in options.precisions:
        if gpu.device_for(precision) == "cpu":
            processor.check(precision, processor.flags())

    from ernie_vil2.evaluation.trained import load_trained
    from ernie_vil2.export.programs import export
    from ernie_vil2.models.lora import merge_adapters
    from ernie_vil2.serving.predictor import Predictor
    from ernie_vil2.weights.preprocessing import choose_preprocessing

    model, tokenizer = load_trained(weights, config)
    if merged := merge_adapters(model):
        say(f"merged the adapters of {merged} layers into their weights")
    name, mean, std = choose_preprocessing(weights, config)
    with place.draft(target) as folder:
        artefact = export(
            model,
            tokenizer,
            folder,
            mean,
            std,
            options.prompts,
            options.preprocess,
            config.Transform.size,
            source=Path(weights).name,
            preprocessing=name,
        )
        predictor = Predictor(artefact, verify=False)
        difference = predictor.verify()
        say(f"fp32: largest difference from the model {max(difference.values()):.1e}")
        _add_precisions(artefact, config, options, config_name, say)
        if options.classes:
            _add_classifier(predictor, options, say)
        if options.onnx:
            _add_onnx(artefact, say)
        if options.tensorrt:
            _add_tensorrt(artefact, options.tensorrt, say)
        if options.paddlenlp_names:
            _add_paddlenlp(model, artefact, say)
        _add_paddle_serving(artefact, say)
        artefact.save()  # last, since it has the checksums of all the others
    say(f"exported to {save_dir}")
    return target


def _add_precisions(
    artefact: Artefact,
    config: Config,
    options: Options,
    config_name: str,
    say: Callable[[str], object],
) -> None:
    """Make them and, where they run here, compare them with fp32; they join the description."""
    import paddle

    from ernie_vil2.export.measure import Measure

    precisions = [name for name in options.precisions if name != "fp32"]
    if not precisions:
        return
    if config.DataLoader.Eval is None:
        raise UserError(
            f"{config_name} has no DataLoader.Eval to compare {', '.join(precisions)} with fp32 on"
        )
    measure = Measure(
        artefact,
        config.DataLoader.Eval.dataset,
        options.records,
        options.min_cosine,
        options.max_recall_drop,
        config.Global.seed,
    )
    for precision in precisions:
        if precision == "int8":
            _add_int8(artefact, config, options)
        artefact.precisions[precision] = {"min_cosine": options.min_cosine}
        if precision == "fp16" and not paddle.device.cuda.device_count():
            say("fp16: not compared with fp32, since there is no GPU here")
            continue
        found = artefact.precisions[precision] = measure(precision)
        say(
            f"{precision}: lowest cosine with fp32 {found['image_cosine']:.4f} (image), "
            f"{found['text_cosine']:.4f} (text); mean recall {found['mean_recall']:.1%}, fp32's "
            f"{found['mean_recall_fp32']:.1%}, on {found['records']} records"
        )


def _add_int8(artefact: Artefact, config: Config, options: Options) -> None:
    from ernie_vil2.export.measure import calibration
    from ernie_vil2.export.quantize import quantize

    dataset = config.DataLoader.Train.dataset
    data = calibration(artefact, dataset, options.calibration, config.Global.seed)
    for tower, batches in data.items():
        quantize(artefact.folder / "fp32", artefact.folder / "int8", tower, batches)


def _add_classifier(predictor: Predictor, options: Options, say: Callable[[str], object]) -> None:
    """In fp32, which serves all precisions: they are close enough to it."""
    from ernie_vil2.artefact.classifier import Classifier
    from ernie_vil2.evaluation.zero_shot import embed_classes

    names, prompts = list(options.classes), list(options.prompts)
    embeds = embed_classes(names, prompts, predictor.encode_text)
    Classifier(names, prompts, embeds).save(predictor.artefact.folder / CLASSIFIER)
    say(f"classifier: {len(names)} classes, {len(prompts)} templates")


def _add_onnx(artefact: Artefact, say: Callable[[str], object]) -> None:
    from ernie_vil2.export.onnx import check_onnx, to_onnx

    to_onnx(artefact.folder / "fp32", artefact.folder / "onnx")
    difference = check_onnx(artefact.folder / "onnx", artefact)
    say(f"ONNX: largest difference from the model {max(difference.values()):.1e}")


def _add_tensorrt(artefact: Artefact, max_batch: int, say: Callable[[str], object]) -> None:
    from ernie_vil2.export.tensorrt import collect_shapes

    collect_shapes(artefact, max_batch)
    say(f"TensorRT: shapes of up to {max_batch} images or texts, {artefact.max_len} tokens each")


def _add_paddlenlp(model: DualEncoder, artefact: Artefact, say: Callable[[str], object]) -> None:
    from ernie_vil2.export.paddlenlp import write_programs

    difference = write_programs(model, artefact)
    say(f"PaddleNLP's names: largest difference from the model {difference:.1e}")


def _add_paddle_serving(artefact: Artefact, say: Callable[[str], object]) -> None:
    from ernie_vil2.export.paddle_serving import write_serving

    if (artefact.folder / "fp32" / "image.pdmodel").is_file():
        write_serving(artefact.folder)
    else:
        say("no folders for Paddle Serving, which reads programs of Paddle 2.6 only")
