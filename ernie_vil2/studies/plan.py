"""What a study compares, read from its YAML.

    config: configs/demo.yaml          # what all runs start from
    output_dir: output/studies/emoji
    seeds: [1, 2, 3]                   # of each variant
    equal: [steps, time]               # as many steps as config says; as long as the first takes
    figures:                           # of report.json, what the page shows
      text to image R@10: text_to_image/R@10
    test: {DataLoader.Eval.dataset.path: data/emoji/test.tsv}  # set for the last evaluation alone
    variants:                          # what each changes; the first is what others are held to
      one pair: {Views.image: [image1], Views.text: [text1]}
      all six: {}

Commands of `ernie-vil2` that make what runs need stand under `before`: the study's own run once,
before everything; a variant's, `{before: [...], set: {...}}`, before each of its runs. In commands
and values `{study}` is the output folder, `{seed}` the seed and `{run NAME}` the last checkpoint of
the variant NAME with the same seed, which must stand further up. Names of the study's own, such as
that of a folder of data, stand under `parameters` with their values, which the command line can
change: `parameters: {data: photos}` gives `{data}`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ernie_vil2.config import strict_yaml
from ernie_vil2.config.load import locate
from ernie_vil2.errors import UserError, did_you_mean

BUDGETS = ("steps", "time")
FIGURES = {
    "text to image R@10": "text_to_image/R@10",
    "image to text R@10": "image_to_text/R@10",
    "mean recall": "mean_recall",
}
_RUN = re.compile(r"\{run ([^{}]+)\}")
_NAME = re.compile(r"[a-z_]+")
_TAKEN = ("study", "seed", "run")


@dataclass(frozen=True)
class Variant:
    """Attributes:
    name: for people.
    set: dotted keys of the configuration, and their values.
    before: commands that its runs need, with placeholders.
    """

    name: str
    set: Mapping[str, Any]
    before: tuple[str, ...] = ()

    @property
    def needs(self) -> list[str]:
        """Variants whose checkpoints it starts from."""
        texts = [*self.before, *map(str, self.set.values())]
        return [name for text in texts for name in _RUN.findall(text)]

    @property
    def folder(self) -> str:
        """Its name as a folder's."""
        return re.sub(r"[^\w.+-]+", "-", self.name).strip("-.") or "variant"


@dataclass(frozen=True)
class Plan:
    """A study; the module's docstring says what each entry is."""

    path: str
    config: str
    output_dir: Path
    seeds: tuple[int, ...]
    equal: tuple[str, ...]
    figures: Mapping[str, str]
    variants: tuple[Variant, ...]
    before: tuple[str, ...]
    set: Mapping[str, Any]
    test: Mapping[str, Any]
    parameters: Mapping[str, str]


def read_plan(
    path: str | os.PathLike,
    parameters: Mapping[str, str] | None = None,
    output_dir: str | os.PathLike | None = None,
) -> Plan:
    """The study that a YAML file declares.

    Args:
        parameters: instead of the values that the file gives them.
        output_dir: instead of the file's.

    Raises:
        UserError: it cannot be read, is no study, or has no such parameter.
    """
    name = os.fspath(path)
    try:
        with open(locate(name), encoding="utf-8") as file:
            values = strict_yaml.parse(file.read(), name)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the study {name}: {error}") from error
    if not isinstance(values, Mapping):
        raise UserError(f"{name} is no study: expected config, seeds, variants and output_dir")
    known = {field for field in Plan.__dataclass_fields__ if field != "path"}
    for key in values:
        if key not in known:
            raise UserError(f"{name} has no place for {key}{did_you_mean(str(key), known)}")
    check = _Checked(name, values)
    declared = check("parameters", "names in small letters and their texts", _are_parameters, {})
    given = parameters or {}
    for parameter in given:
        if parameter not in declared:
            hint = did_you_mean(parameter, declared)
            raise UserError(f"{name} has no parameter {parameter}{hint}")
    plan = Plan(
        path=name,
        config=check("config", "the path of a configuration", _is_text),
        output_dir=Path(output_dir or check("output_dir", "a folder", _is_text)),
        seeds=tuple(check("seeds", "a list of different whole numbers", _are_seeds)),
        equal=tuple(check("equal", "steps, time or both, in a list", _are_budgets, ["steps"])),
        figures=check("figures", "names and keys of report.json", _are_texts, FIGURES),
        variants=tuple(
            _variant(name, *item)
            for item in check("variants", "names, each with what it changes", _is_mapping).items()
        ),
        before=tuple(check("before", "a list of commands", _are_commands, [])),
        set=check("set", "keys of the configuration and values", _is_mapping, {}),
        test=check("test", "keys of the configuration and values", _is_mapping, {}),
        parameters={**declared, **given},
    )
    _check_order(plan)
    return plan


@dataclass(frozen=True)
class _Checked:
    name: str
    values: Mapping[str, Any]

    def __call__(
        self, key: str, expected: str, right: Callable[[Any], bool], default: Any = None
    ) -> Any:
        value = self.values.get(key, default)
        if not right(value):
            found = f"is {value!r}" if key in self.values else "is missing"
            raise UserError(f"{self.name}: {key} {found}: expected {expected}")
        return value


def _variant(path: str, name: Any, value: Any) -> Variant:
    check = _Checked(f"{path}: variant {name}", value if isinstance(value, Mapping) else {})
    if not isinstance(value, Mapping) or not isinstance(name, str):
        raise UserError(f"{check.name} is {value!r}: expected keys of the configuration and values")
    if not value.keys() <= {"before", "set"} or not value:
        return Variant(name, value)
    return Variant(
        name,
        check("set", "keys of the configuration and values", _is_mapping, {}),
        tuple(check("before", "a list of commands", _are_commands, [])),
    )


def _check_order(plan: Plan) -> None:
    seen: dict[str, str] = {}
    for variant in plan.variants:
        for other in variant.needs:
            if other not in seen:
                raise UserError(
                    f"{plan.path}: variant {variant.name} needs {{run {other}}}: expected a "
                    f"variant that stands above it{did_you_mean(other, seen)}"
                )
        same = next((name for name, folder in seen.items() if folder == variant.folder), None)
        if same is not None:
            raise UserError(
                f"{plan.path}: variants {same} and {variant.name} would share the folder "
                f"{variant.folder}: rename one"
            )
        seen[variant.name] = variant.folder


def filled(value: Any, names: Mapping[str, str], checkpoint: Callable[[str], str]) -> Any:
    """A command or a value with its placeholders filled.

    Args:
        names: what stands for "study", "seed" and the plan's parameters.
        checkpoint: gives a variant's, by its name.
    """
    if isinstance(value, str):
        for name, text in names.items():
            value = value.replace(f"{{{name}}}", text)
        return _RUN.sub(lambda found: checkpoint(found[1]), value)
    if isinstance(value, Mapping):
        return {key: filled(item, names, checkpoint) for key, item in value.items()}
    if isinstance(value, list):
        return [filled(item, names, checkpoint) for item in value]
    return value


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)


def _are_texts(value: Any) -> bool:
    return _is_mapping(value) and bool(value) and all(map(_is_text, value.values()))


def _are_parameters(value: Any) -> bool:
    if not _is_mapping(value) or not all(map(_is_text, value.values())):
        return False
    return all(_NAME.fullmatch(name) and name not in _TAKEN for name in value)


def _are_seeds(value: Any) -> bool:
    numbers = isinstance(value, list) and all(type(seed) is int and seed >= 0 for seed in value)
    return numbers and 0 < len(value) == len(set(value))


def _are_budgets(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(budget in BUDGETS for budget in value)


def _are_commands(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))
