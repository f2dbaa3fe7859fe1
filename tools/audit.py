#!/usr/bin/env python
"""Look for known holes in the locks: `python tools/audit.py [LOCK ...]`.

The table below is what was mended until the locks were last renewed; it needs no network. Exit code
1: a lock is below it. Where pip-audit is installed and reaches its database, it is asked too, about
what the table cannot know, and its answer printed: some packages are held, see requirements.in.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.9", "3.10", "3.11", "3.12")
_PATIENCE = 180  # seconds for pip-audit's answer about a lock


class Mended(NamedTuple):
    """The first version without the holes; since: the first Python for which there is one."""

    version: str
    advisories: str
    since: str = "3.9"


MENDED = {
    "aiohttp": Mended("3.13.4", "CVE-2025-53643 CVE-2025-69223 CVE-2026-34525"),
    "certifi": Mended("2024.7.4", "CVE-2024-39689"),
    "filelock": Mended("3.20.3", "CVE-2025-68146 CVE-2026-22701", since="3.10"),
    "flask": Mended("3.1.3", "CVE-2025-47278 CVE-2026-27205"),
    "fonttools": Mended("4.60.2", "CVE-2025-66034"),
    "h11": Mended("0.16.0", "CVE-2025-43859"),
    "httpcore": Mended("1.0.9", "CVE-2025-43859, as the first that takes that h11"),
    "idna": Mended("3.7", "CVE-2024-3651"),
    "jinja2": Mended("3.1.6", "CVE-2024-56201 CVE-2024-56326 CVE-2025-27516"),
    "pip": Mended("26.0", "CVE-2025-8869 CVE-2026-1703"),
    "protobuf": Mended("5.29.6", "CVE-2025-4565 CVE-2026-0994"),
    "pygments": Mended("2.20.0", "CVE-2026-4539"),
    "python-multipart": Mended("0.0.22", "CVE-2024-53981 CVE-2026-24486", since="3.10"),
    "requests": Mended("2.33.0", "CVE-2026-25645", since="3.10"),
    "scikit-learn": Mended("1.5.0", "CVE-2024-5206"),
    "sentencepiece": Mended("0.2.1", "CVE-2026-1260"),
    "setuptools": Mended("78.1.1", "CVE-2024-6345 CVE-2025-47273"),
    "starlette": Mended("0.49.1", "CVE-2024-47874 CVE-2025-54121 CVE-2025-62727"),
    "tqdm": Mended("4.66.3", "CVE-2024-34062"),
    "urllib3": Mended("2.6.3", "CVE-2025-50181 CVE-2025-66418 CVE-2025-66471 CVE-2026-21441"),
    "werkzeug": Mended("3.1.6", "CVE-2025-66221 CVE-2026-21860 CVE-2026-27199"),
    "zipp": Mended("3.19.1", "CVE-2024-5569"),
}

# What stays below, by lock: who holds it, or why its hole is not reached.
_SERVING = ("requirements-serving.txt", "requirements-serving-gpu.txt")
HELD = {
    **{(lock, "protobuf"): "Paddle Serving's modules need one before 3.21" for lock in _SERVING},
    **{(lock, "requests"): "no later one for Python 3.9; only a client's" for lock in _SERVING},
    ("requirements-serving.txt", "pygments"): "colours pytest's output, and serves nobody",
}


def entries(lock: Path) -> list[Requirement]:
    """The pinned packages of a lock."""
    lines = (line.partition("#")[0].strip() for line in lock.read_text().splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith("--")]


def findings(lock: Path) -> list[str]:
    """A line for each package of the lock that is below its mended version and not held."""
    found = []
    for entry in entries(lock):
        mended = MENDED.get(entry.name.lower().replace("_", "-"))
        if mended is None or (lock.name, entry.name) in HELD:
            continue
        served = PYTHONS[PYTHONS.index(mended.since) :]
        marker = entry.marker
        if marker and not any(
            marker.evaluate({"python_version": p, "python_full_version": f"{p}.0"}) for p in served
        ):
            continue
        (pin,) = entry.specifier
        if Version(pin.version) < Version(mended.version):
            found.append(
                f"{lock.name}: {entry.name} {pin.version} has {mended.advisories}; "
                f"renew it to {mended.version} or later (bash tools/lock.sh)"
            )
    return found


def ask_pip_audit(lock: Path) -> list[str] | None:
    """pip-audit's findings; None where it is missing, or its database cannot be reached."""
    if importlib.util.find_spec("pip_audit") is None:
        return None
    command = [sys.executable, "-m", "pip_audit", "--no-deps", "--disable-pip", "-r", str(lock)]
    command += ["--progress-spinner=off", "--format=columns"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE)
    except subprocess.TimeoutExpired:  # it waits for each package of a network that swallows all
        return None
    # a database that does not answer is to pip-audit one that knows none of the packages
    if "Traceback" in done.stderr or "could not be audited: setuptools" in done.stdout:
        return None
    return [f"{lock.name}: {line}" for line in done.stdout.splitlines() if " " in line]


def main(argv: list | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    locks = [Path(name) for name in argv] or sorted(ROOT.glob("requirements*.txt"))
    found = [line for lock in locks for line in findings(lock)]
    print(*found, sep="\n", end="\n" if found else "")
    for lock in locks:
        asked = ask_pip_audit(lock)
        if asked is None:
            print("pip-audit was not asked: it is not installed, or its database is out of reach")
            break
        print("".join(f"{line}\n" for line in asked), end="")
    print(f"{len(found)} findings in {len(locks)} locks")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
