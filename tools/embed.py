#!/usr/bin/env python
"""Embed a set with an exported model: `python tools/embed.py output/exported photos -o vectors`."""

import sys
from pathlib import Path

# so that it runs from a clone, without installing
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ernie_vil2 import cli
from ernie_vil2.commands.embed import main

if __name__ == "__main__":
    sys.exit(cli.run(main))
