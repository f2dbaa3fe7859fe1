"""The scripts of the two commands, as far as that goes without a download."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

SCRIPTS = ["tools/quickstart.sh", "tools/test.sh"]
TOOLS = ["awk", "bash", "cat", "cut", "df", "dirname", "du", "env", "grep", "id", "mkdir"]
TOOLS += ["rm", "tail", "tee", "touch", "uname"]
LINUX = sys.platform.startswith("linux")


@pytest.fixture
def checkout(tmp_path):
    """A copy of what the scripts need, in a folder with a space in its name."""
    copy = tmp_path / "a clone"
    shutil.copytree(ROOT / "tools", copy / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    for requirements in ROOT.glob("requirements*.txt"):
        shutil.copy(requirements, copy)
    return copy


@pytest.fixture
def path(tmp_path):
    """A PATH with the system's tools and no Python; returns its folder."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in TOOLS:
        (folder / tool).symlink_to(shutil.which(tool))
    return folder


def put_python(folder, name, body):
    script = folder / name
    script.write_text(f"#!{shutil.which('bash')}\n{body}\n")
    script.chmod(0o755)


def run(script, folder, **variables):
    """The script's exit code, stdout and stderr's lines, started elsewhere with stdin closed."""
    done = subprocess.run(
        [shutil.which("bash"), "-c", 'exec bash "$0" <&-', str(script)],
        cwd="/",
        env={"PATH": str(folder), **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout, done.stderr.splitlines()


@pytest.mark.parametrize("script", [*SCRIPTS, "tools/_setup.sh", "tools/lock.sh", ".ci/run"])
def test_bash_can_read(script):
    subprocess.run(["bash", "-n", str(ROOT / script)], check=True)


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("version", ["3.13", "3.8", None])
def test_wrong_python_is_one_line(checkout, path, script, version):
    if version:
        put_python(path, "python3", f"echo {version}")
    code, _, errors = run(checkout / script, path)
    assert (code, len(errors)) == (2, 1)
    assert f"found {version or 'none'}" in errors[0]
    assert not (checkout / ".venv").exists()


def test_a_name_that_leads_nowhere_is_passed_over(checkout, path):
    """A version manager's stand-in for a Python that is not installed fails when it runs."""
    put_python(path, "python3.11", "exit 127")
    put_python(path, "python3", "echo 3.13")
    _, _, errors = run(checkout / "tools/test.sh", path)
    assert "found 3.13" in errors[0]


def test_python_without_venv_names_the_package(checkout, path):
    put_python(path, "python3", 'case "$*" in *ensurepip*) exit 1 ;; esac; echo 3.10')
    code, _, errors = run(checkout / "tools/test.sh", path)
    assert (code, len(errors)) == (2, 1)
    assert "apt-get install python3.10-venv" in errors[0]


@pytest.mark.skipif(not LINUX, reason="the locks are for Linux")
def test_small_disk_is_one_line(checkout, path):
    (path / "df").unlink()
    put_python(path, "df", "echo header; echo /dev/x 9000000 8000000 1000000 89% /")
    put_python(path, "python3", "echo 3.11")
    code, _, errors = run(checkout / "tools/quickstart.sh", path)
    assert (code, len(errors)) == (2, 1)
    assert "6 GB" in errors[0] and "found 976 MB" in errors[0]


@pytest.mark.skipif(not LINUX, reason="the locks are for Linux")
def test_no_network_is_one_line_and_a_log(checkout, path):
    """A real environment and a real pip, whose index is a port where nobody listens."""
    (path / "df").unlink()
    put_python(path, "df", "echo header; echo /dev/x 90000000 0 90000000 0% /")
    code, out, errors = run(
        checkout / "tools/test.sh",
        path,
        PYTHON=sys.executable,
        PIP_CONFIG_FILE=os.devnull,
        PIP_INDEX_URL="http://127.0.0.1:9/simple",
        PIP_RETRIES="0",
        VIRTUAL_ENV="/some/other",
    )
    assert (code, len(errors)) == (2, 1), errors
    assert "the package index cannot be reached" in errors[0]
    log = checkout / ".venv/requirements.txt.log"
    assert str(log) in errors[0] and "127.0.0.1" in log.read_text()
    assert "/some/other stays as it is; using .venv" in out
    assert not list(checkout.glob(".venv/*.installed")), "a failed install must be tried again"
