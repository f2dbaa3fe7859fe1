"""From a record to its views: one image augmented twice, one text for several dropout masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ernie_vil2.data.keys import key
from ernie_vil2.data.records import BadRecord, Record
from ernie_vil2.data.tags import language_of, tag_sentence
from ernie_vil2.data.tokenize import Tokenizer
from ernie_vil2.data.train_transform import TrainTransform
from ernie_vil2.views import DRAWN, IMAGE, SOURCE_OF, TAGS


class Drawing(NamedTuple):
    """How the texts of a record are drawn.

    Attributes:
        tags_prob, per: as `Views.draw` of the configuration.
        captions: key -> weight, with which a caption is drawn among those of these keys that a
            record has; empty: among its captions.
    """

    tags_prob: float
    per: str
    captions: Mapping[str, float] = {}


class ViewMaker:
    """Make the named views of a record.

    Two views of one text are the same tokens; the text tower's dropout makes them differ. A record
    without tags uses its caption in their place.

    Args:
        image, text: names of the views to make, see `ernie_vil2.views`.
        draw: `{tags_prob, per}`, as the configuration has it.
        tags: language -> `{template, separator}`, likewise.
        transform: makes an image view.
        tokenizer: makes a text view.
        own: source of a mixture -> what it has of `Drawing`'s instead of `draw`'s.
    """

    def __init__(
        self,
        image: Sequence[str],
        text: Sequence[str],
        draw: Mapping[str, Any],
        tags: Mapping[str, Mapping[str, str]],
        transform: TrainTransform,
        tokenizer: Tokenizer,
        own: Mapping[str, Mapping[str, Any]] | None = None,
    ):
        self.image_views, self.text_views = list(image), list(text)
        self.sources = {view: SOURCE_OF[view] for view in self.text_views}
        self._drawing = Drawing(**draw)
        self._own = {name: Drawing(**{**draw, **views}) for name, views in (own or {}).items()}
        self.sentences = tags
        self.transform, self.tokenizer = transform, tokenizer

    def _of(self, data_set: str) -> Drawing:
        return self._own.get(data_set, self._drawing)

    def draw_tags(self, rng: np.random.Generator, data_set: str = "") -> bool:
        """Whether text1 and text2 of a record of this source are the tag sentence this time."""
        return rng.random() < self._of(data_set).tags_prob

    def __call__(
        self, record: Record, rng: np.random.Generator, batch_draw: bool
    ) -> dict[str, Any]:
        """The record's views and identity.

        Args:
            rng: this record's own.
            batch_draw: `draw_tags` by the whole batch's rng, used where `per: batch`.

        Returns:
            View -> uint8 [3, S, S] or int64 [max_len], and "ids": the keys of the "image" and of
            what was drawn for each text source.

        Raises:
            ImageError: the image is broken.
            BadRecord: it has none of the captions that its source draws among.
        """
        views = self.transform.views(record.image, len(self.image_views), rng)
        sample: dict[str, Any] = dict(zip(self.image_views, views))
        per_batch = self._of(record.data_set).per == "batch"
        draw = batch_draw if per_batch else self.draw_tags(rng, record.data_set)
        ids = {IMAGE: key(record.id)}
        texts = {}
        for source in dict.fromkeys(self.sources.values()):
            wants_tags = draw if source == DRAWN else source == TAGS
            if wants_tags and record.tags:
                texts[source] = self._tag_sentence(record.tags, rng)
                ids[source] = key("\n".join(sorted(record.tags)))
            else:
                captions = self._captions(record, rng)
                texts[source] = captions[rng.integers(len(captions))]
                ids[source] = key(texts[source])
        tokens = dict(zip(texts, self.tokenizer(list(texts.values()))))
        sample.update({view: tokens[source] for view, source in self.sources.items()})
        sample["ids"] = ids
        return sample

    def placeholder(self) -> dict[str, Any]:
        """What stands in a batch for a record that cannot be read: right shapes, no content."""
        sample: dict[str, Any] = dict.fromkeys(self.image_views, self.transform.blank())
        empty = self.tokenizer([""])[0]
        sample.update(dict.fromkeys(self.text_views, empty))
        sample["ids"] = dict.fromkeys([IMAGE, *self.sources.values()], 0)
        return sample

    def _captions(self, record: Record, rng: np.random.Generator) -> Sequence[str]:
        """Those to draw one of: the record's, or of a key that is drawn first."""
        weights = self._of(record.data_set).captions
        if not weights:
            return record.captions
        found = {key: record.texts_of(key) for key in weights}
        there = [key for key, texts in found.items() if texts]
        if not there:
            known = ", ".join(["caption", *record.texts])
            wanted = ", ".join(weights)
            raise BadRecord(record.source, f"none of the captions {wanted}, but {known}")
        if len(there) == 1:
            return found[there[0]]
        shares = np.array([weights[key] for key in there])
        return found[there[int(rng.choice(len(there), p=shares / shares.sum()))]]

    def _tag_sentence(self, tags: Sequence[str], rng: np.random.Generator) -> str:
        sentence = self.sentences[language_of(tags)]
        return tag_sentence(tags, sentence["template"], sentence["separator"], self.tokenizer, rng)

    def collate(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """Stack samples, view after view, so that each tower runs once.

        Returns:
            `pixel_values` uint8 [Vi * B, 3, S, S], `input_ids` int64 [Vt * B, L] cut to the
            longest text, `ids` as a dict of "image" and the text sources to int64 [B], `valid`
            bool [B].
        """
        input_ids = np.stack([s[view] for view in self.text_views for s in samples])
        longest = int((input_ids != 0).sum(axis=1).max())
        return {
            "pixel_values": np.stack([s[view] for view in self.image_views for s in samples]),
            "input_ids": np.ascontiguousarray(input_ids[:, :longest]),
            "ids": {
                source: np.array([s["ids"][source] for s in samples], dtype=np.int64)
                for source in samples[0]["ids"]
            },
            "valid": np.array([s.get("valid", True) for s in samples]),
        }
