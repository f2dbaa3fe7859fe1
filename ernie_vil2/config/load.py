"""The configuration: YAML with `_BASE_` and `-o` overrides, checked against `SCHEMA`, frozen.

Nothing heavy is imported, so that `--help` stays quick.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path

import yaml

from ernie_vil2.config.schema import (
    REQUIRED,
    SCHEMA,
    Dotted,
    Kind,
    ListOf,
    check_together,
    join,
    show,
    wrong,
)
from ernie_vil2.errors import UserError, did_you_mean


def load_config(path, overrides: Iterable = ()) -> Config:
    """Read a YAML file with its `_BASE_` files, apply `-o` overrides, fill in defaults, check.

    path: a file, or the name of one that the package carries, see `locate`.
    overrides: strings "Section.key=VALUE", VALUE in YAML; in the key a number indexes a list.
    Raises UserError for whatever is wrong with the files or the overrides.
    """
    assert not isinstance(overrides, str), "overrides is a list of strings"
    changes: dict = {}
    for override in overrides:
        changes = _merge(changes, _parse_override(override), None)
    tree = _merge(_read_layers(path), changes, SCHEMA)
    where = f"{path} with -o" if changes else str(path)
    tree = SCHEMA.check(tree, "", where, whole=True)
    check_together(tree, where)
    return Config(tree)


def check_arch(source) -> Config:
    """The `Arch` node of a YAML file or of a mapping, checked and with its defaults filled in.

    Of a mapping everything else is left alone; a file may lack other sections, not misspell them.
    """
    if isinstance(source, Mapping):
        where = "the given config"
        tree = {"Arch": _thaw(source["Arch"])} if "Arch" in source else {}
        _check_plain(tree, "", where)
    else:
        where, tree = str(source), _read_layers(source)
    if "Arch" not in tree:
        raise UserError(f"{where}: Arch is missing; expected its Image and Text, see base.yaml")
    return Config(SCHEMA.fields["Arch"].check(tree["Arch"], "Arch", where, whole=True))


class Config(Mapping):
    """A frozen mapping: `cfg.Global.seed` is `cfg["Global"]["seed"]`; lists are tuples."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping):
        object.__setattr__(self, "_items", {key: _freeze(item) for key, item in items.items()})

    def __getitem__(self, key):
        return self._items[key]

    def __iter__(self):
        return iter(self._items)

    def __len__(self):
        return len(self._items)

    def __getattr__(self, key):
        try:
            return self._items[key]
        except KeyError:
            raise AttributeError(f"no key {key}{did_you_mean(key, self._items)}") from None

    def __setattr__(self, key, value=None):
        raise AttributeError(f"the configuration is frozen: {key} cannot be changed")

    __delattr__ = __setattr__

    def __reduce__(self):  # pickle and copy would set attributes
        return Config, (self.to_dict(),)

    def __repr__(self):
        return f"Config({self.to_dict()})"

    def to_dict(self) -> dict:
        """Plain dicts and lists, all of them new."""
        return _thaw(self)

    def dump(self, path) -> None:
        """Write YAML that `load_config` reads back as an equal Config."""
        with open(path, "w", encoding="utf-8") as file:
            yaml.dump(self.to_dict(), file, _Dumper, sort_keys=False, allow_unicode=True)


def _freeze(value):
    if isinstance(value, Mapping):
        return Config(value)
    return tuple(map(_freeze, value)) if isinstance(value, (list, tuple)) else value


def _thaw(value):
    if isinstance(value, Mapping):
        return {key: _thaw(item) for key, item in value.items()}
    return list(map(_thaw, value)) if isinstance(value, (list, tuple)) else value


# -- Files, overrides, merging ---------------------------------------------------------------------


def _parse_override(override: str) -> Dotted:
    key, equals, text = override.partition("=")
    names = key.strip().split(".")
    if not equals or not all(names):
        raise UserError(
            f"-o {show(override)}: expected SECTION.KEY=VALUE, for example -o Global.seed=1"
        )
    tree = _parse_yaml(text, f"-o {key}={show(text)}")
    _check_plain(tree, key.strip(), "-o")
    for name in reversed(names):
        tree = Dotted({name: tree})
    SCHEMA.check(tree, "", "-o", whole=False)
    return tree


def packaged() -> Path:
    """The folder of the configurations that come with the package, or lie beside it in a clone."""
    here = Path(__file__).resolve().parents[1]  # ernie_vil2/
    return here / "configs" if (here / "configs").is_dir() else here.parent / "configs"


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


def _read_layers(path, above: tuple = (), stated: str | None = None) -> dict:
    """The file over those it inherits from; each checked alone, so that an error names its file.

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
    tree = _parse_yaml(text, path)
    if not isinstance(tree, dict):
        raise wrong(path, "", tree, SCHEMA.expected)
    _check_plain(tree, "", path)
    base = tree.pop("_BASE_", None)
    if base is not None and not (isinstance(base, str) and base):
        raise wrong(path, "_BASE_", base, "the path of a YAML file, relative to this one")
    SCHEMA.check(tree, "", path, whole=False)
    if base is None:
        return tree
    at = os.path.normpath(os.path.join(os.path.dirname(path), base))
    return _merge(_read_layers(at, (*above, path), base), tree, SCHEMA)


def _merge(base, delta, kind: Kind | None, key: str = ""):
    """`delta` over `base`, both kept: mappings merge key by key, anything else replaces.

    kind: the type of both; None merges overrides among themselves, where no name drops any key.
    """
    if isinstance(delta, Dotted) and (isinstance(base, list) or isinstance(kind, ListOf)):
        return _merge_items(base, delta, kind, key)
    if not isinstance(delta, dict):
        return delta
    result = type(base)(base) if isinstance(base, dict) else type(delta)()
    old = result.get("name")
    if kind and kind.component and old is not None and delta.get("name", old) != old:
        result = {name: value for name, value in result.items() if name in kind.common}
    for name, value in delta.items():
        field = kind.fields.get(name) if kind else None
        below = result.get(name)
        if name not in result and isinstance(field, ListOf) and field.default is not REQUIRED:
            below = field.default
        result[name] = _merge(below, value, field, join(key, name))
    return result


def _merge_items(base, delta: Dotted, kind: ListOf | None, key: str) -> list:
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
        result[at] = _merge(result[at], value, kind and kind.item, join(key, index))
    return result


# -- YAML ------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """Plain values: no tag makes an object, a date is a string, a key stands once in a mapping."""

    MAX_VALUES = 100_000  # with aliases spelt out, whose number can double with every line

    # Without those that would make dates, or refuse a plain "=".
    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, regex) for tag, regex in pairs if not tag.endswith((":timestamp", ":value"))]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent, index):
        node = super().compose_node(parent, index)
        children = node.value if isinstance(node, yaml.CollectionNode) else ()
        if isinstance(node, yaml.MappingNode):
            children = chain(*children)
        node.values = 1 + sum(getattr(child, "values", 1) for child in children)
        if node.values > self.MAX_VALUES:
            self.refuse(node, f"more than {self.MAX_VALUES} values, counting each alias in full")
        return node

    def compose_mapping_node(self, anchor):
        node, seen = super().compose_mapping_node(anchor), set()
        for key, _ in node.value:
            if (key.tag, str(key.value)) in seen:
                self.refuse(key, f"the key {key.value} stands twice in one mapping; keep one")
            seen.add((key.tag, str(key.value)))
        return node

    def construct_object(self, node, deep=False):
        try:
            return super().construct_object(node, deep)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            self.refuse(node, f"{show(node.value)} cannot be read as {node.tag}; quote a string")

    def refuse_tag(self, node):
        self.refuse(node, f"the tag {node.tag} is not allowed; write plain values")

    def refuse(self, node, problem: str):
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


class _Dumper(yaml.SafeDumper):
    """Quotes the strings that `_Loader` would read as numbers."""


_Loader.add_constructor(None, _Loader.refuse_tag)
for _class in (_Loader, _Dumper):
    # Numbers in YAML 1.2 that PyYAML, made for 1.1, takes for strings: 1e-4, 3e5, 1.5e3
    _class.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"[-+]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)[eE][-+]?[0-9]+$"),
        list("-+.0123456789"),
    )


def _parse_yaml(text: str, where: str):
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = error.problem or error.context
    except yaml.YAMLError as error:
        at, problem = "", error
    except RecursionError:
        at, problem = "", "nested too deeply"
    raise UserError(f"{where}{at}: not valid YAML: {' '.join(str(problem).split())}")


def _check_plain(value, key: str, where: str, parents: tuple = ()) -> None:
    """Refuse what -o and `dump` could not express, and a container that holds itself."""
    if any(value is parent for parent in parents):
        raise UserError(f"{where}: {key} contains itself; an alias must not name its own parent")
    if isinstance(value, dict):
        for name, item in value.items():
            if not isinstance(name, str):
                raise wrong(where, join(key, "(key)"), name, f'a string: "{name}" in quotes')
            _check_text(name, join(key, "(key)"), where)
            _check_plain(item, join(key, name), where, (*parents, value))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            _check_plain(item, join(key, i), where, (*parents, value))
    elif isinstance(value, str):
        _check_text(value, key, where)
    elif not (value is None or isinstance(value, (bool, int, float))):
        raise wrong(where, key, value, "a string, number, true, false, null, list or mapping")


def _check_text(value: str, key: str, where: str) -> None:
    """Refuse what no file name and no UTF-8 file can hold; YAML's escapes can spell it."""
    if "\0" in value or re.search("[\ud800-\udfff]", value):
        expected = "text without a null character or half a character"
        raise wrong(where, key, value, expected)
