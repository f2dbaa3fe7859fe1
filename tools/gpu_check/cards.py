"""The GPUs of this machine, and what their makers promise."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping

# Dense bfloat16 products with float32 sums (float16 where that is said), in 1e12 operations a
# second, by a part of the name that Paddle gives; the first that is found counts. From NVIDIA's
# data sheets, without sparsity; those of GeForce cards are from the white papers' appendices.
PEAKS = {
    "B200": 2250.0,  # Blackwell data sheet, 4.5 PFLOP/s with sparsity
    "B100": 1750.0,  # likewise, 3.5
    "H200": 989.4,  # H200 data sheet, 1,979 with sparsity
    "H100 PCIe": 756.5,  # H100 data sheet, 1,513 with sparsity
    "H100 NVL": 835.5,  # likewise, 1,671
    "H100": 989.4,  # SXM, likewise, 1,979
    "H800": 989.4,  # SXM, as H100
    "H20": 148.0,  # H20 data sheet
    "A100": 312.0,  # A100 data sheet
    "A800": 312.0,  # as A100
    "A40": 149.7,  # A40 data sheet, 299.4 with sparsity
    "A30": 165.0,  # A30 data sheet
    "A10G": 70.0,  # AWS's variant of A10, 140 with sparsity
    "A10": 125.0,  # A10 data sheet
    "L40S": 362.0,  # L40S data sheet, 733 with sparsity, rounded there
    "L40": 181.0,  # L40 data sheet
    "L20": 119.5,  # L20 data sheet
    "L4": 121.0,  # L4 data sheet, 242 with sparsity
    "V100": 125.0,  # float16, V100 data sheet, SXM2
    "T4": 65.0,  # float16, T4 data sheet
    "RTX 4090": 165.2,  # Ada white paper, float32 sums
    "RTX 3090": 71.0,  # GA102 white paper, float32 sums
}


def peak(name: str) -> float | None:
    """Operations a second of the card that Paddle calls `name`; None of an unknown one."""
    words = f" {name} ".replace("-", " ")
    for part, value in PEAKS.items():
        if f" {part} " in words:
            return value * 1e12
    return None


def visible(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The labels of the GPUs that Paddle sees in a process with this environment."""
    try:
        query = subprocess.run(["nvidia-smi", "-L"], env=environment, capture_output=True)
    except OSError:
        return ()
    if query.returncode:
        return ()
    ask = (
        "import paddle; "
        "print(paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count() or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", ask], env=environment, capture_output=True, text=True
    )
    count = int(done.stdout.split()[-1]) if done.returncode == 0 else 0
    return labels(environment.get("CUDA_VISIBLE_DEVICES"), count)


def labels(given: str | None, count: int) -> tuple[str, ...]:
    """Of `count` GPUs, as `paddle.distributed.launch --gpus` wants them.

    Args:
        given: CUDA_VISIBLE_DEVICES, whose own names the launcher keeps to.
    """
    names = given.split(",") if given else [str(number) for number in range(count)]
    return tuple(names[:count])


def asked(fields: str) -> list[str]:
    """A line for each GPU of what `nvidia-smi --query-gpu` says of it; [] where it fails."""
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError:
        return []
    return [line.strip() for line in done.stdout.splitlines()] if done.returncode == 0 else []
