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


def run(script, folder, *options, **variables):
    """The script's exit code, stdout and stderr's lines, started elsewhere with stdin closed."""
    done = subprocess.run(
        [shutil.which("bash"), "-c", 'exec bash "$0" "$@" <&-', str(script), *options],
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


SMI = """
case "$*" in
  *compute_cap*) {capability} ;;
  *driver_version*) echo "{driver}, {name}" ;;
esac
"""
NO_QUESTION = "echo 'Field \"compute_cap\" is not a valid field to query.'; exit 2"


def put_cards(folder, *capabilities, driver="570.124.06"):
    """An nvidia-smi that knows of cards; of "?" a driver that cannot tell the capability."""
    lines = "; ".join(f'echo "{c}, {driver}, NVIDIA {c} card"' for c in capabilities)
    told = NO_QUESTION if "?" in capabilities else lines
    put_python(folder, "nvidia-smi", SMI.format(capability=told, driver=driver, name="NVIDIA ?"))


def plan(checkout, path, *options, script="tools/quickstart.sh", **variables):
    """Exit code, stdout's and stderr's lines of a dry run."""
    code, out, errors = run(checkout / script, path, *options or ["--dry-run"], **variables)
    assert not (checkout / ".venv").exists()
    return code, out.splitlines(), errors


@pytest.mark.parametrize(
    ("capabilities", "lock", "disk"),
    [
        (["6.1"], "requirements-gpu.txt", 13),
        (["7.0"], "requirements-gpu.txt", 13),
        (["7.5", "8.9"], "requirements-gpu.txt", 13),
        (["8.0"] * 8, "requirements-gpu.txt", 13),
        (["8.6"], "requirements-gpu.txt", 13),
        (["8.9"], "requirements-gpu.txt", 13),
        (["9.0"] * 8, "requirements-gpu-paddle3.txt", 20),
        (["10.0"], "requirements-gpu-paddle3.txt", 20),
        (["12.0"], "requirements-gpu-paddle3.txt", 20),
        (["12.0", "8.6"], "requirements-gpu-paddle3.txt", 20),
        (["?"], "requirements-gpu.txt", 13),
    ],
)
@pytest.mark.parametrize("script", SCRIPTS)
def test_the_card_chooses_the_lock(checkout, path, script, capabilities, lock, disk):
    put_cards(path, *capabilities)
    code, out, errors = plan(checkout, path, script=script)
    assert (code, errors) == (0, [])
    assert f"would install: {lock} into .venv" in out and (checkout / lock).is_file()
    assert any(line.startswith(f"disk: {disk} GB are needed in ") for line in out)
    assert "driver 570.124.06" in out[0] and out[-1] == "nothing was changed"


@pytest.mark.parametrize(
    ("capabilities", "driver", "said"),
    [
        (["6.0"], "570.124.06", "NVIDIA 6.0 card has compute capability 6.0"),
        (["8.0", "3.5"], "470.82.01", "NVIDIA 3.5 card has compute capability 3.5"),
        (["9.0", "7.5"], "570.124.06", "ERNIE_VIL2_REQUIREMENTS=requirements-gpu.txt"),
        (["8.0"], "450.80.01", "needs 450.80.02 or newer"),
        (["8.0"], "99.1", "needs 450.80.02 or newer"),
        (["?"], "418.87.00", "needs 450.80.02 or newer"),
        (["9.0"], "535.183.06", "needs 550.54.14 or newer"),
    ],
)
def test_a_card_or_driver_that_is_too_old_is_one_line(checkout, path, capabilities, driver, said):
    put_cards(path, *capabilities, driver=driver)
    for options in ["--dry-run"], []:
        code, _, errors = plan(checkout, path, *options)
        assert (code, len(errors)) == (2, 1), errors
        assert said in errors[0]
        assert "ERNIE_VIL2_DEVICE=cpu" in errors[0] or "CUDA_VISIBLE_DEVICES" in errors[0]


@pytest.mark.parametrize("driver", ["450.80.02", "450.102.04", "1000.0"])
def test_drivers_are_compared_as_numbers(checkout, path, driver):
    put_cards(path, "8.0", driver=driver)
    assert plan(checkout, path)[0] == 0


def test_a_card_may_be_left_alone_or_chosen_for(checkout, path):
    put_cards(path, "6.0")
    assert plan(checkout, path, ERNIE_VIL2_DEVICE="cpu")[1][:2] == [
        "found: ERNIE_VIL2_DEVICE=cpu",
        "would install: requirements.txt into .venv",
    ]
    _, out, _ = plan(checkout, path, ERNIE_VIL2_REQUIREMENTS="requirements-gpu-paddle3.txt")
    assert "would install: requirements-gpu-paddle3.txt into .venv" in out


@pytest.mark.parametrize("smi", ["echo 'No devices were found'; exit 6", "exit 9"])
def test_no_card_is_the_cpu(checkout, path, smi):
    assert "would install: requirements.txt into .venv" in plan(checkout, path)[1]
    put_python(path, "nvidia-smi", smi)
    code, out, _ = plan(checkout, path)
    assert code == 0 and out[:2] == [
        "found: no NVIDIA GPU",
        "would install: requirements.txt into .venv",
    ]


def test_a_plan_for_another_machine(checkout, path):
    code, out, _ = plan(checkout, path, "--dry-run=9.0,550.54.14")
    assert code == 0 and "would install: requirements-gpu-paddle3.txt into .venv" in out
    assert plan(checkout, path, "--dry-run=9.0,535.54")[0] == 2
    for wrong in "--dry-run=9.0", "--dry-run=", "--now":
        code, _, errors = plan(checkout, path, wrong)
        assert (code, len(errors)) == (2, 1) and wrong in errors[0]
    _, out, _ = plan(checkout, path, "--paddle3", "--dry-run", script="tools/test.sh")
    assert "would install: requirements-paddle3.txt into .venv-paddle3" in out


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
