"""One tower of an exported model on Paddle Inference: an array in, an array out."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ernie_vil2 import processor, runtime
from ernie_vil2.errors import UserError
from ernie_vil2.serving import gpu, tensorrt

# Left to choose, Paddle 2.6 also takes operators that oneDNN has no bfloat16 kernel for.
BF16_OPERATORS = {
    *("fc", "matmul", "matmul_v2", "fused_matmul", "layer_norm", "softmax", "scale", "sigmoid"),
    *("elementwise_add", "elementwise_mul", "reshape2", "transpose2"),
}


class Program:
    """One tower on one device: an array in, an array out, for one thread at a time.

    Args:
        program, weights: files.
        precision: "fp32", "bf16", "fp16" or "int8".
        device: "cpu", "gpu" or "gpu:1".
        threads: of the CPU.
        engine: TensorRT's, on a GPU.

    Raises:
        UserError: what this device cannot run, or files that cannot be loaded.
    """

    def __init__(
        self,
        program: Path,
        weights: Path,
        precision: str = "fp32",
        device: str = "cpu",
        threads: int = 1,
        engine: tensorrt.Engine | None = None,
    ):
        self._predictor = load(program, weights, precision, device, threads, engine)
        self._input = self._predictor.get_input_handle(self._predictor.get_input_names()[0])
        self._output = self._predictor.get_output_handle(self._predictor.get_output_names()[0])
        self.lock = threading.RLock()  # a signal handler may fork
        self._gpu_of = None if device == "cpu" else os.getpid()

    def __call__(self, array: np.ndarray) -> np.ndarray:
        if self._gpu_of not in (None, os.getpid()):
            raise UserError("a model on a GPU does not survive a fork: load it in the child")
        with self.lock:
            self._input.copy_from_cpu(np.ascontiguousarray(array))
            self._predictor.run()
            return self._output.copy_to_cpu()


def load(
    program: Path,
    weights: Path,
    precision: str = "fp32",
    device: str = "cpu",
    threads: int = 1,
    engine: tensorrt.Engine | None = None,
    onednn: bool = True,
) -> Any:
    """Paddle Inference's predictor of a program, ready to run.

    Args:
        onednn: let oneDNN compute on a CPU; see `Program` for the others.

    Raises:
        UserError: what this device cannot run, or files that cannot be loaded.
    """
    runtime.prepare()  # before Paddle
    import paddle
    from paddle import inference

    from ernie_vil2.distributed import probe

    if program.suffix == ".json" and paddle.__version__ < "3":
        raise UserError(
            f"{program} is a program of Paddle 3, this is Paddle {paddle.__version__}: export "
            "the model with Paddle 2.6"
        )
    config = make_config(program, weights, precision, device, threads, engine, onednn)
    try:
        # bfloat16's passes print whatever they are told
        with _last_words(quiet=precision == "bf16"), tensorrt.kept(engine):
            return inference.create_predictor(config)
    except UserError:
        raise
    except Exception as error:  # Paddle raises RuntimeError, ValueError, MemoryError
        reason = " ".join(str(error).split())[:200]
        remedy = None if device == "cpu" else probe.remedy(str(error))
        raise UserError(
            f"{program} with {weights} cannot be loaded by Paddle {paddle.__version__} on "
            f"{device} ({reason}): {remedy or 'export or copy the model again'}"
        ) from error


def make_config(
    program: Path,
    weights: Path,
    precision: str,
    device: str,
    threads: int,
    engine: tensorrt.Engine | None,
    onednn: bool = True,
) -> Any:
    """The `paddle.inference.Config` of a program, as `load` takes it.

    Raises:
        UserError: what this device cannot run.
    """
    import paddle
    from paddle import inference

    config = inference.Config(str(program), str(weights))
    config.disable_glog_info()
    # 3.3.1 looks for a pass that it lacks
    config.enable_memory_optim(paddle.__version__ < "3")
    if device == "cpu":
        _use_cpu(config, precision, threads, onednn)
        return config
    gpu.configure(config, precision, device)
    if engine is not None:
        tensorrt.configure(config, precision, engine)
    return config


def _use_cpu(config, precision: str, threads: int, onednn: bool) -> None:
    import paddle

    if precision == "fp16":
        raise UserError("precision fp16 on cpu: expected a GPU; use fp32, bf16 or int8 here")
    has = processor.flags()
    processor.check(precision, has)
    config.disable_gpu()
    config.set_cpu_math_library_num_threads(threads)
    if onednn:
        config.enable_mkldnn()
        # Otherwise a copy of all weights is kept for each of the last input shapes: gigabytes.
        config.set_mkldnn_cache_capacity(0)
    else:
        config.disable_mkldnn()
    for name in processor.unsafe_passes(precision, has, paddle.__version__):
        config.delete_pass(name)
    if precision == "bf16":
        config.enable_mkldnn_bfloat16()
        config.set_bfloat16_op(BF16_OPERATORS)
    if precision == "int8":
        config.switch_ir_optim(False)  # the exporter had it done


@contextmanager
def _last_words(quiet: bool) -> Iterator[None]:
    """Inside, Python says on standard error which signal ends the process, and where.

    Args:
        quiet: let nobody else say anything there.
    """
    sys.stderr.flush()
    kept, enabled = os.dup(2), faulthandler.is_enabled()
    faulthandler.enable(kept)
    if quiet:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        faulthandler.enable(2) if enabled else faulthandler.disable()
        os.close(kept)
