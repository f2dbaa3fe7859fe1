"""Serve an exported model with Paddle Serving: HTTP and gRPC.

python tools/serve_paddle.py DIR --http-port 18082 --rpc-port 18083
"""

from __future__ import annotations

import argparse

from ernie_vil2 import cli
from ernie_vil2.config.load import packaged
from ernie_vil2.serving.paddle_serving import process


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", metavar="DIR", help="what tools/export.py wrote, on Paddle 2.6")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0: every interface")
    parser.add_argument("--http-port", type=cli.port, default=18082)
    parser.add_argument("--rpc-port", type=cli.port, default=18083)
    parser.add_argument(
        "--config", default=packaged() / "paddle_serving.yml", help="settings and limits"
    )
    parser.add_argument("--log-dir", default="log/paddle_serving", help="Paddle Serving's logs")
    parser.add_argument(
        "--verify", action="store_true", help="start, compare with the golden vectors, and end"
    )
    args = parser.parse_args(argv)
    ports = args.http_port, args.rpc_port
    return process.watch(args.folder, args.config, args.host, *ports, args.log_dir, args.verify)
