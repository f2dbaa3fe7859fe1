"""Plots of runs, by Matplotlib: curves, and figures with their intervals."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from ernie_vil2.studies.curves import Curves

_FONTS = ["DejaVu Sans", "Noto Sans CJK SC", "Source Han Sans SC", "WenQuanYi Micro Hei", "SimHei"]
_SETTINGS = {
    "svg.fonttype": "none",  # text stays text: the browser has fonts for Chinese
    "svg.hashsalt": "ernie_vil2",  # the same file each time
    "font.sans-serif": _FONTS,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": False,
}
_SMOOTH = 10  # logged steps that a line of training is averaged over


def line_plot(runs: Mapping[str, Sequence[Curves]], name: str, against: str = "step") -> Any:
    """A number of each run as it went; runs of one label share a colour.

    Args:
        runs: label -> curves of its runs, as of several seeds: thin lines, and their mean where
            all have a value.
        name: as in metrics.jsonl; that of a training step is smoothed.
        against: "step", or "seconds" of training.
    """
    figure, axes = _figure(6.4, 3.6)
    for number, (label, curves) in enumerate(runs.items()):
        color = f"C{number % 10}"
        lines = [line for line in (_line(one, name, against) for one in curves) if line]
        for places, values in lines:
            axes.plot(places, values, color=color, linewidth=0.6, alpha=0.5)
        if lines:
            places, values = _mean_line(lines)
            axes.plot(places, values, color=color, linewidth=1.6, label=label)
    axes.set_xlabel("optimizer step" if against == "step" else "seconds of training")
    axes.set_ylabel(name)
    axes.grid(alpha=0.2)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8)
    return figure


def interval_plot(numbers: Mapping[str, Mapping[str, Any]], title: str) -> Any:
    """A figure of each variant: its seeds as small dots, their mean, and its interval.

    Args:
        numbers: variant -> what `summarize` gives for one figure, a share of 1.
    """
    figure, axes = _figure(6.4, 0.7 + 0.32 * len(numbers))
    for row, value in enumerate(numbers.values()):
        seeds = [100 * x for x in value["values"].values()]
        axes.plot(seeds, [row] * len(seeds), "o", color="C0", markersize=3, alpha=0.5)
        axes.plot([100 * value["mean"]], [row], "D", color="C3", markersize=5)
        if value["seeds"]:
            axes.plot([100 * x for x in value["seeds"]], [row, row], color="C3", linewidth=1)
    axes.set_yticks(range(len(numbers)), list(numbers))
    axes.set_ylim(len(numbers) - 0.5, -0.5)
    axes.set_xlabel(f"{title}, %")
    axes.grid(axis="x", alpha=0.2)
    return figure


def alpha_plot(alphas: Sequence[float], sets: Mapping[str, Mapping[str, Sequence[float]]]) -> Any:
    """Recalls along the weights between two models.

    Args:
        sets: name of a set -> "mean", drawn bold, and what else of it is drawn thin -> a share of
            1 at each alpha.
    """
    figure, axes = _figure(6.4, 3.6)
    for number, (name, lines) in enumerate(sets.items()):
        for kind, values in lines.items():
            bold = kind == "mean"
            axes.plot(
                alphas,
                [100 * value for value in values],
                marker="o" if bold else None,
                markersize=3,
                color=f"C{number % 10}",
                linewidth=1.6 if bold else 0.6,
                linestyle="-" if bold else "--",
                label=name if bold else None,
            )
    axes.set_xlabel("alpha: 0 is the first model, 1 the second")
    axes.set_ylabel("recall, %")
    axes.grid(alpha=0.2)
    axes.legend(frameon=False, fontsize=8)
    return figure


def trade_plot(alphas: Sequence[float], sets: Mapping[str, Sequence[float]]) -> Any:
    """The first set's recall against the second's, a dot for each alpha, as WiSE-FT draws it."""
    figure, axes = _figure(4.6, 3.6)
    (name, across), (other, up) = [(n, [100 * x for x in row]) for n, row in sets.items()][:2]
    axes.plot(across, up, "o-", color="C0", markersize=3, linewidth=1)
    for alpha, *place in zip(alphas, across, up):
        axes.annotate(f"{alpha:g}", place, (4, 3), textcoords="offset points", fontsize=7)
    axes.set_xlabel(f"{name}: mean recall, %")
    axes.set_ylabel(f"{other}: mean recall, %")
    axes.grid(alpha=0.2)
    return figure


def svg(figure: Any) -> str:
    """The element, to stand within a page."""
    text = io.StringIO()
    _save(figure, text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def png(figure: Any, path: Path) -> None:
    """A file of 160 dots an inch."""
    _save(figure, path, format="png", dpi=160)


def _figure(width: float, height: float) -> tuple[Any, Any]:
    """Without pyplot, which keeps all figures and asks for a screen."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.subplots()


def _save(figure: Any, target: Any, **options: Any) -> None:
    import matplotlib

    with matplotlib.rc_context(_SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # no font for Chinese
        figure.savefig(target, **options)


def _line(curves: Curves, name: str, against: str) -> tuple[list[float], list[float]] | None:
    steps, seconds, values = curves.line(name)
    if not steps:
        return None
    if name.startswith("train/"):
        values = [fmean(values[max(0, i + 1 - _SMOOTH) : i + 1]) for i in range(len(values))]
    return list(map(float, steps)) if against == "step" else seconds, values


def _mean_line(lines: Sequence[tuple[list[float], list[float]]]) -> tuple[list, list]:
    """Point by point, as far as all go: runs that log alike have their points in one order."""
    length = min(len(values) for _, values in lines)
    return (
        [fmean([places[i] for places, _ in lines]) for i in range(length)],
        [fmean([values[i] for _, values in lines]) for i in range(length)],
    )
