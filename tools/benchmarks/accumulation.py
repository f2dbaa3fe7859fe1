"""Memory, time and gradients of a step of the real towers by local batch."""

from __future__ import annotations

import math
import time

import numpy as np
import paddle
from benchmarks.common import (
    Report,
    error,
    extra_memory,
    mebibytes,
    run_apart,
    seconds,
    worst_tensor,
)

from ernie_vil2.distributed.replicated import Replicated
from ernie_vil2.losses.multiview import MultiViewContrastive
from ernie_vil2.models.dual_encoder import build_model
from ernie_vil2.training.objective import Objective, backward, joined_identities
from ernie_vil2.views import DEFAULT_IMAGE_VIEWS, DEFAULT_TEXT_VIEWS

VIEWS = (list(DEFAULT_IMAGE_VIEWS), list(DEFAULT_TEXT_VIEWS))
VOCABULARY = 1000
TOKENS = 24
_LARGEST_COMPARED = 32  # local batch; gradients of larger ones would say nothing new
# (name, recompute, whether micro-batches)
WAYS = [
    ("whole batch", False, False),
    ("whole batch, recompute", True, False),
    ("micro-batches of {}", False, True),
    ("micro-batches of {}, recompute", True, True),
]


def accumulation_tables(report: Report, options) -> None:
    shape = {"image": options.image, "width": options.width, "depth": options.depth}
    batches, micro = options.batches, options.micro
    names = [name.format(micro) for name, _, _ in WAYS]

    def columns(cell, batches):
        return {"name": ("step", str), **{str(b): (f"batch {b}", cell) for b in batches}}

    found = []
    numbers = list(range(len(WAYS)))
    for group in [numbers] if options.quick else [[number] for number in numbers]:
        arguments = {"ways": group, "batches": batches, "micro": micro, "shape": shape}
        found += run_apart("benchmarks.accumulation", "memory_of", **arguments)
    models = {recompute: build(shape, recompute) for recompute in (False, True)}
    size = sum(math.prod(p.shape) for p in models[False].parameters())
    report.table(
        "accumulation_memory",
        "Memory of a step by local batch",
        columns(mebibytes, batches),
        [{"name": n, **dict(zip(map(str, batches), each))} for n, each in zip(names, found)],
        f"ViT of {options.depth} layers on {options.image} px and ERNIE of {options.depth} layers "
        f"on {TOKENS} tokens, width {options.width}, {size / 1e6:.1f} M parameters, two views "
        "each. Peak resident memory less that before, inputs not counted, gradients of the "
        "parameters counted.",
    )

    found = {str(batch): times_of(models, batch, micro, options) for batch in batches}
    report.table(
        "accumulation_time",
        f"Time of the same, least of {options.repeats} alternating repetitions",
        columns(seconds, batches),
        [{"name": n, **{b: found[b][way] for b in found}} for way, n in enumerate(names)],
    )

    batches = [batch for batch in batches if batch <= max(batches[0], _LARGEST_COMPARED)]
    report.table(
        "accumulation_errors",
        "Largest relative error of its gradients against the whole batch in one graph",
        columns(error, batches),
        [
            {
                "name": names[way] + ("" if dropout else ", no dropout"),
                **{
                    str(b): error_of(models, way, dropout, b, micro, options.image) for b in batches
                },
            }
            for dropout in (True, False)
            for way in numbers[1:]  # the first is the reference itself
        ],
        "With dropout, the graph takes the micro-batches one after another, to draw their masks, "
        "and scores them together; without, it takes the batch at once. Of each tensor the largest "
        "difference as a share of its largest number, or of 1/1000 of the largest of all gradients "
        "where that is more: some gradients are zero but for rounding.",
    )


def build(shape: dict, recompute: bool) -> Objective:
    """An objective in training mode, with equal weights whatever `recompute`."""
    paddle.seed(0)
    width, depth = shape["width"], shape["depth"]
    heads = max(1, width // 32)
    image = {"img_size": shape["image"], "patch_size": 16, "embed_dim": width, "depth": depth}
    text = {
        "vocab_size": VOCABULARY,
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "intermediate_size": 4 * width,
        "max_position_embeddings": TOKENS,
        "recompute": recompute,
    }
    arch = {
        "embed_dim": None,
        "Image": {
            "name": "CLIP_vit_base_patch16_224",
            **image,
            "num_heads": heads,
            "recompute": recompute,
        },
        "Text": {"name": "small", **text},
    }
    objective = Objective(build_model(arch), MultiViewContrastive(), *VIEWS)
    objective.train()
    return objective


def make_parts(batch: int, micro: int, image: int) -> list[dict]:
    """One drawn batch, equal for any `micro`, in parts as `ViewMaker.collate` gives them."""
    rng = np.random.default_rng(2)
    pixels = rng.standard_normal([2, batch, 3, image, image], "float32")
    tokens = rng.integers(4, VOCABULARY, [2, batch, TOKENS])
    parts = []
    for start in range(0, batch, micro):
        rows = slice(start, min(start + micro, batch))
        part = {
            "pixel_values": np.concatenate(pixels[:, rows]),  # [2, B, ...] -> [2 B, ...]
            "input_ids": np.concatenate(tokens[:, rows]),
            "valid": np.ones(batch, dtype=bool)[rows],
        }
        part = {key: paddle.to_tensor(value) for key, value in part.items()}
        parts.append({**part, "ids": {"image": paddle.arange(batch)[rows]}})
    return parts


def step(objective: Objective, parts: list[dict]) -> None:
    """Forward and backward; the gradients stay."""
    parallel = Replicated(objective, dict(objective.named_parameters()))
    backward(parallel, parts, list(range(len(parts))), lambda loss: loss)


def clear(objective: Objective) -> None:
    for parameter in objective.parameters():
        parameter.clear_gradient(False)


def memory_of(ways: list[int], batches: list[int], micro: int, shape: dict) -> list[list[int]]:
    """Bytes beside the inputs, for each of the ways and each batch."""
    return [_memory_of(*WAYS[way][1:], batches, micro, shape) for way in ways]


def _memory_of(recompute: bool, accumulate: bool, batches, micro: int, shape: dict) -> list[int]:
    objective = build(shape, recompute)
    step(objective, make_parts(2, 2, shape["image"]))  # threads, buffers of the BLAS
    found = []
    for batch in batches:
        clear(objective)
        parts = make_parts(batch, micro if accumulate else batch, shape["image"])
        found.append(extra_memory(lambda parts=parts: step(objective, parts)))
    return found


def times_of(models: dict, batch: int, micro: int, options) -> list[float]:
    """Seconds of each way, the least of alternating repetitions."""
    best = [math.inf] * len(WAYS)
    parts = {m: make_parts(batch, micro if m else batch, options.image) for m in (False, True)}
    for _ in range(options.repeats):
        for way, (_, recompute, accumulate) in enumerate(WAYS):
            objective = models[recompute]
            start = time.perf_counter()
            step(objective, parts[accumulate])
            best[way] = min(best[way], time.perf_counter() - start)
            clear(objective)
    return best


def error_of(models: dict, way: int, dropout: bool, batch: int, micro: int, image: int) -> float:
    """Of one way's gradients, against one graph of the whole batch."""
    _, recompute, accumulate = WAYS[way]
    parts = make_parts(batch, micro if accumulate else batch, image)
    for objective in models.values():
        objective.train() if dropout else objective.eval()
    one_graph(models[False], parts if dropout else make_parts(batch, batch, image))
    expected = gradients(models[False])
    step(models[recompute], parts)
    return worst_tensor(gradients(models[recompute]), expected)


def gradients(objective: Objective) -> dict[str, np.ndarray]:
    """Takes them away."""
    found = {name: p.grad.numpy() for name, p in objective.named_parameters()}
    clear(objective)
    return found


def one_graph(objective: Objective, parts: list[dict]) -> None:
    """The reference: embeddings of all parts with their masks, one loss, one backward."""
    embeds = []
    for seed, part in enumerate(parts):
        paddle.seed(seed)
        embeds.append(objective.embed(part["pixel_values"], part["input_ids"]))
    joined = {view: paddle.concat([each[view] for each in embeds]) for view in embeds[0]}
    ids, valid = joined_identities(parts)
    objective.score(joined, ids, valid)["loss"].backward()
