"""Steps of the real trainer, one run after another; writes losses, gradients and weights.

Run alone or under paddle.distributed.launch: `exact_step.py CONFIG FOLDER NAME=OVERRIDE,... ...`
writes FOLDER/NAME-W.npz for W processes.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from ernie_vil2 import runtime

STEPS = 3


def main(config: str, folder: str, *runs: str) -> None:
    runtime.prepare()
    from ernie_vil2 import distributed
    from ernie_vil2.config.load import load_config

    distributed.init(load_config(config).Global.device)
    for run in runs:
        name, _, overrides = run.partition("=")
        output = Path(folder) / f"{name}-{distributed.world_size()}.npz"
        one_run(config, output, [x for x in overrides.split(",") if x])
    distributed.meet()
    distributed.leave(0)


def one_run(config: str, output: Path, overrides: list) -> None:
    import numpy as np

    from ernie_vil2 import distributed
    from ernie_vil2.config.load import load_config
    from ernie_vil2.training.build import trainable
    from ernie_vil2.training.trainer import Trainer

    overrides = [*overrides, f"Global.output_dir={output.with_suffix('')}"]
    trainer = Trainer(load_config(config, overrides))
    stepper, parallel = trainer.stepper, trainer.stepper.parallel
    found = {}

    def keep(kind: str, tensors: dict) -> None:
        for name, tensor in dict(parallel.gather(tensors)).items():
            found[f"{kind}/{name}"] = np.array(tensor)

    clip = stepper.clip

    def keep_and_clip():
        if trainer.progress.step == 0:
            owned = parallel.owned.items()
            keep("gradient", {n: p.grad.clone() for n, p in owned if p.grad is not None})
        return clip()

    stepper.clip = keep_and_clip
    for step, batches in enumerate(trainer.batches()):
        losses, _ = trainer.step(batches)
        names = list(losses)
        values = distributed.mean([float(losses[name]) for name in names])
        found.update({f"loss/{n}/{step}": np.array(v) for n, v in zip(names, values)})
        if trainer.progress.step == STEPS:
            break
    keep("weight", {n: p.detach().clone() for n, p in parallel.owned.items()})
    trainer.close()
    if distributed.is_main():
        names = trainable(trainer.objective)
        assert {f"{kind}/{n}" for n in names for kind in ("gradient", "weight")} <= found.keys()
        np.savez(output, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
