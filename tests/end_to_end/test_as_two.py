"""One process computes what two do, to the last bit, so that a run may change between them."""

import pytest

from ernie_vil2.checkpoints import layout
from tests.support.killed_runs import Runs
from tests.support.shapes import write_run

STEPS, BATCH = 6, 24
AS_TWO = ["Distributed.as_two=true"]
VARIANTS = {
    "plain": ["Loss.multi_positive=false", "Optimizer.clip_norm=0.1"],
    "merged": ["DataLoader.Train.micro_batch_size=5", "Distributed.gradient_merge=2"],
    "chunked": ["DataLoader.Train.micro_batch_size=4", "Loss.chunk=5"],
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """`run(output, processes, *overrides)`: a whole run."""
    config = write_run(
        tmp_path_factory.mktemp("data"),
        Global={"save_interval": 1, "epochs": 99, "max_steps": STEPS, "sample_views": 0},
        EMA={"decay": 0.9},
        LRScheduler={"learning_rate": 0.01, "warmup_steps": 2},
        DataLoader={"Eval": None},
    )
    attempts = Runs(tmp_path_factory.mktemp("attempts"))

    def attempt(output, processes, *overrides):
        batch = f"DataLoader.Train.global_batch_size={BATCH}"
        argv = ["-c", config, "--resume", "auto", "-o", batch, *overrides]
        ended = attempts(output, argv, processes)
        assert ended.code == 0, ended.log
        return ended

    return attempt


def tensors(output):
    """Name -> bytes of the last checkpoint's files of tensors."""
    newest = layout.checkpoints(output / "checkpoints")[-1]
    assert layout.step_of(newest) == STEPS
    return {path.name: path.read_bytes() for path in sorted(newest.glob("*.safetensors"))}


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_process_and_two_give_the_same_bits(run, tmp_path, variant):
    for processes in (1, 2):
        run(tmp_path / f"{processes}", processes, *AS_TWO, *VARIANTS[variant])
    one, two = tensors(tmp_path / "1"), tensors(tmp_path / "2")
    assert len(one) >= 2 and one == two


def test_without_it_they_do_not(run, tmp_path):
    for processes in (1, 2):
        run(tmp_path / f"{processes}", processes)
    assert tensors(tmp_path / "1") != tensors(tmp_path / "2")
