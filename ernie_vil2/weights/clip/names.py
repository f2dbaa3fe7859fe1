"""The parameters' names in Chinese-CLIP, OpenAI's CLIP, open_clip and Hugging Face's, and ours.

PyTorch keeps the matrix of a linear layer as [out, in], Paddle as [in, out].
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from ernie_vil2.weights.names import CLASS_TOKEN, POSITIONS, join_qkv, rename, split_qkv

_VIT, _BERT = "image_tower.backbone.", "text_tower.bert."
_BLOCKS, _LAYERS = f"{_VIT}blocks.*.", f"{_BERT}encoder.layers.*."


def _bert(prefix: str) -> tuple:
    theirs, embeddings = f"{prefix}encoder.layer.*.", f"{prefix}embeddings."
    return (
        (f"{embeddings}LayerNorm.", f"{_BERT}embeddings.layer_norm."),
        (embeddings, f"{_BERT}embeddings."),
        (f"{theirs}attention.self.query.", f"{_LAYERS}self_attn.q_proj."),
        (f"{theirs}attention.self.key.", f"{_LAYERS}self_attn.k_proj."),
        (f"{theirs}attention.self.value.", f"{_LAYERS}self_attn.v_proj."),
        (f"{theirs}attention.output.dense.", f"{_LAYERS}self_attn.out_proj."),
        (f"{theirs}attention.output.LayerNorm.", f"{_LAYERS}norm1."),
        (f"{theirs}intermediate.dense.", f"{_LAYERS}linear1."),
        (f"{theirs}output.dense.", f"{_LAYERS}linear2."),
        (f"{theirs}output.LayerNorm.", f"{_LAYERS}norm2."),
    )


# Name prefixes, theirs and ours, as in `weights.names`.
_OPENAI = (
    ("logit_scale", "temperature"),
    ("visual.class_embedding", CLASS_TOKEN),
    ("visual.positional_embedding", POSITIONS),
    ("visual.proj", "image_projection.weight"),
    ("visual.ln_pre.", f"{_VIT}ln_pre."),
    ("visual.ln_post.", f"{_VIT}norm."),
    ("visual.transformer.resblocks.*.ln_1.", f"{_BLOCKS}norm1."),
    ("visual.transformer.resblocks.*.attn.in_proj_weight", f"{_BLOCKS}attn.qkv.weight"),
    ("visual.transformer.resblocks.*.attn.in_proj_bias", f"{_BLOCKS}attn.qkv.bias"),
    ("visual.transformer.resblocks.*.attn.out_proj.", f"{_BLOCKS}attn.proj."),
    ("visual.transformer.resblocks.*.ln_2.", f"{_BLOCKS}norm2."),
    ("visual.transformer.resblocks.*.mlp.c_fc.", f"{_BLOCKS}mlp.fc1."),
    ("visual.transformer.resblocks.*.mlp.c_proj.", f"{_BLOCKS}mlp.fc2."),
    ("text_projection", "text_projection.weight"),
    *_bert("bert."),
)
_PATCHES = (("visual.conv1.", f"{_VIT}patch_embed.proj."),)  # of a vision transformer
_RESNET = (
    ("visual.attnpool.positional_embedding", f"{_VIT}attnpool.positional_embedding.weight"),
    ("visual.", _VIT),
)
_HUGGINGFACE = (
    ("logit_scale", "temperature"),
    ("vision_model.embeddings.class_embedding", CLASS_TOKEN),
    ("vision_model.embeddings.position_embedding.weight", POSITIONS),
    ("vision_model.embeddings.patch_embedding.", f"{_VIT}patch_embed.proj."),
    ("vision_model.pre_layrnorm.", f"{_VIT}ln_pre."),  # their spelling
    ("vision_model.post_layernorm.", f"{_VIT}norm."),
    ("vision_model.encoder.layers.*.layer_norm1.", f"{_BLOCKS}norm1."),
    ("vision_model.encoder.layers.*.self_attn.qkv_proj.", f"{_BLOCKS}attn.qkv."),
    ("vision_model.encoder.layers.*.self_attn.out_proj.", f"{_BLOCKS}attn.proj."),
    ("vision_model.encoder.layers.*.layer_norm2.", f"{_BLOCKS}norm2."),
    ("vision_model.encoder.layers.*.mlp.", f"{_BLOCKS}mlp."),
    ("visual_projection.", "image_projection."),
    ("text_projection.", "text_projection."),
    *_bert("text_model."),
)
# What our names of a linear layer's matrix end with; only Hugging Face's projections are such.
_LINEAR = re.compile(r"((attn|attnpool)\.\w+|mlp\.fc\d|linear\d)\.weight")
_PROJECTION = re.compile(r"(image|text)_projection\.weight")
_STATISTICS = (("running_mean", "_mean"), ("running_var", "_variance"))  # of batch normalisation
# buffers that follow from the sizes, and a pooler that nobody asks
_UNUSED = re.compile(r".*(position_ids|num_batches_tracked|attn_mask|\.pooler\.dense\.\w+)")


def is_resnet(names) -> bool:
    """Whether the image tower under these names, theirs or ours, is a ModifiedResNet."""
    return any(".attnpool." in name for name in names)


def to_ours(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Weights of any of the four by our names, float32; what has no name of ours keeps its own.

    Args:
        state: float32, by their names, the towers' and what joins them.
    """
    state = {name: array for name, array in state.items() if not _UNUSED.fullmatch(name)}
    huggingface = any(name.startswith(("vision_model.", "text_model.")) for name in state)
    if not huggingface:
        state = _without_flash_attention(state)
    table = _table(huggingface, is_resnet(state))
    if huggingface:  # one matrix of three; [out, in] of PyTorch
        state = join_qkv(state, axis=0)
    result = {}
    for name, array in rename(state, table).items():
        for theirs, ours in _STATISTICS if name.startswith(_VIT) else ():
            name = re.sub(f"\\.{theirs}$", f".{ours}", name)
        result[name] = _shaped(name, _turned(name, array, huggingface))
    return result


def to_theirs(state: Mapping[str, np.ndarray], huggingface: bool) -> dict[str, np.ndarray]:
    """Weights by our names under those of Hugging Face, or of the other three."""
    resnet = is_resnet(state)
    turned = {name: _turned(name, array, huggingface) for name, array in state.items()}
    result = rename(turned, _table(huggingface, resnet), back=True)
    if huggingface:
        result = split_qkv(result, axis=0)
    for name in list(result):
        for theirs, ours in _STATISTICS if resnet else ():
            if name.endswith(f".{ours}"):
                result[f"{name[: -len(ours)]}{theirs}"] = result.pop(name)
    if resnet:
        counted = [name for name in result if name.endswith("running_var")]
        steps = np.zeros([], np.int64)
        result.update({n.replace("running_var", "num_batches_tracked"): steps for n in counted})
    for name, array in result.items():
        if name.endswith(("class_embedding", "logit_scale")):
            result[name] = array.reshape([-1] if "class" in name else [])
        elif array.ndim == 3:  # the positions, [1, 1 + N, C]
            result[name] = array[0]
    return result


def _table(huggingface: bool, resnet: bool) -> tuple:
    if huggingface:
        return _HUGGINGFACE
    return _OPENAI + (_RESNET if resnet else _PATCHES)


def _turned(name: str, array: np.ndarray, huggingface: bool) -> np.ndarray:
    linear = _LINEAR.search(name) or (huggingface and _PROJECTION.fullmatch(name))
    turned = linear and array.ndim == 2 and "positional_embedding" not in name
    return np.ascontiguousarray(array.T) if turned else array


def _shaped(name: str, array: np.ndarray) -> np.ndarray:
    if name == "temperature":
        return array.reshape([-1])
    if name in (CLASS_TOKEN, POSITIONS):  # [C] or [1 + N, C] -> [1, ..., C]
        return array.reshape((1,) * (3 - array.ndim) + array.shape)
    return array


def _without_flash_attention(state: dict) -> dict:
    """Attention as Chinese-CLIP names it with --use-flash-attention, which joins that of texts."""
    result = {}
    for name, array in state.items():
        name = name.replace(".attn.Wqkv.", ".attn.in_proj_")
        if ".attention.self.Wqkv." in name:
            for part, piece in zip(("query", "key", "value"), np.split(array, 3)):
                result[name.replace("Wqkv", part)] = piece
        else:
            result[name.replace("attention.self.out_proj", "attention.output.dense")] = array
    return result
