"""The runs of a study: each is trained and evaluated by the commands that people use."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ernie_vil2 import runtime
from ernie_vil2.checkpoints.layout import checkpoints
from ernie_vil2.config.load import load_config
from ernie_vil2.errors import UserError
from ernie_vil2.files import durable
from ernie_vil2.studies.curves import read_curves
from ernie_vil2.studies.plan import Plan, Variant, filled

_DONE = "run.json"
_MAIN = Path(__file__).resolve().parents[1] / "__main__.py"


@dataclass(frozen=True)
class Run:
    """One training of a study.

    Attributes:
        budget: "steps" or "time".
        steps: optimizer steps, where the budget gives other than the configuration does.
    """

    plan: Plan
    variant: Variant
    seed: int
    budget: str = "steps"
    steps: int | None = None

    def __str__(self) -> str:
        return f"{self.variant.name}, seed {self.seed}, equal {self.budget}"

    @property
    def folder(self) -> Path:
        return self.plan.output_dir / self.budget / self.variant.folder / f"seed-{self.seed}"

    @property
    def settings(self) -> dict[str, Any]:
        """What the study and the variant set, with placeholders."""
        return {**self.plan.set, **self.variant.set}

    @property
    def overrides(self) -> list[str]:
        """What follows -o."""
        settings = {**self.settings, "Global.seed": self.seed}
        if self.steps is not None:
            # as many epochs as it takes: the steps decide
            settings |= {"Global.max_steps": self.steps, "Global.epochs": 1_000_000}
        settings["Global.output_dir"] = str(self.folder)
        return _written(self.fill(settings))

    def fill(self, value: Any) -> Any:
        """A value with this run's placeholders filled."""
        return filled(value, _names(self.plan, self.seed), self._checkpoint)

    def _checkpoint(self, name: str) -> str:
        (other,) = (variant for variant in self.plan.variants if variant.name == name)
        return str(last_checkpoint(Run(self.plan, other, self.seed).folder))

    def check(self) -> None:
        """Refuse settings that no run can have, as far as can be told before others are done.

        Raises:
            UserError: naming the variant.
        """
        settings = {**self.settings, **self.plan.test}
        settings = filled(settings, _names(self.plan, self.seed), str)
        try:
            load_config(self.plan.config, _written(settings))
        except UserError as error:
            raise UserError(f"{self.plan.path}: variant {self.variant.name}: {error}") from None

    def result(self) -> dict[str, Any] | None:
        """What `train_and_evaluate` wrote down; None where it is not done.

        Raises:
            UserError: another run has the folder.
        """
        try:
            result = durable.read_json(self.folder / _DONE, sealed=True)
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise UserError(f"{self.folder / _DONE}: {error}: remove {self.folder}") from error
        if result["overrides"] != self.settled():
            raise UserError(
                f"{self.folder} holds a run with other settings: remove it to run it anew, or give "
                "the study another output_dir"
            )
        return result

    def settled(self) -> list[str]:
        """All that the study sets; names stand for checkpoints, which may not be there yet."""
        tested = [f"test {word}" for word in _written(self.plan.test)]
        given = [f"{{{name}}}={value}" for name, value in self.plan.parameters.items()]
        steps = f"steps={self.steps}"
        return [*_written(self.settings), *tested, *given, steps, *self.variant.before]

    def train_and_evaluate(self, threads: int, ranks: int) -> dict[str, Any]:
        """Do what is not done of it.

        Args:
            threads, ranks: of its processes.

        Returns:
            "overrides", "seconds" (of the steps, without evaluations), "steps", "report" (what
            `eval` said of the last checkpoint on the plan's test set; no set has chosen it).
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        log = self.folder / "study.log"
        for command in self.variant.before:
            call(words_of(command, self.plan, self.seed, self._checkpoint), log, threads)
        options = ["-c", self.plan.config, "-o", *self.overrides]
        call(["train", "--resume", "auto", *options], log, threads, ranks)
        checkpoint = last_checkpoint(self.folder)
        tested = [*options, *_written(self.fill(self.plan.test))]
        call(["eval", "-w", str(checkpoint), *tested], log, threads, ranks)
        curves = read_curves(self.folder)
        steps = max(curves.rows)
        report = json.loads((self.folder / "eval" / "report.json").read_text(encoding="utf-8"))
        result = {
            "overrides": self.settled(),
            "steps": steps,
            "seconds": curves.seconds[steps],
            "report": report,
        }
        durable.replace_text(self.folder / _DONE, durable.sealed(result))
        return result


def _written(settings: Mapping[str, Any]) -> list[str]:
    """As -o takes them."""
    return [f"{key}={json.dumps(value)}" for key, value in settings.items()]


def words_of(command: str, plan: Plan, seed: int, checkpoint: Callable[[str], str]) -> list[str]:
    """The words of a command, its placeholders filled."""
    names = {name: shlex.quote(text) for name, text in _names(plan, seed).items()}
    return shlex.split(filled(command, names, lambda name: shlex.quote(checkpoint(name))))


def _names(plan: Plan, seed: int) -> dict[str, str]:
    return {"study": str(plan.output_dir), "seed": str(seed), **plan.parameters}


def last_checkpoint(run: Path) -> Path:
    """That of a run's folder. Raises UserError."""
    found = checkpoints(run / "checkpoints")
    if not found:
        raise UserError(f"{run} has no checkpoint")
    return found[-1]


def run_all(
    runs: Sequence[Run], processes: int, ranks: int, say: Callable[[str], object]
) -> list[dict[str, Any]]:
    """The runs' results, in order; those that are done are not run again.

    Args:
        processes: runs at a time, each with its share of the cores. They start in order, so one
            that another needs is at least as far.
        ranks: processes of a run, by `paddle.distributed.launch`.
    """
    results = [run.result() for run in runs]
    done = sum(result is not None for result in results)
    if done:
        say(f"{done} of {len(runs)} runs were done before")
    threads = max(1, runtime.usable_cores() // (processes * ranks))
    stop = threading.Event()

    def do(run: Run) -> dict[str, Any] | None:
        if stop.is_set():
            return None
        say(f"{run}: begins")
        try:
            result = run.train_and_evaluate(threads, ranks)
        except BaseException:
            stop.set()
            raise
        recall = 100 * result["report"]["mean_recall"]
        say(f"{run}: mean recall {recall:.1f} % after {result['seconds']:.0f} s of steps")
        return result

    for group in stages(runs, results):
        with ThreadPoolExecutor(processes) as pool:
            try:
                for place, result in zip(group, pool.map(do, [runs[place] for place in group])):
                    results[place] = result
            except BaseException:
                stop.set()
                raise
    return [result for result in results if result is not None]


def stages(runs: Sequence[Run], results: Sequence[Any]) -> list[list[int]]:
    """Places of the runs that are not done, in order; those of one list can run at a time.

    A variant that starts from another's checkpoints begins a list.
    """
    lists: list[list[int]] = [[]]
    for place, (run, result) in enumerate(zip(runs, results)):
        first = place == 0 or runs[place - 1].variant is not run.variant
        if first and run.variant.needs:
            lists.append([])
        if result is None:
            lists[-1].append(place)
    return lists


def call(words: Sequence[str], log: Path, threads: int | None = None, ranks: int = 1) -> None:
    """Run a command of `ernie-vil2` in a process of its own, or train and eval in several.

    Args:
        log: where its output goes.
        threads: of each process; None: the cores.

    Raises:
        UserError: it failed; with its last line.
    """
    command = [sys.executable, str(_MAIN), *words]
    if ranks > 1 and words[0] in ("train", "eval"):
        launcher = [sys.executable, "-m", "paddle.distributed.launch"]
        launched = ["--log_dir", str(log.parent / "launch"), "--nproc_per_node", str(ranks)]
        command = [*launcher, *launched, *command[1:]]
    path = os.pathsep.join(filter(None, [str(_MAIN.parents[1]), os.environ.get("PYTHONPATH")]))
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads or runtime.usable_cores()),
        "PYTHONPATH": path,
    }
    with open(log, "a", encoding="utf-8") as file:
        print(f"$ ernie-vil2 {shlex.join(words)}", file=file, flush=True)
        code = subprocess.run(command, stdout=file, stderr=file, env=environment).returncode
    if code:
        last = [line for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
        raise UserError(f"{words[0]} ended with exit code {code}: {last[-1][-300:]} (see {log})")
