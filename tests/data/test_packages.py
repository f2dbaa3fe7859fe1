"""Optional packages: there, missing, or broken."""

import json

import pytest

from ernie_vil2.data.packages import needed
from ernie_vil2.errors import UserError


def test_a_package_or_how_to_get_it(tmp_path, monkeypatch):
    assert needed("json", "this") is json
    with pytest.raises(UserError) as caught:
        needed("no_such_package.part", "data set format x")
    assert str(caught.value) == (
        'data set format x needs the package no_such_package: pip install "ernie_vil2[data]"'
    )
    (tmp_path / "broken_package.py").write_text("raise ImportError('libx.so is\\nmissing')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError) as caught:
        needed("broken_package", "this")
    assert "(libx.so is missing)" in str(caught.value) and "\n" not in str(caught.value)
