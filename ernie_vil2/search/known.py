"""What a collection has, compared with what lies in folders."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ernie_vil2.search.collection import Collection, picture_id
from ernie_vil2.search.walk import File

_ROW = np.dtype(
    [
        ("id", "S20"),
        ("sha256", "S16"),  # its first half
        ("size", np.int64),
        ("mtime_ns", np.int64),
        ("folder", np.int16),  # the number of that one of those compared that it is in, or -1
        ("seen", np.bool_),  # there
        ("stale", np.bool_),  # the picture is another than the file now, as far as is known
    ]
)
_BLOCK = 4096
_NEVER = -(2**63)
_RECENT = 200_000  # pictures added since, by whose hash others are found


class Known:
    """The pictures of a collection as they were when this was made, in 100 bytes for each.

    Args:
        collection: all of it is read.
        folders: that are compared, absolute, none within another.
        again: whether a picture, of this path and these tags, is to be read again though its file
            is the same.

    Attributes:
        inside: pictures in each folder.
    """

    def __init__(
        self,
        collection: Collection,
        folders: Sequence[str],
        again: Callable[[str, tuple[str, ...]], bool] = lambda path, tags: False,
    ):
        prefixes, blocks, block = [below(folder) for folder in folders], [], []
        for picture in collection.pictures():
            path, half = picture.path, bytes.fromhex(picture.sha256)[:16]
            folder = next((n for n, x in enumerate(prefixes) if path.startswith(x)), -1)
            # no file has a time like that
            mtime = _NEVER if folder >= 0 and again(path, picture.tags) else picture.mtime_ns
            block.append((picture.id.encode(), half, picture.size, mtime, folder, False, False))
            if len(block) == _BLOCK:
                blocks.append(np.array(block, _ROW))
                block = []
        rows = np.concatenate([*blocks, np.array(block, _ROW)])
        self._rows = rows[np.argsort(rows["id"], kind="stable")]
        self._by_hash = np.argsort(self._rows["sha256"], kind="stable")
        self._hashes = self._rows["sha256"][self._by_hash]
        self._recent: dict[bytes, str] = {}
        self.inside = [int(np.count_nonzero(rows["folder"] == n)) for n in range(len(folders))]

    def forget(self) -> None:
        """Compare anew: nothing was seen yet."""
        self._rows["seen"] = self._rows["stale"] = False

    def changed(self, files: Sequence[File]) -> list[File]:
        """Those that are not there, or with another size or time; all count as seen."""
        if not files:
            return []
        ids = np.array([picture_id(file.path).encode() for file in files], "S20")
        places, there = self._find(ids)
        self._rows["seen"][places[there]] = True
        same = there.copy()
        for name in ("size", "mtime_ns"):
            same[there] &= self._rows[name][places[there]] == [
                getattr(file, name) for file, found in zip(files, there) if found
            ]
        self._rows["stale"][places[there & ~same]] = True
        return [file for file, is_same in zip(files, same) if not is_same]

    def lost(self, id: str) -> None:
        """What was seen there is no picture any more."""
        places, there = self._find(np.array([id.encode()], "S20"))
        self._rows["seen"][places[there]] = False

    def has(self, id: str) -> bool:
        """Whether a picture of this id was there."""
        return bool(self._find(np.array([id.encode()], "S20"))[1][0])

    def source(self, id: str, sha256: str) -> str | None:
        """The id of a picture with these bytes, from which a vector can be taken: itself first.

        Not one that may be given another vector before this is read.
        """
        half = np.bytes_(bytes.fromhex(sha256)[:16])
        places, there = self._find(np.array([id.encode()], "S20"))
        if there[0] and self._rows["sha256"][places[0]] == half:
            return id
        for place in range(int(np.searchsorted(self._hashes, half)), len(self._hashes)):
            if self._hashes[place] != half:
                break
            row = self._rows[self._by_hash[place]]
            if not row["stale"]:
                return str(row["id"].decode())
        return self._recent.get(bytes(half))

    def added(self, id: str, sha256: str) -> None:
        """Let a picture that is about to be added be a source for the next."""
        if len(self._recent) >= _RECENT:
            self._recent.clear()
        self._recent[bytes(np.bytes_(bytes.fromhex(sha256)[:16]))] = id

    def unseen(self) -> Iterator[list[str]]:
        """Ids of those in the folders that were not seen there, in blocks."""
        ids = self._rows["id"][(self._rows["folder"] >= 0) & ~self._rows["seen"]]
        for start in range(0, len(ids), _BLOCK):
            yield [id.decode() for id in ids[start : start + _BLOCK].tolist()]

    def _find(self, ids: NDArray[np.bytes_]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """Rows of ids, and which are there."""
        if not len(self._rows):
            return np.zeros(len(ids), np.intp), np.zeros(len(ids), np.bool_)
        places = np.minimum(np.searchsorted(self._rows["id"], ids), len(self._rows) - 1)
        return places, self._rows["id"][places] == ids


def below(folder: str) -> str:
    """What the paths of all that is in a folder begin with."""
    return folder.rstrip("/") + "/"
