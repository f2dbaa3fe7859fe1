"""The process of the Paddle Serving service, and the one that watches over it.

Paddle Serving kills its own process group when an op cannot start, and leaves its children behind
when it is stopped; so it runs in a session of its own, which ends as one.
"""

from __future__ import annotations

import json
import logging.handlers
import multiprocessing
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import traceback
from contextlib import suppress
from pathlib import Path

from ernie_vil2.errors import UserError
from ernie_vil2.serving.paddle_serving import signals

DRAIN_SECONDS = 20
_GROWN = 64 << 20  # bytes of memory more than needed before: large pictures leave as much behind
_ROOT = Path(__file__).resolve().parents[3]


def watch(
    folder: str | os.PathLike,
    settings: str | os.PathLike,
    host: str,
    http_port: int,
    rpc_port: int,
    log_dir: str | os.PathLike,
    verify: bool = False,
) -> int:
    """Run the service until SIGTERM or SIGINT.

    Args:
        folder: the exported model.
        settings: a YAML file; see settings.py.
        host, http_port, rpc_port: where to listen.
        log_dir: of Paddle Serving's logs and of output.log.
        verify: end once it is ready, and so its embeddings are the trained model's.

    Returns:
        The exit code.

    Raises:
        UserError: what kept it from starting, in one line.
    """
    if http_port == rpc_port:
        raise UserError(f"HTTP and gRPC are both to listen on port {http_port}: expected two ports")
    for port in (http_port, rpc_port):
        _check_port(host, port)
    logs = Path(log_dir).resolve()
    logs.mkdir(parents=True, exist_ok=True)
    output = logs / "output.log"
    places = [str(Path(path).resolve()) for path in (folder, settings)]
    child = _start([*places, host, str(http_port), str(rpc_port)], output)
    stopping = threading.Event()

    def stop(*_):
        stopping.set()
        child.terminate()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    try:
        assert child.stdout is not None  # a pipe
        line = child.stdout.readline()  # one, when it is ready or cannot start
        message = json.loads(line) if line else {}
        if "ready" in message:
            print(message["ready"], flush=True)
            if verify:  # it has compared before it was ready
                stop()
        child.wait()
    finally:
        with suppress(ProcessLookupError):  # its children too
            os.killpg(child.pid, signal.SIGKILL)
    if stopping.is_set():
        return 0
    if "error" in message:
        raise UserError(message["error"])
    last = output.read_text(errors="replace").strip().splitlines()[-1:]
    how = signals.describe(child.returncode)
    print(f"error: the service stopped ({how}): {' '.join(last)}", file=sys.stderr)
    print(f"see {output}", file=sys.stderr)
    return 1


def _start(arguments: list[str], output: Path) -> subprocess.Popen:
    """The service's process, which writes to `output` and its logs beside it."""
    environment = {
        **os.environ,
        "SERVING_LOG_PATH": str(output.parent),
        "SERVING_HOME": str(output.parent),
        "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python",  # for Paddle Serving's old modules
        # each connection has a thread, and each heap that they share keeps what it once needed
        "MALLOC_ARENA_MAX": os.environ.get("MALLOC_ARENA_MAX", "2"),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")])),
    }
    with open(output, "wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", __name__, *arguments],
            stdin=subprocess.PIPE,  # its end tells the child that we are gone
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment,
            start_new_session=True,
        )


def _check_port(host: str, port: int) -> None:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, *_, address = found[0]
        with socket.create_server(address, family=family):
            pass
    except (OSError, UnicodeError) as error:  # UnicodeError: a host of more than 63 letters
        reason = getattr(error, "strerror", None) or "no name of a host"
        raise UserError(
            f"port {port} of {host} cannot be listened on ({reason}): choose another"
        ) from None


def serve(folder: str, settings: str, host: str, http_port: int, rpc_port: int, report) -> None:
    """The service itself; `report` gets one JSON line: {"ready": ...}."""
    from ernie_vil2 import runtime

    runtime.prepare()
    from ernie_vil2.artefact.folder import Artefact
    from ernie_vil2.serving import memory
    from ernie_vil2.serving.paddle_serving.settings import load_settings

    artefact = Artefact.open(folder)
    loaded = load_settings(settings, rpc_port)
    limits = loaded.limits
    try:
        from ernie_vil2.serving.paddle_serving import rpc
        from ernie_vil2.serving.paddle_serving.front import PATH, Front, connection_limits
        from ernie_vil2.serving.paddle_serving.service import EmbeddingService
        from ernie_vil2.serving.web.server import listen
    except ImportError as error:
        raise UserError(
            f"Paddle Serving cannot be imported ({error}): bash tools/serving_env.sh installs it"
        ) from None
    _quieten()
    service = EmbeddingService(artefact, loaded)
    connections, rpc_connections = connection_limits(limits)
    where = f"[{host}]:{rpc_port}" if ":" in host else f"{host}:{rpc_port}"
    rpc_server = rpc.start(
        where, service.answer, limits, most=2 * service.turns.most, connections=rpc_connections
    )
    front = Front(listen(host, http_port), service, connections, DRAIN_SECONDS)
    front.start()
    line = f"ready: http://{where.rpartition(':')[0]}:{http_port}{PATH}, gRPC at {where}"
    report.write(json.dumps({"ready": line}) + "\n")
    report.flush()

    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())

    def stop_when_left() -> None:
        sys.stdin.read()  # ends when the process that watches has gone
        stop.set()

    threading.Thread(target=stop_when_left, daemon=True).start()
    children = len(multiprocessing.active_children())  # with is_thread_op: false
    least = _resident()
    while not stop.wait(1):
        if _resident() - least > _GROWN:
            memory.trim()
            if front.in_flight == 0 and service.turns.idle:  # the rest is needed
                least = _resident()
        if len(multiprocessing.active_children()) < children:
            raise RuntimeError("a process of Paddle Serving has died")
        if not front.thread.is_alive():
            raise RuntimeError("the HTTP server has ended")
    stopped = rpc_server.stop(DRAIN_SECONDS)
    front.drain()
    stopped.wait(DRAIN_SECONDS)


def _resident() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _quieten() -> None:
    """Of Paddle Serving's logs: only warnings, at most 50 MB; else some lines of each request."""
    root = logging.getLogger()
    root.setLevel(logging.WARNING)
    for handler in root.handlers:
        if isinstance(handler, logging.handlers.RotatingFileHandler):
            handler.maxBytes, handler.backupCount = 10_000_000, 4
    # warns of each request that passes an op without a model
    logging.getLogger("paddle_serving_server.pipeline.operator").setLevel(logging.ERROR)
    logging.getLogger("uvicorn.error").setLevel(
        logging.ERROR
    )  # its warnings are a client's to cause


def _die(args) -> None:
    """Without one of its threads the service would let every request wait for ever."""
    traceback.print_exception(args.exc_type, args.exc_value, args.exc_traceback)
    os._exit(1)


def _main() -> None:
    report = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Paddle Serving prints
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    folder, settings, host, http_port, rpc_port = sys.argv[1:]
    code = 0
    threading.excepthook = _die
    try:
        serve(folder, settings, host, int(http_port), int(rpc_port), report)
    except (UserError, SystemExit) as error:  # Paddle Serving exits where settings are wrong
        report.write(json.dumps({"error": str(error)}) + "\n")
        report.flush()
        code = 2
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stderr.flush()
    os._exit(code)  # its threads never end


if __name__ == "__main__":
    _main()
