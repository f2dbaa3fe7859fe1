"""The training loop: batches -> step -> report, evaluate, save."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import paddle

from ernie_vil2 import distributed
from ernie_vil2.checkpoints import store
from ernie_vil2.config.load import Config
from ernie_vil2.data.ledger import Ledger
from ernie_vil2.data.tokenize import Tokenizer
from ernie_vil2.evaluation.evaluator import Evaluator
from ernie_vil2.training import build, sample_views, start
from ernie_vil2.training.bad_share import BadShare
from ernie_vil2.training.faults import Faults
from ernie_vil2.training.meter import Meter, progress_bar
from ernie_vil2.training.plan import Plan
from ernie_vil2.training.progress import Progress
from ernie_vil2.training.reports import report_evaluation, report_steps
from ernie_vil2.training.runlog import open_run_log
from ernie_vil2.training.signals import Interrupted, StopSignals
from ernie_vil2.training.step import Step
from ernie_vil2.training.stream import Stream
from ernie_vil2.training.watchdog import Watchdog

log = logging.getLogger("ernie_vil2")


class Trainer:
    """Trains what a configuration describes, into its output_dir.

    Args:
        resume: None starts anew; "auto" goes on from output_dir's newest checkpoint where there is
            one; a folder goes on from that checkpoint.
        on_stop: called when a signal ends the run, which then still saves.
    """

    def __init__(
        self, config: Config, resume: str | None = None, on_stop: Callable[[], None] | None = None
    ):
        self.config, self.output = config, Path(config.Global.output_dir)
        paddle.seed(config.Global.seed)  # weights start alike on every rank

        self.tokenizer = Tokenizer(**config.Tokenizer)
        self.ledger = Ledger(self.output / "bad_records.jsonl")
        self.plan = Plan.of(config)
        self.stream = Stream.of(config, self.plan, self.tokenizer, self.ledger)
        self.total_steps = build.count_steps(config, self.stream.steps_per_epoch)
        self.evaluator = Evaluator(config, self.tokenizer) if config.DataLoader.Eval else None

        self.objective, frozen = build.build_objective(config, self.tokenizer)
        self.objective.loss.by_row = self.stream.mixture is not None
        checkpoint = start.find_checkpoint(self.output / "checkpoints", resume)
        # Weights to start from come second to a resume, which already holds what became of them;
        # and before half precision and averages are made of them.
        if checkpoint is None:
            start.start_anew(config, self.objective.model, self.tokenizer, self.evaluator)
        else:
            start.load_base(checkpoint, config, self.objective.model)
        build.check_batch_norm(self.objective, self.plan)
        self.stepper = Step(config, self.objective, frozen, self.total_steps)
        self.progress = Progress()
        self.faults = Faults(self.output / "faults.jsonl", config.Faults.spike, config.Faults.skips)
        self.bad_share = BadShare(config.Faults.bad_share, self.stream.records, self.ledger.path)
        self.checkpoints = build.build_checkpoints(config, self.tokenizer, self.objective.model)
        self.signals = StopSignals(on_stop)
        if checkpoint is not None:
            start.check_resume(checkpoint, config, self.tokenizer)
            self.restore(checkpoint)
            log.info("resume from %s at step %d", checkpoint, self.progress.step)
        self.run_log = open_run_log(self.output, config, distributed.is_main())
        self.watchdog = Watchdog(config.Distributed.hang_timeout, distributed.rank())

    # -- the loop ----------------------------------------------------------------------------------

    def train(self) -> None:
        """Run to the last step.

        Ctrl-C, SIGTERM and SIGHUP end the run after the step at hand and a checkpoint, as
        `Interrupted`. Raises Diverged where steps keep failing after as many rollbacks as are
        allowed, and Unsaved where the last checkpoint could not be written.
        """
        log.info(
            "%d records, %d steps of %d pairs, %.1f steps an epoch",
            self.stream.records,
            self.total_steps,
            self.stream.global_batch * self.plan.merge,
            self.stream.steps_per_epoch,
        )
        sample_views.draw(self.run_log, self.stream, self.config)
        with self.signals:
            try:
                self._loop()
            except BaseException as error:
                self.close(failing=not isinstance(error, Interrupted))
                raise
            self.close()
        if self.ledger.count:
            log.warning("%d bad records were skipped: %s", self.ledger.count, self.ledger.path)
        self.checkpoints.check_saved()
        log.info("done: %d steps, checkpoints in %s", self.progress.step, self.checkpoints.folder)

    def _loop(self) -> None:
        every, progress = self.config.Global, self.progress
        meter, bar = Meter(self.stream.mixture), progress_bar(progress.step, self.total_steps)
        evaluated = progress.evaluated_at == progress.step
        if progress.step and self._due(every.eval_interval) and not evaluated:
            self.evaluate()  # the run was killed before it came to that
        with bar:
            for batches in meter.timed(self.batches()):
                losses, stop = self.step(batches)
                failed = self.faults.in_a_row > 0
                if self.faults.hopeless:
                    self.roll_back()
                    continue
                self.bad_share.check()
                self.watchdog.beat(f"step {progress.step + 1}")
                bar.update(progress.step - bar.n)
                if not failed:
                    meter.add(losses, batches)
                last = progress.step == self.total_steps
                if (last or self._due(every.log_interval)) and meter.steps:
                    # shown with the next step, as often as the bar may
                    bar.set_postfix_str(self.report(meter.collect()), refresh=False)
                if self._due(every.histogram_interval):
                    with self.stepper.parallel.whole():
                        self.run_log.histograms(progress.step, build.trainable(self.objective))
                if stop:
                    self._leave()
                # nobody will want to go back to the weights of a run that is failing
                if self._due(every.save_interval) and not failed:
                    self.save()
                if self._due(every.eval_interval):
                    self.evaluate()
        self.bad_share.check(at_end=True)
        if progress.saved_at != progress.step:  # first, since an evaluation may take long
            self.save()
        if every.eval_interval and progress.evaluated_at != progress.step:
            self.evaluate()

    def batches(self) -> Iterator[list]:
        """The batches of each step from where the run is on, also after a rollback."""
        while self.progress.step < self.total_steps:
            rollbacks = self.faults.rollbacks
            left = self.total_steps - self.progress.step
            for batches in self.stream.steps(self.progress.batch, left):
                yield batches
                if rollbacks != self.faults.rollbacks:
                    break

    def step(self, batches: list) -> tuple[dict, bool]:
        """One optimizer step over `batches`; its losses, and whether a signal asks to stop.

        A step that would harm the model is skipped, and written down.
        """
        place = range(self.progress.batch, self.progress.batch + len(batches))
        losses = self.stepper.gradients(batches, [self.stream.dropout_seeds(b) for b in place])
        losses["gradient_norm"] = norm = self.stepper.clip()
        # one small reduction a step, so that all ranks judge and stop alike
        valid = paddle.concat([b["valid"] for batch in batches for b in batch])
        bad = float((~valid).sum())  # one transfer from a GPU, however many micro-batches
        loss, stopping, bad = distributed.mean(
            [float(losses["loss"]), float(self.signals.received), bad]
        )
        world_size = distributed.world_size()
        self.bad_share.add(round(bad * world_size), len(valid) * world_size)
        fault = self.faults.judge(loss, self.stepper.judged_norm(loss, norm))
        if fault is None:
            self.stepper.apply()
        else:
            self.stepper.skip()
            suspects = self.stepper.suspects(batches)
            if distributed.is_main():
                self.faults.record(
                    step=self.progress.step + 1,
                    batch=self.progress.batch,
                    reason=fault,
                    loss=loss,
                    gradient_norm=float(norm),
                    records=[self.stream.name(index) for index in suspects],
                )
        self.progress.advance(len(batches))
        return losses, stopping > 0

    def _due(self, interval: int) -> bool:
        return interval > 0 and self.progress.step % interval == 0

    def _leave(self) -> None:
        """Save, and end the run as a signal asked for."""
        if self.progress.saved_at != self.progress.step:
            self.save()
        # paddle.distributed.launch kills the ranks that are left 3 s after the first has failed.
        # Short reductions, since gloo's time out after 30 s.
        while distributed.any_rank(self.checkpoints.writing):
            time.sleep(0.2)
        self.checkpoints.check_saved()
        raise Interrupted(f"stopped at step {self.progress.step}; --resume auto goes on from here")

    # -- reports and evaluation --------------------------------------------------------------------

    def report(self, means: Mapping) -> str:
        """Write down what `Meter.collect` gave, averaged over ranks; returns a line of it."""
        state = {
            "learning_rate": self.stepper.scheduler.get_lr(),
            "logit_scale": float(self.objective.model.logit_scale),
            "epoch": self.progress.batch / self.plan.merge / self.stream.steps_per_epoch,
            "bad_records": self.ledger.count,
            "skipped_steps": self.faults.total,
            **self.stream.source_epochs(self.progress.batch),
        }
        return report_steps(self.run_log, self.progress.step, means, state)

    def evaluate(self) -> None:
        """Score the model, or its average, on the evaluation set; it may become the best."""
        if not self.evaluator:
            return
        self.objective.model.eval()
        with self.stepper.averaged():
            embeddings = self.evaluator.embed(
                self.objective.model,
                lambda: self.watchdog.beat("evaluation"),
                lambda: self.signals.received,
            )
        if embeddings is None:  # a resume evaluates this step
            return self._leave()
        score = math.nan  # rank 0 knows it
        if distributed.is_main():
            at = self.progress.step
            score = report_evaluation(self.run_log, at, self.evaluator, embeddings)
        best = self.progress.evaluated(distributed.all_gather_objects(score)[0])
        if self.progress.saved_at == self.progress.step:
            path = self.checkpoints.amend(self.state_dict(), best)
            if path:
                log.info("%s is evaluated%s", path, " and the best" if best else "")
        elif best:
            self.save(best=True)

    # -- checkpoints -------------------------------------------------------------------------------

    def save(self, best: bool = False) -> None:
        """Begin to write a checkpoint of this step."""
        self.progress.saved_at = self.progress.step
        self.stepper.save(self.checkpoints, self.state_dict(), best)

    def restore(self, folder: Path) -> None:
        """Go back, or on, to a checkpoint; those of later steps are put aside."""
        state = store.read_state(folder)
        start.check_same_batches(state, self.stream.shape, folder)
        self.load_state_dict(state)
        self.stepper.restore(folder, self.progress.step)
        start.put_later_ones_aside(self.checkpoints.folder, self.progress.step)

    def roll_back(self) -> None:
        """Return to the last checkpoint, and go on behind the data that was read since."""
        self.checkpoints.wait()
        faults, failed_at, batch = self.faults, self.progress.step, self.progress.batch
        folder = start.newest_checkpoint(self.checkpoints.folder)
        if folder is None or faults.rollbacks >= self.config.Faults.rollbacks:
            raise faults.diverged(failed_at, folder)
        counted = faults.state_dict()
        self.restore(folder)
        faults.load_state_dict(counted)
        faults.rolled_back()
        self.progress.batch = batch
        self.checkpoints.amend(self.state_dict(), best=False)  # a resume skips the data too
        log.warning(
            "%d steps in a row failed up to step %d: back to %s, and on from global batch %d",
            faults.skips,
            failed_at,
            folder,
            batch,
        )

    def state_dict(self) -> dict:
        """What a checkpoint holds beside tensors."""
        return {
            **self.progress.state_dict(),
            "batches": self.stream.shape,
            **self.stepper.state_dict(),
            "faults": self.faults.state_dict(),
        }

    def load_state_dict(self, state: Mapping) -> None:
        """The reverse of `state_dict`; old checkpoints have no "faults"."""
        self.progress.load_state_dict(state)
        self.stepper.load_state_dict(state)
        if "faults" in state:
            self.faults.load_state_dict(state["faults"])

    def close(self, failing: bool = False) -> None:
        """Wait for checkpoints, not for long where the run is `failing`, and close all files."""
        self.watchdog.close()
        self.checkpoints.close(failing)
        self.run_log.close()
