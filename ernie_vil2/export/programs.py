"""A trained model as two Paddle Inference programs, with all that a server needs beside them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import paddle
from paddle import nn
from paddle.static import InputSpec

import ernie_vil2
from ernie_vil2.artefact.description import GOLDEN, PROMPTS, VOCABULARY, check_prompts
from ernie_vil2.artefact.folder import Artefact
from ernie_vil2.artefact.golden import Golden
from ernie_vil2.data.tokenize import Tokenizer
from ernie_vil2.data.transforms import MEAN, STD, eval_transform
from ernie_vil2.export.towers import ImageProgram, TextProgram
from ernie_vil2.models.dual_encoder import DualEncoder
from ernie_vil2.preprocessing import DEFAULT
from ernie_vil2.tf32 import full_float32
from ernie_vil2.weights.digest import weights_hash

GOLDEN_TEXTS = (
    "一只戴着帽子的猫在海边看日落",
    "a red circle on a white plate, 2 dogs and café au lait",
    "笑脸",
    "",
)


class PixelProgram(nn.Layer):
    """`ImageProgram` behind the normalisation of pixels.

    forward: uint8 [B, S, S, 3], RGB -> float32 [B, D], L2-normalised.
    """

    def __init__(self, model: DualEncoder, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.program = ImageProgram(model)
        # (v / 255 - mean) / std
        scale = 1 / (255 * np.asarray(std, np.float64))
        shift = -np.asarray(mean, np.float64) / np.asarray(std, np.float64)
        for name, values in (("scale", scale), ("shift", shift)):
            values = values.reshape(1, 3, 1, 1).astype("float32")
            self.register_buffer(name, paddle.to_tensor(values))

    def forward(self, pixel_values: paddle.Tensor) -> paddle.Tensor:
        # [B, S, S, 3] -> [B, 3, S, S]
        pixel_values = pixel_values.astype("float32").transpose([0, 3, 1, 2])
        return self.program(pixel_values * self.scale + self.shift)


def export(
    model: DualEncoder,
    tokenizer: Tokenizer,
    folder: str | os.PathLike,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
    prompts: Sequence[str] = PROMPTS,
    preprocess: bool = False,
    image_size: int | None = None,
    source: str = "",
    preprocessing: str = DEFAULT,
) -> Artefact:
    """Write the fp32 programs of a model, its vocabulary, golden vectors and description.

    Args:
        model: in eval mode.
        folder: where to write; what is there already is overwritten.
        mean, std: of RGB in 0..1, as the model was trained.
        prompts: templates for zero-shot classification.
        preprocess: let the image program take uint8 pixels and normalise them itself.
        image_size: of the square that images are cropped to; None: what the tower is for.
        source: where the weights came from, for the description.
        preprocessing: what a picture goes through before, a key of `PREPROCESSINGS`.

    Raises:
        UserError: a prompt without `{}`.
    """
    folder = Path(folder)
    check_prompts(list(prompts), "the prompts")
    (folder / "fp32").mkdir(parents=True, exist_ok=True)
    size = image_size or model.image_tower.img_size
    max_len = min(tokenizer.max_len, model.text_tower.max_len)
    (folder / VOCABULARY).write_bytes(Path(tokenizer.vocab_file).read_bytes())
    artefact = Artefact(
        folder,
        embed_dim=model.embed_dim,
        logit_scale=float(model.logit_scale),
        image_size=size,
        max_len=max_len,
        vocab_size=model.text_tower.vocab_size,
        max_positions=model.text_tower.max_len,
        mean=[float(x) for x in mean],
        std=[float(x) for x in std],
        preprocess=preprocess,
        preprocessing=preprocessing,
        lowercase=tokenizer.lowercase,
        straight_quotes=tokenizer.straight_quotes,
        prompts=list(prompts),
        precisions={"fp32": {}},
        weights={"source": source, "sha256": weights_hash(model)},
        versions={
            "ernie_vil2": ernie_vil2.__version__,
            "paddle": paddle.__version__,
            **{name: version(name) for name in ("paddlenlp", "paddleclas")},
        },
        golden_made={"device": _device_name(), "precision": "float32, TF32 off"},
    )
    if preprocess:
        image, shape, dtype = PixelProgram(model, mean, std), [None, size, size, 3], "uint8"
    else:
        image, shape, dtype = ImageProgram(model), [None, 3, size, size], "float32"
    save_program(image, folder / "fp32" / "image", InputSpec(shape, dtype, "pixel_values"))
    text = InputSpec([None, None], "int64", "input_ids")
    save_program(TextProgram(model), folder / "fp32" / "text", text)
    make_golden(model, artefact).save(folder / GOLDEN)
    artefact.save()
    return artefact


def save_program(program: nn.Layer, stem: Path, spec: InputSpec) -> None:
    """Write `stem`.pdmodel, of Paddle 3 .json, and .pdiparams."""
    program.eval()
    paddle.jit.save(program, str(stem), input_spec=[spec])
    stem.with_suffix(".pdiparams.info").unlink(missing_ok=True)  # only for training on


def _device_name() -> str:
    """What runs the model: "cpu", or a GPU's name."""
    device = paddle.get_device()
    return paddle.device.cuda.get_device_name(device) if device.startswith("gpu") else device


@paddle.no_grad()
def make_golden(model: DualEncoder, artefact: Artefact) -> Golden:
    """Drawn pictures and fixed texts with what the model itself, not its program, makes of them."""
    images = [_png(*size, seed) for seed, size in enumerate(((97, 160), (160, 120), (64, 64)))]
    # normalised here, not by the program, since these vectors are to prove the program
    transform = eval_transform(
        artefact.image_size, artefact.mean, artefact.std, artefact.preprocessing
    )
    with full_float32():  # TF32 would be off by more than what fp32 is held to
        image_embeds = model.encode_image(paddle.to_tensor(np.stack(list(map(transform, images)))))
        text_embeds = model.encode_text(paddle.to_tensor(artefact.tokenizer()(list(GOLDEN_TEXTS))))
    return Golden(images, list(GOLDEN_TEXTS), image_embeds.numpy(), text_embeds.numpy())


def _png(height: int, width: int, seed: int) -> bytes:
    """A picture with shades, edges and noise; PNG, which every decoder reads alike."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    image = np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], axis=-1).astype(np.uint8)
    color = tuple(map(int, rng.integers(0, 256, 3)))
    cv2.circle(image, (width // 2, height // 2), min(height, width) // 3, color, -1)
    image += rng.integers(0, 30, image.shape, dtype=np.uint8)
    return cv2.imencode(".png", image)[1].tobytes()
