"""Dockerfiles, read and run without an engine for containers: as a test can, not as one does.

A file's commands run in order in a folder of their own, as the same user and on the same system.
What would change that system (apt-get, the user) is left out.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from string import Template

from tests.support.paths import ROOT


def instructions(file: Path) -> list[tuple[str, str]]:
    """(RUN, its text), ... in order; a line that ends in a backslash goes on."""
    lines = (x for x in file.read_text().splitlines() if not re.match(r"\s*(#|$)", x))
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(word, text) for word, _, text in (x.partition(" ") for x in joined.splitlines())]


def ignored(path: Path, patterns: list[str]) -> bool:
    """Whether .dockerignore keeps a file or folder, relative to the root, out of a build.

    Of its grammar as much as ours uses: names in the root, and `**/NAME` for one anywhere.
    """
    anywhere = [pattern[3:] for pattern in patterns if pattern.startswith("**/")]
    return any(fnmatch.fnmatchcase(path.parts[0], pattern) for pattern in patterns) or any(
        fnmatch.fnmatchcase(part, pattern) for part in path.parts for pattern in anywhere
    )


def ignore_patterns() -> list[str]:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def context(pattern: str = "*") -> list[Path]:
    """The files that COPY finds for a pattern of names in the root, relative to the root."""
    patterns = ignore_patterns()
    found = []
    for folder, inner, names in os.walk(ROOT):
        here = Path(folder).relative_to(ROOT)
        inner[:] = [x for x in inner if not ignored(here / x, patterns)]
        found += [here / x for x in names if not ignored(here / x, patterns)]
    return [path for path in found if fnmatch.fnmatchcase(path.parts[0], pattern)]


class Image:
    """What a Dockerfile's commands made in a folder; `command` is what a container would run."""

    def __init__(self, dockerfile: str, arguments: dict[str, str], environment: dict[str, str]):
        self.folder = Path(arguments["ROOT"])
        self.environment = dict(environment)
        self.command: list[str] = []
        self.healthcheck = ""
        self.unrun: list[str] = []
        self._arguments = arguments
        for word, text in instructions(ROOT / "docker" / dockerfile):
            getattr(self, f"_{word.lower()}")(text)

    def _expand(self, text: str) -> str:
        return Template(text).safe_substitute({**self._arguments, **self.environment})

    def _from(self, text: str) -> None:
        pass

    _expose = _user = _from

    def _healthcheck(self, text: str) -> None:
        self.healthcheck = text.partition("CMD ")[2]

    def _arg(self, text: str) -> None:
        name, _, value = text.partition("=")
        self._arguments.setdefault(name, self._expand(value))

    def _env(self, text: str) -> None:
        for pair in shlex.split(text):
            name, _, value = pair.partition("=")
            self.environment[name] = self._expand(value)

    def _workdir(self, text: str) -> None:
        assert Path(self._expand(text)) == self.folder
        self.folder.mkdir(parents=True, exist_ok=True)

    def _copy(self, text: str) -> None:
        source, target = text.split()
        assert target in (".", "./")
        for path in context("*" if source == "." else source):
            (self.folder / path.parent).mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, self.folder / path)

    def _run(self, text: str) -> None:
        if "apt-get" in text:
            self.unrun.append(text)
            return
        done = subprocess.run(
            ["/bin/sh", "-c", text],
            cwd=self.folder,
            env={**self._arguments, **self.environment},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"RUN {text}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        self.after_run(text)

    def after_run(self, text: str) -> None:
        """Called after each RUN, for what a test puts in the place of a download."""

    def _cmd(self, text: str) -> None:
        shell = not text.startswith("[")
        self.command = ["/bin/sh", "-c", text] if shell else json.loads(text)
