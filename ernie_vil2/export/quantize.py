"""int8 programs by post-training quantisation, for oneDNN's int8 kernels in Paddle Inference 2.6.

Paddle Inference first optimises the fp32 program for oneDNN, which makes nearly every linear layer
one `fc` operator, and saves what it made. Each `fc` then gets the attributes of oneDNN's int8
kernel: one scale for its input, from calibration data, and one per output channel for its weight,
which the kernel turns into int8 when it is first run. All else stays in float32: attention,
normalisation, and the convolutions of a CNN, which gains nothing.

Why not by `paddle.static.quantization.PostTrainingQuantization` and `enable_mkldnn_int8`: the pass
behind the latter takes the scales of a weight that is not square over the wrong elements, the
former also quantises attention masks and sums of residuals, and the fused attention of the fp32
program is lost.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ernie_vil2 import processor
from ernie_vil2.errors import UserError

_LEVELS = 127  # symmetric int8
_SAMPLE = 1 << 15  # values kept of an activation and batch: enough to place a threshold
_SHARES = np.linspace(0.3, 1.0, 36)  # thresholds tried, as shares of the largest value


def quantize(source: Path, target: Path, which: str, batches: Iterable[np.ndarray]) -> int:
    """Write `target/<which>.pdmodel` and `.pdiparams`, the int8 program of `source`'s fp32 one.

    It is to be run as it is: `Config.enable_mkldnn()` and `Config.switch_ir_optim(False)`, on a
    CPU with the vector instructions of this one: where AVX-512 is here, it is needed there.

    Args:
        source, target: folders; `target` is made where it is missing.
        which: "image" or "text".
        batches: calibration data, what the program is fed: float32 or uint8 pixels [B, ...], or
            int64 ids [B, L]. Some hundred rows of the kind that will be served, padded as little
            as there.

    Returns:
        How many linear layers compute in int8.

    Raises:
        UserError: Paddle 3, which has no int8 for its programs; no calibration data; no linear
            layers.
    """
    import paddle
    from paddle import static

    source, target = Path(source), Path(target)
    model = source / f"{which}.pdmodel"
    if not model.is_file() or paddle.__version__ >= "3":
        raise UserError(
            f"int8 of {source / which} with Paddle {paddle.__version__}: only Paddle 2.6 has it, "
            "for .pdmodel programs; export with Paddle 2.6"
        )
    target.mkdir(parents=True, exist_ok=True)
    executor = static.Executor(paddle.CPUPlace())
    with _static_mode(), tempfile.TemporaryDirectory(dir=target) as folder:
        optimized = _optimize(model, Path(folder))
        with static.scope_guard(static.Scope()):
            program, _, _ = static.load_inference_model(str(optimized), executor)
            layers = [op for op in program.global_block().ops if op.type == "fc"]
            if not layers:
                raise UserError(f"{model} has no linear layer that oneDNN fuses: leave out int8")
            weights = {op.input("W")[0]: _value(op.input("W")[0]) for op in layers}
        inputs = sorted({op.input("Input")[0] for op in layers})
        thresholds = _calibrate(model, executor, inputs, batches)
        scales = {name: _LEVELS / thresholds[name] for name in inputs}
        for op in layers:
            _set_int8(op, scales[op.input("Input")[0]], weights[op.input("W")[0]])
        _insert_quantize(program, layers, scales)
        (target / f"{which}.pdmodel").write_bytes(program.desc.serialize_to_string())
        shutil.move(optimized.with_suffix(".pdiparams"), target / f"{which}.pdiparams")
    return len(layers)


@contextmanager
def _static_mode() -> Iterator[None]:
    """Paddle's static graph mode, and afterwards what was before."""
    import paddle

    dynamic = paddle.in_dynamic_mode()
    paddle.enable_static()
    try:
        yield
    finally:
        if dynamic:
            paddle.disable_static()


def _optimize(model: Path, folder: Path) -> Path:
    """Let Paddle Inference write the program as it runs on oneDNN; returns its path, no suffix."""
    import paddle
    from paddle import inference

    config = inference.Config(str(model), str(model.with_suffix(".pdiparams")))
    config.disable_glog_info()
    config.disable_gpu()
    config.enable_mkldnn()
    for name in processor.unsafe_passes("int8", processor.flags(), paddle.__version__):
        config.delete_pass(name)
    config.set_optim_cache_dir(str(folder))
    config.enable_save_optim_model(True)
    inference.create_predictor(config)
    return folder / "_optimized"


def _value(name: str) -> np.ndarray:
    from paddle import static

    return np.array(static.global_scope().find_var(name).get_tensor())


def _calibrate(
    model: Path, executor: Any, names: list[str], batches: Iterable[np.ndarray]
) -> dict[str, float]:
    """For each variable of the fp32 program the |value| that becomes 127."""
    from paddle import static

    samples: dict[str, list[np.ndarray]] = {name: [] for name in names}
    rng = np.random.default_rng(0)
    with static.scope_guard(static.Scope()):
        program, feeds, _ = static.load_inference_model(str(model.with_suffix("")), executor)
        for batch in batches:
            values = executor.run(program, feed={feeds[0]: batch}, fetch_list=names)
            for name, value in zip(names, values):
                samples[name].append(_sample(np.abs(value).ravel(), rng))
    if not samples[names[0]]:
        raise UserError(f"no calibration data for the int8 program of {model}: give some batches")
    return {name: _threshold(np.concatenate(parts)) for name, parts in samples.items()}


def _sample(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """At most `_SAMPLE` of `values` [n], the largest among them."""
    if len(values) <= _SAMPLE:
        return values
    return np.append(values[rng.integers(len(values), size=_SAMPLE - 1)], values.max())


def _threshold(values: np.ndarray) -> float:
    """The threshold of `values` [n], none negative, with the least squared error of rounding."""
    largest = float(values.max())
    if largest == 0:
        return 1.0
    errors = []
    for share in _SHARES:
        step = share * largest / _LEVELS
        rounded = np.minimum(np.rint(values / step), _LEVELS) * step
        errors.append(np.square(rounded - values).mean())
    return float(_SHARES[int(np.argmin(errors))]) * largest


def _set_int8(op: Any, scale: float, weight: np.ndarray) -> None:
    """Let an `fc` operator compute in int8 and give float32; weight: float32 [K, N]."""
    largest = np.maximum(np.abs(weight).max(0), np.finfo(np.float32).tiny)  # [K, N] -> [N]
    op._set_attr("mkldnn_data_type", "int8")
    op._set_attr("Scale_in", float(scale))
    op._set_attr("Scale_weights", (_LEVELS / largest).tolist())
    op._set_attr("force_fp32_output", True)


def _insert_quantize(program: Any, layers: list, scales: dict[str, float]) -> None:
    """Put one `quantize` before the first of the `fc` operators that share an input."""
    block = program.global_block()
    done: dict[str, str] = {}
    for op in layers:
        name = op.input("Input")[0]
        if name not in done:
            done[name] = f"{name}.int8"
            block.create_var(name=done[name], dtype="int8", shape=block.var(name).shape)
            block._insert_op(
                block.ops.index(op),
                type="quantize",
                inputs={"Input": [name]},
                outputs={"Output": [done[name]]},
                attrs={"Scale": float(scales[name]), "is_negative_input": True, "use_mkldnn": True},
            )
        op._rename_input(name, done[name])
