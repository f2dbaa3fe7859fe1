"""Small models of theirs, as files; `theirs` has what theirs make of the inputs."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from ernie_vil2.files.safetensors import write_safetensors
from ernie_vil2.files.torch_writer import write_torch
from tests.support.clip_numbers import weights

HERE = Path(__file__).parent
THEIRS = json.loads((HERE / "theirs.json").read_text())  # of scripts/clip_fixtures.py
TOKENS = THEIRS.pop("tokens")
NUMBERS = np.load(HERE / "theirs.npz")
TEXT = {
    "name": "own",
    "vocab_size": 40,
    "hidden_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 20,
}
_FILES = {"openai": "model.pt", "open_clip": "open_clip_pytorch_model.bin"}


def write(case: str, folder: Path, **changes) -> Path:
    """A model of theirs as theirs saves it; returns what `--from KIND` is given.

    Args:
        changes: arrays that take the place of others, or None to leave one out.
    """
    state = weights(THEIRS[case]["shapes"])
    state.update(changes)
    state = {name: array for name, array in state.items() if array is not None}
    folder.mkdir(exist_ok=True)
    for name, content in THEIRS[case]["beside"].items():
        (folder / name).write_text(json.dumps(content))
    kind = case.split("-")[0]
    if kind == "huggingface":
        write_safetensors(folder / "model.safetensors", state, {"format": "pt"})
        return folder
    if kind == "chinese_clip":
        half = {
            f"module.{name}": array.astype("f2") if array.dtype.kind == "f" else array
            for name, array in state.items()
        }
        write_torch(folder / "model.pt", {"epoch": 1, "state_dict": half})
        return folder / "model.pt"
    write_torch(folder / _FILES[kind], state)
    return folder if kind == "open_clip" else folder / _FILES[kind]


@pytest.fixture
def text_config(tmp_path):
    """A configuration with the text tower that an image tower alone gets."""
    arch = {"embed_dim": None, "Image": {"name": "ResNet18"}, "Text": TEXT}
    (tmp_path / "text.yaml").write_text(yaml.safe_dump({"Arch": arch}))
    return tmp_path / "text.yaml"
