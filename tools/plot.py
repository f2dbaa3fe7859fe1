#!/usr/bin/env python
"""Draw the curves of runs: `python tools/plot.py RUN...`."""

import sys
from pathlib import Path

# so that it runs from a clone, without installing
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ernie_vil2 import cli
from ernie_vil2.commands import leave
from ernie_vil2.commands.plot import main

if __name__ == "__main__":
    sys.exit(leave(cli.run(main)))
