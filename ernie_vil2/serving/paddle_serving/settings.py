"""The YAML of the Paddle Serving service, checked before anything of Paddle Serving is loaded."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import yaml

from ernie_vil2.artefact.description import PRECISIONS
from ernie_vil2.artefact.folder import TOWERS
from ernie_vil2.data.decode import MAX_PIXELS
from ernie_vil2.errors import UserError, did_you_mean
from ernie_vil2.serving.items import ItemLimits
from ernie_vil2.serving.tower import TowerOptions

_DAG = ("is_thread_op", "retry", "use_profile", "tracer", "channel_size")
_OP = ("concurrency", "batch_size", "auto_batching_timeout", "local_service_conf")
_LOCAL = ("thread_num", "device_type", "devices", "precision", "tensorrt_cache")
# Settings of Paddle Serving's own predictor, which is not used: what ours does, always.
_ALWAYS = {
    "mem_optim": (True,),
    "ir_optim": (True,),
    "use_mkldnn": (True,),  # on a GPU it does not matter
    "mkldnn_op_list": (None,),
    "min_subgraph_size": (3,),
    "use_calib": (False,),
}
_CPU, _GPU, _TENSORRT = 0, 1, 2  # Paddle Serving's device_type
# What numbers may be, where it is not 1 to _MOST.
_MOST = 100_000
_BOUNDS = {
    "worker_num": (1, 256),
    "body_mb": (1, 2047),  # gRPC's and protobuf's sizes are of 31 bits
    "rpc_mb": (1, 2047),
    "bodies_mb": (1, 1 << 20),
    "text_chars": (1, 1_000_000),
    "pixels": (1, MAX_PIXELS),
    "waiting": (1, 1000),  # a thread each
    "seconds": (1, 3600),
    "decode_seconds": (1, 3600),
    "connections": (1, 60_000),
    "concurrency": (1, 64),
    "batch_size": (1, 4096),
    "auto_batching_timeout": (0, 60_000),
    "thread_num": (1, 1024),
    "retry": (1, 10),
    "channel_size": (0, _MOST),
}


@dataclass(frozen=True)
class Limits(ItemLimits):
    """What the service takes; beyond, a request or an item is refused with a clear answer.

    Attributes:
        body_mb: MiB of a request over HTTP.
        rpc_mb: MiB of a request over gRPC.
        bodies_mb: MiB of all requests over HTTP together.
        images, texts: in a request.
        rows: most that run through a tower at a time.
        waiting: requests beyond those in work.
        seconds: for a client to send its request, for that to wait, and for its items to be
            prepared.
        connections: over HTTP at a time.
        per_address: of these, of one client's address.
    """

    body_mb: int = 32
    rpc_mb: int = 8
    bodies_mb: int = 256
    images: int = 64
    texts: int = 512
    rows: int = 32
    waiting: int = 64
    seconds: int = 30
    connections: int = 1000
    per_address: int = 250

    @property
    def commas(self) -> int:
        """No permitted JSON has more."""
        return self.texts * (self.text_chars + 4) + self.images + 100


@dataclass(frozen=True)
class Settings:
    """All that the file says.

    Attributes:
        pipeline: for Paddle Serving.
        limits: of what clients send.
        towers: name -> how the tower runs in its first, second, ... process; where there are more
            processes than entries, they begin again.
    """

    pipeline: dict
    limits: Limits
    towers: dict[str, list[TowerOptions]]


def load_settings(path, rpc_port: int) -> Settings:
    """What a file says, with defaults for the rest.

    Raises:
        UserError: no such file, an unknown key, threads that would share one predictor.
    """
    try:
        settings = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: 5,000 digits
        raise UserError(f"{path} is no YAML: {' '.join(str(error).split())[:300]}") from None
    _check_keys(path, settings, "the file", ("worker_num", "dag", "op", "limits"))
    limits = settings.pop("limits", None) or {}
    _check_keys(path, limits, "limits", [field.name for field in fields(Limits)])
    limits = Limits(**limits)
    settings.setdefault("worker_num", 1)
    _check_numbers(path, "limits.", asdict(limits))
    _check_numbers(path, "", settings)
    if limits.body_mb > limits.bodies_mb:
        raise UserError(
            f"limits.body_mb {limits.body_mb} in {path} is above limits.bodies_mb "
            f"{limits.bodies_mb}: such a request would never find room"
        )

    settings.update(rpc_port=rpc_port, build_dag_each_worker=False)
    towers: dict[str, list[TowerOptions]] = {}
    dag = settings.setdefault("dag", {})
    _check_keys(path, dag, "dag", _DAG)
    _check_numbers(path, "dag.", dag)
    if type(dag.setdefault("is_thread_op", True)) is not bool:
        raise UserError(
            f"dag.is_thread_op {dag['is_thread_op']!r} in {path}: expected true or false"
        )
    ops = settings.setdefault("op", {})
    _check_keys(path, ops, "op", TOWERS)
    for tower in TOWERS:
        op = ops.setdefault(tower, {})
        _check_keys(path, op, f"op.{tower}", _OP)
        _check_numbers(path, f"op.{tower}.", op)
        if dag["is_thread_op"] and op.get("concurrency", 1) != 1:
            raise UserError(
                f"op.{tower}.concurrency {op['concurrency']} in {path}: threads would share one "
                "predictor, which is for one at a time; expected 1, or dag.is_thread_op: false"
            )
        if op.get("batch_size", 1) > 1 and op.get("auto_batching_timeout", 0) < 1:
            raise UserError(
                f"op.{tower}.auto_batching_timeout in {path}: expected at least 1 (ms) with a "
                "batch_size above 1, else a request waits until the batch is full"
            )
        local = op.pop("local_service_conf", None) or {}
        towers[tower] = _tower_options(path, f"op.{tower}.local_service_conf", local, limits.rows)
    ops["route"] = {"concurrency": 1}
    return Settings(settings, limits, towers)


def _tower_options(path, section: str, local: dict, rows: int) -> list[TowerOptions]:
    """How a tower runs, on each of its devices.

    Args:
        local: `local_service_conf`, in Paddle Serving's words.
    """
    _check_keys(path, local, section, (*_LOCAL, *_ALWAYS))
    given = {name: value for name, value in local.items() if value is not None}
    _check_numbers(path, f"{section}.", given)
    devices = str(given.get("devices", "")).replace(" ", "")
    kind = given.get("device_type", -1)
    if kind == -1:  # Paddle Serving's default: GPUs where there are `devices`
        kind = _GPU if devices else _CPU

    def expect(name: str, right: bool, expected: str) -> None:
        if not right:
            raise UserError(
                f"{section}.{name} {str(local[name])[:40]!r} in {path}: expected {expected}"
            )

    expect("device_type", kind in (_CPU, _GPU, _TENSORRT), "0 (CPU), 1 (GPU) or 2 (TensorRT)")
    numbers = (devices or "0").split(",")
    expect("devices", all(re.fullmatch("[0-9]{1,4}", n) for n in numbers), '"0", or as "0,1"')
    for name, values in _ALWAYS.items():
        free = name == "use_mkldnn" and kind != _CPU
        right = free or local.get(name, values[0]) in values
        expect(name, right, f"{values[0]}, as it always is here: leave it out")
    precision = given.get("precision", "fp32")
    expect("precision", precision in PRECISIONS, f"one of {', '.join(PRECISIONS)}")
    cache = given.get("tensorrt_cache")
    expect("tensorrt_cache", cache is None or isinstance(cache, str), "a folder")
    options = TowerOptions(
        precision,
        threads=given.get("thread_num"),
        batch_size=rows,
        tensorrt=kind == _TENSORRT,
        tensorrt_cache=cache,
    )
    if kind == _CPU:
        return [options]
    return [replace(options, device=f"gpu:{number}") for number in numbers]


def _check_keys(path, section, name: str, known) -> None:
    if not isinstance(section, dict):
        raise UserError(f"{name} in {path} is {type(section).__name__}: expected keys and values")
    for key in section:
        if key not in known:
            raise UserError(f'{name} in {path} has "{key}"{did_you_mean(key, known)}')


def _check_numbers(path, section: str, values: dict) -> None:
    """Those in _BOUNDS, and all limits: a million threads can only be a mistake."""
    for name, value in values.items():
        if name not in _BOUNDS and section != "limits.":
            continue
        least, most = _BOUNDS.get(name, (1, _MOST))
        if type(value) is not int or not least <= value <= most:
            huge = type(value) is int and abs(value) > 1 << 99  # Python refuses to print it
            raise UserError(
                f"{section}{name} {'of many digits' if huge else repr(value)[:40]} in {path}: "
                f"expected a whole number above {least - 1}, at most {most}"
            )
