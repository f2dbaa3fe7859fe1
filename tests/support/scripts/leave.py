"""Ranks that leave one after the other, each of which would die in its clean-up."""

import atexit
import logging
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from ernie_vil2 import runtime


def main(first: str, code: str, late: str = "0") -> None:
    """first: the rank that has done its work before the others; code: with which all end; late:
    seconds that the other takes for its last steps."""
    runtime.prepare()
    from ernie_vil2 import distributed

    distributed.init("cpu")
    atexit.register(os.abort)  # as the destructors of process groups now and then
    assert distributed.all_gather_objects(distributed.rank()) == [0, 1]
    if distributed.rank() != int(first):
        time.sleep(3)  # the launcher looks at its processes more often than that
        logging.shutdown = lambda: time.sleep(float(late))
    print("done by", distributed.rank())
    distributed.leave(int(code))


if __name__ == "__main__":
    main(*sys.argv[1:])
