"""What the benchmarks share: tables, the machine, memory, functions in processes of their own."""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ernie_vil2 import runtime

ROOT = Path(__file__).resolve().parents[2]
_DEADLINE = 1800  # seconds for a process of a benchmark


class Report:
    """Tables printed as they come, whose raw numbers are kept for --json."""

    def __init__(self, settings: dict):
        self.content = {"environment": environment(), "settings": settings, "tables": {}}
        found = self.content["environment"]
        print(", ".join(f"{name} {value}" for name, value in found.items()), flush=True)

    def table(self, key: str, title: str, columns: dict, rows: Iterable[dict], note: str = ""):
        """columns: key in a row -> (heading, function of a value to a cell); None is no cell."""
        rows = list(rows)
        self.content["tables"][key] = rows
        print(f"\n### {title}\n")
        if note:
            print(note + "\n")
        print("| " + " | ".join(heading for heading, _ in columns.values()) + " |")
        print("|---" + "|---:" * (len(columns) - 1) + "|")
        for row in rows:
            found = ((row.get(name), cell) for name, (_, cell) in columns.items())
            print("| " + " | ".join("" if x is None else cell(x) for x, cell in found) + " |")
        sys.stdout.flush()

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(self.content, indent=1) + "\n", encoding="utf-8")


def environment() -> dict:
    """Versions, git commit, processor, its usable cores and how busy they were at the start."""
    from ernie_vil2.training import runlog

    return {
        **runlog.versions(),
        "processor": _processor(),
        "cores": runtime.usable_cores(),
        "load": round(os.getloadavg()[0], 1),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(x.split(":")[1].strip() for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


# -- cells -----------------------------------------------------------------------------------------


def error(value: float) -> str:
    return f"{value:.1e}" if value else "0"


def mebibytes(count: float) -> str:
    return f"{count / 2**20:,.1f} MiB" if count < 10 * 2**20 else f"{count / 2**20:,.0f} MiB"


def seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.0f} ms"


# -- measures --------------------------------------------------------------------------------------


def relative_error(found, expected) -> float:
    """The largest difference, as a share of the largest expected number."""
    expected = np.asarray(expected, "float64")
    difference = np.abs(np.asarray(found, "float64") - expected).max()
    return float(difference / np.abs(expected).max())


def worst_tensor(found: dict, expected: dict) -> float:
    """The largest relative error of gradients by name.

    A tensor whose numbers are all below 1/1000 of the largest of all is compared with that: a bias
    that softmax cancels has a gradient of nothing but rounding.
    """
    assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
    floor = max(np.abs(x).max() for x in expected.values()) / 1000
    return max(
        float(np.abs(found[name] - x).max() / max(np.abs(x).max(), floor))
        for name, x in expected.items()
    )


def extra_memory(step: Callable) -> int:
    """Bytes by which this process's resident memory grows at most while `step()` runs.

    What earlier steps freed is given back to the system first, so that it counts again.
    """
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew: man 5 proc
    before = status("VmRSS")
    step()
    return status("VmHWM") - before


def status(key: str, process: int | str = "self") -> int:
    """Bytes that the kernel counts under this key of a process's status: man 5 proc."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) * 1024


def run_apart(
    module: str,
    function: str,
    *,
    python: str = sys.executable,
    variables: Mapping[str, str] | None = None,
    **arguments,
):
    """What `module.function(**arguments)` returns in a fresh process, as JSON holds it.

    Args:
        python: the program to run; it needs NumPy and what the module imports.
        variables: of its environment, beside those of this process.
    """
    output = _run([python], module, function, arguments, variables or {})
    return json.loads(output.splitlines()[-1])


def launch(
    processes: int, logs: Path, module: str, function: str, *, gpus: Sequence[str] = (), **arguments
) -> None:
    """Call `module.function(**arguments)` in so many processes of paddle.distributed.launch.

    Args:
        gpus: the label of one for each process; none: they see no GPU.
    """
    launcher, variables = launcher_of(processes, logs, gpus)
    _run([sys.executable, *launcher], module, function, arguments, variables, logs)


def launcher_of(
    processes: int, logs: Path, gpus: Sequence[str] = ()
) -> tuple[list[str], Mapping[str, str]]:
    """Options of Python that start a launch, and variables of its environment; as `launch`."""
    where = ["--gpus", ",".join(gpus[:processes])] if gpus else ["--nproc_per_node", str(processes)]
    options = ["-m", "paddle.distributed.launch", *where, "--log_dir", str(logs)]
    return options, {} if gpus else runtime.WITHOUT_GPU


def _run(
    program: list[str],
    module: str,
    function: str,
    arguments: dict,
    variables: Mapping[str, str],
    logs: Path | None = None,
) -> str:
    command = [*program, __file__, module, function, json.dumps(arguments)]
    child = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tools'}", **variables}
    if len(program) > 1:
        child.pop("OMP_NUM_THREADS", None)  # its processes share the cores out anew
    done = subprocess.run(command, env=child, capture_output=True, text=True, timeout=_DEADLINE)
    if done.returncode:
        said = [done.stdout, done.stderr]
        said += [path.read_text() for path in sorted(logs.glob("workerlog.*"))] if logs else []
        raise RuntimeError(f"{module}.{function} failed\n{''.join(said)[-6000:]}")
    return done.stdout


if __name__ == "__main__":
    runtime.prepare()  # before paddle, which the modules import
    _name, _function, _arguments = sys.argv[1:]
    _result = getattr(importlib.import_module(_name), _function)(**json.loads(_arguments))
    print("\n" + json.dumps(_result))
