"""Train as the tool does, with evaluations that take their time: `slow_evaluation.py PIDS ARGV...`.

Each row of an evaluation writes its process's id as a line of the file PIDS, and takes 0.2 s.
"""

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ernie_vil2 import cli
from ernie_vil2.commands.train import main

if __name__ == "__main__":
    from ernie_vil2.evaluation import batches

    batch = batches.Rows._batch

    def slow_batch(self, number):
        with open(sys.argv[1], "a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.2)
        return batch(self, number)

    batches.Rows._batch = slow_batch
    sys.exit(cli.run(main, sys.argv[2:]))
