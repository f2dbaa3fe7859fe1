"""A run for the tests that look at a finished one."""

import pytest

from tests.support.shapes import write_run
from tests.support.training_runs import train


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of four steps: its configuration and output."""
    config = write_run(tmp_path_factory.mktemp("run"))
    return config, train(config)
