#!/usr/bin/env python
"""Average weights: `python tools/merge.py output/base output/finetuned --out merged`."""

import sys
from pathlib import Path

# so that it runs from a clone, without installing
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ernie_vil2 import cli
from ernie_vil2.commands import leave
from ernie_vil2.commands.merge import main

if __name__ == "__main__":
    sys.exit(leave(cli.run(main)))
