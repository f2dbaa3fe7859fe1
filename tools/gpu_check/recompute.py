"""Does recomputing activations change nothing but the memory?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from benchmarks.common import relative_error, run_apart

from tools.gpu_check import runs
from tools.gpu_check.rows import Row, Setting, at_most

_EXACT = 1e-5
_LOWER = 0.7  # of the peak without it; base's formula gives 0.11 of the activations
_SWITCH = ["Arch.Image.recompute=true", "Arch.Text.recompute=true"]
_DEEP = {  # so that activations are most of what a step takes
    "embed_dim": 16,
    "Image": {"img_size": 32, "patch_size": 4, "embed_dim": 64, "depth": 8, "num_heads": 2},
    "Text": {
        "name": "tiny",
        "vocab_size": 32,
        "hidden_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "intermediate_size": 128,
        "max_position_embeddings": 16,
    },
}


def gradients_and_peak(setting: Setting) -> Iterator[Row]:
    """Of one step with dropout, in processes of their own."""
    sections = {} if setting.on_gpu else {"Arch": _DEEP}
    config = runs.write(setting, "run", base=True, **sections)
    found = {}
    for name, switch in (("kept", []), ("recomputed", _SWITCH)):
        output = config.parent / f"{name}.npz"
        found[name] = run_apart(
            "tools.gpu_check.recompute",
            "step",
            config=str(config),
            overrides=["DataLoader.Train.batch_size=32", *switch],
            output=str(output),
        )
        with np.load(output) as file:
            found[name]["gradients"] = runs.joined(dict(file))
    kept, recomputed = found["kept"], found["recomputed"]
    for number in ("loss", "gradients"):
        error = relative_error(recomputed[number], kept[number])
        yield at_most(f"{number} with and without", error, _EXACT)
    share = recomputed["peak"] / kept["peak"]
    told = f"{kept['peak'] / 1e6:.0f} MB to {recomputed['peak'] / 1e6:.0f} MB"
    yield at_most("peak memory, share", share, _LOWER, told)


def step(config: str, overrides: list[str], output: str) -> dict:
    """In a process: write the gradients of a first step; returns its "loss" and "peak" in bytes."""
    trained = runs.trainer(Path(config), Path(output).stem, overrides)
    found: list[runs.Found] = []
    peak = runs.peak(lambda: found.append(runs.first_step(trained)))
    trained.close()
    np.savez(output, **found[0].gradients)
    return {"loss": found[0].loss, "peak": peak}


CHECKS = {"recompute": gradients_and_peak}
