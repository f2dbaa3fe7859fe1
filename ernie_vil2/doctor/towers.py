"""The sizes of a configuration's towers, as far as what a training step costs depends on them."""

from __future__ import annotations

from dataclasses import dataclass

from ernie_vil2.config.load import Config
from ernie_vil2.errors import UserError


@dataclass(frozen=True)
class Transformer:
    """One tower, as far as memory depends on it."""

    tensors: list[int]  # numbers in each parameter
    views: int
    tokens: int  # that go through its blocks
    width: int
    heads: int
    layers: int
    mlp_ratio: float

    def block_activations(self, level: str = "O0") -> float:
        """Bytes that one block keeps of one record for its backward, under an AMP level.

        Korthikanti et al. 2022 (arXiv 2205.05198), section 4.1: s h (34 + 5 a s / h) in half
        precision at an MLP ratio of 4; numbers twice as wide in float32, dropout masks not. Under
        O1 only the inputs of matrix products are half: those of GELU and of normalisations, and
        the softmax beside its half copy, stay float32.
        """
        s, h, a, r = self.tokens, self.width, self.heads, self.mlp_ratio
        linear, quadratic = {
            "O0": (34 + 8 * r, 9),
            "O1": (22 + 6 * r, 7),
            "O2": (18 + 4 * r, 5),
        }[level]
        return self.views * (s * h * linear + quadratic * a * s * s)

    def block_input(self, level: str = "O0") -> float:
        """Bytes of one record's input to a block, which is all that recompute keeps of it."""
        return self.views * self.tokens * self.width * (2 if level == "O2" else 4)


def image_tower(config: Config) -> Transformer:
    """Raises UserError for one that is no CLIP_vit_*: only their sizes are known."""
    from ernie_vil2.models.patches import patches_kept  # imports paddle

    arch = config.Arch.Image
    sizes = ("img_size", "patch_size", "embed_dim", "depth", "num_heads")
    given = {key: getattr(arch, key, None) for key in sizes}
    missing = [key for key, value in given.items() if value is None]
    if not arch.name.startswith("CLIP_vit_") or arch.out_dim or missing:
        raise UserError(
            f"Arch.Image {arch.name} cannot be reckoned: expected a CLIP_vit_* without out_dim, "
            f"with {', '.join(sizes)} given; take configs/base.yaml or large.yaml"
        )
    c, depth, patch = arch.embed_dim, arch.depth, arch.patch_size
    ratio = getattr(arch, "mlp_ratio", None) or 4
    qkv_bias = [3 * c] if getattr(arch, "qkv_bias", True) is not False else []
    tokens = (arch.img_size // patch) ** 2 + 1
    norm = [c, c]
    block = [*norm, 3 * c * c, *qkv_bias, *_linear(c, c), *norm, *_mlp(c, int(c * ratio))]
    stem = [c, tokens * c, 3 * patch * patch * c, *norm]
    views, seen = len(config.Views.image), 1 + patches_kept(tokens - 1, arch.patch_dropout)
    return Transformer(stem + depth * block + norm, views, seen, c, arch.num_heads, depth, ratio)


def text_tower(config: Config) -> Transformer:
    """Raises UserError where a size is left to the name."""
    arch = config.Arch.Text
    sizes = (
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "max_position_embeddings",
    )
    missing = [key for key in sizes if getattr(arch, key, None) is None]
    if missing:
        raise UserError(f"Arch.Text.{missing[0]} is null: give a number, to reckon with it")
    c, layers, inner = arch.hidden_size, arch.num_hidden_layers, arch.intermediate_size
    norm = [c, c]
    block = [*(4 * _linear(c, c)), *_mlp(c, inner), *norm, *norm]
    stem = [arch.vocab_size * c, arch.max_position_embeddings * c, *norm]
    views, tokens = len(config.Views.text), config.Tokenizer.max_len
    heads = arch.num_attention_heads
    return Transformer(
        stem + layers * block + _linear(c, c), views, tokens, c, heads, layers, inner / c
    )


def _linear(inputs: int, outputs: int) -> list[int]:
    return [inputs * outputs, outputs]


def _mlp(width: int, inner: int) -> list[int]:
    return _linear(width, inner) + _linear(inner, width)
