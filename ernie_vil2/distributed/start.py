"""Starting fleet, on one process or on those of paddle.distributed.launch."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
import warnings
from typing import Any

import paddle
import paddle.distributed as dist
from paddle.base import core
from paddle.distributed import collective, fleet

from ernie_vil2.distributed import probe, ranks
from ernie_vil2.errors import UserError

_paddle_new_process_group = collective._new_process_group_impl
_started = False
_GRACE = 1.0  # seconds for other ranks to take what this one has sent in the last collective
_TOGETHER_WITHIN = 10.0  # seconds that a process which failed waits for the others


def _new_process_group(
    backend: str,
    store: core.Store,
    rank: int,
    world_size: int,
    *args: Any,
    group_id: int = 0,
    **kwargs: Any,
) -> core.ProcessGroup:
    """Paddle's maker of process groups, with a key-value store of its own for each gloo group.

    Every gloo group writes its ranks' addresses under the same keys "0", "1", ... (constructor of
    ProcessGroupGloo). In one store for all groups, a later group therefore finds the addresses of
    an earlier one, whose ports are closed: "Connection refused" in most starts of four processes.
    """
    if backend == "gloo":
        store = _serve_store(store, rank, f"ernie_vil2/store/{group_id}")
    return _paddle_new_process_group(
        backend, store, rank, world_size, *args, group_id=group_id, **kwargs
    )


def _serve_store(default_store: core.Store, rank: int, key: str) -> core.Store:
    """A new store that the group's rank 0 serves and announces under `key` in the default one."""
    if rank > 0:
        host, port = default_store.get(key).decode().split(":")  # waits for the key
        return core.TCPStore(host, int(port), False, 0)
    host = dist.ParallelEnv().current_endpoint.split(":")[0]
    with socket.socket() as reserved:  # held until the store listens on the same port
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("", 0))
        port = reserved.getsockname()[1]
        store = core.TCPStore(host, port, True, 0)  # 0: wait for nobody
    default_store.set(key, f"{host}:{port}")
    return store


def init(device: str = "auto", strategy: fleet.DistributedStrategy | None = None) -> None:
    """Choose the device and start fleet, on one process or on those of paddle.distributed.launch.

    A GPU is tried before it is used, and so are the connections between the processes. A second
    call in one process chooses the device alone.

    Args:
        device: cpu, gpu, or auto for a GPU where there is one.
        strategy: of `groups.strategy`; None: all processes are one another's replicas.

    Raises:
        UserError: gpu, where there is none; a GPU or a connection that does not work.
    """
    has_gpu = paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0
    if device == "gpu" and not has_gpu:
        raise UserError(
            "Global.device is gpu, and paddle sees none: install paddlepaddle-gpu "
            "(requirements-gpu.txt) and check nvidia-smi, or set it to auto"
        )
    if device == "cpu" or not has_gpu:
        if ranks.world_size() > 1:
            # A Paddle built for GPUs would take NCCL, and put every process back onto its GPU.
            os.environ["PADDLE_DISTRI_BACKEND"] = "gloo"
        paddle.set_device("cpu")
    else:
        index = dist.ParallelEnv().device_id
        probe.check_gpu(index)
        paddle.set_device(f"gpu:{index}")
        probe.compute()
    if not _started:
        _start_fleet(strategy)
    if paddle.get_device() == "cpu":
        _copy_when_transposing()  # afterwards, as fleet prints what flags are not the default


def _start_fleet(strategy: fleet.DistributedStrategy | None) -> None:
    global _started
    collective._new_process_group_impl = _new_process_group
    with warnings.catch_warnings():  # of groups that data parallelism does not use
        warnings.filterwarnings("ignore", message="Current global rank .* is not in group")
        fleet.init(is_collective=True, strategy=strategy, log_level="WARNING")
    _started = True
    probe.communicate()


def _copy_when_transposing() -> None:
    """Let `transpose` and slices copy at once, instead of giving views.

    Each operation that reads a view copies it for itself, on a CPU with a slow kernel: that was
    half of the demo's step. Some rare operations have no other kernel (`view`; `flatten` of bool).
    """
    if "FLAGS_use_stride_kernel" not in os.environ:
        paddle.set_flags({"FLAGS_use_stride_kernel": False})


def leave(code: int) -> int:
    """End this process, one of several, with `code`; alone, only return it.

    For the end of a program, after its last collective. Paddle's destructors are left out. While
    they free gloo's connections, gloo's thread may still read them as other ranks hang up, a race
    that gloo mended in 2022 (pytorch/gloo pull request 320) and the fork that Paddle builds may
    still have. Launches that were all but done were twice seen to die of SIGABRT (exit code -6).

    Processes that end with another code than 0 do so together: as soon as one has, the launcher
    sends the others SIGTERM, and the launch would have that for its code. So those that are about
    to end do not heed it, and none ends before all have come to that.
    """
    if not _started or ranks.world_size() == 1:
        return code
    if code == 0:
        _leave_in_turn()
    else:
        if _meet("ernie_vil2/failed"):
            with contextlib.suppress(ValueError):  # not in a program's first thread
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            _meet("ernie_vil2/leaving")
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _leave_in_turn() -> None:
    store, key = core.create_or_get_global_tcp_store(), "ernie_vil2/left"
    if ranks.is_main():  # the last to leave: the others may still ask the store that it serves
        for other in range(1, ranks.world_size()):
            store.get(f"{key}/{other}")  # waits for the key
    else:
        time.sleep(_GRACE)
        store.set(f"{key}/{ranks.rank()}", "gone")


def _meet(key: str) -> bool:
    """Wait for all processes to come here; False where some have not in time."""
    waiting = threading.Thread(target=_wait_for_others, args=(key,), daemon=True)
    waiting.start()
    waiting.join(_TOGETHER_WITHIN)
    return not waiting.is_alive()


def _wait_for_others(key: str) -> None:
    store = core.create_or_get_global_tcp_store()
    with contextlib.suppress(RuntimeError):  # the store has left with the main process
        store.add(key, 1)
        while store.add(key, 0) < ranks.world_size():
            time.sleep(0.02)
