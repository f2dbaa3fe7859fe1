"""Shared by all tests: where the official code's numbers are, and small real data."""

import logging
import os
from pathlib import Path

import pytest

from ernie_vil2 import runtime

runtime.prepare()  # before any test imports paddle

FIXTURES = Path(__file__).resolve().parents[2] / "shared" / "fixtures"


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes minutes; run by CI, skipped by -m 'not slow'")


@pytest.fixture
def logged(caplog):
    """What the package logs, also after a run in this process took its logger for itself."""
    log = logging.getLogger("ernie_vil2")
    log.addHandler(caplog.handler)
    propagate, log.propagate = log.propagate, False  # else twice
    yield caplog
    log.propagate = propagate
    log.removeHandler(caplog.handler)


@pytest.fixture(scope="session")
def fixtures_dir() -> Path:
    """The folder of reference numbers made by the official code and PaddleNLP."""
    if not FIXTURES.is_dir():
        if os.environ.get("REQUIRE_FIXTURES"):
            pytest.fail(f"REQUIRE_FIXTURES is set and {FIXTURES} is missing")
        pytest.skip("no ../shared/fixtures beside this clone")
    return FIXTURES
