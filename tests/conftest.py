"""Shared by all tests: where the official code's numbers are, and small real data."""

import json
import logging
import os
from pathlib import Path

import pytest

from ernie_vil2 import runtime
from tests.support import gpus
from tests.support.paths import FIXTURES

gpus.hide()  # tests and what they start compute on the CPU, on which their bounds hold
runtime.prepare()  # before any test imports paddle


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes minutes; run by CI, skipped by -m 'not slow'")
    config.addinivalue_line("markers", "gpu: needs a GPU, and is skipped where there is none")


def pytest_collection_modifyitems(items):
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and not gpus.labels():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a GPU, and Paddle sees none"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    from tests.support.side_by_side import ByFile

    return ByFile(config, log)


@pytest.fixture(autouse=True)
def no_log_of_an_earlier_run():
    """A run in this process leaves its train.log to be written to, whose folder goes now."""
    yield
    log = logging.getLogger("ernie_vil2")
    for handler in list(log.handlers):
        if isinstance(handler, logging.FileHandler):
            log.removeHandler(handler)
            handler.close()


@pytest.fixture
def logged(caplog):
    """What the package logs, also after a run in this process took its logger for itself."""
    log = logging.getLogger("ernie_vil2")
    log.addHandler(caplog.handler)
    propagate, log.propagate = log.propagate, False  # else twice
    yield caplog
    log.propagate = propagate
    log.removeHandler(caplog.handler)


@pytest.fixture(scope="session")
def fixtures_dir() -> Path:
    """The folder of reference numbers made by the official code and PaddleNLP."""
    if not FIXTURES.is_dir():
        if os.environ.get("REQUIRE_FIXTURES"):
            pytest.fail(f"REQUIRE_FIXTURES is set and {FIXTURES} is missing")
        pytest.skip("no ../shared/fixtures beside this clone")
    return FIXTURES


@pytest.fixture
def official(fixtures_dir):
    """The official fixture: its file, a config for it, its numbers."""
    import numpy as np

    sizes = json.loads((fixtures_dir / "official_tiny" / "config.json").read_text())
    drop = ("hidden_act", "initializer_range", "sent_type_vocab_size", "task_type_vocab_size")
    text = {key: value for key, value in sizes["text"].items() if key not in drop}
    config = {
        "Arch": {
            "embed_dim": None,
            "Image": {"name": "CLIP_vit_base_patch16_224", **sizes["vision"]},
            "Text": {"name": "ernie-3.0-base-zh", **text},
        }
    }
    folder = fixtures_dir / "official_tiny"
    return folder / "official.pdparams", config, np.load(folder / "io.npz")


@pytest.fixture(scope="session")
def tiny_model():
    """A small untrained model, spread out so that different inputs get different embeddings."""
    import paddle

    from ernie_vil2.models.dual_encoder import build_model
    from tests.support.scripts.distributed_step import ARCH

    paddle.seed(0)
    model = build_model(ARCH)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.set_value(parameter * 8)
    model.eval()
    return model


@pytest.fixture(scope="session")
def tiny_artefact(tiny_model, tmp_path_factory) -> Path:
    """The folder that `tiny_model` was exported to: images of 16 pixels, texts of 8 tokens."""
    from ernie_vil2.data.tokenize import Tokenizer
    from ernie_vil2.export.programs import export
    from tests.support.shapes import COLORS, SHAPES

    folder = tmp_path_factory.mktemp("artefact")
    words = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]", "a", "the", *COLORS, *SHAPES]
    (folder / "words.txt").write_text("\n".join(words))
    export(tiny_model, Tokenizer(folder / "words.txt", max_len=8), folder / "exported")
    return folder / "exported"


@pytest.fixture
def tf32_switch(monkeypatch):
    """Says whether TF32 is on: Paddle's own switch, or in a build for CPUs one like it."""
    import paddle
    from paddle.base import core

    if not paddle.is_compiled_with_cuda():
        state = {"cublas": True, "cudnn": True}
        for name in state:
            monkeypatch.setattr(
                core, f"set_{name}_switch", lambda on, n=name: state.update({n: on}), raising=False
            )
            monkeypatch.setattr(core, f"get_{name}_switch", lambda n=name: state[n], raising=False)
    return lambda: core.get_cublas_switch() and core.get_cudnn_switch()
