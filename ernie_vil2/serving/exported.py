"""An exported model as an evaluation calls a trained one."""

from __future__ import annotations

import os

import paddle

from ernie_vil2.config.load import Config
from ernie_vil2.evaluation.trained import Embedder
from ernie_vil2.serving.predictor import Predictor


class ExportedModel:
    """The two programs of a Predictor, from tensors to tensors."""

    def __init__(self, predictor: Predictor):
        self._predictor = predictor

    def encode_image(self, pixels: paddle.Tensor) -> paddle.Tensor:
        """What `artefact.transform()` gave, stacked: [B, ...] -> float32 [B, D], L2-normalised."""
        return paddle.to_tensor(self._predictor.embed_pixels(pixels.numpy()))

    def encode_text(self, input_ids: paddle.Tensor) -> paddle.Tensor:
        """int64 [B, L], padded with 0 -> float32 [B, D], L2-normalised."""
        return paddle.to_tensor(self._predictor.embed_ids(input_ids.numpy()))


def load_exported(folder: str | os.PathLike, config: Config) -> Embedder:
    """An exported model in fp32, with its own vocabulary and preprocessing, on this process's
    device.

    Args:
        config: whose `DataLoader.Eval.batch_size` the programs run.

    Raises:
        UserError: as `Predictor`.
    """
    size = config.DataLoader.Eval.batch_size
    predictor = Predictor(folder, device=paddle.get_device(), batch_size=size)
    artefact = predictor.artefact
    return Embedder(
        ExportedModel(predictor),
        predictor.tokenizer,
        predictor.transform,
        lambda pixels: pixels,
        artefact.prompts,
        lambda: artefact.weights.get("sha256"),
    )
