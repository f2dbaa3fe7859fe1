"""What `bench.py step` prints: times of a step, and that all compute the same."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from benchmarks.common import Report, error, relative_error, run_apart, seconds, worst_tensor

from ernie_vil2.views import DEFAULT_PAIRS

OURS, TRAINER, TORCH, PEER = "ours, bare", "ours, as the trainer", "PyTorch", "PaddleNLP"
LIMIT = 1e-4  # of differences: more, and the times say nothing
_AVX2 = {
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
}
_PAIRS = {"pair": [("image1", "text1")], "all": list(DEFAULT_PAIRS)}


def step_tables(report: Report, options) -> None:
    """One table for each choice of views."""
    kinds = {
        OURS: ("step_runners", "ours", sys.executable),
        TRAINER: ("step_runners", "trainer", sys.executable),
        TORCH: ("step_torch", "run", options.torch_python),
        PEER: ("step_runners", "paddlenlp", sys.executable),
    }
    if options.without_paddlenlp:
        del kinds[PEER]
    probe = [options.torch_python, "-c", "import torch, numpy"]
    if subprocess.run(probe, capture_output=True).returncode:
        print(f"\n{TORCH}: {options.torch_python} has no torch: see --torch-python")
        del kinds[TORCH]
    sizes = {
        name: getattr(options, name)
        for name in ("batch", "depth", "width", "heads", "image", "tokens", "vocabulary")
    }
    for views in options.views:
        shape = {**sizes, "pairs": _PAIRS[views]}
        with tempfile.TemporaryDirectory() as folder:
            _table(report, options, kinds, shape, views, Path(folder))


def _table(report: Report, options, kinds: dict, shape: dict, views: str, folder: Path) -> None:
    modules = "benchmarks."
    extra = _AVX2 if options.avx2 else {}
    common = {"shape": shape, "folder": str(folder)}
    run_apart(f"{modules}step_runners", "prepare", **common)
    times: dict[str, list[dict]] = {kind: [] for kind in kinds}
    for number in range(options.rounds):
        for kind, (module, function, python) in kinds.items():
            found = run_apart(
                modules + module,
                function,
                python=python,
                variables=extra,
                steps=options.steps,
                check=number == 0,
                **common,
            )
            times[kind] += found["times"]
    expected = dict(np.load(folder / "ours.npz"))
    rows = []
    for kind, (_, function, _) in kinds.items():
        file = {"run": "torch", "trainer": "ours"}.get(function, function)
        rows.append(_row(kind, times[kind], dict(np.load(folder / f"{file}.npz")), expected))
    for row in rows:
        for key in ("wall", "cpu"):
            row[f"{key}_ratio"] = row[key] / rows[0][key]
    columns = {
        "name": ("", str),
        "wall": ("wall", seconds),
        "wall_ratio": ("to ours", lambda x: f"{x:.2f}"),
        "cpu": ("CPU, all threads", seconds),
        "cpu_ratio": ("to ours", lambda x: f"{x:.2f}"),
        "system": ("of which system", seconds),
        "loss": ("loss differs by", error),
        "gradients": ("gradients by", error),
    }
    count = len(shape["pairs"])
    note = (
        f"{shape['batch']} records, {shape['image']} px, {shape['tokens']} tokens, "
        f"{shape['depth']} blocks of width {shape['width']}, AdamW, dropout 0.1 in texts. Least of "
        f"{options.rounds} x {options.steps} steps, in processes that take turns with the same "
        "threads and malloc settings. The differences are of float32, largest number of each "
        "tensor, without dropout, from equal weights."
    )
    if options.avx2:
        note += " Every library is kept to AVX2."
    title = f"A training step: {count} pair{'s' * (count > 1)} of views"
    report.table(f"step_{views}", title, columns, rows, note)
    for row in rows:
        if not max(row["loss"], row["gradients"] or 0.0) < LIMIT:
            raise RuntimeError(f"{row['name']} computes something else: {row}")


def _row(kind: str, times: list[dict], found: dict, expected: dict) -> dict:
    best = min(times, key=lambda x: x["user"] + x["system"])
    loss, expected_loss = found.pop("loss"), expected["loss"]
    shared = {name: expected[name] for name in found}
    return {
        "name": kind,
        "wall": min(x["wall"] for x in times),
        "cpu": best["user"] + best["system"],
        "system": best["system"],
        "loss": relative_error(loss, expected_loss),
        "gradients": worst_tensor(found, shared) if found else None,  # PaddleNLP's: other layouts
        "times": times,
    }
