#!/usr/bin/env python
"""Serve an exported model with Paddle Serving: HTTP and gRPC.

python tools/serve_paddle.py DIR --http-port 18082 --rpc-port 18083
"""

import sys
from pathlib import Path

# so that it runs from a clone, without installing
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ernie_vil2 import cli
from ernie_vil2.commands.serve_paddle import main

if __name__ == "__main__":
    sys.exit(cli.run(main))
