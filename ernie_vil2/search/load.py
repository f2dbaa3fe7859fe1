"""A file to what is kept of a picture: read once, and hashed and decoded from the same bytes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ernie_vil2.data.arrays import Array
from ernie_vil2.data.decode import decode_image
from ernie_vil2.data.formats.rows import MAX_IMAGE_BYTES
from ernie_vil2.data.image_file import ImageError
from ernie_vil2.data.jobs.hashes import difference_hash
from ernie_vil2.search import metadata
from ernie_vil2.search.collection import Picture, picture_id
from ernie_vil2.search.walk import File, file_at, open_regular

_PART = 1 << 22
Transform = Callable[[Array], Array]
Source = Callable[[str, str], "str | None"]  # `Known.source`


@dataclass(frozen=True)
class Bad:
    """A file of which there is no picture.

    Attributes:
        reason: one line.
        file: with the size and time at which it was read, if its content is the reason: until they
            change it needs no second look.
        read: whether its content is the reason.
    """

    file: File
    reason: str
    read: bool


@dataclass(frozen=True)
class Loaded:
    """A file that was read.

    Attributes:
        picture: what is kept of it; its size in pixels and its dhash are 0 with `source`.
        source: the id of a picture with the same bytes, from which the rest can be taken.
        pixels: what the image program takes; None with `source`.
    """

    picture: Picture
    source: str | None
    pixels: Array | None


class Loader:
    """Reads, hashes and decodes a file. Threads may share it.

    Args:
        transform: `Artefact.transform()`.
        source: of an id and a SHA-256: whose vector can be taken instead of embedding.
        tags: of a path, beside those in the file itself.
    """

    def __init__(
        self, transform: Transform, source: Source, tags: Callable[[str], tuple[str, ...]]
    ):
        self._transform, self._source, self._tags = transform, source, tags

    def __call__(self, file: File) -> Loaded | Bad | None:
        """None for a file that is gone; whatever is wrong with one is no reason to stop."""
        try:
            file, data = read(file)
            return self._loaded(file, data)
        except FileNotFoundError:
            return None
        except OSError as error:  # a disk or a network that may be back next time
            return Bad(file, error.strerror or str(error), read=False)
        except MemoryError:
            return Bad(file, f"no memory for a file of {file.size} bytes", read=False)
        except ImageError as error:
            return Bad(file, str(error), read=True)
        except Exception as error:  # what nobody has thought of must not end an index of millions
            return Bad(file, f"{type(error).__name__}: {' '.join(str(error).split())}", read=True)

    def _loaded(self, file: File, data: bytes) -> Loaded:
        id, sha256 = picture_id(file.path), hashlib.sha256(data).hexdigest()
        source = self._source(id, sha256)
        width = height = dhash = 0
        pixels = None
        if source is None:
            image = decode_image(data)
            height, width = image.shape[:2]
            dhash = int(np.uint64(difference_hash(image)).astype(np.int64))
            pixels = np.ascontiguousarray(self._transform(image))  # not a view of the whole
            del image
        picture = Picture(
            id,
            file.path,
            sha256,
            file.size,
            file.mtime_ns,
            metadata.taken(data, file.mtime_ns),
            width,
            height,
            dhash,
            tuple(dict.fromkeys([*self._tags(file.path), *metadata.keywords(data)])),
        )
        return Loaded(picture, source, pixels)


def read(file: File) -> tuple[File, bytes]:
    """The bytes of a file, and its size and time when they were read.

    Raises:
        OSError: it cannot be read, or changes while it is.
        ImageError: it is too large.
    """
    descriptor = open_regular(file.path)
    with open(descriptor, "rb", buffering=0) as stream:
        before = os.fstat(descriptor)
        if before.st_size > MAX_IMAGE_BYTES:
            raise ImageError(f"{before.st_size} bytes, at most {MAX_IMAGE_BYTES} are read")
        data = stream.read(before.st_size + 1)
        while data and len(data) < before.st_size and (more := stream.read(_PART)):
            data += more
        after = os.fstat(descriptor)
    same = (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
    if not same or len(data) != after.st_size:
        raise OSError(0, "it changed while it was read")
    return file_at(file.path, after), data
