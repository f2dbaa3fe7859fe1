"""Steps of the real trainer on several processes over gloo, against one and against float64."""

from __future__ import annotations

import base64
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import yaml
from benchmarks.common import (
    ROOT,
    Report,
    error,
    launch,
    mebibytes,
    relative_error,
    run_apart,
    seconds,
    worst_tensor,
)
from benchmarks.float64 import contrast

GLOBAL_BATCH = 32
RECORDS = 3 * GLOBAL_BATCH
STEPS = 3
PAIRS = [  # of every kind
    {"views": ["image1", "image2"], "temperature": 0.2, "learnable": True},
    {"views": ["text1", "text2"], "weight": 0.5},
    {"views": ["image1", "text1"], "loss": "sigmoid", "bias": -3.0},
    {"views": ["image2", "text2"], "weight": 2.0},
]
COLORS = {"red": (0, 0, 255), "green": (0, 255, 0), "blue": (255, 0, 0), "white": (255, 255, 255)}

# A process without micro-batches draws its own masks, so these runs go without dropout.
_DRY = ["Arch.Text.hidden_dropout_prob=0", "Arch.Text.attention_probs_dropout_prob=0"]
_MICRO, _CHUNK = "DataLoader.Train.micro_batch_size=4", "Loss.chunk=8"
_RECOMPUTE = ["Arch.Image.recompute=true", "Arch.Text.recompute=true"]
# name -> (the run on one process that it must equal, what is switched on)
RUNS = {
    "plain": ("plain", _DRY),
    "chunked": ("plain", [*_DRY, _CHUNK]),
    "ring": ("plain", [*_DRY, "Loss.ring=true"]),
    "micro-batches": ("micro-batches", [_MICRO]),
    **{
        f"micro-batches, sharding {stage}": (
            "micro-batches",
            [_MICRO, f"Distributed.sharding={stage}"],
        )
        for stage in (1, 2, 3)
    },
    "all: micro-batches, sharding 3, chunked, recompute": (
        "micro-batches",
        [_MICRO, "Distributed.sharding=3", _CHUNK, *_RECOMPUTE],
    ),
}


def process_table(report: Report, options) -> None:
    names = ["plain", "micro-batches", list(RUNS)[-1]] if options.quick else list(RUNS)
    references = sorted({RUNS[name][0] for name in names})
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        config = str(write_config(Path(folder)))
        for processes in options.processes:
            runs = references if processes == 1 else names
            target = ("benchmarks.processes", "train")
            arguments = {"config": config, "folder": folder, "names": runs}
            if processes == 1:
                run_apart(*target, **arguments)
            else:
                launch(processes, Path(folder) / f"logs-{processes}", *target, **arguments)
            for name in runs:
                path = Path(folder) / f"{runs.index(name)}-{processes}.npz"
                found[name, processes] = dict(np.load(path))
    rows = [
        {"name": name, "processes": processes, **compare(run, found[RUNS[name][0], 1])}
        for (name, processes), run in found.items()
    ]
    rows.sort(key=lambda row: (names.index(row["name"]), row["processes"]))
    report.table(
        "processes",
        f"Steps of the trainer on 1 to {max(options.processes)} processes: global batch "
        f"{GLOBAL_BATCH}",
        {
            "name": ("switched on", str),
            "processes": ("processes", str),
            "loss": ("loss against one process", error),
            "gradients": ("gradients against one process", error),
            "loss64": ("loss against float64", error),
            "embeds64": ("gradient of the embeddings against float64", error),
            "seconds": ("step", seconds),
            "parameters_bytes": ("parameters", mebibytes),
            "gradients_bytes": ("gradients", mebibytes),
            "optimizer_bytes": ("optimizer", mebibytes),
        },
        rows,
        "Real processes over gloo on one machine, which share its cores: this shows that the "
        "numbers are right, and says nothing of speed. Pairs of every kind, several positives a "
        "row, caption or tags drawn; dropout with micro-batches of 4, whose masks are replayed, "
        "none without. Losses and gradients of the first step, float32; a gradient's error is a "
        "tensor's largest difference as a share of its largest number, or of 1/1000 of the largest "
        "of all where that is more. Float64 is NumPy on the gathered embeddings. Seconds are the "
        f"least of {STEPS}; bytes are what the process that holds most keeps before the "
        "optimizer's step.",
    )


def compare(run: dict, reference: dict) -> dict:
    """Errors of one run's first step, and what it cost."""
    prefix = "gradient/"
    ours, theirs = (
        {key: value for key, value in each.items() if key.startswith(prefix)}
        for each in (run, reference)
    )
    ids = {source: run[source] for source in ("image", "text")}
    exact = contrast(run["embeds"], run["embeds"], view_names(), ids, float64_pairs(run))
    return {
        "loss": relative_error(run["loss"], reference["loss"]),
        "gradients": worst_tensor(ours, theirs),
        "loss64": relative_error(run["loss"], exact["loss"]),
        "embeds64": relative_error(run["to_embeds"], exact["rows"] + exact["columns"]),
        **{key: float(value) for key, value in run.items() if key == "seconds"},
        **{key: int(value) for key, value in run.items() if key.endswith("_bytes")},
    }


def float64_pairs(run: dict) -> list[tuple]:
    """PAIRS as `contrast` takes them."""
    return [
        (
            *pair["views"],
            pair.get("weight", 1.0),
            1 / pair["temperature"] if "temperature" in pair else float(run["logit_scale"]),
            pair.get("bias"),
        )
        for pair in PAIRS
    ]


def view_names() -> list[str]:
    """In the order of their first mention."""
    return list(dict.fromkeys(view for pair in PAIRS for view in pair["views"]))


def write_config(folder: Path) -> Path:
    """Drawn shapes with captions and tags, a vocabulary and small towers; returns the YAML."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(RECORDS):
        color = list(COLORS)[number % len(COLORS)]
        pixels = rng.integers(0, 60, [40, 40, 3], dtype=np.uint8)
        corner = rng.integers(0, 20, 2).tolist()
        cv2.rectangle(pixels, corner, [x + 18 for x in corner], COLORS[color], -1)
        image = base64.b64encode(cv2.imencode(".png", pixels)[1].tobytes()).decode()
        rows.append(f"a {color} square {number // 2}\t{number}\t{image}\tsquare|{color}\n")
    (folder / "train.tsv").write_text("".join(rows), encoding="utf-8")
    specials = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]"]
    words = ["a", "the", "picture", "contains", ",", "square", *COLORS, *map(str, range(RECORDS))]
    (folder / "vocab.txt").write_text("\n".join([*specials, *words]))
    image_tower = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 2}
    text_tower = {
        "name": "tiny",
        "vocab_size": 128,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 256,
        "max_position_embeddings": 16,
    }
    config = {
        "_BASE_": str(ROOT / "configs" / "base.yaml"),
        "Global": {"device": "cpu", "sample_views": 0},
        "Arch": {"embed_dim": 32, "Image": image_tower, "Text": text_tower},
        "Tokenizer": {"vocab_file": str(folder / "vocab.txt"), "max_len": 12},
        "Views": {"draw": {"per": "sample"}},
        "Transform": {"size": 32},
        "Loss": {"pairs": PAIRS},
        "DataLoader": {
            "Train": {
                "dataset": {"name": "tsv", "path": str(folder / "train.tsv")},
                "global_batch_size": GLOBAL_BATCH,
                "num_workers": 0,
            },
            "Eval": None,
        },
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


# -- in the processes ------------------------------------------------------------------------------


def train(config: str, folder: str, names: list[str]) -> None:
    """Some steps of each run; rank 0 writes what it found to FOLDER/<number>-<processes>.npz."""
    from ernie_vil2 import distributed
    from ernie_vil2.config.load import load_config
    from ernie_vil2.training.trainer import Trainer

    distributed.init("cpu")
    for number, name in enumerate(names):
        path = Path(folder) / f"{number}-{distributed.world_size()}.npz"
        overrides = [*RUNS[name][1], f"Global.output_dir={path.with_suffix('')}"]
        result = steps_of(Trainer(load_config(config, overrides)))
        if distributed.is_main():
            np.savez(path, **result)


def steps_of(trainer) -> dict[str, np.ndarray]:
    """Numbers of the first step, over all ranks; the least time, and the most bytes of a rank."""
    from ernie_vil2 import distributed

    stepper, parallel = trainer.stepper, trainer.stepper.parallel
    record = Embeddings(trainer.objective.loss)
    found, held, times = {}, {}, []
    clip = stepper.clip

    def keep_and_clip():
        if trainer.progress.step == 0:
            gradients = {n: p.grad for n, p in parallel.owned.items() if p.grad is not None}
            for name, gradient in dict(parallel.gather(gradients)).items():
                found[f"gradient/{name}"] = np.array(gradient)
        held.update(parallel.memory(stepper.optimizer))  # those of the last step stay
        return clip()

    stepper.clip = keep_and_clip
    for step, batches in enumerate(trainer.batches(), start=1):
        start = time.perf_counter()
        losses, _ = trainer.step(batches)
        times.append(time.perf_counter() - start)
        if step == 1:
            found["loss"] = np.array(distributed.mean([float(losses["loss"])])[0])
            found.update(record.gather())
        if step == STEPS:
            break
    trainer.close()
    most = distributed.all_gather_objects(held)
    found.update({f"{kind}_bytes": np.array(max(each[kind] for each in most)) for kind in held})
    found["seconds"] = np.array(min(times))
    return found


class Embeddings:
    """The loss layer's first inputs on this rank, and the gradients that come back to them."""

    def __init__(self, loss):
        self.inputs, self.gradients = None, {}
        self._hook = loss.register_forward_pre_hook(self._take)

    def _take(self, layer, inputs):
        self._hook.remove()
        self.inputs = embeds, *_ = inputs
        for view, embed in embeds.items():
            embed.register_hook(lambda g, view=view: self.gradients.update({view: g.numpy()}))

    def gather(self) -> dict[str, np.ndarray]:
        """Of all ranks: "embeds" and their gradients "to_embeds" [N, V, D]; ids; "logit_scale".

        Parameters get the mean over ranks of what the embeddings bring them, so these do here.
        """
        from ernie_vil2 import distributed

        embeds, scale, ids, *_ = self.inputs
        own = {
            "embeds": np.stack([embeds[view].numpy() for view in view_names()], 1),
            "to_embeds": np.stack([self.gradients[view] for view in view_names()], 1),
            **{source: numbers.numpy() for source, numbers in ids.items()},
        }
        ranks = distributed.all_gather_objects(own)
        result = {key: np.concatenate([each[key] for each in ranks]) for key in own}
        result["to_embeds"] /= len(ranks)
        return {**result, "logit_scale": np.array(float(scale))}
