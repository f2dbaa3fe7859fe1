"""Tags from a dual encoder that was trained here: of a vocabulary, the words nearest to a picture.

A model's own tags for the next round of training, or for a set that no detector was made for.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ernie_vil2.artefact.folder import Artefact
from ernie_vil2.data.arrays import Array, Floats
from ernie_vil2.data.records import Record
from ernie_vil2.errors import UserError
from ernie_vil2.evaluation.classification import fill_templates, label_embeddings
from ernie_vil2.tagging.pictures import each_picture
from ernie_vil2.tagging.tags import Choice, Found, Tags

_AT_MOST = 5  # tags where neither a number nor a threshold is asked for
_TEXTS = 1024  # words of the vocabulary embedded at a time


class SimilarityTagger:
    """A `Tagger`: a word's score is its cosine with the picture.

    A cosine has no scale of its own: what is much for one model is little for another, so look at
    some scores before choosing a threshold. Without one, the nearest five are taken.

    Args:
        folder: of the exported model (`tools/export.py`).
        vocabulary: words, one a line, or the `tags.json` of other tags, whose frequent ones count.
        choice: which words become tags; "area" says nothing here.
        prompts: templates with {} where the word goes; None: the artefact's.
        device, threads: where it runs.

    Attributes:
        words: of the vocabulary.
        embeds_file: where what `embed_words` gave was saved (`.npy`), so that not every process
            computes it; None: nowhere.
    """

    def __init__(
        self,
        folder: str,
        vocabulary: str,
        choice: Choice,
        prompts: Sequence[str] | None = None,
        device: str = "cpu",
        threads: int = 1,
    ):
        self.folder, self.device, self.threads = folder, device, threads
        artefact = Artefact.open(folder)
        self.words = _words(Path(vocabulary))
        self.prompts = list(prompts or artefact.prompts)
        nearest = _AT_MOST if choice.threshold is None else None
        self.choice = Choice(choice.threshold, choice.at_most or nearest, choice.order)
        weights = "".join(artefact.weights.get("sha256", ""))[:16]
        self.origin = f"model {Path(folder).resolve().name} sha256:{weights}"
        self.embeds_file: str | None = None
        self._embeds: Floats | None = None
        self._predictor: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_predictor": None, "_embeds": None}

    def _opened(self) -> Any:
        if self._predictor is None:
            from ernie_vil2.serving.predictor import Predictor

            self._predictor = Predictor(self.folder, device=self.device, threads=self.threads)
        return self._predictor

    def embed_words(self) -> Floats:
        """float32 [L, D]: of each word the mean of its prompts, normalised."""
        predictor = self._opened()
        parts = []
        for start in range(0, len(self.words), _TEXTS):
            words = self.words[start : start + _TEXTS]
            prompts = predictor.encode_text(fill_templates(words, self.prompts))
            parts.append(label_embeddings(prompts.reshape(len(words), len(self.prompts), -1)))
        return np.concatenate(parts)

    def tag(self, records: Sequence[Record]) -> list[Tags]:
        return each_picture(records, self._opened().transform, self._tags)

    def _tags(self, pixels: Sequence[Array]) -> list[Tags]:
        if self._embeds is None:
            self._embeds = np.load(self.embeds_file) if self.embeds_file else self.embed_words()
        embeds = self._opened().embed_pixels(np.stack(pixels))  # [B, D]
        return [self._nearest(cosines) for cosines in embeds @ self._embeds.T]  # each [L]

    def _nearest(self, cosines: Floats) -> Tags:
        """Of [L]: only those that may be kept become objects, since L may be large."""
        least = -1.0 if self.choice.threshold is None else self.choice.threshold
        passed = np.flatnonzero(cosines >= least)
        nearest = passed[np.argsort(-cosines[passed], kind="stable")][: self.choice.at_most]
        return self.choice([Found(self.words[i], float(cosines[i])) for i in nearest], -1.0)


def _words(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        lines = json.loads(text)["frequent"] if path.suffix == ".json" else text.splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as UTF-8 text: {error}") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is no tags.json of tools/prepare_data.py tag") from None
    words = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not words:
        raise UserError(f"{path} holds no word: expected one a line")
    return words
