"""From a data set's entry in a configuration to its reader."""

import pytest

from ernie_vil2.data.formats.build import build_reader
from ernie_vil2.errors import UserError
from tests.support.rows import write


def test_wrong_options_are_one_line(tmp_path):
    empty = tmp_path / "empty.tsv"
    empty.write_bytes(b"")
    full = write(tmp_path / "full.tsv", b"a\tb\tAAAA")
    for options, said in [
        ({"name": "tvs"}, 'did you mean "tsv"'),
        ({"name": "tsv", "path": full, "seperator": "|"}, "seperator"),
        ({"name": "tsv", "path": full, "tag_seperator": "|"}, 'did you mean "tag_separator"'),
        ({"name": "tsv"}, "needs the option path"),
        ({"name": "tsv", "path": str(tmp_path / "no.tsv")}, "no.tsv does not exist"),
        ({"name": "tsv", "path": str(tmp_path / "*.png")}, "no file matches"),
        ({"name": "tsv", "path": []}, "empty"),
        ({"name": "tsv", "path": 5}, "5"),
        ({"name": "tsv", "path": str(tmp_path)}, "is no file"),
        ({"name": "tsv", "path": str(empty)}, "empty"),
        ({"name": "folder", "root": str(tmp_path / "no"), "jsonl": full}, "image folder"),
        ({"name": "coco", "root": str(tmp_path), "annotations": full}, "no JSON object"),
    ]:
        with pytest.raises(UserError) as caught:
            build_reader(**options)
        assert said in str(caught.value) and "\n" not in str(caught.value), caught.value
