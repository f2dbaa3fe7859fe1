#!/usr/bin/env python
"""Make the demo set or a vocabulary; write, measure and check whole data sets."""

import sys
from pathlib import Path

# so that it runs from a clone, without installing
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ernie_vil2 import cli
from ernie_vil2.commands.prepare_data import main

if __name__ == "__main__":
    sys.exit(cli.run(main))
