"""The configuration: YAML with `_BASE_` and `-o` overrides, checked against `SCHEMA`, frozen.

Nothing heavy is imported, so that `--help` stays quick.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn, Union

import yaml

from ernie_vil2.config import strict_yaml
from ernie_vil2.config.kinds import REQUIRED, Dotted, Kind, ListOf, Section
from ernie_vil2.config.messages import join, show, wrong
from ernie_vil2.config.schema import SCHEMA
from ernie_vil2.config.together import check_together
from ernie_vil2.errors import UserError, did_you_mean
from ernie_vil2.preprocessing import preprocessing_of

StrPath = Union[str, "os.PathLike[str]"]


def load_config(path: StrPath, overrides: Iterable[str] = ()) -> Config:
    """Read a YAML file with its `_BASE_` files, apply `-o` overrides, fill in defaults, check.

    Args:
        path: a file, or the name of one that the package carries, see `locate`.
        overrides: "Section.key=VALUE" each, VALUE in YAML; in the key a number indexes a list.

    Raises:
        UserError: whatever is wrong with the files or the overrides.
    """
    assert not isinstance(overrides, str), "overrides is a list of strings"
    changes: dict[str, Any] = {}
    for override in overrides:
        changes = _merge(changes, _parse_override(override), None)
    tree = _merge(_read_layers(path), changes, SCHEMA)
    where = f"{path} with -o" if changes else str(path)
    tree = SCHEMA.check(tree, "", where, whole=True)
    check_together(tree, where)
    _, mean, std = preprocessing_of(tree["Transform"])
    tree["Transform"].update(mean=list(mean), std=list(std))
    return Config(tree)


def check_arch(source: StrPath | Mapping[str, Any]) -> Config:
    """The `Arch` node of a YAML file or of a mapping, checked and with its defaults filled in.

    Of a mapping everything else is left alone; a file may lack other sections, but not misspell
    their names.

    Raises:
        UserError: there is no `Arch`, or something in it is wrong.
    """
    if isinstance(source, Mapping):
        where = "the given config"
        tree = {"Arch": thaw(source["Arch"])} if "Arch" in source else {}
        strict_yaml.check_plain(tree, "", where)
    else:
        where, tree = str(source), _read_layers(source)
    if "Arch" not in tree:
        raise UserError(f"{where}: Arch is missing; expected its Image and Text, see base.yaml")
    return Config(SCHEMA.fields["Arch"].check(tree["Arch"], "Arch", where, whole=True))


class Config(Mapping[str, Any]):
    """A frozen mapping: `cfg.Global.seed` is `cfg["Global"]["seed"]`; lists are tuples."""

    __slots__ = ("_items",)

    _items: dict[str, Any]

    def __init__(self, items: Mapping[str, Any]):
        object.__setattr__(self, "_items", {key: _freeze(item) for key, item in items.items()})

    def __getitem__(self, key: str) -> Any:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __getattr__(self, key: str) -> Any:
        try:
            return self._items[key]
        except KeyError:
            raise AttributeError(f"no key {key}{did_you_mean(key, self._items)}") from None

    def __setattr__(self, key: str, value: Any = None) -> NoReturn:
        raise AttributeError(f"the configuration is frozen: {key} cannot be changed")

    __delattr__ = __setattr__

    def __reduce__(self) -> tuple[type[Config], tuple[dict[str, Any]]]:
        # pickle and copy would otherwise set attributes
        return Config, (self.to_dict(),)

    def __repr__(self) -> str:
        return f"Config({self.to_dict()})"

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts and lists, all of them new."""
        return {key: thaw(item) for key, item in self.items()}

    def dump(self, path: StrPath) -> None:
        """Write YAML that `load_config` reads back as an equal Config."""
        with open(path, "w", encoding="utf-8") as file:
            yaml.dump(self.to_dict(), file, strict_yaml.Dumper, sort_keys=False, allow_unicode=True)


def _freeze(value: Any) -> Any:
    if isinstance(value, Mapping):
        return Config(value)
    return tuple(map(_freeze, value)) if isinstance(value, (list, tuple)) else value


def thaw(value: Any) -> Any:
    """Plain dicts and lists of what a Config holds, all of them new."""
    if isinstance(value, Mapping):
        return {key: thaw(item) for key, item in value.items()}
    return list(map(thaw, value)) if isinstance(value, (list, tuple)) else value


# -- Files, overrides, merging ---------------------------------------------------------------------


def _parse_override(override: str) -> Dotted:
    key, equals, text = override.partition("=")
    names = key.strip().split(".")
    if not equals or not all(names):
        raise UserError(
            f"-o {show(override)}: expected SECTION.KEY=VALUE, for example -o Global.seed=1"
        )
    tree = strict_yaml.parse(text, f"-o {key}={show(text)}")
    strict_yaml.check_plain(tree, key.strip(), "-o")
    for name in reversed(names):
        tree = Dotted({name: tree})
    SCHEMA.check(tree, "", "-o", whole=False)
    return tree


def packaged() -> Path:
    """The folder of the configurations that come with the package, or lie beside it in a clone."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def locate(path: str, stated: str | None = None) -> str:
    """`path` where it exists; else the packaged file that `stated`, by default the path, names.

    `base`, `base.yaml` and `configs/base.yaml` all name the packaged base.yaml.
    """
    stated = os.path.normpath(path if stated is None else stated)
    name = re.fullmatch(r"(?:configs/)?([\w-]+)(?:\.yaml)?", stated)
    if name and not os.path.lexists(path):
        candidate = packaged() / f"{name[1]}.yaml"
        return str(candidate) if candidate.is_file() else path
    return path


def _read_layers(
    path: StrPath, above: tuple[str, ...] = (), stated: str | None = None
) -> dict[str, Any]:
    """The file over those it inherits from; each checked alone, so that an error names its file.

    Args:
        above: the files that inherit from it, the nearest last.
        stated: how the file above names it.
    """
    path = locate(os.fspath(path), stated)
    if any(os.path.realpath(path) == os.path.realpath(other) for other in above):
        chain = " -> ".join([*above, path])
        raise UserError(f"{path}: _BASE_ leads back to this file ({chain}); remove one of them")
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8; save the YAML file with that encoding") from None
    except (OSError, ValueError) as error:  # ValueError: a null character
        reason = getattr(error, "strerror", None) or error
        named = f" (_BASE_ of {above[-1]})" if above else ""
        expected = "a readable YAML file"
        if isinstance(error, FileNotFoundError):
            names = sorted(file.stem for file in packaged().glob("*.yaml"))
            expected += f", or the name of one that comes with the package: {', '.join(names)}"
        raise UserError(f"{path}{named}: {reason}; expected {expected}") from None
    tree = strict_yaml.parse(text, path)
    if not isinstance(tree, dict):
        raise wrong(path, "", tree, SCHEMA.expected)
    strict_yaml.check_plain(tree, "", path)
    base = tree.pop("_BASE_", None)
    if base is not None and not (isinstance(base, str) and base):
        raise wrong(path, "_BASE_", base, "the path of a YAML file, relative to this one")
    SCHEMA.check(tree, "", path, whole=False)
    if base is None:
        return tree
    at = os.path.normpath(os.path.join(os.path.dirname(path), base))
    return _merge(_read_layers(at, (*above, path), base), tree, SCHEMA)


def _merge(base: Any, delta: Any, kind: Kind | None, key: str = "") -> Any:
    """`delta` over `base`, both kept: mappings merge key by key, anything else replaces.

    Args:
        kind: of both; None merges overrides among themselves, where no name drops any key.
        key: dotted, of both.
    """
    if isinstance(delta, Dotted) and (isinstance(base, list) or isinstance(kind, ListOf)):
        return _merge_items(base, delta, kind, key)
    if not isinstance(delta, dict):
        return delta
    result = type(base)(base) if isinstance(base, dict) else type(delta)()
    section, old = kind if isinstance(kind, Section) else None, result.get("name")
    if section and section.component and old is not None and delta.get("name", old) != old:
        result = {name: value for name, value in result.items() if name in section.common}
    for name, value in delta.items():
        field = section.fields.get(name) if section else None
        below = result.get(name)
        if name not in result and isinstance(field, ListOf) and field.default is not REQUIRED:
            below = field.default
        result[name] = _merge(below, value, field, join(key, name))
    return result


def _merge_items(base: Any, delta: Dotted, kind: Kind | None, key: str) -> list[Any]:
    """`delta`, whose keys are indices, over the list `base`."""
    if not isinstance(base, list):
        raise UserError(f"-o: {key} is {show(base)}, no list; set it whole: -o {key}=[...]")
    result = list(base)
    for index, value in delta.items():
        if not re.fullmatch("[0-9]{1,9}", index) or int(index) >= len(result):
            raise UserError(
                f"-o: {join(key, index)} does not exist, {key} is a list of length {len(result)}; "
                f"indices begin at 0; to lengthen it set it whole: -o {key}=[...]"
            )
        at = int(index)
        item = kind.item if isinstance(kind, ListOf) else None
        result[at] = _merge(result[at], value, item, join(key, index))
    return result
