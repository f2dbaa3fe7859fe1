"""What weights are, whatever file holds them: a checksum of their values."""

from __future__ import annotations

import hashlib

import numpy as np
from paddle import nn


def weights_hash(model: nn.Layer) -> str:
    """SHA-256 over names, shapes and float32 values of all weights, whatever file holds them."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {list(tensor.shape)}\n".encode())
        digest.update(np.ascontiguousarray(tensor.astype("float32").numpy()).tobytes())
    return digest.hexdigest()
