"""What a data set is made of, whatever its format."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Record:
    id: str  # of the image: equal ids are the same image
    image: bytes  # the encoded file, not decoded; empty: a text alone, which only evaluations read
    captions: tuple  # of str, at least one but in an evaluation
    tags: tuple  # of str, possibly empty
    source: str  # "file:row", rows counted from 1, for messages
    # (row in its file from 0, id) of each caption, where texts have rows of their own: captions of
    # one row are one text, whatever images they stand with; () means that each is a text of its own
    text_ids: tuple = ()


class BadRecord(ValueError):
    """A row that is no record. source: "file:row"; reason: what is wrong with it."""

    def __init__(self, source: str, reason: str):
        super().__init__(source, reason)
        self.source, self.reason = source, " ".join(str(reason).split())

    def __str__(self) -> str:
        return f"{' '.join(self.source.split())}: {self.reason}"
