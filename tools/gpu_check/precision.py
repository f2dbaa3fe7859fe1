"""Does mixed precision train the same model? O1 and O2 against float32, from equal weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from benchmarks.common import launch

from ernie_vil2.artefact.golden import cosines
from tools.gpu_check import runs
from tools.gpu_check.parts import ROOT
from tools.gpu_check.rows import (
    NEEDS_GPU,
    NotRun,
    Row,
    Setting,
    at_least,
    at_most,
    figure,
    holds,
    not_run,
)

_WAYS = [(level, dtype) for dtype in ("bfloat16", "float16") for level in ("O1", "O2")]
_COSINE = 1e-4  # 1 - an embedding's cosine with float32's; emulated bfloat16 gave 6e-6 to 2e-5
_LOSS = 0.01
_DIRECTION, _SIZE = 0.999, 0.05  # of all gradients together
_LEARNT = 0.03  # of the loss after the demo's steps
_STEPS, _LAST = {"gpu": 200, "cpu": 20}, 10  # steps, and of how many at the end the loss is a mean
_SCALE = 2.0**127  # so large that the scaled loss overflows, in float32 too


def first_steps(setting: Setting) -> Iterator[Row]:
    """Embeddings, loss and gradients of one step, and what has to stay in float32."""
    config = runs.write(setting, "first", base=True)
    exact = _first(config, "O0", "float32")
    for level, dtype in _WAYS:
        title = f"{level} {dtype}"
        try:
            _affordable(setting, dtype)
            found = _first(config, level, dtype)
        except NotRun as why:
            yield not_run(f"{title}: a first step", str(why))
            continue
        for view, embeds in found.embeds.items():
            distance = 1 - cosines(embeds, exact.embeds[view]).min()
            yield at_most(f"{title}: {view}, 1 - cosine", distance, _COSINE)
        yield at_most(f"{title}: loss", abs(found.loss / exact.loss - 1), _LOSS)
        ours, theirs = runs.joined(found.gradients)[None], runs.joined(exact.gradients)[None]
        yield at_least(f"{title}: gradients, cosine", cosines(ours, theirs)[0], _DIRECTION)
        size = np.linalg.norm(ours) / np.linalg.norm(theirs) - 1
        yield at_most(f"{title}: gradients, size", abs(size), _SIZE)
        other = [f"{name} {dtype}" for name, dtype in found.dtypes.items() if dtype != "float32"]
        told = ", ".join(other) or "float32"
        yield holds(f"{title}: temperature, loss, norm", not other, told[:12], "float32", told)


def _first(config: Path, level: str, dtype: str) -> runs.Found:
    trained = runs.trainer(config, f"{level}-{dtype}", _switch(level, dtype))
    found = runs.first_step(trained)
    trained.close()
    return found


def _switch(level: str, dtype: str) -> list[str]:
    return [f"AMP.level={level}", *([f"AMP.dtype={dtype}"] if level != "O0" else [])]


def _affordable(setting: Setting, dtype: str) -> None:
    if dtype == "float16" and not setting.on_gpu:
        raise NotRun(f"{NEEDS_GPU}: float16 has no kernels on a CPU")


def learning(setting: Setting) -> Iterator[Row]:
    """The loss that some steps of the demo reach."""
    steps = _STEPS[setting.device]
    config, told = _demo(setting)
    exact = _loss(config, "O0", "float32", steps)
    yield figure(f"O0: loss after {steps} steps", exact, told)
    for level, dtype in _WAYS:
        title = f"{level} {dtype}: loss after {steps} steps"
        try:
            _affordable(setting, dtype)
            reached = _loss(config, level, dtype, steps)
        except NotRun as why:
            yield not_run(title, str(why))
            continue
        yield at_most(title, abs(reached / exact - 1), _LEARNT, f"{reached:.4f} and {exact:.4f}")


def _demo(setting: Setting) -> tuple[Path, str]:
    """configs/demo.yaml where its data lies; else small towers over drawn shapes."""
    if setting.on_gpu and (ROOT / "data" / "emoji" / "train.tsv").exists():
        config = setting.path / "demo" / "demo.yaml"
        config.parent.mkdir()
        config.write_text(f"_BASE_: {ROOT / 'configs' / 'demo.yaml'}\n")
        return config, "configs/demo.yaml"
    return runs.write(setting, "demo"), "drawn shapes"


def _loss(config: Path, level: str, dtype: str, steps: int) -> float:
    common = [f"Global.max_steps={steps}", "Global.epochs=1000", "DataLoader.Eval=null"]
    trained = runs.trainer(config, f"learn-{level}-{dtype}", [*common, *_switch(level, dtype)])
    losses = [trained.step(batches)[0]["loss"] for batches in trained.batches()]
    trained.close()
    return float(np.mean([float(loss) for loss in losses[-_LAST:]]))


def overflow(setting: Setting) -> Iterator[Row]:
    """A loss scale that is too large: all processes skip, and what became of it is kept."""
    title = "forced overflow"
    config = runs.write(setting, "overflow")
    output = config.parent / "found.json"
    launch(
        setting.processes, config.parent / "logs", "tools.gpu_check.precision", "overflow_once",
        gpus=setting.gpus, config=str(config), output=str(output),
    )  # fmt: skip
    found = json.loads(output.read_text())
    changed, ratio = found["changed"], found["scale"] / _SCALE
    yield holds(f"{title}: processes that skip", not any(changed), str(changed.count(False)), "all")
    yield holds(f"{title}: loss scale", ratio == 0.5, ratio, "half")
    kept = found["resumed"] == found["scale"]
    yield holds(f"{title}: scale after a resume", kept, found["resumed"], f"{found['scale']:g}")


# -- in the processes ------------------------------------------------------------------------------


def overflow_once(config: str, output: str) -> None:
    """Write what a step that overflows leaves, and what a resume brings back of it."""
    from ernie_vil2 import distributed
    from ernie_vil2.checkpoints import store
    from ernie_vil2.doctor.trial import Trial

    trained = _scaled(config)
    trial = Trial(trained)
    before = trial.weight_digests()
    trained.step(next(trained.batches()))
    changed = distributed.all_gather_objects(trial.weight_digests() != before)
    scale = trained.stepper.scaler.state_dict()["scale"]
    trained.save()
    trained.checkpoints.wait()
    folder = distributed.all_gather_objects(trained.checkpoints.last)[0]
    trained.close()
    again = _scaled(config, resume="auto")
    again.stepper.load_state_dict(store.read_state(folder))  # on a CPU the scaler is new
    resumed = again.stepper.scaler.state_dict()["scale"]
    again.close()
    if distributed.is_main():
        scales = {"scale": float(np.ravel(scale)[0]), "resumed": float(np.ravel(resumed)[0])}
        Path(output).write_text(json.dumps({"changed": changed, **scales}))
    distributed.leave(0)


def _scaled(config: str, resume: str | None = None):
    """A trainer with a loss scale: float16 on a GPU, bfloat16 with a scaler put in on a CPU."""
    from ernie_vil2.config.load import load_config
    from tests.support.halves import scaler_on_cpu

    on_cpu = load_config(config).Global.device == "cpu"
    switch = _switch("O2", "bfloat16" if on_cpu else "float16")
    switch += [f"AMP.init_loss_scaling={_SCALE!r}", "Global.max_steps=2"]
    made = runs.trainer(Path(config), "out", switch, resume)
    if on_cpu:
        made.stepper.scaler = scaler_on_cpu(_SCALE)
    return made


CHECKS = {
    "a first step": first_steps,
    "learning": learning,
    "forced overflow": overflow,
}
