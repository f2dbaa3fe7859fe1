"""The two programs that PaddleNLP's ernie-vil2.0 exports, under its names, beside our own.

Its deploy/python/infer.py, and what was built upon it, take the folder `paddlenlp` of an exported
model as it takes the one that its export_model.py wrote.
"""

from __future__ import annotations

import numpy as np
import paddle
from paddle import nn
from paddle.static import InputSpec

from ernie_vil2.artefact.folder import Artefact
from ernie_vil2.data.transforms import eval_transform
from ernie_vil2.errors import UserError
from ernie_vil2.export.programs import save_program
from ernie_vil2.models.dual_encoder import DualEncoder
from ernie_vil2.weights.paddlenlp_programs import NAMES, FeaturePrograms

FOLDER = "paddlenlp"


class FeatureProgram(nn.Layer):
    """A tower and its projection: what becomes an embedding once it is L2-normalised.

    forward: float32 pixel_values [B, 3, S, S], or int64 input_ids [B, L] -> float32 [B, D].
    """

    def __init__(self, tower: nn.Layer, projection: nn.Layer | None):
        super().__init__()
        self.tower, self.projection = tower, projection

    def forward(self, inputs: paddle.Tensor) -> paddle.Tensor:
        features = self.tower(inputs)  # [B, C]
        return features if self.projection is None else self.projection(features)


def write_programs(model: DualEncoder, artefact: Artefact, bound: float = 1e-5) -> float:
    """Write them into the artefact's folder, and run them on its golden images and texts.

    Returns:
        The largest difference of their normalised features from the model's embeddings.

    Raises:
        UserError: a difference above `bound`.
    """
    folder, size = artefact.folder / FOLDER, artefact.image_size
    folder.mkdir(exist_ok=True)
    for tower, projection, spec, name in (
        (
            model.image_tower,
            model.image_projection,
            InputSpec([None, 3, size, size], "float32", "pixel_values"),
            NAMES["image"],
        ),
        (
            model.text_tower,
            model.text_projection,
            InputSpec([None, None], "int64", "input_ids"),
            NAMES["text"],
        ),
    ):
        save_program(FeatureProgram(tower, projection), folder / name, spec)
    difference = _difference(FeaturePrograms(folder, size), artefact)
    if not difference <= bound:  # NaN too
        raise UserError(
            f"the programs in {FOLDER} give other embeddings than the trained model (largest "
            f"difference {difference:.2g}, expected at most {bound}): leave out --paddlenlp-names"
        )
    return difference


@paddle.no_grad()
def _difference(programs: FeaturePrograms, artefact: Artefact) -> float:
    golden = artefact.golden()
    # normalised here, whatever the artefact's own program does itself
    transform = eval_transform(
        artefact.image_size, artefact.mean, artefact.std, artefact.preprocessing
    )
    pixels = paddle.to_tensor(np.stack([transform(image) for image in golden.images]))
    ids = paddle.to_tensor(artefact.tokenizer()(golden.texts))
    return max(
        float(np.abs(found.numpy() - expected).max())
        for found, expected in (
            (programs.encode_image(pixels), golden.image_embeds),
            (programs.encode_text(ids), golden.text_embeds),
        )
    )
