"""YAML without surprises: plain values alone, each key once, numbers as YAML 1.2 has them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import chain
from typing import Any, NoReturn

import yaml

from ernie_vil2.config.messages import join, show, wrong
from ernie_vil2.errors import UserError


class Loader(yaml.SafeLoader):
    """Plain values: no tag makes an object, a date is a string, a key stands once in a mapping."""

    MAX_VALUES = 100_000  # with aliases spelt out, whose number can double with every line

    # Without those that would make dates, or refuse a plain "=".
    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, regex) for tag, regex in pairs if not tag.endswith((":timestamp", ":value"))]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, stream: str):
        super().__init__(stream)
        self._values: dict[yaml.Node, int] = {}  # of each node so far, itself included

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        node = super().compose_node(parent, index)
        assert node is not None  # in spite of its type
        children: Iterable[yaml.Node] = ()
        if isinstance(node, yaml.CollectionNode):
            children = chain(*node.value) if isinstance(node, yaml.MappingNode) else node.value
        self._values[node] = 1 + sum(self._values.get(child, 1) for child in children)
        if self._values[node] > self.MAX_VALUES:
            self.refuse(node, f"more than {self.MAX_VALUES} values, counting each alias in full")
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node, seen = super().compose_mapping_node(anchor), set()
        for key, _ in node.value:
            if (key.tag, str(key.value)) in seen:
                self.refuse(key, f"the key {key.value} stands twice in one mapping; keep one")
            seen.add((key.tag, str(key.value)))
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)  # type: ignore[no-untyped-call]
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            self.refuse(node, f"{show(node.value)} cannot be read as {node.tag}; quote a string")

    def refuse_tag(self, node: yaml.Node) -> NoReturn:
        self.refuse(node, f"the tag {node.tag} is not allowed; write plain values")

    def refuse(self, node: yaml.Node, problem: str) -> NoReturn:
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


class Dumper(yaml.SafeDumper):
    """Quotes the strings that `Loader` would read as numbers."""


Loader.add_constructor(None, Loader.refuse_tag)  # type: ignore[arg-type]  # of any other tag
for _class in (Loader, Dumper):
    # Numbers in YAML 1.2 that PyYAML, made for 1.1, takes for strings: 1e-4, 3e5, 1.5e3
    _class.add_implicit_resolver(  # type: ignore[no-untyped-call]
        "tag:yaml.org,2002:float",
        re.compile(r"[-+]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)[eE][-+]?[0-9]+$"),
        list("-+.0123456789"),
    )


def parse(text: str, where: str) -> Any:
    """The value that the text spells.

    Args:
        where: the file, or what else the text is, for the error.

    Raises:
        UserError: no valid YAML, or more than plain values.
    """
    problem: object
    try:
        return yaml.load(text, Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = error.problem or error.context
    except yaml.YAMLError as error:
        at, problem = "", error
    except RecursionError:
        at, problem = "", "nested too deeply"
    raise UserError(f"{where}{at}: not valid YAML: {' '.join(str(problem).split())}")


def check_plain(value: Any, key: str, where: str, parents: tuple[Any, ...] = ()) -> None:
    """Refuse what -o and `Config.dump` cannot express, and a container that holds itself.

    Args:
        key: dotted, of the value.
        where: the file, or "-o".
        parents: the containers that hold the value.

    Raises:
        UserError: it names the key and what was expected.
    """
    if any(value is parent for parent in parents):
        raise UserError(f"{where}: {key} contains itself; an alias must not name its own parent")
    if isinstance(value, dict):
        for name, item in value.items():
            if not isinstance(name, str):
                raise wrong(where, join(key, "(key)"), name, f'a string: "{name}" in quotes')
            _check_text(name, join(key, "(key)"), where)
            check_plain(item, join(key, name), where, (*parents, value))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            check_plain(item, join(key, i), where, (*parents, value))
    elif isinstance(value, str):
        _check_text(value, key, where)
    elif not (value is None or isinstance(value, (bool, int, float))):
        raise wrong(where, key, value, "a string, number, true, false, null, list or mapping")


def _check_text(value: str, key: str, where: str) -> None:
    """Refuse what no file name and no UTF-8 file can hold; YAML's escapes can spell it."""
    if "\0" in value or re.search("[\ud800-\udfff]", value):
        expected = "text without a null character or half a character"
        raise wrong(where, key, value, expected)
