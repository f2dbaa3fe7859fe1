"""The language of queries: `cat.jpg + 2:雪 - 人`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from ernie_vil2.errors import UserError

MOST_TERMS = 32
MOST_WEIGHT = 1000.0
# An operator stands between spaces, or at the very beginning; a Chinese keyboard has its own.
_OPERATOR = re.compile(r"(?:^|(?<=\s))([+＋\-－])(?=\s)")
_END = r"(?=\s+[+＋\-－]\s|\s*$)"
# a digit behind the colon is a time of day or a ratio: "10:30", "16:9"
_WEIGHT = r"(?:(?P<weight>\d{1,6}(?:\.\d{0,6})?|\.\d{1,6})[:：]\s*(?![\d\s]))?"
_TERM = re.compile(
    rf'\s*{_WEIGHT}(?:"(?P<quoted>(?:[^"]|"")*)"|(?P<plain>\S.*?)){_END}\s*', re.DOTALL
)
_ID = re.compile(r"id:([0-9a-f]{20})")


@dataclass(frozen=True)
class Term:
    """A text or a picture, and how much of it; of `text`, `image` and `id` one is given.

    Attributes:
        text: as it is; no prompt is put around it.
        image: an encoded file.
        id: of a picture of the collection.
        weight: below 0: away from it.
        name: how messages call it.
    """

    text: str | None = None
    image: bytes | None = None
    id: str | None = None
    weight: float = 1.0
    name: str = ""

    def __str__(self) -> str:
        amount = "" if abs(self.weight) == 1 else f"{abs(self.weight):.12g}:"
        if self.text is not None:
            return amount + _quoted_if_needed(self.text, amount)
        return amount + (self.name or (f"id:{self.id}" if self.id else "picture"))


@dataclass(frozen=True)
class Query:
    """Terms whose embeddings are added. `+` joins two queries."""

    terms: tuple[Term, ...]

    @classmethod
    def of_text(cls, text: str) -> Query:
        """All of it one text, with no operator read from it."""
        return cls((Term(text=text),))

    @classmethod
    def of_picture(cls, image: bytes, name: str = "picture", weight: float = 1.0) -> Query:
        """An encoded file."""
        return cls((Term(image=image, name=name, weight=weight),))

    @classmethod
    def like(cls, id: str, name: str = "") -> Query:
        """A picture of the collection; messages call it by its id, or by another name."""
        return cls((Term(id=id, name=name),))

    def __add__(self, other: Query) -> Query:
        return Query(self.terms + other.terms)

    def __str__(self) -> str:
        """As `parse_query` reads it."""
        first, *rest = self.terms
        signs = ["- " if first.weight < 0 else ""]
        signs += [" - " if term.weight < 0 else " + " for term in rest]
        return "".join(f"{sign}{term}" for sign, term in zip(signs, self.terms))

    @property
    def ids(self) -> set[str]:
        """Pictures of the collection that it names."""
        return {term.id for term in self.terms if term.id is not None}


def parse_query(written: str, picture: Callable[[str], bytes | None] | None = None) -> Query:
    """Read a query.

    Terms are joined by `+` and `-`, which count only between spaces; in front of the first one they
    may stand too. `2:` in front of a term is its weight, unless a digit follows (`10:30` is a
    text). What is in quotes is text, with `""` for a quote in it; `id:` and 20 hexadecimal digits
    name a picture of the collection; all else is text, or a picture where `picture` says so.

    Args:
        picture: gives the encoded file that a term names, None where it is a text; without it no
            file is ever read.

    Raises:
        UserError: nothing between two operators, or nothing at all; a weight of 0 or above 1000;
            more than 32 terms; what `picture` raises.
    """
    terms: list[Term] = []
    place = 0
    written = written.strip()
    while place < len(written) or not terms:
        sign, place = _sign(written, place)
        found = _TERM.match(written, place)
        if found is None or _OPERATOR.match(written, _first_letter(written, place)):
            raise UserError(
                f"query {_cut(written)}: expected a text or picture "
                f"{'after ' + repr(written[:place].rstrip()[-1]) if place else 'to search for'}; "
                "in double quotes + and - are text"
            )
        terms.append(_term(found, sign, picture))
        place = found.end()
        if len(terms) > MOST_TERMS:
            raise UserError(f"a query of more than {MOST_TERMS} terms: expected at most that many")
    return Query(tuple(terms))


def _sign(written: str, place: int) -> tuple[int, int]:
    """That of the operator which stands at a place, and where it ends."""
    operator = _OPERATOR.match(written, place)
    if operator is None:
        return 1, place
    return -1 if operator[1] in "-－" else 1, operator.end()


def _first_letter(written: str, place: int) -> int:
    return len(written) - len(written[place:].lstrip())


def _term(found: re.Match, sign: int, picture: Callable[[str], bytes | None] | None) -> Term:
    weight = 1.0 if found["weight"] is None else float(found["weight"])
    written = found["plain"]
    if not 0 < weight <= MOST_WEIGHT:
        raise UserError(
            f"weight {found['weight']} of {_cut(found.group().strip())}: expected more than 0, at "
            f"most {MOST_WEIGHT:g}; to take something away write - in front of it"
        )
    if written is None:
        text = found["quoted"].replace('""', '"')
        if not text.strip():
            raise UserError('"" in a query: expected a text between the quotes')
        return Term(text=text, weight=sign * weight)
    term = Term(weight=sign * weight, name=written)
    if named := _ID.fullmatch(written):
        return replace(term, id=named[1])
    image = None if picture is None else picture(written)
    return replace(term, name="", text=written) if image is None else replace(term, image=image)


def _quoted_if_needed(text: str, amount: str) -> str:
    """A text so that `parse_query` reads it back, behind its weight."""
    try:
        _, term, _ = parse_query(f"x + {amount}{text} + x").terms
        plain = term.text == text and not text.startswith('"')  # else a later one may end it
    except ValueError:  # more terms, or none
        plain = False
    return text if plain else '"{}"'.format(text.replace('"', '""'))


def _cut(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:60]}...")
