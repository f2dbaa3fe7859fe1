"""Checkpoints that are damaged, and writers that are killed."""

import os
import signal

import numpy as np

from ernie_vil2.checkpoints import layout, store
from ernie_vil2.files.safetensors import LazyTensors

FILES = [
    "config.yaml",
    "manifest.json",
    "model.safetensors",
    "state.json",
    "training.safetensors",
    "vocab.txt",
]


def damage(path, kind):
    content = path.read_bytes()
    if kind == "missing":
        path.unlink()
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "cut":
        path.write_bytes(content[:-2])
    else:
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])


def tensors(step, size=64):
    return {"w": np.full(size, step, np.float32)}, {"w|moment": np.full(size, -step, np.float32)}


def save(writer, step, best=False, **options):
    writer.save(*tensors(step, **options), {"step": step}, best)
    writer.wait()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def step_that_resumes(folder):
    """The step of the newest good checkpoint, whose content is that of the step."""
    path = store.find_latest(folder)
    step = store.read_state(path)["step"]
    assert step == layout.step_of(path)
    for file, value in (("model", step), ("training", -step)):
        (array,) = LazyTensors(path.glob(f"{file}*.safetensors")).values()
        assert (array == value).all()
    return step


def die_at_call(number):
    """Let this process kill itself instead of its `number`th change on the disk."""
    calls = 0

    def wrap(function):
        def wrapped(*arguments, **named):
            nonlocal calls
            calls += 1
            if calls > number:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **named)

        return wrapped

    for name in ("fsync", "mkdir", "rename", "replace", "rmdir", "symlink", "unlink"):
        setattr(os, name, wrap(getattr(os, name)))


def start_child(work) -> int:
    """Begin to run `work` in a process of its own; returns its number, for waitpid."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return pid


def in_child(work) -> int:
    """Run `work` in a process of its own; returns how it ended, as waitpid tells."""
    return os.waitpid(start_child(work), 0)[1]
