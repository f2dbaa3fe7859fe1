"""Data files of a few rows, and what a test asks of their readers."""

import base64
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from ernie_vil2.data.formats.build import build_reader
from ernie_vil2.data.records import BadRecord


def png(value: int) -> bytes:
    """A real picture whose base64 has signs in which the two alphabets differ."""
    noise = np.random.default_rng(value).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    return cv2.imencode(".png", noise)[1].tobytes()


def b64(data: bytes) -> bytes:
    return base64.b64encode(data)


def write(path: Path, *rows, end: bytes = b"\n") -> str:
    rows = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path.write_bytes(end.join(rows) + end)
    return str(path)


def bad(reader, position: int) -> BadRecord:
    with pytest.raises(BadRecord) as caught:
        reader[position]
    assert "\n" not in str(caught.value) and caught.value.source in str(caught.value)
    return caught.value


def mixture(sources, **more):
    """Its reader; `more`: source -> further options."""
    sources = {name: {**options, **more.get(name, {})} for name, options in sources.items()}
    return build_reader("mixture", sources=sources)
