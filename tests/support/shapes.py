"""A small real data set that can be learned in seconds: coloured shapes with captions and tags."""

import base64
from pathlib import Path

import cv2
import numpy as np
import yaml

from tests.support.paths import ROOT

COLORS = {"red": (0, 0, 255), "green": (0, 255, 0), "blue": (255, 0, 0), "white": (255, 255, 255)}
SHAPES = ("circle", "square", "line", "cross")


def draw(color: str, shape: str, rng: np.random.Generator) -> bytes:
    """A PNG of 40 x 40 pixels."""
    image = rng.integers(0, 60, [40, 40, 3], dtype=np.uint8)
    x, y = map(int, rng.integers(16, 24, 2))
    bgr = COLORS[color]
    if shape == "circle":
        cv2.circle(image, (x, y), 11, bgr, -1)
    elif shape == "square":
        cv2.rectangle(image, (x - 10, y - 10), (x + 10, y + 10), bgr, 2)
    else:
        cv2.line(image, (x - 12, y), (x + 12, y), bgr, 3)
        if shape == "cross":
            cv2.line(image, (x, y - 12), (x, y + 12), bgr, 3)
    return cv2.imencode(".png", image)[1].tobytes()


def write_set(path: Path, copies: int, seed: int) -> None:
    """The official TSV with `copies` drawings of each of the 16 things."""
    rng = np.random.default_rng(seed)
    rows = []
    for copy in range(copies):
        for color in COLORS:
            for shape in SHAPES:
                image = base64.b64encode(draw(color, shape, rng)).decode()
                name = f"{path.stem}-{color}-{shape}-{copy}"
                rows.append(f"a {color} {shape}\t{name}\t{image}\t{shape}|{color}\n")
    path.write_text("".join(rows), encoding="utf-8")


def write_run(folder: Path, **sections) -> Path:
    """Data, vocabulary and a configuration of tiny towers; returns the YAML's path."""
    write_set(folder / "train.tsv", copies=4, seed=0)
    write_set(folder / "test.tsv", copies=1, seed=1)
    specials = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]"]
    words = ["a", "the", "picture", "contains", ",", *COLORS, *SHAPES]
    (folder / "vocab.txt").write_text("\n".join([*specials, *words]))
    vit = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
    ernie = {
        "vocab_size": 32,
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 16,
    }
    config = {
        "_BASE_": str(ROOT / "configs" / "base.yaml"),
        "Global": {
            "output_dir": str(folder / "out"),
            "device": "cpu",
            "max_steps": 4,
            "log_interval": 1,
            "eval_interval": 1000,
            "save_interval": 0,
            "sample_views": 1,
        },
        "Arch": {
            "embed_dim": 16,
            "Image": {"img_size": 32, **vit},
            "Text": {"name": "tiny", **ernie},
        },
        "Tokenizer": {"vocab_file": str(folder / "vocab.txt"), "max_len": 12},
        "Transform": {"size": 32},
        "LRScheduler": {"learning_rate": 1e-3, "warmup_steps": 2},
        "DataLoader": {
            "Train": {
                "dataset": {"name": "tsv", "path": str(folder / "train.tsv")},
                "batch_size": 16,
                "num_workers": 0,
            },
            "Eval": {
                "dataset": {"name": "tsv", "path": str(folder / "test.tsv")},
                "batch_size": 8,
                "num_workers": 0,
            },
        },
        "Metric": {"bootstrap": 50},
    }
    for section, values in sections.items():
        config.setdefault(section, {}).update(values)
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
    return path
