"""Runs that must give the same numbers on any number of processes, and how they are compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.support.shapes import write_run

PAIRS = [
    {"views": ["image1", "image2"], "weight": 1.0, "temperature": 0.2, "learnable": True},
    {"views": ["text1", "text2"], "weight": 0.5},
    {"views": ["image1", "text1"], "weight": 1.0, "loss": "sigmoid", "bias": -3.0},
    {"views": ["image2", "text2"], "weight": 2.0},
]
CHUNK, RING = "Loss.chunk=5", "Loss.ring=true"
MICRO, UNEVEN = (f"DataLoader.Train.micro_batch_size={size}" for size in (4, 3))
DRY = "Arch.Text.hidden_dropout_prob=0,Arch.Text.attention_probs_dropout_prob=0"
MERGE = "Distributed.gradient_merge=2"
RECOMPUTE = "Arch.Image.recompute=true,Arch.Text.recompute=true"
HALF = "AMP.level=O2"
LORA = "Arch.Image.lora.rank=4,Arch.Text.lora.rank=4"  # needs a base
# name -> (the run on one process that it must equal, what is switched on)
RUNS = {
    "plain": ("plain", [DRY]),
    "chunked": ("plain", [DRY, CHUNK]),
    "ring": ("plain", [DRY, RING]),
    "uneven": ("plain", [DRY, UNEVEN]),  # micro-batches of 3, 3 and 2 on two processes
    "dropout": ("dropout", [MICRO]),
    "recompute": ("dropout", [MICRO, RECOMPUTE, CHUNK]),
    "merged": ("merged", [MICRO, MERGE]),
    "lamb": ("lamb", [MICRO, "Optimizer.name=Lamb"]),
    "lamb_sharded": ("lamb", [MICRO, "Optimizer.name=Lamb", "Distributed.sharding=2"]),
    **{f"sharded{n}": ("dropout", [MICRO, f"Distributed.sharding={n}"]) for n in (1, 2, 3)},
    "lora": ("lora", [MICRO, LORA]),
    "lora_sharded": ("lora", [MICRO, LORA, "Distributed.sharding=3"]),
    "all": ("merged", [MICRO, MERGE, RECOMPUTE, CHUNK, "Distributed.sharding=3"]),
    "all_ring": (
        "merged",
        [MICRO, MERGE, RECOMPUTE, "Loss.chunk=3", RING, "Distributed.sharding=3"],
    ),
}
# which micro-batches of the same rows keep near each other, since bfloat16 rounds the same numbers
HALF_RUNS = {
    "half": ("half", [MICRO, HALF]),
    "half_merged": ("half_merged", [MICRO, MERGE, HALF]),
    **{f"half{n}": ("half", [MICRO, HALF, f"Distributed.sharding={n}"]) for n in (1, 2)},
    "half_all": (
        "half_merged",
        [MICRO, MERGE, RECOMPUTE, CHUNK, HALF, "Distributed.sharding=3"],
    ),
}
ACCURACY = 0.2  # by which two near-equal logits of untrained towers, that change places, change it


def write(folder: Path, **sections) -> Path:
    """Their data and configuration; returns the YAML's path."""
    return write_run(
        folder,
        Loss={"pairs": PAIRS},
        Views={"draw": {"per": "sample"}},
        # a larger epsilon, since Adam's first steps would follow the sign of gradients near zero
        Optimizer={"epsilon": 0.01},
        **sections,
    )


def argument(name: str, global_batch: int = 16, *more: str, base: Path | None = None) -> str:
    """A run as `exact_step.py` takes it, with `more` switched on; adapters begin on `base`."""
    common = [f"DataLoader.Train.global_batch_size={global_batch}", "Global.keep_checkpoints=1"]
    if base and LORA in {**RUNS, **HALF_RUNS}[name][1]:
        common.append(f"Global.pretrained={base}")
    _, switches = {**RUNS, **HALF_RUNS}[name]
    return f"{name}={','.join([*common, *switches, *more])}"


def worst(expected: dict, found: dict) -> tuple[float, str]:
    """The largest relative error of what `exact_step.py` wrote, and where.

    Relative to each tensor's largest number and a tenth of that of all gradients, since a gradient
    that is nearly zero, as of a bias before a softmax, is rounding noise.
    """
    assert expected.keys() == found.keys()
    largest = max(np.abs(v).max() for k, v in expected.items() if k.startswith("gradient/"))
    errors = []
    for name, value in expected.items():
        error = np.abs(value - found[name]).max()
        if "/accuracy/" in name:
            errors.append((0.0 if error <= ACCURACY else np.inf, name))
            continue
        floor = 0.1 * largest if not name.startswith("loss/") else 0.0
        errors.append((error / max(np.abs(value).max() + floor, 1e-30), name))
    return max(errors, key=lambda pair: np.nan_to_num(pair[0], nan=np.inf))
