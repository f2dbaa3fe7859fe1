"""How fast is it, and where does the memory go? Steps of the base model on these cards."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path

import paddle
from benchmarks.common import launch

from ernie_vil2.config.load import Config, load_config
from ernie_vil2.doctor.costs import Costs, Transformer
from tests.support.shapes import write_set
from tools.gpu_check import cards, runs
from tools.gpu_check.rows import Row, Setting, at_least, at_most, figure, not_run

_SHARE = 0.25  # of the card's peak under O2, from memory
_SCALING = 0.85  # of N times one process's pairs a second, inside a node
_FORMULA = 1.4  # of the bytes of costs.py, which leave out temporary buffers and NCCL's
_FILL = 0.6  # of a GPU's memory that the formula may take
_MOST = 128  # pairs a process
_COUNT = {"gpu": 20, "cpu": 4}  # steps with data loading
_WARM = 3  # of them before the clock starts
_BYTES = {"gpu": 2**28, "cpu": 2**22}  # of a collective
_THINGS = 16  # that `write_set` draws, times its copies


def speeds(setting: Setting) -> Iterator[Row]:
    """Pairs a second for each precision, from memory and with data loading; memory; scaling."""
    endless = {"epochs": 1_000_000, "max_steps": None, "eval_interval": 0}
    config = runs.write(setting, "run", base=True, Global=endless)
    pairs = _pairs(setting, load_config(config))
    write_set(config.parent / "train.tsv", -(-pairs * setting.processes // _THINGS), seed=0)
    alone: dict[str, dict] = {}
    for level in ("O2", "O1", "O0"):
        found = _measured(setting, config, setting.processes, level, pairs)
        alone[level] = found
        each = f"{pairs} pairs a process, {setting.processes} processes"
        yield figure(f"{level}: pairs/s, from memory", found["memory"], each)
        yield figure(f"{level}: pairs/s, with data loading", found["loading"], "drawn shapes")
        yield _share_of_peak(setting, level, found)
        yield _bytes(setting, level, found)
    yield from _scaling(setting, config, pairs, alone)


def _measured(setting: Setting, config: Path, processes: int, level: str, pairs: int) -> dict:
    output = config.parent / f"{level}-{processes}.json"
    switch = [f"AMP.level={level}", f"AMP.dtype={_dtype(setting)}"] if level != "O0" else []
    loader = f"DataLoader.Train.num_workers={'null' if setting.on_gpu else 1}"
    launch(
        processes, config.parent / f"logs-{level}-{processes}", "tools.gpu_check.figures",
        "measure", gpus=setting.gpus, config=str(config), output=str(output),
        overrides=[*switch, f"DataLoader.Train.batch_size={pairs}", loader],
    )  # fmt: skip
    return json.loads(output.read_text())


def _dtype(setting: Setting) -> str:
    if not setting.on_gpu or paddle.device.cuda.get_device_capability(0)[0] >= 8:
        return "bfloat16"
    return "float16"


def _pairs(setting: Setting, config: Config) -> int:
    """A power of two that fits, by the formulas, in float32."""
    if not setting.on_gpu:
        return 8
    room = _FILL * paddle.device.cuda.get_device_properties(0).total_memory
    costs, pairs = Costs.of(config), _MOST
    while pairs > 4 and _held(costs, pairs, setting.processes) > room:
        pairs //= 2
    return pairs


def _held(costs: Costs, pairs: int, processes: int) -> float:
    """Bytes of a process by the formulas of docs/scaling.md."""
    columns = pairs * processes
    gathered = 3 * costs.embeddings(columns)  # and their gradients, and copies
    held = costs.state(processes) + costs.activations(pairs) + costs.plain_logits(pairs, columns)
    return held + gathered


def operations(costs: Costs) -> float:
    """Floating-point operations of a pair in a step: forward, and twice as many backward."""
    return 3 * sum(map(_forward, costs.towers))


def _forward(tower: Transformer) -> float:
    """Two a multiplication with its addition; the stem and the head are left out.

    A block multiplies each token with (4 + 2 mlp_ratio) h^2 weights, and with each other token's
    keys and values.
    """
    s, h, r = tower.tokens, tower.width, tower.mlp_ratio
    return tower.views * tower.layers * (2 * s * h * h * (4 + 2 * r) + 4 * s * s * h)


def _share_of_peak(setting: Setting, level: str, found: dict) -> Row:
    title = f"{level}: share of the card's peak, from memory"
    if not setting.on_gpu:
        return not_run(title, "needs a GPU: a CPU's peak is not known")
    name = paddle.device.cuda.get_device_name(0)
    peak = cards.peak(name)
    each = found["memory"] / setting.processes * found["operations"]
    if peak is None:
        return figure(title, each / 1e12, f"TFLOP/s; the peak of {name} is not known")
    told = f"{each / 1e12:.0f} of {peak / 1e12:.0f} TFLOP/s, {found['operations'] / 1e9:.0f} GFLOP"
    if level == "O2":
        return at_least(title, each / peak, _SHARE, told)
    return figure(title, each / peak, told)


def _bytes(setting: Setting, level: str, found: dict) -> Row:
    title = f"{level}: peak memory against costs.py"
    share = found["peak"] / found["held"]
    told = f"{found['peak'] / 1e6:,.0f} MB, formula {found['held'] / 1e6:,.0f} MB"
    return at_most(title, share, _FORMULA, told) if setting.on_gpu else figure(title, share, told)


def _scaling(setting: Setting, config: Path, pairs: int, found: dict) -> Iterator[Row]:
    title = f"scaling from 1 to {setting.processes} processes"
    level = next((level for level in ("O2", "O0") if level in found), None)
    if setting.processes < 2 or level is None:
        yield not_run(title, "needs 2 GPUs: one is used")
        return
    one = _measured(setting, config, 1, level, pairs)["memory"]
    share = found[level]["memory"] / setting.processes / one
    told = f"{level}: {one:.1f} pairs/s on 1, {found[level]['memory']:.1f} on all"
    if setting.on_gpu:
        yield at_least(title, share, _SCALING, told)
    else:
        yield figure(title, share, f"{told}; the processes share the cores")


def bandwidth(setting: Setting) -> Iterator[Row]:
    """Of collectives between the processes, as nccl-tests counts it (bus bandwidth)."""
    setting.need_processes()
    output = setting.path / "bandwidth.json"
    launch(
        setting.processes, setting.path / "logs-bandwidth", "tools.gpu_check.figures", "collect",
        gpus=setting.gpus, device=setting.device, output=str(output),
    )  # fmt: skip
    size = f"{_BYTES[setting.device] / 2**20:.0f} MiB"
    for name, value in json.loads(output.read_text()).items():
        yield figure(f"{name}: GB/s", value / 1e9, f"{size}, bus bandwidth")


# -- in the processes ------------------------------------------------------------------------------


def measure(config: str, output: str, overrides: list[str]) -> None:
    """Write pairs a second of all processes, and the peak of one with its formula."""
    from ernie_vil2 import distributed
    from ernie_vil2.doctor.checks import slowest
    from ernie_vil2.doctor.figures import timed
    from ernie_vil2.doctor.trial import Trial

    trained = runs.trainer(Path(config), Path(output).stem, overrides)
    plan, trial = trained.plan, Trial(trained)
    world = distributed.world_size()
    batches = trial.load(plan)
    peak = runs.peak(lambda: trial.step(batches, plan))
    memory = plan.records * world / timed(lambda: trial.step(batches, plan))
    count = _COUNT["gpu" if distributed.on_gpu() else "cpu"]
    since = 0.0
    for number, read in enumerate(itertools.islice(trained.batches(), _WARM + count)):
        if number == _WARM:
            since = _now()
        trained.step(read)
    loading = plan.records * world * count / slowest(_now() - since)
    costs = Costs.of(trained.config)
    trained.close()
    if distributed.is_main():
        found = {
            "memory": memory,
            "loading": loading,
            "peak": peak,
            "held": _held(costs, plan.rows, world),
            "operations": operations(costs),
        }
        Path(output).write_text(json.dumps(found))
    distributed.leave(0)


def collect(device: str, output: str) -> None:
    """Write bytes a second of an all-reduce and of an all-gather."""
    from ernie_vil2 import distributed
    from ernie_vil2.doctor.figures import timed

    distributed.init(device)
    world, size = distributed.world_size(), _BYTES[device]
    whole, part = paddle.zeros([size // 4]), paddle.zeros([size // 4 // world])
    share = (world - 1) / world
    found = {
        "all-reduce": 2 * share * size / timed(lambda: distributed.all_reduce_(whole)),
        "all-gather": share * size / timed(lambda: distributed.all_gather(part)),
    }
    if distributed.is_main():
        Path(output).write_text(json.dumps(found))
    distributed.leave(0)


def _now() -> float:
    from ernie_vil2 import distributed

    if distributed.on_gpu():
        paddle.device.cuda.synchronize()
    return time.perf_counter()


CHECKS = {"speed and memory": speeds, "bandwidth": bandwidth}
