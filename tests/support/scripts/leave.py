"""Ranks that leave one after the other, each of which would die in its clean-up."""

import atexit
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from ernie_vil2 import runtime


def main(first: str) -> None:
    """first: the rank that has done its work before the others."""
    runtime.prepare()
    from ernie_vil2 import distributed

    distributed.init("cpu")
    atexit.register(os.abort)  # as the destructors of process groups now and then
    if distributed.rank() != int(first):
        time.sleep(1)
    assert distributed.all_gather_objects(distributed.rank()) == [0, 1]
    print("done by", distributed.rank())
    distributed.leave(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
