"""Runs as one HTML file that needs no other. Its template lies beside it."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from ernie_vil2.files import durable
from ernie_vil2.files.html import style, templates
from ernie_vil2.studies import plots
from ernie_vil2.studies.curves import Curves, read_curves
from ernie_vil2.studies.plan import Plan
from ernie_vil2.studies.runs import Run

_TEMPLATES = Path(__file__).parent / "templates"
LOSS = "train/loss"


def write_page(plan: Plan, summary: Mapping[str, Any]) -> None:
    """`page.html` of a study: its figures with intervals, differences and curves.

    Args:
        summary: budget -> what `summarize` gives.
    """
    parts = []
    for budget in plan.equal:
        numbers = summary[budget]
        curves = {
            variant.name: [
                read_curves(Run(plan, variant, seed, budget).folder) for seed in plan.seeds
            ]
            for variant in plan.variants
        }
        shown = [
            plots.interval_plot({v: row["figures"][title] for v, row in numbers.items()}, title)
            for title in plan.figures
        ]
        names = [f"eval/{key}" for key in plan.figures.values()]
        lines = curve_plots(curves, [*names, LOSS])
        parts.append(
            {
                "budget": budget,
                "numbers": numbers,
                "plots": _inline(shown),
                "curves": _inline(lines),
            }
        )
    settings = {variant.name: variant.set for variant in plan.variants}
    render(
        plan.output_dir / "page.html",
        title=f"Study {plan.path}",
        parts=parts,
        plan=plan,
        settings=settings,
    )


def curve_plots(runs: Mapping[str, Sequence[Curves]], names: Sequence[str]) -> list[Any]:
    """Each name against steps and against time, where a run has it."""
    there = {name for curves in runs.values() for one in curves for name in one.names}
    return [
        plots.line_plot(runs, name, against)
        for name in names
        if name in there
        for against in ("step", "seconds")
    ]


def write_curves_page(path: Path, runs: Mapping[str, Curves], names: Sequence[str]) -> None:
    """A page of the curves of any runs."""
    lines = curve_plots({label: [curves] for label, curves in runs.items()}, names)
    render(path, title="Runs", parts=[{"curves": _inline(lines)}], plan=None, settings={})


def write_line_page(path: Path, line: Mapping[str, Any], figures: Sequence[Any]) -> None:
    """A page of the weights between two models.

    Args:
        line: what `merging.Merger.line` gives.
        figures: to be shown above the numbers.
    """
    render(
        path, "line.html.j2", title="Weights between two models", line=line, plots=_inline(figures)
    )


def _inline(figures: Sequence[Any]) -> list[Markup]:
    return [Markup(plots.svg(figure)) for figure in figures]  # Matplotlib escapes what it is given


def render(path: Path, name: str = "study.html.j2", **values: Any) -> None:
    """Write the page of a template."""
    template = _environment().get_template(name)
    html = template.render(style=style(_TEMPLATES / "study.css"), **values)
    durable.replace_text(path, html)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = templates(_TEMPLATES)
    environment.filters["percent"] = lambda share: f"{100 * share:.1f}"
    return environment
