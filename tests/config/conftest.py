"""Files of configurations, written for a test."""

import pytest

from tests.support.configs import BASE, MINIMAL


@pytest.fixture
def write(tmp_path):
    """write(text, name) -> the path of a new file; `_BASE_: base` there stands for base.yaml."""

    def write(text, name="delta.yaml"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(text, str):
            text = text.replace("_BASE_: base\n", f"_BASE_: {BASE}\n").encode()
        path.write_bytes(text)
        return path

    return write


@pytest.fixture
def minimal(write):
    return write(MINIMAL, "minimal.yaml")
