"""`python -m ernie_vil2 COMMAND ...` is `ernie-vil2 COMMAND ...`."""

import sys

from ernie_vil2.commands import console

if __name__ == "__main__":
    sys.exit(console())
