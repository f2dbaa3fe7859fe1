"""Who imports whom: the rooms of the package, floor by floor.

Read from the source, so that an import within a function counts too. What may import
`paddle.distributed`, PaddleNLP and PaddleClas is ruff's to check (pyproject.toml).
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.support.paths import ROOT

# From the ground up. A room imports rooms of lower floors and itself: those of one floor know
# nothing of one another. "" is the package's own face, ernie_vil2/__init__.py.
FLOORS = [
    {"errors"},
    {"limits", "os_errors", "preprocessing", "processor", "runtime", "tf32", "views"},
    {"cli", "config", "files"},
    {"distributed"},
    {"data", "losses", "models"},
    {"checkpoints"},
    {"weights"},
    {""},
    {"artefact"},
    {"evaluation"},
    {"search"},
    {"serving", "training"},
    {"embedding", "export", "tagging"},
    {"demo", "doctor", "studies"},
    {"commands"},
    {"__main__"},
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Dotted name -> file of every module of the package."""
    found = {}
    for path in (root / "ernie_vil2").rglob("*.py"):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(paths: dict[str, Path]) -> dict[str, set[str]]:
    """Module -> the modules of `paths` that it imports, anywhere in its text."""
    graph: dict[str, set[str]] = {name: set() for name in paths}
    for name, path in paths.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}:{node.lineno}: write the package's whole name"
                named = [f"{node.module}.{alias.name}" for alias in node.names]
                graph[name] |= {x if x in paths else node.module for x in named}
            elif isinstance(node, ast.Import):
                graph[name] |= {alias.name for alias in node.names}
        graph[name] = graph[name] & paths.keys() - {name}
    return graph


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import one another in a ring, in order; [] where there is none."""
    done: set[str] = set()

    def visit(name: str, way: list[str]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return []
        found = next(filter(None, (visit(x, [*way, name]) for x in sorted(graph[name]))), [])
        done.add(name)
        return found

    return next(filter(None, (visit(name, []) for name in sorted(graph))), [])


def room(module: str) -> str:
    """The first part of a module's name within the package."""
    return [*module.split("."), ""][1]


GRAPH = imports(modules())


def test_no_circle():
    assert circle(GRAPH) == []


def test_a_circle_is_found():
    ring = {"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": set()}
    assert circle(ring) == ["a", "b", "c", "a"]
    assert circle({**ring, "c": {"d"}}) == []


def test_every_room_has_a_floor():
    assert {room(module) for module in GRAPH} == FLOOR.keys()


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/contributing_zh.md"])
def test_the_documents_state_the_same_floors(page):
    lines = re.findall(r"^\d+\. ((?:`\w+`(?:, |、)?)+)$", (ROOT / page).read_text("utf-8"), re.M)
    stated = [{x.replace("__init__", "") for x in re.findall(r"`(\w+)`", line)} for line in lines]
    assert stated == FLOORS


def test_export_knows_nothing_of_training():
    rooms = {
        room(x) for module, others in GRAPH.items() if room(module) == "export" for x in others
    }
    assert rooms and "training" not in rooms


def test_imports_go_down():
    up = [
        f"{module} imports {other}"
        for module, others in sorted(GRAPH.items())
        for other in sorted(others)
        if room(other) != room(module) and FLOOR[room(other)] >= FLOOR[room(module)]
    ]
    assert up == []


def test_an_import_up_is_found(tmp_path):
    package = tmp_path / "ernie_vil2"
    for path, text in {
        "__init__.py": "",
        "files/__init__.py": "",
        "files/durable.py": "def f():\n    from ernie_vil2.training import trainer\n",
        "training/__init__.py": "",
        "training/trainer.py": "from ernie_vil2.files.durable import f\n",
    }.items():
        (package / path).parent.mkdir(parents=True, exist_ok=True)
        (package / path).write_text(text)
    graph = imports(modules(tmp_path))
    assert graph["ernie_vil2.files.durable"] == {"ernie_vil2.training.trainer"}
    assert circle(graph) == [
        "ernie_vil2.files.durable",
        "ernie_vil2.training.trainer",
        "ernie_vil2.files.durable",
    ]
