"""Two sources for a mixture."""

import pytest

from tests.support.rows import b64, png, write


@pytest.fixture
def sources(tmp_path):
    """`web`, three rows of which the second is bad, and `zoo`, two images of three texts each."""
    row = b"one\tid%d\t%s\tx|y\t%s\ttwo"
    web = [row % (1, b64(png(1)), b"three"), b"bad", row % (3, b64(png(3)), b" ")]
    (tmp_path / "1.png").write_bytes(png(1))
    zoo = [
        {"image": "1.png", "caption": "one", "id": "id1", "alt": "two", "short": ["three", "four"]},
        {"image": "1.png", "captions": ["one", "two"], "id": "other", "alt": 5, "size": [3, 4]},
    ]
    return {
        "web": {"name": "tsv", "path": write(tmp_path / "a.tsv", *web), "texts": ["alt", "long"]},
        "zoo": {
            "name": "folder",
            "root": str(tmp_path),
            "jsonl": write(tmp_path / "a.jsonl", *zoo),
        },
    }
