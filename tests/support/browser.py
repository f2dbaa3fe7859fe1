"""A real browser, for tests of pages."""

import shutil
import subprocess
from pathlib import Path

import pytest


def rendered(url: str, profile: Path, milliseconds: int = 3000) -> str:
    """The document at `url` as Chromium has it after so much of the page's time."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if not chromium:
        pytest.skip("chromium is not installed")
    command = [
        chromium,
        *["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"],
        *["--disable-background-networking", "--disable-component-update"],
        f"--user-data-dir={profile}",
        *[f"--virtual-time-budget={milliseconds}", "--dump-dom", url],
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
