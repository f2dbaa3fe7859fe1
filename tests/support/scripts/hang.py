"""A run of a few steps in which rank 1 hangs at step 3: `hang.py FOLDER stopped|worker`.

Under paddle.distributed.launch with two processes. FOLDER/pids holds every process's id.
"""

import multiprocessing
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from ernie_vil2 import runtime

LIMIT = 3  # below the 30 seconds after which gloo itself gives up


def note_process(folder: Path) -> None:
    with open(folder / "pids", "a") as file:
        file.write(f"{os.getpid()}\n")


def read_forever(folder: Path) -> None:
    """A file that never answers, as on a dead network mount."""
    note_process(folder)
    os.mkfifo(folder / "silent")
    (folder / "silent").read_bytes()


def main(folder: Path, fault: str) -> None:
    runtime.prepare()
    import paddle

    from ernie_vil2 import distributed
    from ernie_vil2.training.runlog import start_logging
    from ernie_vil2.training.watchdog import Watchdog

    distributed.init("cpu")
    start_logging(folder, distributed.is_main())
    note_process(folder)
    layer = paddle.nn.Linear(4, 4)
    parallel = distributed.wrap(layer)
    with Watchdog(LIMIT, distributed.rank(), first=60) as watchdog:
        for step in range(1, 6):
            if step == 3 and distributed.rank() == 1:
                if fault == "stopped":
                    os.kill(os.getpid(), signal.SIGSTOP)
                else:
                    worker = multiprocessing.get_context("fork").Process(
                        target=read_forever, args=(folder,)
                    )
                    worker.start()
                    worker.join()
            parallel(paddle.ones([2, 4])).sum().backward()
            watchdog.beat(f"step {step + 1}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
