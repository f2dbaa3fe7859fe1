"""An evaluation of what another program embedded or found: no model is loaded."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ernie_vil2.config.load import load_config
from ernie_vil2.errors import UserError
from ernie_vil2.evaluation.embeddings import Embeddings
from ernie_vil2.evaluation.feature_files import read_features, read_lines
from ernie_vil2.evaluation.official_dump import official_table, read_dump
from ernie_vil2.evaluation.outputs import Outputs
from ernie_vil2.evaluation.predictions import LINES, score_predictions
from ernie_vil2.evaluation.report import DIRECTIONS, format_table, percent, spoken, write_json
from ernie_vil2.evaluation.retrieval import evaluate_retrieval

DUMP, IMAGES, TEXTS = "a dump", "features of images", "features of texts"


def evaluate_files(
    files: Sequence[str | os.PathLike],
    answers: str | os.PathLike | None = None,
    config: str | os.PathLike | None = None,
    overrides: Sequence[str] = (),
    out: str | os.PathLike | None = None,
    outputs: Outputs | None = None,
    *,
    say: Callable[[str], object] = print,
) -> dict[str, Any]:
    """Score an official dump, two files of features, or one or two files of predictions.

    Args:
        files: what they hold shows in their first lines; the order does not matter.
        answers: a `*_texts.jsonl` that says which images a text has; needed but for a dump.
        config: whose `Metric` counts; None: the protocol of the program that the files are of.
        overrides: as in `load_config`.
        out: a folder for report.json; None: none is written.
        outputs: what else to write.
        say: called with each line for the user.

    Returns:
        The report of `evaluate_retrieval`; of predictions, whose candidates are unknown, "protocol"
        and for each direction what `score_predictions` gives.

    Raises:
        UserError: files that cannot be read or do not belong together.
    """
    outputs = outputs or Outputs()
    if outputs.muge:
        raise UserError(
            f"{files[0]} does not hold the texts of the queries, which MUGE's file repeats: write "
            "--muge with the model, -c and -w, or --predictions of these files"
        )
    paths: dict[str, Path] = {}
    for path in map(Path, files):
        kind = kind_of(path)
        if kind in paths:
            raise UserError(f"{paths[kind]} and {path} are {_named(kind)} both: name one of them")
        paths[kind] = path
    protocol = "official" if DUMP in paths else "chinese_clip"
    chosen = [f"Metric.protocol={protocol}"] if config is None else []
    settings = load_config(config or "base", [*chosen, *overrides])
    metric = settings.Metric
    if paths.keys() <= LINES.keys():
        if outputs.of_embeddings:
            raise UserError(f"{files[0]} holds no embeddings: of predictions only a score is made")
        report = _score_predictions(paths, _needed(answers, paths), metric.ks, say)
    else:
        embeddings = _read(paths, answers)
        outputs.write_embeddings(embeddings, metric, say)
        report = evaluate_retrieval(
            embeddings.image_embeds,
            embeddings.text_embeds,
            embeddings.images_of_text,
            ks=metric.ks,
            bootstrap=metric.bootstrap,
            seed=settings.Global.seed,
            block=metric.block,
            protocol=metric.protocol,
        )
        say(format_table(report))
        if metric.protocol == "official":
            say(official_table(report))
    outputs.write_score(report, say)
    if out is not None:
        write_json(Path(out) / "report.json", {"files": [str(path) for path in files], **report})
        say(f"report: {Path(out) / 'report.json'}")
    return report


def kind_of(path: Path) -> str:
    """DUMP, IMAGES, TEXTS, or a direction of `LINES` for predictions, by the first line."""
    with open(path, "rb") as file:
        start = file.read(64).lstrip()
    if not start.startswith((b"{", b"\xef\xbb\xbf{")):
        return DUMP
    where, line = next(iter(read_lines(path)))
    for kind, names in (
        (IMAGES, ("image_id", "feature")),
        (TEXTS, ("text_id", "feature")),
        *LINES.items(),
    ):
        if all(name in line for name in names):
            return kind
    raise UserError(
        f"{where} has the keys {', '.join(line)[:100]}: expected image_id or text_id with feature, "
        "text_id with image_ids, or image_id with text_ids"
    )


def _named(kind: str) -> str:
    return kind if kind not in DIRECTIONS else f"predictions {DIRECTIONS[kind].lower()}"


def _needed(answers: str | os.PathLike | None, paths: dict[str, Path]) -> Path:
    if answers is None:
        raise UserError(
            f"{next(iter(paths.values()))} does not say which images a text has: add --answers "
            "with the set's texts.jsonl"
        )
    return Path(answers)


def _read(paths: dict[str, Path], answers: str | os.PathLike | None) -> Embeddings:
    if paths.keys() == {DUMP}:
        if answers is not None:
            raise UserError("a dump says itself what belongs together: leave --answers out")
        return read_dump(paths[DUMP])
    if paths.keys() == {IMAGES, TEXTS}:
        return read_features(paths[IMAGES], paths[TEXTS], _needed(answers, paths))
    found = ", ".join(f"{path} ({_named(kind)})" for kind, path in paths.items())
    raise UserError(f"{found}: expected a dump, or features of images and of texts, or predictions")


def _score_predictions(
    paths: dict[str, Path], answers: Path, ks: Sequence[int], say: Callable[[str], object]
) -> dict[str, Any]:
    report: dict[str, Any] = {"protocol": "chinese_clip"}
    for direction in (name for name in DIRECTIONS if name in paths):
        scores = report[direction] = score_predictions(paths[direction], direction, answers, ks)
        recalls = ", ".join(
            f"{spoken(name)} {percent(value)} %"
            for name, value in scores.items()
            if name != "queries"
        )
        say(f"{DIRECTIONS[direction]}, {scores['queries']} queries: {recalls}")
    return report
