"""`Arch` of the models of the CLIP family, from their weights and what stands beside them.

The weights tell all sizes but the numbers of heads, which are 64 numbers wide but in the towers of
`_HEADS`, and the activation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from ernie_vil2.errors import UserError
from ernie_vil2.models.image_resnet import RESNETS
from ernie_vil2.weights.names import CLASS_TOKEN, POSITIONS
from ernie_vil2.weights.paddlenlp_config import mlp_ratio

# width -> heads: of Chinese-CLIP's and open_clip's ViT-H/14, open_clip's g/14 and bigG/14
_HEADS = {1280: 16, 1408: 16, 1664: 16}
_HEAD_WIDTH = 64
# width, patch, image -> PaddleClas's name; any other ViT has one of them too, with its own sizes
_NAMES = {
    (768, 16, 224): "CLIP_vit_base_patch16_224",
    (768, 32, 224): "CLIP_vit_base_patch32_224",
    (1024, 14, 224): "CLIP_vit_large_patch14_224",
    (1024, 14, 336): "CLIP_vit_large_patch14_336",
}
EPSILON, TEXT_EPSILON = 1e-5, 1e-12  # of LayerNorm: PyTorch's own, and BERT's
_VIT, _BERT = "image_tower.backbone.", "text_tower.bert."

State = Mapping[str, np.ndarray]


def image_arch(state: State, given: Mapping) -> dict:
    """`Arch.Image` of the tower with these weights.

    Args:
        state: by our names.
        given: what the weights do not tell, of num_heads, hidden_act and epsilon.

    Raises:
        UserError: the weights are of no tower that can be built.
    """
    if f"{_VIT}attnpool.c_proj.weight" in state:
        return _resnet(state)
    patches, positions = _array(state, f"{_VIT}patch_embed.proj.weight"), _array(state, POSITIONS)
    width, patch = _array(state, CLASS_TOKEN).shape[-1], patches.shape[-1]
    size = math.isqrt(positions.shape[-2] - 1) * patch
    hidden = _array(state, f"{_VIT}blocks.0.mlp.fc1.weight").shape[1]
    return {
        "name": _NAMES.get((width, patch, size), "CLIP_vit_base_patch16_224"),
        "img_size": size,
        "patch_size": patch,
        "embed_dim": width,
        "depth": _depth(state, f"{_VIT}blocks."),
        "num_heads": _heads(width),
        "mlp_ratio": mlp_ratio(hidden, width),
        "qkv_bias": True,
        "epsilon": EPSILON,
        "hidden_act": "quick_gelu",
        **given,
    }


def _resnet(state: State) -> dict:
    pool = _array(state, f"{_VIT}attnpool.c_proj.weight")  # [C, D]
    layers = [_depth(state, f"{_VIT}layer{stage}.") for stage in (1, 2, 3, 4)]
    names = [name for name, sizes in RESNETS.items() if list(sizes.layers) == layers]
    if not names:
        raise UserError(f"its ResNet has {layers} blocks, expected those of {', '.join(RESNETS)}")
    grid = math.isqrt(_array(state, f"{_VIT}attnpool.positional_embedding.weight").shape[0] - 1)
    return {
        "name": names[0],
        "img_size": 32 * grid,
        "embed_dim": pool.shape[0],
        "num_heads": _heads(pool.shape[0]),
        "out_dim": pool.shape[1],
    }


def text_arch(state: State, given: Mapping) -> dict:
    """`Arch.Text` of the BERT with these weights.

    Args:
        state: by our names.
        given: what the weights do not tell, of num_attention_heads, the dropouts, hidden_act and
            epsilon.

    Raises:
        UserError: weights are missing.
    """
    words = _array(state, f"{_BERT}embeddings.word_embeddings.weight")
    length = _array(state, f"{_BERT}embeddings.position_embeddings.weight").shape[0]
    return {
        "name": "bert",
        "kind": "bert",
        "vocab_size": words.shape[0],
        "hidden_size": words.shape[1],
        "num_hidden_layers": _depth(state, f"{_BERT}encoder.layers."),
        "num_attention_heads": _heads(words.shape[1]),
        "intermediate_size": _array(state, f"{_BERT}encoder.layers.0.linear1.weight").shape[1],
        "max_position_embeddings": length,
        "hidden_act": "gelu",
        "epsilon": TEXT_EPSILON,
        **given,
    }


def _heads(width: int) -> int:
    return _HEADS.get(width) or max(1, width // _HEAD_WIDTH)


def _depth(state: State, prefix: str) -> int:
    return len({name[len(prefix) :].split(".")[0] for name in state if name.startswith(prefix)})


def _array(state: State, name: str) -> np.ndarray:
    if name not in state or state[name].ndim < 2:
        raise UserError(f"it lacks {name}, as its place is called here")
    return state[name]
