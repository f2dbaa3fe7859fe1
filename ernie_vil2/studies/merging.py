"""Models merged into one: between two of them, or a soup of many, with what each scores."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ernie_vil2 import distributed
from ernie_vil2.config.load import Config, load_config
from ernie_vil2.data.tokenize import Tokenizer
from ernie_vil2.errors import UserError
from ernie_vil2.evaluation.evaluator import Evaluator
from ernie_vil2.evaluation.pipeline import embed_set
from ernie_vil2.evaluation.report import percent
from ernie_vil2.evaluation.trained import pictures_of
from ernie_vil2.files.durable import replace_text
from ernie_vil2.models.dual_encoder import DualEncoder
from ernie_vil2.models.lora import merge_adapters
from ernie_vil2.weights.average import Model, Soup, State, between, check_alike, read_model
from ernie_vil2.weights.load import fill, load
from ernie_vil2.weights.ours import save_checkpoint
from ernie_vil2.weights.preprocessing import (
    own_preprocessing,
    own_tokenizer,
)
from ernie_vil2.weights.sources import resolve
from ernie_vil2.weights.vocabulary import own_vocabulary

Say = Callable[[str], object]
_DIRECTIONS = {"text_to_image": "text to image", "image_to_text": "image to text"}
_FILES = {"json": "merge.json", "page": "merge.html", "line": "merge_line.png"}
_TRADE = "merge_sets.png"


class RecallSet:
    """A configuration's `DataLoader.Eval`, and the recalls of models on it.

    Args:
        config: with a `DataLoader.Eval`.
        weights: beside which the models' vocabulary and preprocessing stand.

    Raises:
        UserError: no such set.
    """

    def __init__(self, path: str, config: Config, weights: str):
        if config.DataLoader.Eval is None:
            raise UserError(f"{path} has no DataLoader.Eval: name the set to evaluate on")
        self.path, self.config = path, config
        tokenizer = Tokenizer(**{**config.Tokenizer, **own_vocabulary(weights)})
        self._evaluator = Evaluator(config, tokenizer, pictures=pictures_of(weights, config))

    def recalls(self, model: DualEncoder) -> dict[str, float]:
        """ "mean recall" of both directions first, then all recalls of each."""
        embeddings = embed_set(self._evaluator, model, self.config)
        report = self._evaluator.score(embeddings)
        found = {"mean recall": report["mean_recall"]}
        for direction, words in _DIRECTIONS.items():
            for name, value in report[direction].items():
                if name.startswith("R@") or name == "mean_recall":
                    found[f"{words} {name.replace('_', ' ')}"] = value
        return found


@dataclass
class Merger:
    """The weights to merge, a model that takes them, and the sets that judge.

    Attributes:
        models: paths, as `ernie_vil2.load` takes them.
        sets: name -> set, the first of which chooses greedy soups.
    """

    models: Sequence[str]
    model: DualEncoder
    sets: dict[str, RecallSet]
    say: Say

    @classmethod
    def of(
        cls,
        models: Sequence[str],
        config: str | None,
        evaluate: Sequence[str],
        overrides: Sequence[str],
        say: Say,
    ) -> Merger:
        """Build the first one's model and open the sets.

        Args:
            config: YAML with `Arch`, for weights that do not say it; by default the first of
                `evaluate`.
            evaluate: configurations with a `DataLoader.Eval` each.
            overrides: of all of these.
        """
        configs = {path: load_config(path, overrides) for path in evaluate}
        if configs:
            distributed.init(next(iter(configs.values())).Global.device)
        arch = config or (evaluate[0] if evaluate and resolve(models[0]).is_file() else None)
        model = load(models[0], arch)
        merge_adapters(model)
        sets = {_label(p, evaluate): RecallSet(p, c, models[0]) for p, c in configs.items()}
        return cls(models, model, sets, say)

    def line(self, alpha: float, alphas: Sequence[float]) -> dict[str, Any]:
        """Take the weights at `alpha` between two models, and score those at all `alphas`.

        Returns:
            For `merge.json` and the page: weights, alpha, sets, columns and points.
        """
        one, other = self._alike()
        points: list[dict[str, Any]] = []
        for here in sorted(alphas) if self.sets else ():
            self._take(between(one.state, other.state, here))
            recalls = {name: judge.recalls(self.model) for name, judge in self.sets.items()}
            points.append({"alpha": here, "recalls": recalls})
            self.say(f"alpha {here:g}: {_said(recalls)}")
        self._take(between(one.state, other.state, alpha))
        return {
            "weights": list(self.models),
            "alpha": alpha,
            "sets": {name: judge.path for name, judge in self.sets.items()},
            "columns": {name: list(row) for p in points[:1] for name, row in p["recalls"].items()},
            "points": points,
        }

    def uniform(self) -> dict[str, Any]:
        """Take the mean of all models."""
        soup = Soup()
        for model in self._alike():
            soup.add(model.state)
        self._take(soup.mean())
        return self._soup("uniform", list(self.models))

    def greedy(self) -> dict[str, Any]:
        """Take each model, from the best on, that does not lower the mean recall of the soup.

        Wortsman et al. 2022, Recipe 1, which keeps an ingredient where the score stays or rises.
        """
        judge = next(iter(self.sets.values()))
        scores: dict[str, float] = {}
        for model in self._alike():
            self._take(model.state)
            scores[model.path] = judge.recalls(self.model)["mean recall"]
            self.say(f"{model.path}: mean recall {percent(scores[model.path])} %")
        soup, best = Soup(), -1.0
        kept: list[str] = []
        for path in sorted(scores, key=lambda path: -scores[path]):
            state = read_model(path).state
            self._take(soup.mean(state))
            score = judge.recalls(self.model)["mean recall"]
            if score >= best:
                soup.add(state)
                kept, best = [*kept, path], score
            self.say(f"{'with' if path in kept else 'without'} {path}: {percent(score)} %")
        self._take(soup.mean())
        return {**self._soup("greedy", kept), "alone": scores, "chosen_by": judge.path}

    def save(self, out: str, found: dict[str, Any]) -> None:
        """Write the checkpoint, `merge.json`, and of a line with sets the page and its plots."""
        first, folder = self.models[0], Path(out)
        vocabulary = own_vocabulary(first).get("vocab_file")
        transform, tokenizer = own_preprocessing(first), own_tokenizer(first)
        save_checkpoint(self.model, folder, vocabulary, transform, tokenizer)
        replace_text(folder / _FILES["json"], json.dumps(found, indent=1) + "\n")
        if found.get("points"):
            _write_plots(folder, found)
            self.say(f"page: {folder / _FILES['page']}")

    def _alike(self) -> Iterator[Model]:
        """The models, one after another; a mean of each and the first can be taken."""
        first = None
        for path in self.models:
            model = read_model(path)
            first = first or model
            check_alike(first, model)
            yield model

    def _soup(self, kind: str, kept: list[str]) -> dict[str, Any]:
        recalls = {name: judge.recalls(self.model) for name, judge in self.sets.items()}
        if recalls:
            self.say(f"{kind} soup of {len(kept)}: {_said(recalls)}")
        return {"soup": kind, "weights": kept, "recalls": recalls}

    def _take(self, state: State) -> None:
        fill(self.model, Path(self.models[0]), state, partial=False)


def _write_plots(folder: Path, found: dict[str, Any]) -> None:
    from ernie_vil2.studies import page, plots

    alphas = [point["alpha"] for point in found["points"]]

    def along(name: str, column: str) -> list[float]:
        return [point["recalls"][name][column] for point in found["points"]]

    thin = [f"{words} mean recall" for words in _DIRECTIONS.values()]
    lines = {
        name: {
            "mean": along(name, "mean recall"),
            **{column: along(name, column) for column in thin},
        }
        for name in found["sets"]
    }
    figures = {_FILES["line"]: plots.alpha_plot(alphas, lines)}
    if len(lines) > 1:
        means = {name: rows["mean"] for name, rows in lines.items()}
        figures[_TRADE] = plots.trade_plot(alphas, means)
    for name, figure in figures.items():
        plots.png(figure, folder / name)
    page.write_line_page(folder / _FILES["page"], found, list(figures.values()))


def _label(path: str, paths: Sequence[str]) -> str:
    """A configuration's name, with its folder where two have one name."""
    stem = Path(path).stem
    return stem if [Path(p).stem for p in paths].count(stem) == 1 else path


def _said(recalls: dict[str, dict[str, float]]) -> str:
    return ", ".join(f"{n} {percent(found['mean recall'])} %" for n, found in recalls.items())
