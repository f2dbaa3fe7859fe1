"""Train as the tool does, and wait in the first evaluation: `waiting_evaluation.py FOLDER ARGV...`.

There each process that reads rows writes its id as a line of FOLDER/pids, and waits for FOLDER/go.
"""

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from ernie_vil2 import cli
from ernie_vil2.commands.train import main

if __name__ == "__main__":
    from ernie_vil2.evaluation import batches

    folder, batch = Path(sys.argv[1]), batches.Rows._batch
    metrics = folder / "out" / "metrics.jsonl"

    def waiting_batch(self, number):
        if metrics.is_file() and metrics.stat().st_size:  # not while rows are read before step 1
            with open(folder / "pids", "a") as file:
                file.write(f"{os.getpid()}\n")
            while not (folder / "go").exists():
                time.sleep(0.02)
        return batch(self, number)

    batches.Rows._batch = waiting_batch
    sys.exit(cli.run(main, sys.argv[2:]))
