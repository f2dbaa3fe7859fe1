"""Serve an exported model over HTTP: `python tools/serve.py DIR`."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from typing import TYPE_CHECKING

from ernie_vil2 import cli, runtime

if TYPE_CHECKING:
    from ernie_vil2.artefact.folder import Artefact
    from ernie_vil2.serving.http.find.finder import Finder
    from ernie_vil2.serving.http.service import Service
    from ernie_vil2.serving.predictor import Predictor


def _add_model(parser: argparse.ArgumentParser) -> None:
    """What is served, where, and in what batches."""
    parser.add_argument("artefact", metavar="DIR", help="folder that tools/export.py wrote")
    parser.add_argument(
        "--db",
        metavar="COLLECTION",
        help="collection of pictures that tools/index.py made with this model: search them at "
        "/v1/search, and on the page at /",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument(
        "--port", type=cli.whole(0, 65535), default=8080, help="0: any free one (%(default)s)"
    )
    parser.add_argument(
        "--precision",
        default="fp32",
        help="one that was exported: fp32, bf16 or int8 on a CPU, fp32, fp16 or, from Ampere on, "
        "bf16 on a GPU (%(default)s)",
    )
    parser.add_argument("--device", default="cpu", help="cpu, gpu or gpu:1 (%(default)s)")
    parser.add_argument(
        "--tensorrt",
        action="store_true",
        help="on a GPU, in fp32 or fp16, for a model exported with --tensorrt: let TensorRT run "
        "what it can. The first start builds its engines, which takes minutes",
    )
    parser.add_argument(
        "--tensorrt-cache",
        metavar="FOLDER",
        help="where engines are kept for the next start (~/.cache/ernie_vil2/tensorrt)",
    )
    parser.add_argument("--threads", type=cli.whole(1, 1024), help="of the CPU (all usable cores)")
    parser.add_argument(
        "--max-batch",
        type=cli.whole(1, 4096),
        default=8,
        help="images or texts of a run of the model (%(default)s)",
    )
    parser.add_argument(
        "--max-wait-ms",
        type=_time,
        default=5,
        help="that an item waits for others to join it (%(default)s)",
    )
    parser.add_argument(
        "--max-queue",
        type=cli.whole(1, 10**6),
        default=512,
        help="items in work at a time; beyond: 429 (%(default)s)",
    )


def _add_limits(parser: argparse.ArgumentParser) -> None:
    """What clients may send, and how long it may take."""
    whole, seconds = cli.whole(1, 10**6), _seconds
    parser.add_argument("--max-items", type=whole, default=256, help="of a request (%(default)s)")
    parser.add_argument(
        "--max-text-chars", type=whole, default=2000, help="of a text (%(default)s)"
    )
    parser.add_argument(
        "--max-pixels",
        type=cli.whole(1, 10**9),
        default=50_000_000,
        help="of an image (%(default)s)",
    )
    parser.add_argument(
        "--max-body-mb", type=whole, default=32, help="MiB of a request (%(default)s)"
    )
    parser.add_argument(
        "--max-buffered-mb",
        type=whole,
        default=256,
        help="MiB of all requests at a time (%(default)s)",
    )
    parser.add_argument(
        "--decode-timeout",
        type=seconds,
        default=5,
        help="seconds of a core to decode an image in (%(default)s)",
    )
    parser.add_argument(
        "--timeout", type=seconds, default=30, help="seconds to answer in (%(default)s)"
    )
    parser.add_argument(
        "--body-timeout", type=seconds, default=60, help="seconds to send a body (%(default)s)"
    )
    parser.add_argument(
        "--drain-timeout",
        type=_time,
        default=60,
        help="seconds to end in after SIGTERM (%(default)s)",
    )
    parser.add_argument(
        "--max-connections", type=whole, default=1000, help="at a time (%(default)s)"
    )
    parser.add_argument(
        "--max-connections-per-address",
        type=whole,
        metavar="N",
        help="of one IPv4 address or IPv6 /64 network; behind a proxy, which is one address, as "
        "many as --max-connections (a quarter of them)",
    )


def _add_access(parser: argparse.ArgumentParser) -> None:
    """Keys, and what is done beside serving."""
    parser.add_argument(
        "--api-key-file",
        metavar="FILE",
        help="keys that clients must show, one a line ($ERNIE_VIL2_API_KEY, else none)",
    )
    parser.add_argument(
        "--key-everywhere",
        action="store_true",
        help="ask for the key at /metrics, /docs and /openapi.json too",
    )
    parser.add_argument(
        "--verify", action="store_true", help="only compare with the golden vectors; serve nothing"
    )
    parser.add_argument("--access-log", action="store_true", help="log every request")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Serve an exported model over HTTP: embeddings, similarity, zero-shot "
        "classification. GET /docs describes the interface. SIGTERM ends it gracefully.",
    )
    _add_model(parser)
    _add_limits(parser)
    _add_access(parser)
    args = parser.parse_args(argv)
    if args.max_items > args.max_queue:
        raise cli.UserError(
            f"--max-items {args.max_items} is above --max-queue {args.max_queue}: "
            "such a request would never find room"
        )
    return _verify(args) if args.verify else _serve(args)


def _predictor(args: argparse.Namespace, artefact: str | Artefact, verify: bool) -> Predictor:
    from ernie_vil2.serving.predictor import Predictor

    return Predictor(
        artefact,
        args.precision,
        args.device,
        args.threads,
        batch_size=args.max_batch,
        tensorrt=args.tensorrt,
        verify=verify,
        tensorrt_cache=args.tensorrt_cache,
    )


def _verify(args: argparse.Namespace) -> int:
    runtime.prepare()
    for tower, difference in _predictor(args, args.artefact, verify=False).verify().items():
        print(f"{args.precision}, {tower}: as trained, largest difference {difference:.1e}")
    return 0


def _serve(args: argparse.Namespace) -> int:
    runtime.prepare()
    from ernie_vil2.artefact.folder import Artefact
    from ernie_vil2.serving import tensorrt
    from ernie_vil2.serving.http.app import create_app
    from ernie_vil2.serving.http.service import Service
    from ernie_vil2.serving.web.connections import ConnectionLimits, fit_open_files
    from ernie_vil2.serving.web.limits import ApiKeys, Limits
    from ernie_vil2.serving.web.server import listen, make_server

    log = _log()
    limits = Limits(
        items=args.max_items,
        text_chars=args.max_text_chars,
        body_bytes=args.max_body_mb << 20,
        buffered_bytes=args.max_buffered_mb << 20,
        pixels=args.max_pixels,
        decode_seconds=args.decode_timeout,
        body_seconds=args.body_timeout,
        seconds=args.timeout,
    )
    most = args.max_connections
    per_address = args.max_connections_per_address or max(1, most // 4)
    connections = fit_open_files(ConnectionLimits(most, per_address))
    if connections.connections < most:
        log.warning(
            "%d connections at a time, not %d: more files may not be open (ulimit -n)",
            connections.connections,
            most,
        )
    artefact = Artefact.open(args.artefact)
    artefact.program("image", args.precision)
    if args.tensorrt:
        tensorrt.most_tokens(artefact, args.max_batch)
    keys = ApiKeys.read(args.api_key_file, args.key_everywhere)

    service = Service(
        artefact,
        lambda: _predictor(args, artefact, verify=True),
        limits,
        keys,
        max_batch=args.max_batch,
        max_wait=args.max_wait_ms / 1000,
        max_queue=args.max_queue,
    )
    finder = make_finder(args.db, artefact, service, args.host) if args.db else None
    with listen(args.host, args.port) as listener:
        importlib.import_module("paddle")  # takes SIGTERM for itself, so before the server does
        host, port = listener.getsockname()[:2]
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        log.info("loading %s (%s); listening on http://%s", args.artefact, args.precision, where)
        make_server(
            create_app(service, finder), service, connections, args.drain_timeout, args.access_log
        ).run(sockets=[listener])
    if service.failure is not None:
        raise service.failure
    log.info("stopped")
    if not service.batcher.close(0):
        # The model's thread is inside Paddle, loading or hanging; an ordinary end would crash it.
        sys.stderr.flush()
        os._exit(0)
    return 0


def make_finder(uri: str, artefact: Artefact, service: Service, host: str = "") -> Finder:
    """A collection to search in, by a server at the address `host`.

    Raises:
        UserError: there is none, or it is of another model.
    """
    from ernie_vil2.search.identity import model_identity
    from ernie_vil2.serving.http.find.encoder import BatchedEncoder
    from ernie_vil2.serving.http.find.finder import Finder
    from ernie_vil2.serving.http.find.gallery import Gallery
    from ernie_vil2.serving.http.find.hosts import is_loopback

    encoder = BatchedEncoder(service.embedder)
    gallery = Gallery(uri, model_identity(artefact), encoder)
    return Finder(service, gallery, encoder, local=is_loopback(host) and not service.keys)


def _log() -> logging.Logger:
    """Our log and uvicorn's, on stderr; Paddle sets the root logger to warnings."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for name, level in (
        ("ernie_vil2", logging.INFO),
        ("uvicorn.error", logging.ERROR),  # its warnings are a client's to cause
        ("uvicorn.access", logging.INFO),
        ("python_multipart", logging.ERROR),  # as above
    ):
        log = logging.getLogger(name)
        log.setLevel(level)
        log.addHandler(handler)
        log.propagate = False
    return logging.getLogger("ernie_vil2")


def _seconds(text: str) -> float:
    """The `type` of an argument that is a time above 0."""
    value = _time(text)
    if value < 0.001:
        raise argparse.ArgumentTypeError(
            f"{cli.shortened(text)} is no time above 0, of 0.001 or more"
        )
    return value


def _time(text: str) -> float:
    """The `type` of an argument that is a time of 0 or more."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e6:
        raise argparse.ArgumentTypeError(
            f"{cli.shortened(text)} is no time of 0 or more, below 1000000"
        )
    return value
