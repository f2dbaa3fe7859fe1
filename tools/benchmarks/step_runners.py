"""In the processes of `bench.py step` that have Paddle: our step, and PaddleNLP's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import paddle
from benchmarks.common import ROOT
from benchmarks.step_common import SMALL, Shape, timed
from paddle import nn
from paddle.nn import functional as F

from ernie_vil2.config.load import load_config
from ernie_vil2.losses.multiview import MultiViewContrastive
from ernie_vil2.models.dual_encoder import build_model
from ernie_vil2.training.faults import Faults
from ernie_vil2.training.objective import Objective
from ernie_vil2.training.step import Step


def prepare(shape: dict, folder: str) -> None:
    """Write FOLDER/weights.npz, and FOLDER/paddlenlp for its ErnieViLModel."""
    from ernie_vil2.weights.paddlenlp import save_paddlenlp

    model = _objective(Shape(**shape)).model
    weights = {name: p.numpy() for name, p in model.named_parameters()}
    np.savez(f"{folder}/weights.npz", **weights)
    save_paddlenlp(model, f"{folder}/paddlenlp")


def _objective(shape: Shape) -> Objective:
    image = {"img_size": shape.image, "patch_size": shape.patch, "embed_dim": shape.width}
    text = {"vocab_size": shape.vocabulary, "hidden_size": shape.width}
    arch = {
        "embed_dim": None,
        "Image": {
            "name": "CLIP_vit_base_patch16_224",
            **image,
            "depth": shape.depth,
            "num_heads": shape.heads,
        },
        "Text": {
            "name": "own",
            **text,
            "num_hidden_layers": shape.depth,
            "num_attention_heads": shape.heads,
            "max_position_embeddings": shape.positions,
        },
    }
    paddle.seed(0)
    loss = MultiViewContrastive([(*pair, 1.0) for pair in shape.pairs])
    return Objective(build_model(arch), loss, shape.image_views, shape.text_views)


def ours(shape: dict, folder: str, steps: int, check: bool) -> dict:
    """Times of a bare step; with `check`, first loss and gradients without dropout into FOLDER."""
    shape = Shape(**shape)
    objective = _loaded(shape, folder)
    pixel_values, input_ids = map(paddle.to_tensor, shape.batch_of_views())

    def loss():
        return objective(pixel_values, input_ids)["loss"]

    if check:
        gradients = _gradients(objective, loss, objective.model)
        np.savez(f"{folder}/ours.npz", **gradients)
    return {"times": _bare_times(objective, loss, steps)}


def trainer(shape: dict, folder: str, steps: int, check: bool) -> dict:
    """Times of what the trainer does with a batch of configs/base.yaml that is read already."""
    shape = Shape(**shape)
    objective = _loaded(shape, folder)
    stepper = Step(load_config(ROOT / "configs" / "base.yaml"), objective, [], total_steps=10**6)
    pixel_values, input_ids = map(paddle.to_tensor, shape.batch_of_views())
    batch = {
        "pixel_values": pixel_values,
        "input_ids": input_ids,
        "ids": {source: paddle.arange(shape.batch) for source in ("image", "text")},
        "valid": paddle.ones([shape.batch], dtype="bool"),
    }
    faults = Faults(Path(folder) / "faults.jsonl", spike=None, skips=10)

    def step():
        losses = stepper.gradients([[batch]], [[0]])
        norm = stepper.clip()
        loss = float(losses["loss"])
        assert faults.judge(loss, stepper.judged_norm(loss, norm)) is None
        stepper.apply()

    return {"times": timed(step, steps)}


def _loaded(shape: Shape, folder: str) -> Objective:
    # as distributed.init has it on a CPU, for whoever trains
    paddle.set_flags({"FLAGS_use_stride_kernel": False})
    objective = _objective(shape)
    weights = np.load(f"{folder}/weights.npz")
    objective.model.set_state_dict({name: weights[name] for name in weights.files})
    return objective


def _gradients(layer: nn.Layer, loss: Callable, named: nn.Layer) -> dict[str, np.ndarray]:
    """The loss, and by the names of `named` its gradients, in eval mode."""
    layer.eval()
    value = loss()
    value.backward()
    found = {name: p.grad.numpy() for name, p in named.named_parameters()}
    for parameter in layer.parameters():
        parameter.clear_gradient(set_to_zero=False)
    return {"loss": value.numpy(), **found}


def _bare_times(layer: nn.Layer, loss: Callable, steps: int) -> list[dict]:
    layer.train()
    optimizer = paddle.optimizer.AdamW(
        SMALL,
        beta1=0.9,
        beta2=0.98,
        epsilon=1e-6,
        weight_decay=0.001,
        parameters=layer.parameters(),
    )

    def step():
        loss().backward()
        optimizer.step()
        optimizer.clear_grad(set_to_zero=False)

    return timed(step, steps)


def paddlenlp(shape: dict, folder: str, steps: int, check: bool) -> dict:
    """The same of PaddleNLP's ErnieViLModel, whose own loss scores one pair alone."""
    from paddlenlp.transformers import ErnieViLModel

    shape = Shape(**shape)
    model = ErnieViLModel.from_pretrained(f"{folder}/paddlenlp")
    pixel_values, input_ids = map(paddle.to_tensor, shape.batch_of_views())

    def loss():
        embeds = {}
        towers = model.get_image_features(pixel_values), model.get_text_features(input_ids)
        for views, output in zip((shape.image_views, shape.text_views), towers):
            embeds.update(zip(views, F.normalize(output, axis=-1).chunk(len(views))))
        scale, own, total = model.temperature.exp(), paddle.arange(shape.batch), 0.0
        for a, b in shape.pairs:
            logits = paddle.matmul(scale * embeds[a], embeds[b], transpose_y=True)
            total = total + (F.cross_entropy(logits, own) + F.cross_entropy(logits.t(), own)) / 2
        return total

    if check:
        model.eval()
        with paddle.no_grad():
            np.savez(f"{folder}/paddlenlp.npz", loss=loss().numpy())
    return {"times": _bare_times(model, loss, steps)}
