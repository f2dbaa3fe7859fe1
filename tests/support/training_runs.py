"""Training runs by the tool's own main(argv) in this process, and what they left."""

import json
from pathlib import Path

import numpy as np

from ernie_vil2 import cli
from ernie_vil2.config.load import load_config
from ernie_vil2.files.safetensors import read_safetensors
from tools import train as train_tool


def train(config: Path, *overrides, resume=None, code=0) -> Path:
    """Run the tool; returns output_dir."""
    argv = ["-c", str(config)]
    argv += ["-o", *overrides] if overrides else []
    argv += ["--resume", str(resume)] if resume else []
    assert cli.run(train_tool.main, argv) == code
    return Path(load_config(config, overrides).Global.output_dir)


def write_base(config: Path, folder: Path, seed: int = 3, *overrides) -> Path:
    """Whole weights, with their vocabulary, that a run may begin from; returns `folder`."""
    import paddle

    from ernie_vil2.models.dual_encoder import build_model
    from ernie_vil2.weights.ours import save_checkpoint

    paddle.seed(seed)
    config = load_config(config, overrides)
    save_checkpoint(build_model(config.Arch), folder, config.Tokenizer.vocab_file)
    return folder


def metrics(out: Path, name: str = "train/loss") -> dict:
    """step -> value."""
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line[name] for line in lines if name in line}


def weights(out: Path, which: str = "latest", file: str = "model.safetensors") -> dict:
    return read_safetensors(out / "checkpoints" / which / file)


def assert_same(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert np.array_equal(one[name], other[name]), name
