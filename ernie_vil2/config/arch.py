"""Every key of `Arch`, the model: its type and its default."""

from __future__ import annotations

from ernie_vil2.config.kinds import (
    OPTIONAL,
    boolean,
    choice,
    component,
    integer,
    nullable,
    number,
    regex,
    section,
    string,
)
from ernie_vil2.limits import BELOW_ONE, PIXELS, POSITIVE, WIDE

_SIZE = nullable(integer(POSITIVE, OPTIONAL, WIDE))  # absent or null: what the name stands for
_LAYERS = nullable(integer(POSITIVE, OPTIONAL, 10_000))
_LORA = section(
    rank=nullable(integer(POSITIVE, None, WIDE)),
    alpha=number(POSITIVE, 16.0),
    modules=regex("."),
    dropout=number(BELOW_ONE, 0.0),
)

ARCH = section(
    embed_dim=nullable(integer(POSITIVE, None, WIDE)),
    fused_bias=boolean(False),
    Image=component(
        name=string(),
        pretrained=boolean(False),
        img_size=nullable(integer(POSITIVE, 224, PIXELS)),
        patch_size=nullable(integer(POSITIVE, OPTIONAL, PIXELS)),
        embed_dim=_SIZE,
        depth=_LAYERS,
        num_heads=_LAYERS,
        mlp_ratio=nullable(number(POSITIVE, OPTIONAL)),
        qkv_bias=nullable(boolean(OPTIONAL)),
        epsilon=nullable(number(POSITIVE, OPTIONAL)),
        hidden_act=nullable(choice("quick_gelu", "gelu", default=OPTIONAL)),
        out_dim=nullable(integer(POSITIVE, None, WIDE)),
        activation=nullable(choice("tanh", default=None)),
        recompute=boolean(False),
        patch_dropout=number(BELOW_ONE, 0.0),
        fused_attention=boolean(True),
        lora=_LORA,
    ),
    Text=component(
        name=string(),
        kind=nullable(choice("ernie", "bert", default=OPTIONAL)),
        pretrained=boolean(False),
        vocab_size=nullable(integer(POSITIVE, OPTIONAL, 10**8)),
        hidden_size=_SIZE,
        num_hidden_layers=_LAYERS,
        num_attention_heads=_LAYERS,
        intermediate_size=_SIZE,
        max_position_embeddings=_SIZE,
        hidden_dropout_prob=number(BELOW_ONE, 0.1),
        attention_probs_dropout_prob=number(BELOW_ONE, 0.1),
        hidden_act=nullable(choice("gelu", "relu", default=OPTIONAL)),
        initializer_range=nullable(number(POSITIVE, OPTIONAL)),
        epsilon=number(POSITIVE, 1e-5),
        recompute=boolean(False),
        lora=_LORA,
    ),
)
