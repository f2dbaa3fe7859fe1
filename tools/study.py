#!/usr/bin/env python
"""Run a study: `python tools/study.py configs/studies/emoji.yaml`."""

import sys
from pathlib import Path

# so that it runs from a clone, without installing
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ernie_vil2 import cli
from ernie_vil2.commands import leave
from ernie_vil2.commands.study import main

if __name__ == "__main__":
    sys.exit(leave(cli.run(main)))
