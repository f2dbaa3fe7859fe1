"""Checkpoints and writers to start from."""

import shutil

import numpy as np
import pytest

from ernie_vil2.checkpoints.writer import CheckpointWriter
from ernie_vil2.config.load import Config, load_config


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Checkpoints of the steps 1, 2 and 3; the second was the best."""
    tmp_path = tmp_path_factory.mktemp("original")
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    writer = CheckpointWriter(
        tmp_path / "checkpoints", load_config("configs/base.yaml"), str(tmp_path / "vocab.txt")
    )
    for step in (1, 2, 3):
        weights = {"w": np.full((3, 4), step, np.float32)}
        writer.save(weights, {"w|moment": np.arange(5.0)}, {"step": step}, best=step == 2)
    writer.close()
    return writer.folder


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "checkpoints", symlinks=True)


@pytest.fixture
def new_writer(tmp_path):
    (tmp_path / "vocab.txt").write_text("a")

    def new_writer(**options):
        folder, vocab = tmp_path / "checkpoints", str(tmp_path / "vocab.txt")
        return CheckpointWriter(folder, Config({"Global": {"seed": 1}}), vocab, **options)

    return new_writer
