"""Where the elements of a JSON file's arrays lie, found without holding the file in memory."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

BOM = b"\xef\xbb\xbf"
_BLOCK = 1 << 20
_MAX_ELEMENT = 1 << 26  # bytes; a syntax error must not let us read on for ever
_NESTING = re.compile(r'"(?:[^"\\]|\\.)*("?)|[][{}]', re.DOTALL)  # brackets, not those in strings


def json_elements(file: BinaryIO) -> Iterator[tuple[Any, int, int]]:
    """(key, start, end) of each element of each array directly in the file's outermost object.

    start, end: bytes in the file.

    Raises:
        ValueError: the file is no JSON object.
    """
    return _Scanner(file).elements()


class _Scanner:
    """A JSON object read element by element, whatever its size.

    Bytes are taken for Latin-1, so that a place in the text is a place in the file: only where
    elements begin and end is used, and JSON's own characters are the same in Latin-1 as in UTF-8.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        bom = file.read(len(BOM)) == BOM
        file.seek(len(BOM) if bom else 0)
        self._text, self._base, self._at, self._ended = "", file.tell(), 0, False
        # Python refuses to make an int of more than 4,300 digits, and here none is needed: that the
        # row cannot be read is told when it is asked for.
        self._decode = json.JSONDecoder(parse_int=str).raw_decode

    def _more(self) -> None:
        self._text, self._base = self._text[self._at :], self._base + self._at
        self._at = 0
        block = self._file.read(max(_BLOCK, len(self._text)))
        self._ended = not block
        self._text += block.decode("latin-1")

    def _next(self) -> str:
        """The next character that is not white space, left in its place; '' at the end."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in " \t\r\n":
                    return self._text[self._at]
                self._at += 1
            if self._ended:
                return ""
            self._more()

    def _take(self, expected: str) -> str:
        sign = self._next()
        if not sign or sign not in expected:
            place = self._base + self._at
            raise ValueError(f'"{sign}" at byte {place}, expected one of {" ".join(expected)}')
        self._at += 1
        return sign

    def _value(self) -> tuple[Any, int, int]:
        """The next value, and the bytes of the file where it begins and ends."""
        self._next()
        while True:
            try:
                value, end = self._decode(self._text, self._at)
                # a number at the end of the text may go on in the next block
                if end < len(self._text) or self._ended:
                    start, self._at = self._at, end
                    return value, self._base + start, self._base + end
            except json.JSONDecodeError as error:
                if self._ended or len(self._text) - self._at > _MAX_ELEMENT:
                    place = self._base + self._at
                    raise ValueError(f"{error.msg} in what begins at byte {place}") from error
            except RecursionError:
                nested_end = self._end_of_nesting()
                if nested_end is not None:
                    start, self._at = self._at, nested_end
                    return None, self._base + start, self._base + nested_end
                if self._ended or len(self._text) - self._at > _MAX_ELEMENT:
                    raise
            self._more()

    def _end_of_nesting(self) -> int | None:
        """Where a value ends that is too deep to be parsed; None: not in the text read so far.

        That it cannot be read is told when it is asked for, and the rows beside it can.
        """
        depth = 0
        for found in _NESTING.finditer(self._text, self._at):
            if found[0][0] == '"':
                if not found[1]:  # the string goes on
                    return None
                continue
            depth += 1 if found[0] in "[{" else -1
            if depth == 0:
                return found.end()
        return None

    def elements(self) -> Iterator[tuple[Any, int, int]]:
        """(key, start, end) of each element of each array directly in the object."""
        self._take("{")
        sign = ","
        if self._next() == "}":
            sign = self._take("}")
        while sign == ",":
            key = self._value()[0]
            self._take(":")
            if self._next() == "[":
                sign = self._take("[")
                if self._next() == "]":
                    sign = self._take("]")
                while sign != "]":
                    _, start, end = self._value()
                    yield key, start, end
                    sign = self._take(",]")
            else:
                self._value()
            sign = self._take(",}")
