"""The Dockerfiles: read, and their commands run in order in a fresh folder.

There is no engine for containers here. What differs from a build: apt-get is not run, the system
and its Python are these, and the packages are those of the tests' environment, of the same lock.
"""

import os
import re
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import paddle
import pytest

from tests.support.dockerfiles import Image, context, ignore_patterns, ignored, instructions
from tests.support.paths import ROOT
from tests.support.shapes import write_run

FILES = ["train.Dockerfile", "serve.Dockerfile"]
LOCK = "requirements.txt" if paddle.version.full_version < "3" else "requirements-paddle3.txt"


@pytest.mark.parametrize("file", FILES)
def test_what_it_names_is_there(file):
    text = (ROOT / "docker" / file).read_text()
    steps = instructions(ROOT / "docker" / file)
    assert [word for word, _ in steps][:2] == ["ARG", "FROM"] and steps[-1][0] == "CMD"
    for lock in re.findall(r"REQUIREMENTS=(\S+)", text):
        assert (ROOT / lock).is_file(), lock
    for word, what in steps:
        if word == "COPY":
            assert context("*" if what.split()[0] == "." else what.split()[0]), what
    for path in re.findall(r"(?:tests/)?tools/\w+\.\w+|configs/\w+\.yaml|docs/\w+\.md", text):
        assert (ROOT / path).is_file(), path


@pytest.mark.parametrize("file", FILES)
def test_it_has_the_libraries_that_the_wheels_need_from_the_system(file):
    wanted = re.search(r'packages="([^"]+)"', (ROOT / "tools/_setup.sh").read_text())[1].split()
    (installed,) = (x for word, x in instructions(ROOT / "docker" / file) if "apt-get" in x)
    assert {*wanted, "python3", "python3-venv"} <= set(installed.split())


def test_what_a_build_sends_is_what_git_holds():
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    held = {Path(line) for line in done.stdout.splitlines() if (ROOT / line).is_file()}
    sent = set(context())
    assert len(held) > 400 and held <= sent
    names = {path.parts[0] for path in sent}
    assert not names & {".git", ".venv", ".venv-paddle3", "data", "output", "exported"}
    assert "ernie_vil2" in names


def test_what_is_ignored():
    patterns = ignore_patterns()
    for path in ".git/config", ".venv-serving/bin/python", "ernie_vil2/__pycache__/cli.pyc":
        assert ignored(Path(path), patterns), path
    for path in "ernie_vil2/data/order.py", "docs/data.md", ".dockerignore":
        assert not ignored(Path(path), patterns), path


class Built(Image):
    """An image whose environment has the packages of this one, instead of a download of 2 GB."""

    def after_run(self, text):
        if "-m venv" in text:
            (site,) = self.folder.glob(".venv/lib/python3.*/site-packages")
            (site / "tests.pth").write_text(sysconfig.get_path("purelib"))


@pytest.fixture
def build(tmp_path):
    """Makes an image of a Dockerfile in a fresh folder."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "python3").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (tools / "python3").chmod(0o755)
    kept = {k: v for k, v in os.environ.items() if k.startswith(("PIP_", "HOME", "LANG", "SSL"))}

    def make(file):
        arguments = {"ROOT": str(tmp_path / "opt" / "ernie_vil2"), "REQUIREMENTS": LOCK}
        return Built(file, arguments, {**kept, "PATH": f"{tools}:{os.environ['PATH']}"})

    return make


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info >= (3, 12), reason="the images' Python is older")
def test_the_training_image_trains(build, tmp_path):
    image = build("train.Dockerfile")
    assert len(image.unrun) == 1 and image.command[:3] == ["python", "tools/train.py", "-c"]
    assert (image.folder / image.command[3]).is_file()
    data = tmp_path / "data"
    data.mkdir()
    command = [*image.command[:3], str(write_run(data)), *image.command[4:]]
    subprocess.run(command, cwd=image.folder, env=image.environment, check=True, timeout=300)
    assert (data / "out" / "checkpoints" / "latest" / "model.safetensors").is_file()
    where = "import paddle, sys, ernie_vil2; print(ernie_vil2.__file__, sys.prefix)"
    said = subprocess.check_output(
        ["python", "-c", where], cwd=image.folder, env=image.environment, text=True
    )
    assert said.split() == [
        str(image.folder / "ernie_vil2" / "__init__.py"),
        str(image.folder / ".venv"),
    ]


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info >= (3, 12), reason="the images' Python is older")
def test_the_serving_image_serves(build, tmp_path, tiny_artefact):
    image = build("serve.Dockerfile")
    assert (image.folder / ".venv" / "bin" / "ernie-vil2").is_file()
    assert not (image.folder / "paddle.txt").read_text().count("fastapi")
    log = tmp_path / "log"
    environment = {"MODEL": str(tiny_artefact), "DEVICE": "cpu", "HOST": "127.0.0.1", "PORT": "0"}
    with log.open("wb") as file:
        server = subprocess.Popen(
            image.command, cwd=image.folder, env={**image.environment, **environment}, stderr=file
        )
    try:
        end = time.monotonic() + 120
        while not (match := re.search(r"http://127\.0\.0\.1:(\d+)", log.read_text())):
            assert server.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.1)
        well = ["/bin/sh", "-c", image.healthcheck]
        variables = {**image.environment, **environment, "PORT": match[1]}
        while code := subprocess.run(well, env=variables, capture_output=True).returncode:
            assert code == 1 and time.monotonic() < end, log.read_text()  # not ready yet
            time.sleep(0.2)
    finally:
        server.terminate()
    assert server.wait(30) == 0, "SIGTERM reaches the server: it is the container's first process"
