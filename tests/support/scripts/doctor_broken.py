"""The doctor's examination of runs, sound ones and ones that are broken on purpose.

Under paddle.distributed.launch: `doctor_broken.py CONFIG NAME=BREAKAGE,OVERRIDE,... ...`, where
BREAKAGE is a function below or nothing. Prints "== NAME", the table and the exit code for each, and
leaves with the last one's.
"""

import contextlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from ernie_vil2 import cli, runtime

runtime.prepare()

# ruff: noqa: E402  # paddle is imported after that
import paddle

from ernie_vil2 import distributed
from ernie_vil2.checkpoints import store, training_state
from ernie_vil2.data.loader import TrainingViews
from ernie_vil2.data.order import GlobalBatches
from ernie_vil2.distributed import ranks
from ernie_vil2.models.dual_encoder import DualEncoder
from ernie_vil2.training import step
from ernie_vil2.training.objective import Objective
from tools import train


@contextlib.contextmanager
def replaced(owner, name: str, make):
    """Inside, `owner.name` is what `make` makes of it."""
    sound = getattr(owner, name)
    setattr(owner, name, make(sound))
    try:
        yield
    finally:
        setattr(owner, name, sound)


@contextlib.contextmanager
def replaced_collective(name: str, make):
    """Inside, this collective is another, for those who call it and for its own module."""
    with replaced(ranks, name, make), replaced(distributed, name, make):
        yield


def own_gradients_only():
    """The gather's backward forgets what other ranks have for a row."""

    def slice_own(x):
        rows = x.shape[0] // distributed.world_size()
        return x[distributed.rank() * rows :][:rows].clone()

    return replaced_collective("reduce_scatter", lambda _: slice_own)


def gather_reversed():
    """The gather's parts come in another order than that of ranks."""

    def reverse(all_gather):
        return lambda x: paddle.concat(all_gather(x).chunk(distributed.world_size())[::-1])

    return replaced_collective("all_gather", reverse)


def same_data():
    """All ranks read what rank 0 should."""

    def as_rank_0(init):
        return lambda self, order, rows, rank, *rest: init(self, order, rows, 0, *rest)

    return replaced(GlobalBatches, "__init__", as_rank_0)


def gradients_not_averaged():
    """Every rank steps with its own gradients."""
    return replaced(ranks, "wrap", lambda _: lambda layer: layer)


def other_weights():
    """Ranks start from other weights."""

    def shift(build):
        def built(objective, *rest):
            result = build(objective, *rest)
            bias = objective.model.text_tower.parameters()[-1]
            bias.set_value(bias + 0.1 * distributed.rank())
            return result

        return built

    return replaced(step, "build_parallel", shift)


def scale_not_clamped():
    """The clamp of the logit scale has no effect."""
    return replaced(Objective, "clamp", lambda _: lambda self: None)


def clamped_above_bound():
    """The clamp leaves the temperature where its gradient is cut off."""

    def clamp(self):
        self.temperature.set_value(paddle.full([1], self._max_temperature + 1e-6))

    return replaced(DualEncoder, "clamp_logit_scale", lambda _: clamp)


def flipped_byte():
    """The disk does not keep what was written."""

    def flip(publish):
        def published(*args):
            folder = publish(*args)
            path = folder / "model.safetensors"
            content = bytearray(path.read_bytes())
            content[-1] ^= 1
            path.write_bytes(content)
            return folder

        return published

    return replaced(store, "publish", flip)


def restores_nothing():
    """A resume leaves the optimizer's state as it is."""
    return replaced(training_state, "_set_optimizer_state", lambda _: lambda *args: None)


def unreadable_on_rank_1():
    """One process fails where the others do not."""

    def fail_on_rank_1(read):
        def item(self, key):
            if distributed.rank() == 1:
                raise OSError("stale file handle")
            return read(self, key)

        return item

    return replaced(TrainingViews, "__getitem__", fail_on_rank_1)


def no_memory_on_rank_1():
    """One process fails within a step, while the others are in its collectives."""

    def fail_on_rank_1(gradients):
        def no_room(self, *inputs):
            if distributed.rank() == 1:
                raise MemoryError("no room")
            return gradients(self, *inputs)

        return no_room

    return replaced(step.Step, "gradients", fail_on_rank_1)


def main(config: str, *runs: str) -> int:
    code = 0
    for run in runs:
        name, _, rest = run.partition("=")
        breakage, *overrides = rest.split(",")
        if distributed.is_main():
            print(f"== {name}", flush=True)
        options = ["-o", *overrides] if overrides else []
        with globals()[breakage]() if breakage else contextlib.nullcontext():
            code = cli.run(train.main, ["-c", config, "--doctor", *options])
        if distributed.is_main():
            print(f"exit code {code}", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(distributed.leave(main(*sys.argv[1:])))  # as tools/train.py
