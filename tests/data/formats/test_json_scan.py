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


@pytest.mark.parametrize("block", [7, 1 << 20])
def test_an_element_too_deep_to_parse_costs_itself_alone(tmp_path, monkeypatch, block):
    monkeypatch.setattr("ernie_vil2.data.formats.json_scan._BLOCK", block)
    deep = ['{"a": "]}\\"", "b": ' + "[" * 20_000 + "]" * 20_000 + "}", "[" * 20_000 + "]" * 20_000]
    path = tmp_path / "a.json"
    path.write_text(f'{{"x": [1, {", 2, ".join(deep)}, 3]}}')
    (x,) = spans.json_arrays(str(path), "x")
    assert [x.read(i).decode() for i in range(5)] == ["1", deep[0], "2", deep[1], "3"]
    path.write_text(f'{{"x": [1, {deep[0][:-1]}')  # one that never ends
    with pytest.raises(UserError, match="no JSON object"):
        spans.json_arrays(str(path), "x")
