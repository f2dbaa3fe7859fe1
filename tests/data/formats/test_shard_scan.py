"""Where the records of a shard lie, whatever the shard holds."""

import tarfile

import numpy as np
import pytest

from ernie_vil2.data.formats.shard_record import ShardRecord
from ernie_vil2.data.formats.shard_scan import scan
from ernie_vil2.data.records import BadRecord
from tests.support.tars import link, pair, write_tar


def damaged(whole: bytes, rng: np.random.Generator) -> bytes:
    """A tar with a few bytes, fields under right checksums, blocks or stretches that are wrong."""
    data = bytearray(whole)
    for _ in range(rng.integers(1, 10)):
        at = int(rng.integers(len(data)))
        block = at // 512 * 512
        kind = rng.integers(4)
        if kind == 0:
            data[at] = rng.integers(256)
        elif kind == 1:
            field = block + int(rng.choice([0, 100, 124, 156, 257, 345]))
            data[field : field + 9] = rng.bytes(9)
            data[block + 148 : block + 156] = b" " * 8
            data[block + 148 : block + 156] = b"%06o\0 " % sum(data[block : block + 512])
        elif kind == 2:
            del data[at : at + int(rng.integers(1, 2000))]
        else:
            data[block:block] = data[: 512 * int(rng.integers(1, 4))]
    return bytes(data)


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_scan_ends_and_its_records_are_good_or_bad(tmp_path, kind):
    long = "" if kind == tarfile.USTAR_FORMAT else "x" * 120
    keys = [f"{long if n % 3 == 0 else ''}{n:03}" for n in range(12)]
    members = [member for n, key in enumerate(keys) for member in pair(key, n)]
    path = write_tar(tmp_path / "a.tar", *members, link("l.jpg", "/etc/passwd"), format=kind)
    whole, rng = (tmp_path / "a.tar").read_bytes(), np.random.default_rng(kind)
    good = 0
    for _ in range(300):
        data = damaged(whole, rng)

        def read(offset: int, count: int, data: bytes = data) -> bytes:
            return data[offset : offset + count]

        offsets, faults = scan(read, len(data))
        assert offsets[0] >= 0 and (np.diff(offsets) >= 0).all()
        assert len(set(faults[:, 0])) == len(faults)
        known = dict(faults.tolist())
        for record in range(len(offsets) - 1):
            start, end = map(int, offsets[record : record + 2])
            try:
                found = ShardRecord(path, read, start, end, known.get(record))
            except BadRecord:
                continue
            sizes = [len(found.content(name, 1 << 20)) for name in found.members]
            good += sizes != [] and start < end
    assert good > 300 * len(keys) / 4
