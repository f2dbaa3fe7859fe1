"""A whole evaluation of zero-shot classification: from weights and pictures to a report."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ernie_vil2.artefact.description import read_prompts
from ernie_vil2.config.load import Config
from ernie_vil2.data.class_names import Class, NameList, name_classes, read_names
from ernie_vil2.errors import UserError
from ernie_vil2.evaluation.elevater import Submission
from ernie_vil2.evaluation.labelled import LabelOf
from ernie_vil2.evaluation.pipeline import (
    Load,
    begin,
    embed_set,
    named_set,
    precision_of,
    say_files,
)

if TYPE_CHECKING:
    from ernie_vil2.evaluation.trained import Embedder


def classify(
    weights: str | os.PathLike,
    config: Config,
    out: str | os.PathLike | None = None,
    *,
    names: str | os.PathLike | None = None,
    templates: str | Path | None = None,
    label: str = "class",
    elevater: Submission | None = None,
    skip_bad: bool = False,
    load: Load | None = None,
    say: Callable[[str], object] = print,
) -> dict[str, Any] | None:
    """Classify the images of `DataLoader.Eval` by the names of their classes; write `report.json`
    and `page.html`.

    Args:
        weights, out, skip_bad, load, say: as in `evaluate`.
        config: with a `DataLoader.Eval`, whose texts are not read.
        names: of the classes, as `read_names` takes them; None: the set's own, else the labels that
            it has.
        templates: a list of the package, or a file, one a line; None: the model's own.
        label: the key of `LabelOf`, which says an image's class.
        elevater: the challenge's file, to be written beside the report.

    Returns:
        The report of `evaluate_classification`, with `names` and `templates`; None on all ranks but
        the first.

    Raises:
        UserError: weights, a set, names or templates that cannot be used.
    """
    out = Path(out or Path(config.Global.output_dir) / "eval")
    prompts = None if templates is None else read_prompts(templates)
    named = None if names is None else read_names(names)
    embedder, evaluator = begin(weights, config, out, skip_bad, load)
    if elevater is not None:
        elevater.check(embedder.model, len(evaluator.reader))

    from ernie_vil2 import distributed
    from ernie_vil2.evaluation.accuracy import evaluate_classification
    from ernie_vil2.evaluation.classification_page import write_classification_page
    from ernie_vil2.evaluation.classification_report import format_classification
    from ernie_vil2.evaluation.report import write_json

    classes = _classes_of(evaluator.reader, named)
    known = None if classes is None else [each.key for each in classes]
    label_of = LabelOf(label, known, str(names) if names is not None else "the set")
    embeddings = embed_set(evaluator, embedder.model, config, label=label_of, captions=False)
    if not distributed.is_main():
        return None
    classes = classes or [Class(each, each) for each in sorted(set(map(str, embeddings.labels)))]
    if len(classes) < 2:
        raise UserError(
            f"there is one class, {classes[0].key}: name the others that an image may be of with "
            "--classes FILE"
        )
    number_of = {each.key: number for number, each in enumerate(classes)}
    labels = np.array([number_of[str(found)] for found in embeddings.labels])
    prompts = prompts or list(embedder.prompts)
    class_embeds = _class_embeds(classes, prompts, embedder, config)
    counting = {key: value for key, value in evaluator.counting.items() if key != "ks"}
    found = evaluate_classification(
        embeddings.image_embeds, labels, class_embeds, classes, **counting
    )
    report = {
        "task": "classification",
        "weights": str(weights),
        "templates": len(prompts),
        "templates_from": str(templates) if templates is not None else "the model's own",
        **found,
        "bad_records": embeddings.bad_records,
    }
    write_json(out / "report.json", report)
    title = f"Zero-shot classification with {weights} on {named_set(config)}"
    write_classification_page(out / "page.html", title, report)
    say(format_classification(report))
    say_files(out, evaluator, embeddings, say)
    if elevater is not None:
        elevater.write(
            embedder.model,
            str(weights),
            embeddings.image_embeds,
            class_embeds,
            len(evaluator.reader),
            say,
        )
    return report


def _classes_of(reader: Any, named: NameList | None) -> list[Class] | None:
    """What the set or a list of names says that there is; None: what its records say."""
    classes: list[Class] | None = getattr(reader, "classes", None)
    if named is None:
        return classes
    own = [each.key for each in classes] if classes else named.keys or named.names
    return name_classes(own, named, "class")


def _class_embeds(
    classes: Sequence[Class], prompts: Sequence[str], embedder: Embedder, config: Config
) -> np.ndarray:
    """float32 [C, D], from the cache where they lie there."""
    import paddle

    from ernie_vil2.evaluation.zero_shot import kept_classes
    from ernie_vil2.models.precision import auto_cast

    size = config.DataLoader.Eval.batch_size

    def embed(texts: Sequence[str]) -> np.ndarray:
        parts = []
        with paddle.no_grad(), auto_cast(amp):
            for start in range(0, len(texts), size):
                ids = embedder.tokenizer(texts[start : start + size], pad_to="longest")
                parts.append(embedder.model.encode_text(paddle.to_tensor(ids)).numpy())
        return np.concatenate(parts)

    amp = precision_of(config)
    identity = embedder.text_identity()
    if identity:
        identity = {**identity, "amp": f"{amp['level']} {amp['dtype']}", "device": _device()}
    return kept_classes([each.name for each in classes], prompts, embed, identity)


def _device() -> str:
    import paddle

    return paddle.get_device().partition(":")[0]
