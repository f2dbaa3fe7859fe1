"""Paddle Inference on a GPU: what can run there, and its settings.

Read from Paddle's sources, and tried with its GPU wheel on a CPU; nothing here ever ran on a GPU.
"""

from __future__ import annotations

import re
from typing import Any

from ernie_vil2 import processor
from ernie_vil2.errors import UserError

PRECISIONS = {"fp32": "Float32", "fp16": "Half", "bf16": "Bfloat16"}
# The last operators of both programs, and of these alone: in half precision the sum of squares
# overflows above 65504, which 768 numbers of 10 exceed.
_IN_FLOAT32 = {"p_norm", "elementwise_max", "elementwise_div"}
_POOL = 256  # MiB of the GPU's memory to begin with; it grows


def number(device: str) -> int:
    """The GPU that "gpu" or "gpu:1" names.

    Raises:
        UserError: it names none, or one that is not there.
    """
    match = re.fullmatch(r"gpu(?::([0-9]{1,4}))?", device)
    if not match:
        raise UserError(f'device "{device}": expected cpu, gpu or gpu:<number>')
    found, there = int(match[1] or 0), count()
    if found >= there:
        raise UserError(f"device {device}: this Paddle sees {there} GPUs; use device cpu")
    return found


def count() -> int:
    """GPUs that Paddle sees; 0 with a Paddle for CPUs."""
    import paddle

    return paddle.device.cuda.device_count() if paddle.is_compiled_with_cuda() else 0


def device_for(precision: str) -> str:
    """Where an exporter tries a precision: on a GPU if the CPU cannot run it and there is one."""
    if precision == "fp16":
        return "gpu"
    on_cpu = processor.why_not(precision, processor.flags()) is None
    return "gpu" if precision == "bf16" and not on_cpu and count() else "cpu"


def why_not(precision: str, capability: tuple[int, int]) -> str | None:
    """One line on what keeps a GPU of a compute capability from running a precision, or None."""
    if precision not in PRECISIONS:
        return f"precision {precision}: expected {', '.join(PRECISIONS)}; it is for CPUs"
    if precision == "bf16" and capability < (8, 0):
        has = ".".join(map(str, capability))
        return f"precision bf16: compute capability {has}, expected 8.0 (Ampere) or above; use fp16"
    return None


def configure(config: Any, precision: str, device: str) -> None:
    """Give a `paddle.inference.Config` its settings for a GPU.

    Raises:
        UserError: it is not there, cannot run the precision, or this Paddle cannot run on it.
    """
    gpu = number(device)

    import paddle

    from ernie_vil2.distributed import probe

    probe.check_gpu(gpu)
    if reason := why_not(precision, paddle.device.cuda.get_device_capability(gpu)):
        raise UserError(f"device {device}: {reason}")
    use(config, precision, gpu)


def use(config: Any, precision: str, gpu: int) -> None:
    """The settings themselves, which need no GPU."""
    from paddle import inference

    config.enable_use_gpu(_POOL, gpu, getattr(inference.PrecisionType, PRECISIONS[precision]))
    if precision != "fp32":
        config.exp_disable_mixed_precision_ops(_IN_FLOAT32)
