"""What `bench.py inference` prints: the towers, the start of a process, the server."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from benchmarks.common import ROOT, Report, run_apart
from benchmarks.server import server_table

RUNNERS = Path(__file__).with_name("inference_runners.py")
ITEMS = {"image": "images", "text": "texts"}
PEER, OURS, ONNX = "PaddleNLP, dygraph", "ours", "ONNX Runtime, fp32"
IDLE = 0.3  # seconds; OpenMP's threads spin for 0.2 after a run, on the next runner's cores


def inference_tables(report: Report, options) -> None:
    """All of them: towers, start, server."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        made = run_apart(
            "benchmarks.inference_runners",
            "prepare",
            folder=str(folder),
            weights=options.weights and str(options.weights),
            config=options.config and str(options.config),
            tiny=options.quick,
        )
        for name, reason in made["missing"].items():
            print(f"\n{name}: {reason}")
        tower_tables(report, runners(folder, made), options)
        start_table(report, folder, made["precisions"], options)
        server_table(report, folder / "model", made["precisions"], options)


def runners(folder: Path, made: dict) -> dict[str, list[str]]:
    """name -> the arguments of inference_runners.py for its process."""
    model = str(folder / "model")
    found = {f"{OURS}, {name}": ["predictor", model, name] for name in made["precisions"]}
    found[ONNX] = ["onnx", model]
    found[PEER] = ["paddlenlp", model]
    return {name: found[name] for name in (PEER, *found) if name not in made["missing"]}


class Runner:
    """A process that runs one implementation's towers when it is told to."""

    def __init__(self, arguments: list[str]):
        command = [sys.executable, str(RUNNERS), *arguments]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, text=True, cwd=ROOT, **pipes)
        self.error = self._read().get("error")

    def __call__(self, **request) -> dict:
        """`inference_runners.measure`'s arguments -> its result, or {"error"}."""
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self._read()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()

    def _read(self) -> dict:
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"error": f"ended with {self.process.wait()}"}


def tower_tables(report: Report, commands: dict, options) -> None:
    processes = {name: Runner(arguments) for name, arguments in commands.items()}
    for name, runner in processes.items():
        if runner.error:
            print(f"\n{name}: {runner.error}")
    running = {name: runner for name, runner in processes.items() if not runner.error}
    try:
        for tower in ITEMS:
            kinds = variants(running, tower)
            times = {(kind, batch): [] for kind in kinds for batch in options.batches}
            for batch in options.batches:
                for _ in range(options.rounds):
                    for kind, (name, extra) in kinds.items():
                        request = {"tower": tower, "batch": batch, "seconds": options.seconds}
                        result = running[name](**request, **extra)
                        if "error" in result:
                            raise RuntimeError(f"{kind}, {batch} {ITEMS[tower]}: {result['error']}")
                        times[kind, batch] += result["seconds"]
                        time.sleep(IDLE)
            print_tower(report, tower, list(kinds), times, options)
    finally:
        for runner in processes.values():
            runner.close()


def variants(running: dict, tower: str) -> dict[str, tuple[str, dict]]:
    """A table's row -> its runner, and what its requests say beside the batch."""
    kinds = {}
    for name in running:
        if name == PEER and tower == "text":
            kinds[f"{PEER}, max_length"] = name, {"padding": "max_length"}
            kinds[f"{PEER}, longest"] = name, {"padding": "longest"}
        else:
            kinds[name] = name, {}
    return kinds


def print_tower(report: Report, tower: str, kinds: list, times: dict, options) -> None:
    items, batches = ITEMS[tower], options.batches
    rates = {key: key[1] / min(values) for key, values in times.items()}

    def ratio(kind: str, other: str | None) -> float | None:
        if other not in kinds:
            return None
        return float(np.median([rates[kind, batch] / rates[other, batch] for batch in batches]))

    peer = next((kind for kind in kinds if kind.startswith(PEER)), None)
    rows = [
        {
            "name": kind,
            **{str(batch): rates[kind, batch] for batch in batches},
            "ratio": ratio(kind, peer),
            "to_onnx": ratio(kind, ONNX),
        }
        for kind in kinds
    ]
    columns = {str(batch): (f"batch {batch}", lambda x: f"{x:.1f}") for batch in batches}
    note = (
        f"The best of {options.rounds} rounds in which all take turns, each in its own process "
        "with the same threads, BLAS kernels and malloc settings, which PaddleNLP alone would not "
        "have; tensors in, embeddings out. The ratios are the medians of the batches'."
    )
    if tower == "text":
        note += (
            " Texts of 8 to 20 tokens. PaddleNLP pads to the max_length of its tokenizer, 64 (its "
            "Taskflow to 128), or to the longest text of the batch, as ONNX Runtime does here."
        )
    report.table(
        f"{tower}_rates",
        f"{items.capitalize()}/s by batch",
        {
            "name": ("", str),
            **columns,
            "ratio": (f"times {peer}", lambda x: f"{x:.1f}"),
            "to_onnx": (f"times {ONNX}", lambda x: f"{x:.2f}"),
        },
        rows,
        note,
    )
    rows = [
        {
            "name": kind,
            **{
                str(batch): np.percentile(times[kind, batch], [50, 99]).tolist()
                for batch in batches
            },
        }
        for kind in kinds
    ]
    columns = {str(batch): (f"batch {batch}", milliseconds) for batch in batches}
    title = f"Latency of a batch of {items} in ms: p50 / p99"
    report.table(f"{tower}_latency", title, {"name": ("", str), **columns}, rows)


def milliseconds(p50_and_p99: list[float]) -> str:
    return "{:.1f} / {:.1f}".format(*(1000 * x for x in p50_and_p99))


def start_table(report: Report, folder: Path, precisions: list[str], options) -> None:
    rows = []
    for precision in precisions:
        command = [sys.executable, str(RUNNERS), "start", str(folder / "model"), precision]
        times = []
        for _ in range(options.rounds):
            start = time.perf_counter()
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
                ready = process.stdout.readline()
                times.append(time.perf_counter() - start)
            if process.returncode or not ready:
                raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
        rows.append({"name": precision, "seconds": min(times)})
    report.table(
        "start",
        "Start of a process to a ready Predictor",
        {"name": ("precision", str), "seconds": ("seconds", lambda x: f"{x:.1f}")},
        rows,
        f"Imports, loading and the check of the golden vectors; the least of {options.rounds}.",
    )
