"""Runs of tools/train.py in which things break at chosen batches: `faulty_train.py PLAN`.

PLAN is a JSON file, a list of runs: {"name", "arguments": train.py's, "faults": [...]}. They are
done in the same processes, one after another, since a run takes a second and its start ten; the
exit code is the last one's. A fault, {"fault", "batch", "rank", ...}, calls the function here of
that name with the arguments that are left, on one rank or (None) all, just before the step over
that global batch. What each rank is about to train on stands in NAME-RANK.jsonl beside PLAN.
"""

import contextlib
import hashlib
import itertools
import json
import mmap
import multiprocessing
import os
import resource
import shutil
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from ernie_vil2 import runtime

runtime.prepare()

import paddle  # noqa: E402

from ernie_vil2 import cli, distributed  # noqa: E402
from ernie_vil2.checkpoints import writer as checkpoint_writer  # noqa: E402
from ernie_vil2.training import trainer  # noqa: E402
from tools import train  # noqa: E402


def nan(run, batches, row):
    """A record's first image view has no number in it."""

    def change(pixels):
        pixels[row] = np.nan

    batches[0][0]["pixel_values"] = run.objective.normalise(batches[0][0]["pixel_values"])
    _change(batches[0][0], "pixel_values", change)


def mismatch(run, batches):
    """The second texts are those of other records."""

    def change(ids):
        second = len(ids) // 2
        ids[second:] = np.roll(ids[second:], 1, axis=0)

    for batch in itertools.chain.from_iterable(batches):
        _change(batch, "input_ids", change)


def _change(batch, name, change) -> None:
    array = batch[name].numpy().copy()
    change(array)
    batch[name] = paddle.to_tensor(array)


def signal_worker(run, batches, number):
    """SIGKILL or SIGSTOP to a data worker."""
    os.kill(multiprocessing.active_children()[0].pid, number)


def signal_rank(run, batches, number):
    """Any signal to this process."""
    os.kill(os.getpid(), number)


def damage(run, batches):
    """The training set's first picture is one no more; through memory, as no disk space needs."""
    path = run.config.DataLoader.Train.dataset.path
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as content:
        content[100:120] = b"!" * 20


def limit_files(run, batches, size):
    """No file may grow beyond `size` bytes, stdout and stderr included; None: any may."""
    run.checkpoints.wait()
    soft = resource.RLIM_INFINITY if size is None else size
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, resource.RLIM_INFINITY))


def fill_disk(run, batches):
    """Nothing more fits on output_dir's disk."""
    run.checkpoints.wait()
    with open(run.output / "filler", "ab", buffering=0) as file:
        for block in (b"\0" * (1 << 16), b"\0"):
            with contextlib.suppress(OSError):
                while True:
                    file.write(block)


def free_disk(run, batches):
    """The reverse of `fill_disk`."""
    (run.output / "filler").unlink()


def slow_disk(run, batches, seconds):
    """Whatever is synced takes so long."""
    sync = checkpoint_writer.sync

    def slow_sync(path):
        time.sleep(seconds)
        sync(path)

    checkpoint_writer.sync = slow_sync


def copy_checkpoints(run, batches, to):
    """As they are now, for the test to look at."""
    shutil.copytree(run.output / "checkpoints", to, symlinks=True)


class FaultyTrainer(trainer.Trainer):
    """Breaks what the plan says, and takes notes."""

    breakages: list
    notes: Path

    def batches(self):
        for batches in super().batches():
            with contextlib.suppress(OSError), open(self.notes, "a") as file:
                file.write(json.dumps(self._note(batches)) + "\n")
            for fault in self.breakages:
                arguments = dict(fault)
                here = arguments.pop("rank") in (None, distributed.rank())
                if here and 0 <= arguments.pop("batch") - self.progress.batch < self.plan.merge:
                    globals()[arguments.pop("fault")](self, batches, **arguments)
            yield batches

    def _note(self, batches) -> dict:
        digest = hashlib.sha256()
        with self.stepper.parallel.whole():
            for tensor in self.objective.state_dict().values():
                digest.update(tensor.numpy().tobytes())
        return {
            "step": self.progress.step,
            "batch": self.progress.batch,
            "index": [int(i) for batch in batches for micro in batch for i in micro["index"]],
            "pids": [os.getpid(), *(child.pid for child in multiprocessing.active_children())],
            "weights": digest.hexdigest(),
            "time": time.time(),
        }


def main(plan: Path) -> int:
    trainer.Trainer = FaultyTrainer
    code = 0
    for run in json.loads(plan.read_text()):
        FaultyTrainer.breakages = run["faults"]
        FaultyTrainer.notes = plan.parent / f"{run['name']}-{os.environ['PADDLE_TRAINER_ID']}.jsonl"
        print(f"=== {run['name']} begins", file=sys.stderr, flush=True)
        code = cli.run(train.main, run["arguments"])
        print(f"=== {run['name']} ended with code {code}", file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
