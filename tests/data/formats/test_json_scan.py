"""The elements of a JSON file's arrays, found block by block."""

import json

import pytest

from ernie_vil2.data.formats import spans
from ernie_vil2.errors import UserError


def test_json_is_read_in_small_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("ernie_vil2.data.formats.json_scan._BLOCK", 1)
    elements = [{"a": '"]}\\'}, -12.5e3, "é", [], {"b": [{"c": 1}]}, 123]
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"x": elements, "y": [], "z": 12}, ensure_ascii=False))
    x, y, missing = spans.json_arrays(str(path), "x", "y", "w")
    assert [json.loads(x.read(i)) for i in range(len(x))] == elements
    assert len(y) == len(missing) == 0
    for broken in ('{"x": [1,]}', '{"x": [1', "[]", "", '{"x": [1} ', '{"x" [1]}', '{"x": [nul]}'):
        path.write_text(broken)
        with pytest.raises(UserError, match="no JSON object"):
            spans.json_arrays(str(path), "x")
