"""Make tests/search/demo.npz: what the demo's model says of its pictures and of words.

    python -m tests.support.scripts.demo_vectors EXPORTED data/emoji/val.tsv

EXPORTED: the demo's model (tools/quickstart.sh), which finds a drawing that it never saw from its
name among the first 10 of 1,599 in 18 % of cases. Half of the drawings, the names of 400 of them,
and the words of data/labels/: those that `random_words` draws, and 200 others that no name and no
tag of any drawing has.
"""

import base64
import random
import sys
from pathlib import Path

import numpy as np

from ernie_vil2.search.relevance import LABELS, random_words
from ernie_vil2.serving.predictor import Predictor
from tests.support.paths import ROOT


def main(exported: str, table: str) -> None:
    model = Predictor(exported)
    rows = [x.split("\t") for x in Path(table).read_text(encoding="utf-8").splitlines()]
    images = {row[1]: base64.b64decode(row[2]) for row in rows}
    draw = random.Random(0)
    chosen = sorted(draw.sample(sorted(images), 800))
    place = {key: i for i, key in enumerate(chosen)}
    present = draw.sample([row for row in rows if row[1] in place], 400)
    known = " ".join([row[0] + " " + row[3] for row in rows]).lower()
    words = {
        word
        for file in sorted(LABELS.glob("*.tsv"))
        for line in file.read_text(encoding="utf-8").splitlines()
        if not line.startswith("#")
        for word in line.split("\t")[2:4]
    }
    background = list(random_words())
    absent = sorted(word for word in words - set(background) if word.lower() not in known)
    texts = [row[0] for row in present] + draw.sample(absent, 200) + background
    vectors = np.concatenate([model.encode_image([images[x] for x in chosen])])
    np.savez_compressed(
        ROOT / "tests/search/demo.npz",
        pictures=_bytes(vectors),
        texts=np.array(texts),
        text_vectors=_bytes(model.encode_text(texts)),
        names=chosen,
        own=np.array([place[row[1]] for row in present]),
    )


def _bytes(vectors: np.ndarray) -> np.ndarray:
    return np.round(vectors * 127 / np.abs(vectors).max(1, keepdims=True)).astype(np.int8)


if __name__ == "__main__":
    main(*sys.argv[1:])
