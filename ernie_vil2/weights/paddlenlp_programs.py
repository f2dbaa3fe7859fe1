"""PaddleNLP's exported ErnieViLModel: two programs, which give features that are not normalised.

Its ernie-vil2.0/export_model.py writes `get_image_features` and `get_text_features`, and its
deploy/python/infer.py reads them: float32 pixel_values [B, 3, S, S] or int64 input_ids [B, L] ->
float32 [B, D].
"""

from __future__ import annotations

import os
from pathlib import Path

import paddle
from paddle.nn import functional as F

from ernie_vil2.errors import UserError

NAMES = {"image": "get_image_features", "text": "get_text_features"}


def has_programs(folder: str | os.PathLike) -> bool:
    """Whether both programs lie in a folder, of Paddle 2 or 3."""
    stems = [Path(folder) / name for name in NAMES.values()]
    return all(
        stem.with_suffix(".pdiparams").is_file()
        and any(stem.with_suffix(suffix).is_file() for suffix in (".pdmodel", ".json"))
        for stem in stems
    )


class FeaturePrograms:
    """What an evaluation needs of a model, from the two programs of a folder.

    Args:
        size: pixels of a side that the images will have.

    Raises:
        UserError: programs that cannot be loaded here, or are for other images.
    """

    def __init__(self, folder: str | os.PathLike, size: int):
        self._image, self._text = (_load(Path(folder) / name) for name in NAMES.values())
        wanted = [int(side) for side in self._image._input_spec()[0].shape[2:]]
        if wanted != [size, size]:
            raise UserError(
                f"{folder} takes images of {' x '.join(map(str, wanted))} pixels: set "
                f"Transform.size and Arch.Image.img_size to that, not {size}"
            )

    def encode_image(self, pixel_values: paddle.Tensor) -> paddle.Tensor:
        """float32 [B, 3, S, S], normalised pixels -> float32 [B, D], L2-normalised."""
        return F.normalize(self._image(pixel_values), axis=-1)

    def encode_text(self, input_ids: paddle.Tensor) -> paddle.Tensor:
        """int64 [B, L], padded with 0 -> float32 [B, D], L2-normalised."""
        return F.normalize(self._text(input_ids), axis=-1)


def _load(stem: Path):
    try:
        layer = paddle.jit.load(str(stem))
    except Exception as error:  # Paddle raises whatever a file of another version makes it meet
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{stem} cannot be loaded by Paddle {paddle.__version__}: {reason}; export it again"
        ) from None
    layer.eval()
    return layer
