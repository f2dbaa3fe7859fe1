"""The sizes of released models follow from the shapes of their weights."""

import numpy as np
import pytest

from ernie_vil2.errors import UserError
from ernie_vil2.weights.clip.arch import image_arch, text_arch

# cn_clip/clip/model_configs/*.json; a ViT's head is 64 wide, in ViT-H-14 80
VITS = {  # width, layers, patch, image, heads
    "ViT-B-16": (768, 12, 16, 224, 12),
    "ViT-B-32": (768, 12, 32, 224, 12),
    "ViT-L-14": (1024, 24, 14, 224, 16),
    "ViT-L-14-336": (1024, 24, 14, 336, 16),
    "ViT-H-14": (1280, 32, 14, 224, 16),
}
BERTS = {  # width, layers, inner width, heads
    "RBT3-chinese": (768, 3, 3072, 12),
    "RoBERTa-wwm-ext-base-chinese": (768, 12, 3072, 12),
    "RoBERTa-wwm-ext-large-chinese": (1024, 24, 4096, 16),
}
VIT, BERT = "image_tower.backbone.", "text_tower.bert."


def shapes(**of):
    """Arrays of these shapes that take no memory."""
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in of.items()}


@pytest.mark.parametrize("name", VITS)
def test_vision_transformers(name):
    width, layers, patch, size, _ = VITS[name]
    state = shapes(
        **{
            f"{VIT}cls_token": (1, 1, width),
            f"{VIT}pos_embed": (1, 1 + (size // patch) ** 2, width),
            f"{VIT}patch_embed.proj.weight": (width, 3, patch, patch),
            **{f"{VIT}blocks.{i}.mlp.fc1.weight": (width, 4 * width) for i in range(layers)},
        }
    )
    arch = image_arch(state, {})
    found = [arch[key] for key in ("embed_dim", "depth", "patch_size", "img_size", "num_heads")]
    assert found == list(VITS[name])
    assert arch["name"].endswith(f"_patch{patch}_{size}") or name == "ViT-H-14"
    assert (arch["mlp_ratio"], arch["hidden_act"], arch["epsilon"]) == (4, "quick_gelu", 1e-5)


@pytest.mark.parametrize("name", BERTS)
def test_berts(name):
    width, layers, inner, _ = BERTS[name]
    state = shapes(
        **{
            f"{BERT}embeddings.word_embeddings.weight": (21128, width),
            f"{BERT}embeddings.position_embeddings.weight": (512, width),
            **{f"{BERT}encoder.layers.{i}.linear1.weight": (width, inner) for i in range(layers)},
        }
    )
    arch = text_arch(state, {})
    keys = ("hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads")
    assert tuple(arch[key] for key in keys) == BERTS[name]
    assert (arch["vocab_size"], arch["max_position_embeddings"]) == (21128, 512)


def test_resnets():
    stages = {f"{VIT}layer{s + 1}.{i}.x": () for s, n in enumerate((3, 4, 6, 3)) for i in range(n)}
    pool = {
        f"{VIT}attnpool.c_proj.weight": (2048, 1024),
        f"{VIT}attnpool.positional_embedding.weight": (50, 2048),
    }
    arch = image_arch(shapes(**stages, **pool), {})
    sizes = {"img_size": 224, "embed_dim": 2048, "num_heads": 32, "out_dim": 1024}
    assert arch == {"name": "CLIP_rn50", **sizes}
    del stages[f"{VIT}layer3.5.x"]
    with pytest.raises(UserError, match=r"its ResNet has \[3, 4, 5, 3\] blocks, expected those of"):
        image_arch(shapes(**stages, **pool), {})
