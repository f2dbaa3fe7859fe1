"""The detector that is trained here once for all tests."""

import pytest

from tests.support import detector


@pytest.fixture(scope="session")
def trained():
    """The network; about ten seconds."""
    return detector.train()


@pytest.fixture(scope="session")
def detector_folder(trained, tmp_path_factory):
    """Its export."""
    return str(detector.export(trained, tmp_path_factory.mktemp("detector")))
