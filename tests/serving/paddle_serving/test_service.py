"""The real Paddle Serving gives the training model's embeddings, however it is set up."""

import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import yaml

from ernie_vil2 import processor
from ernie_vil2.artefact.folder import Artefact
from tests.support.paddle_serving import CLASSES, DEFAULTS, TEXTS, Service, encoded, ended, marks

pytestmark = marks


def test_http_gives_the_training_models_embeddings(service, images, expected):
    status, values, _ = service.ask(images=encoded(images), texts=TEXTS, similarity="true")
    assert status == 200
    np.testing.assert_allclose(values["image_embeds"], expected[0], rtol=0, atol=1e-5)
    np.testing.assert_allclose(values["text_embeds"], expected[1], rtol=0, atol=1e-5)
    np.testing.assert_allclose(values["similarity"], expected[0] @ expected[1].T, rtol=0, atol=1e-5)
    assert values["image_errors"] == [None] * 8
    assert values["logit_scale"] == pytest.approx(1 / 0.07)
    status, values, _ = service.ask(image=encoded(images)[3])
    np.testing.assert_allclose(values["image_embeds"], expected[0][3:4], rtol=0, atol=1e-5)
    assert "text_embeds" not in values


def test_the_exported_classes(service, artefact, images, expected):
    sent = [*encoded(images[:2]), "no picture"]
    status, values, _ = service.ask(images=sent, classify="true")
    assert status == 200 and values["classes"] == CLASSES
    cosine = expected[0][:2] @ Artefact.open(artefact).classifier().embeds.T
    logits = np.exp(cosine.astype(np.float64) / 0.07)
    found = values["probabilities"]
    np.testing.assert_allclose(found[:2], logits / logits.sum(axis=1, keepdims=True), atol=1e-4)
    assert found[2] is None and values["image_errors"][2]


def test_ops_in_processes(artefact, images, expected, tmp_path):
    settings = yaml.safe_load(DEFAULTS.read_text())
    settings["dag"]["is_thread_op"] = False
    settings["op"]["text"]["concurrency"] = 2
    (tmp_path / "processes.yml").write_text(yaml.safe_dump(settings))
    service = Service(artefact, tmp_path, "--config", tmp_path / "processes.yml")
    assert not service.error, service.error
    status, values, message = service.ask(images=encoded(images), texts=TEXTS)
    assert status == 200, message
    np.testing.assert_allclose(values["image_embeds"], expected[0], rtol=0, atol=1e-5)
    np.testing.assert_allclose(values["text_embeds"], expected[1], rtol=0, atol=1e-5)
    pids = service.processes()
    assert len(pids) >= 5
    # a GPU can be used by a process only if none above it has used it before the fork
    assert sorted(map(runs_paddle, pids)) == [False] * (len(pids) - 3) + [True] * 3
    os.kill(pids[-1], signal.SIGKILL)  # the service would never answer again
    assert service.wait() == 1
    assert "a process of Paddle Serving has died" in service.error
    assert ended(pids)


def runs_paddle(pid: int) -> bool:
    return "libpaddle" in Path(f"/proc/{pid}/maps").read_text()


@pytest.mark.parametrize("threads", [True, False])
def test_a_device_that_cannot_be_used_is_said(artefact, tmp_path, threads):
    settings = yaml.safe_load(DEFAULTS.read_text())
    settings["dag"]["is_thread_op"] = threads
    settings["op"]["text"]["local_service_conf"]["device_type"] = 1
    (tmp_path / "gpu.yml").write_text(yaml.safe_dump(settings))
    service = Service(artefact, tmp_path, "--config", tmp_path / "gpu.yml")
    assert service.process.returncode == 2
    assert "device gpu:0: this Paddle sees 0 GPUs; use device cpu" in service.error


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_other_precisions(artefact, images, expected, tmp_path, precision):
    if reason := processor.why_not(precision, processor.flags()):
        pytest.skip(reason)
    folder = shutil.copytree(artefact, tmp_path / "model")
    if precision == "int8":  # a program of its own; bfloat16 is a way to run fp32's
        add_int8(folder, images)
    settings = yaml.safe_load(DEFAULTS.read_text())
    for tower in ("image", "text"):
        settings["op"][tower]["local_service_conf"]["precision"] = precision
    (tmp_path / "settings.yml").write_text(yaml.safe_dump(settings))
    service = Service(folder, tmp_path, "--config", tmp_path / "settings.yml")
    assert not service.error, service.error
    _, values, _ = service.ask(images=encoded(images), texts=TEXTS)
    for tower, embeds in zip(("image", "text"), expected):
        found = np.array(values[f"{tower}_embeds"])
        assert np.sum(found * embeds, axis=1).min() > 0.98
        assert np.abs(found - embeds).max() > 1e-5  # it is not float32 that ran
    assert service.stop() == 0


def add_int8(folder, images) -> None:
    from ernie_vil2.export.quantize import quantize

    artefact = Artefact.open(folder)
    pixels, tokenizer = np.stack([*map(artefact.transform(), images)]), artefact.tokenizer()
    batches = {"image": [pixels], "text": [tokenizer([text]) for text in TEXTS]}
    for tower, batch in batches.items():
        assert quantize(folder / "fp32", folder / "int8", tower, batch)
    artefact.precisions["int8"] = {"min_cosine": 0.98}
    artefact.save()
