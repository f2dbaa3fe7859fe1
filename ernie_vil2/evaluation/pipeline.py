"""A whole evaluation: from weights and a configuration to a report and its page."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ernie_vil2 import runtime
from ernie_vil2.config.load import Config
from ernie_vil2.evaluation.outputs import Outputs

if TYPE_CHECKING:  # which need Paddle
    from ernie_vil2.evaluation.embeddings import Embeddings
    from ernie_vil2.evaluation.evaluator import Evaluator
    from ernie_vil2.evaluation.trained import Embedder

Load = Callable[[Any, Config], "Embedder"]


def evaluate(
    weights: str | os.PathLike,
    config: Config,
    out: str | os.PathLike | None = None,
    *,
    examples: int = 12,
    outputs: Outputs | None = None,
    directions: Collection[str] | None = None,
    label: str | None = None,
    skip_bad: bool = False,
    load: Load | None = None,
    say: Callable[[str], object] = print,
) -> dict[str, Any] | None:
    """Evaluate a model on the set of `DataLoader.Eval`; write `report.json` and `page.html`.

    Args:
        weights: as `load_embedder` takes them.
        config: with a `DataLoader.Eval`.
        out: the folder to write into; None: `eval` in `Global.output_dir`.
        examples: queries of each kind on the page.
        outputs: what else to write, for other programs; None: nothing.
        directions: as in `Evaluator.score`; None: between images and texts.
        label: the key of `LabelOf` for the class that makes images right for one another, from
            image to image; None: their texts do.
        skip_bad: leave rows out that cannot be read, and name them in `bad_records.jsonl`.
        load: gives the model; None: `load_embedder`.
        say: called with each line for the user.

    Returns:
        The report; None on all ranks but the first, and where no text names its image, so that
        there are only predictions.

    Raises:
        UserError: weights or a set that cannot be used.
    """
    out = Path(out or Path(config.Global.output_dir) / "eval")
    embedder, evaluator = begin(weights, config, out, skip_bad, load)

    from ernie_vil2 import distributed
    from ernie_vil2.evaluation.directions import ACROSS
    from ernie_vil2.evaluation.labelled import LabelOf
    from ernie_vil2.evaluation.official_dump import official_table
    from ernie_vil2.evaluation.page import write_page
    from ernie_vil2.evaluation.report import format_table, write_json

    directions = directions or ACROSS
    label_of = None if label is None else LabelOf(label)
    captions = label is None or set(directions) != {"image_to_image"}  # a set may have none
    embeddings = embed_set(evaluator, embedder.model, config, label=label_of, captions=captions)
    if not distributed.is_main():
        return None
    outputs = outputs or Outputs()
    outputs.write_embeddings(embeddings, config.Metric, say)
    if outputs.of_embeddings and not any(embeddings.images_of_text):
        say("no text of the set names its image: there is nothing to score")
        return None
    report = evaluator.score(embeddings, directions)
    title = f"Retrieval with {weights} on {named_set(config)}"
    write_json(out / "report.json", {"weights": str(weights), **report})
    write_page(out / "page.html", title, report, evaluator.examples(embeddings, examples))
    outputs.write_score(report, say)
    say(format_table(report))
    if config.Metric.protocol == "official" and "text_to_image" in report:
        say(official_table(report))
    say_files(out, evaluator, embeddings, say)
    return report


def begin(
    weights: str | os.PathLike, config: Config, out: Path, skip_bad: bool, load: Load | None = None
) -> tuple[Embedder, Evaluator]:
    """The model and the set of an evaluation, once the device is chosen; arguments as above."""
    runtime.prepare()  # before Paddle

    from ernie_vil2 import distributed
    from ernie_vil2.evaluation.trained import load_embedder

    distributed.init(config.Global.device)
    embedder = (load or load_embedder)(weights, config)

    # after the towers' packages: where those are missing the user is told so, not of jinja2
    from ernie_vil2.evaluation.evaluator import Evaluator

    pictures = embedder.transform, embedder.normalise
    ledger = out / "bad_records.jsonl"
    return embedder, Evaluator(config, embedder.tokenizer, ledger, skip_bad, pictures)


def embed_set(evaluator: Evaluator, model: Any, config: Config, **asked: Any) -> Embeddings:
    """The embeddings of the set, on every rank; `asked` goes to `Evaluator.embed`."""
    from ernie_vil2.models.precision import auto_cast

    with auto_cast(precision_of(config)):
        embeddings = evaluator.embed(model, **asked)
    assert embeddings is not None  # nothing stops it
    return embeddings


def precision_of(config: Config) -> dict[str, Any]:
    """`AMP` as an evaluation has it: on a GPU as in training; on a CPU there is nothing to gain."""
    from ernie_vil2 import distributed
    from ernie_vil2.models.precision import check_precision

    amp = dict(config.AMP) if distributed.on_gpu() else {**config.AMP, "level": "O0"}
    check_precision(amp)
    return amp


def named_set(config: Config) -> str:
    """The files of `DataLoader.Eval`, for a title."""
    dataset = config.DataLoader.Eval.dataset
    return ", ".join(f"{value}" for key, value in dataset.items() if key != "name")


def say_files(
    out: Path, evaluator: Evaluator, embeddings: Embeddings, say: Callable[[str], object]
) -> None:
    """Where the report is, and what was left out."""
    say(f"report: {out / 'report.json'}\npage:   {out / 'page.html'}")
    if embeddings.bad_records:
        say(f"left out: {evaluator.ledger.path}")
