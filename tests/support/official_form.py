"""A small model of the official form, its inputs, and what it makes of them."""

import numpy as np
import paddle

ARCH = {
    "embed_dim": None,
    "Image": {
        "name": "CLIP_vit_base_patch16_224",
        "img_size": 32,
        "patch_size": 8,
        "embed_dim": 48,
        "depth": 1,
        "num_heads": 3,
        "mlp_ratio": 5 / 3,
    },
    "Text": {
        "name": "own",
        "vocab_size": 60,
        "hidden_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "intermediate_size": 40,
        "max_position_embeddings": 10,
    },
}


def embed(model, numbers):
    with paddle.no_grad():
        images = model.encode_image(paddle.to_tensor(numbers["pixel_values"]))
        texts = model.encode_text(paddle.to_tensor(numbers["input_ids"]))
    return images.numpy(), texts.numpy()


def random_inputs(size=32, length=10, vocab=60):
    rng = np.random.default_rng(0)
    ids = rng.integers(3, vocab, (4, length))
    ids[1, 5:] = 0
    pixels = rng.normal(size=(4, 3, size, size)).astype(np.float32)
    return {"pixel_values": pixels, "input_ids": ids}
