"""Models of Chinese-CLIP and image towers of CLIP as models of ours."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import paddle

from ernie_vil2.config.load import check_arch
from ernie_vil2.errors import UserError
from ernie_vil2.models.dual_encoder import DualEncoder, build_model
from ernie_vil2.weights.clip import arch, names, sources
from ernie_vil2.weights.load import fill

log = logging.getLogger("ernie_vil2")

CONTEXT_LENGTH = 52  # tokens of a text in Chinese-CLIP
VOCABULARY = "bert-base-chinese"  # the same tokens as Chinese-CLIP's vocab.txt, by PaddleNLP's name
_SEED = 42  # of a new text tower


class Converted(NamedTuple):
    """A model, and how its inputs are to be prepared.

    Attributes:
        transform: of the section `Transform`: `eval`, and mean and std where they are others.
        tokenizer: of the section `Tokenizer`; empty where the text tower is new.
        vocab_file: of the vocabulary that lies beside the weights.
    """

    model: DualEncoder
    transform: dict[str, Any]
    tokenizer: dict[str, Any]
    vocab_file: str | None


def load_clip(
    kind: str,
    path: str | os.PathLike,
    config: str | Path | Mapping | None = None,
    partial: bool = False,
) -> Converted:
    """The model with these weights, in eval mode.

    Args:
        kind: one of `CLIP` of `weights.conversion`: "chinese_clip", of `cn_clip`; "openai",
            and what open_clip calls -quickgelu; "open_clip"; "huggingface", a folder of
            ChineseCLIPModel, CLIPModel or CLIPVisionModel.
        path: a file, or a folder.
        config: a YAML path or a mapping with `Arch`, for an image tower alone: its `Arch.Text` is
            the text tower beside it, new, or with PaddleNLP's weights for its name.
        partial: load what fits although keys are missing, unexpected or wrongly shaped.

    Raises:
        UserError: no such weights, damaged ones, or such as no model of ours can have.
    """
    source = sources.read(kind, Path(path))
    if source.is_chinese and config is not None:
        raise UserError(f"{path} tells the sizes of both towers itself: leave -c out")
    state = names.to_ours(source.state)
    foreign = [name for name in state if name.startswith(("visual.", "vision_model."))]
    if foreign:
        raise UserError(
            f"{path} has {foreign[0]}, which neither CLIP's vision transformers nor its ResNets "
            "have: such a tower cannot be read"
        )
    try:
        sections = _arch(source, state, config)
    except UserError as error:
        raise UserError(f"{path} cannot be read as {kind}: {error}") from None
    paddle.seed(_SEED)
    model = build_model(sections)
    trained = "PaddleNLP's weights" if sections["Text"].get("pretrained") else "new weights"
    model.arch["Text"]["pretrained"] = False  # they are in the model now
    prefixes = _new(source, state)
    fresh = {
        name: tensor.numpy()
        for name, tensor in model.state_dict().items()
        if name.startswith(prefixes) and name not in state
    }
    if source.left:
        log.info("%s: %d tensors of its text tower are left", path, len(source.left))
    if not source.is_chinese:
        log.warning("%s has no text tower of ours: Arch.Text gets %s", path, trained)
    fill(model, Path(path), {**fresh, **state}, partial)
    model.eval()
    named = "chinese_clip" if source.is_chinese else "clip"
    transform = {"eval": named, **source.transform}
    if not source.is_chinese:
        return Converted(model, transform, {}, None)
    max_len = min(CONTEXT_LENGTH, model.text_tower.max_len)
    tokenizer = {
        "vocab_file": VOCABULARY,
        "max_len": max_len,
        "lowercase": True,
        "straight_quotes": True,  # what its programs do before they tokenize
    }
    beside = Path(path) / "vocab.txt"
    return Converted(model, transform, tokenizer, str(beside) if beside.is_file() else None)


def _new(source: sources.Source, state: Mapping) -> tuple[str, ...]:
    """Prefixes of our names of what the weights do not hold and need not."""
    new = () if source.is_chinese else ("text_tower.", "text_projection.")
    if source.is_chinese and "image_projection.weight" in state:
        return new
    return (*new, "image_projection.", "temperature")


def _arch(source: sources.Source, state: Mapping, config: Any) -> dict:
    image = arch.image_arch(state, source.image)
    projection = state.get("image_projection.weight")  # [C, D]
    embed_dim = image.get("out_dim") if projection is None else projection.shape[1]
    if source.is_chinese:
        return {
            "embed_dim": embed_dim,
            "Image": image,
            "Text": arch.text_arch(state, source.text),
        }
    if config is None:
        raise UserError(
            "it holds an image tower alone: name a config with -c, whose Arch.Text is the text "
            "tower beside it"
        )
    given = check_arch(config).to_dict()
    return {**given, "embed_dim": embed_dim or given["embed_dim"], "Image": image}
