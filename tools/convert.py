#!/usr/bin/env python
"""Convert weights between the official code's, PaddleNLP's, CLIP's and our own format."""

import sys
from pathlib import Path

# so that it runs from a clone, without installing
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ernie_vil2 import cli
from ernie_vil2.commands.convert import main

if __name__ == "__main__":
    sys.exit(cli.run(main))
