"""What `setup.py` makes: an sdist, the wheel from it, and an installation that trains alone."""

import email
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import ernie_vil2
from ernie_vil2.commands import COMMANDS
from tests.support.paths import ROOT
from tests.support.shapes import write_run
from tools import audit

SOURCES = ("ernie_vil2", "configs", "docs", "tests", "tools")
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
# what only training needs, some of PaddleNLP's own requirements among them
TRAINING = {"paddlenlp", "paddleclas", "visualdl", "datasets", "safetensors", "tqdm", "onnx"}


def run(*command, cwd, **variables) -> str:
    """Its stdout, started in another folder without PYTHONPATH."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(cwd), **variables}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    copy = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        ignored = shutil.ignore_patterns("__pycache__", ".pytest_cache")
        shutil.copytree(ROOT / name, copy / name, ignore=ignored)
    for file in ROOT.iterdir():
        if file.is_file() and not file.name.startswith("."):
            shutil.copy(file, copy)
    build = "from setuptools import build_meta as b; b.build_sdist('dist')"
    run(sys.executable, "-c", build, cwd=copy)
    (archive,) = (copy / "dist").iterdir()
    return archive


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory) -> Path:
    """Built from the sdist, which therefore has all that it needs."""
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    options += ["--ignore-requires-python"]  # the tests run on Python 3.12 too
    run(*PIP, "wheel", *options, "--wheel-dir", folder, sdist, cwd=folder)
    (archive,) = folder.glob("*.whl")
    return archive


@pytest.fixture(scope="module")
def metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The bin folder of an environment with the wheel, and the packages of this one beside it."""
    folder = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    here = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
    (site / "beside.pth").write_text("".join(f"{path}\n" for path in here))
    options = ["--quiet", "--no-deps", "--no-index", "--ignore-requires-python"]
    run(*PIP, "--python", folder / "bin/python", "install", *options, wheel, cwd=folder)
    return folder / "bin"


def test_the_wheel_has_all_that_an_installation_needs(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    wanted = {f"ernie_vil2/{p.relative_to(ROOT)}" for p in ROOT.glob("configs/*.y*ml")}
    sources = (path for path in ROOT.glob("ernie_vil2/**/*") if path.is_file())
    wanted |= {str(p.relative_to(ROOT)) for p in sources if p.parent.name != "__pycache__"}
    assert len(wanted) > 70 and "ernie_vil2/py.typed" in wanted
    assert not wanted - names
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"ernie_vil2", f"ernie_vil2-{ernie_vil2.__version__}.dist-info"}


def test_the_sdist_is_the_project(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for pattern in (
        "LICENSE",
        "*.md",
        "requirements*",
        "configs/*",
        "docs/*",
        "tests/*",
        "tools/*",
    ):
        files = {str(p.relative_to(ROOT)) for p in ROOT.glob(pattern) if p.name != "__pycache__"}
        assert files and not files - names, pattern


def test_the_metadata_says_what_it_is(metadata):
    assert metadata["Name"] == "ernie_vil2"
    assert metadata["License"] == "Apache-2.0" and metadata["License-File"] == "LICENSE"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload().startswith("# ernie_vil2")
    assert len(metadata.get_all("Project-URL")) >= 2
    pythons = SpecifierSet(metadata["Requires-Python"])
    served = [v for v in ("3.8", "3.9", "3.10.9", "3.11.7", "3.12.1", "3.13") if v in pythons]
    assert served == ["3.9", "3.10.9", "3.11.7"]


def requirements(metadata, extra: str) -> list:
    every = map(Requirement, metadata.get_all("Requires-Dist"))
    return [r for r in every if r.marker is None or r.marker.evaluate({"extra": extra})]


@pytest.mark.parametrize(
    ("extra", "lock"),
    [
        ("cpu", "requirements.txt"),
        ("gpu", "requirements-gpu.txt"),
        ("train", "requirements-paddle3.txt"),
        ("serve", "requirements.txt"),
        ("serving", "requirements.txt"),
        ("onnx", "requirements.txt"),
    ],
)
def test_the_ranges_admit_the_lock(metadata, extra, lock):
    """Each package, in each version that the lock has for some Python."""
    locked = audit.entries(ROOT / lock)
    for requirement in requirements(metadata, extra):
        name = requirement.name.replace("_", "-")
        pins = [pin.version for e in locked if e.name == name for pin in e.specifier]
        assert pins, f"{lock} lacks {name}"
        assert all(pin in requirement.specifier for pin in pins), (str(requirement), pins)


@pytest.mark.parametrize("extra", ["cpu", "gpu", "serving", "serving-gpu"])
def test_paddle_is_the_documented_one(metadata, extra):
    paddles = [str(r) for r in requirements(metadata, extra) if r.name.startswith("paddlepaddle")]
    (paddle,) = (p.partition(";")[0].strip() for p in paddles)
    assert paddle == ("paddlepaddle-gpu" if "gpu" in extra else "paddlepaddle") + "==2.6.2"


@pytest.mark.parametrize("extra", ["gpu", "serving-gpu"])
def test_the_wheel_for_gpus_comes_with_its_libraries(metadata, extra):
    lines = (ROOT / "requirements-gpu.in").read_text(encoding="utf-8").splitlines()
    wanted = {line for line in lines if not line.startswith("#")}
    asked = {str(r).partition(";")[0].strip() for r in requirements(metadata, extra)}
    assert len(wanted) == 10 and wanted <= asked


@pytest.mark.parametrize("extra", ["", "serve", "serving", "serving-gpu"])
def test_serving_asks_for_nothing_of_training(metadata, extra):
    assert not TRAINING & {r.name for r in requirements(metadata, extra)}


def test_an_installation_has_the_command_and_the_configurations(installed, tmp_path):
    assert run(installed / "ernie-vil2", "--version", cwd=tmp_path).endswith("0.1.0\n")
    said = run(installed / "ernie-vil2", "train", "--help", cwd=tmp_path)
    assert said.startswith("usage: ernie-vil2 train ")
    code = (
        "from ernie_vil2 import commands\nfrom ernie_vil2.config import load as config\n"
        "import importlib\n"
        f"for name in {list(COMMANDS)}:\n"
        "    importlib.import_module('ernie_vil2.commands.' + name.replace('-', '_'))\n"
        "print(config.load_config('demo').Global.epochs, config.packaged())\n"
        "print((config.packaged() / 'paddle_serving.yml').is_file())\n"
        "print(commands.prepare_data.cache_folder())\n"
    )
    said = run(installed / "python", "-c", code, cwd=tmp_path, XDG_CACHE_HOME="/else/where")
    (epochs, folder), (serving,), (cache,) = (line.split() for line in said.splitlines())
    assert folder.startswith(str(installed.parent)) and folder.endswith("ernie_vil2/configs")
    assert (epochs, serving, cache) == ("17", "True", "/else/where/ernie_vil2")


@pytest.mark.slow
def test_an_installation_trains(installed, tmp_path):
    """Two steps of a configuration of one's own over the packaged base.yaml."""
    config = write_run(tmp_path)
    tree = yaml.safe_load(config.read_text())
    config.write_text(yaml.safe_dump({**tree, "_BASE_": "base.yaml"}))
    command = [installed / "ernie-vil2", "train", "-c", config, "-o", "Global.max_steps=2"]
    run(*command, cwd=tmp_path)
    lines = map(json.loads, (tmp_path / "out/metrics.jsonl").read_text().splitlines())
    assert {line["step"] for line in lines if "train/loss" in line} == {1, 2}
    assert (tmp_path / "out/checkpoints/latest/model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info >= (3, 12), reason="python_requires refuses this Python")
@pytest.mark.parametrize(("extra", "most"), [("cpu", 120), ("serving", 30)])
def test_pip_resolves_to_the_documented_paddle(wheel, tmp_path, extra, most):
    """As on a clean machine: nothing is installed, and what is installed here does not count."""
    report = tmp_path / "report.json"
    command = [*PIP, "install", "--quiet", "--dry-run", "--ignore-installed", "--report", report]
    done = subprocess.run([*command, f"{wheel}[{extra}]"], capture_output=True, text=True)
    if done.returncode and any(e in done.stderr for e in ("NewConnectionError", "ConnectTimeout")):
        pytest.skip("no package index within reach")
    assert done.returncode == 0, done.stderr
    found = json.loads(report.read_text())["install"]
    versions = {item["metadata"]["name"].lower(): item["metadata"]["version"] for item in found}
    assert versions["paddlepaddle"] == "2.6.2"
    assert len(versions) <= most
    assert extra == "cpu" or not TRAINING & versions.keys()
