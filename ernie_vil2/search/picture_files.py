"""Terms of a query that name files of pictures."""

from __future__ import annotations

import os
from pathlib import Path

from ernie_vil2.data.decode import EncodedImage
from ernie_vil2.data.image_file import ImageError
from ernie_vil2.errors import UserError
from ernie_vil2.search.walk import SUFFIXES


def picture_file(term: str) -> bytes | None:
    """The file that a term of a query names, if it is a picture; None: the term is a text.

    A name with the end of a picture's has to be one.

    Raises:
        UserError: no such file, or one that cannot be read.
        ImageError: it is no picture.
    """
    path = Path(term).expanduser() if term.startswith("~/") else Path(term)
    is_named = path.suffix.lower() in SUFFIXES
    try:
        if not path.is_file():
            if is_named:
                raise UserError(
                    f"{term[:200]}: there is no such picture; to search for it as a text, put it "
                    "in double quotes"
                )
            return None
        data = path.read_bytes()
        EncodedImage(data)
        return data
    except (OSError, ValueError) as error:
        if isinstance(error, UserError) and not isinstance(error, ImageError):
            raise
        if not is_named:  # too long for a name, or a file that has the name of what is sought
            return None
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{term[:200]} cannot be read as a picture: {reason}") from None


def indexed_path(path: str) -> str:
    """A picture's path as a collection has it: absolute, its folder without links."""
    folder, name = os.path.split(os.path.abspath(os.path.expanduser(path)))
    return os.path.join(os.path.realpath(folder), name)
