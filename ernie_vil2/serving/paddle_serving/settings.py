"""The YAML of the Paddle Serving service, checked before anything of Paddle Serving is loaded."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path

import yaml

from ernie_vil2 import runtime
from ernie_vil2.artefact.folder import TOWERS
from ernie_vil2.data.decode import MAX_PIXELS
from ernie_vil2.errors import UserError, did_you_mean
from ernie_vil2.serving.items import ItemLimits

_DAG = ("is_thread_op", "retry", "use_profile", "tracer", "channel_size")
_OP = ("concurrency", "batch_size", "auto_batching_timeout", "local_service_conf")
_LOCAL = (
    *("thread_num", "device_type", "devices", "mem_optim", "ir_optim", "precision"),
    *("use_mkldnn", "mkldnn_op_list"),
    *("min_subgraph_size", "use_calib"),
)
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


def load_settings(path, folder: Path, rpc_port: int) -> tuple[dict, Limits]:
    """Paddle Serving's own settings for an artefact, and our limits.

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
        local = op.setdefault("local_service_conf", {})
        _check_keys(path, local, f"op.{tower}.local_service_conf", _LOCAL)
        if local.get("thread_num") is None:
            local["thread_num"] = runtime.usable_cores()
        _check_numbers(path, f"op.{tower}.local_service_conf.", local)
        model = Path(folder) / "serving_server" / tower
        if not (model / "serving_server_conf.prototxt").is_file():
            raise UserError(
                f"{model} holds no serving_server_conf.prototxt: export the model with Paddle 2.6"
            )
        local.update(client_type="local_predictor", model_config=str(model))
    ops["route"] = {"concurrency": 1}
    return settings, limits


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
