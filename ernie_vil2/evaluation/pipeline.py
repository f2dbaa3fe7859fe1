"""A whole evaluation: from weights and a configuration to a report and its page."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ernie_vil2 import runtime
from ernie_vil2.config.load import Config
from ernie_vil2.evaluation.outputs import Outputs

if TYPE_CHECKING:  # which need the towers' packages
    from ernie_vil2.evaluation.embeddings import Embeddings
    from ernie_vil2.evaluation.evaluator import Evaluator


def embed(model: Any, evaluator: Evaluator, config: Config) -> Embeddings | None:
    """The set's embeddings: on a GPU as fast as in training; on a CPU there is nothing to gain."""
    from ernie_vil2 import distributed
    from ernie_vil2.models.precision import auto_cast, check_precision

    amp = config.AMP if distributed.on_gpu() else {**config.AMP, "level": "O0"}
    check_precision(amp)
    with auto_cast(amp):
        return evaluator.embed(model)


def evaluate(
    weights: str | os.PathLike,
    config: Config,
    out: str | os.PathLike | None = None,
    *,
    examples: int = 12,
    outputs: Outputs | None = None,
    skip_bad: bool = False,
    say: Callable[[str], object] = print,
) -> dict[str, Any] | None:
    """Evaluate a model on the set of `DataLoader.Eval`; write `report.json` and `page.html`.

    Args:
        weights: as `load_embedder` takes them.
        config: with a `DataLoader.Eval`.
        out: the folder to write into; None: `eval` in `Global.output_dir`.
        examples: queries of each kind on the page.
        outputs: what else to write, for other programs; None: nothing.
        skip_bad: leave rows out that cannot be read, and name them in `bad_records.jsonl`.
        say: called with each line for the user.

    Returns:
        The report; None on all ranks but the first, and where no text names its image, so that
        there are only predictions.

    Raises:
        UserError: weights or a set that cannot be used.
    """
    runtime.prepare()  # before Paddle

    from ernie_vil2 import distributed
    from ernie_vil2.evaluation.trained import load_embedder

    distributed.init(config.Global.device)
    model, tokenizer = load_embedder(weights, config)

    # after the towers' packages: where those are missing the user is told so, not of jinja2
    from ernie_vil2.evaluation.evaluator import Evaluator
    from ernie_vil2.evaluation.official_dump import official_table
    from ernie_vil2.evaluation.page import write_page
    from ernie_vil2.evaluation.report import format_table, write_json
    from ernie_vil2.weights.preprocessing import choose_preprocessing

    out = Path(out or Path(config.Global.output_dir) / "eval")
    preprocessing = choose_preprocessing(weights, config)
    evaluator = Evaluator(config, tokenizer, out / "bad_records.jsonl", skip_bad, preprocessing)
    embeddings = embed(model, evaluator, config)
    if not distributed.is_main():
        return None
    assert embeddings is not None  # nothing stops it
    outputs = outputs or Outputs()
    outputs.write_embeddings(embeddings, config.Metric, say)
    if outputs.of_embeddings and not any(embeddings.images_of_text):
        say("no text of the set names its image: there is nothing to score")
        return None
    report = evaluator.score(embeddings)
    dataset = config.DataLoader.Eval.dataset
    files = ", ".join(f"{value}" for key, value in dataset.items() if key != "name")
    title = f"Retrieval with {weights} on {files}"
    write_json(out / "report.json", {"weights": str(weights), **report})
    write_page(out / "page.html", title, report, evaluator.examples(embeddings, examples))
    outputs.write_score(report, say)
    say(format_table(report))
    if config.Metric.protocol == "official":
        say(official_table(report))
    say(f"report: {out / 'report.json'}\npage:   {out / 'page.html'}")
    if embeddings.bad_records:
        say(f"left out: {evaluator.ledger.path}")
    return report
