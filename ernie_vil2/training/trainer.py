"""The training loop: views -> towers -> loss -> step -> log, evaluate, checkpoint."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import secrets
import signal
import sys
import time
from pathlib import Path
from typing import Callable

import numpy as np
import paddle
from tqdm import tqdm

from ernie_vil2 import distributed
from ernie_vil2.checkpoints import store, training_state
from ernie_vil2.checkpoints.writer import CheckpointWriter
from ernie_vil2.config.load import Config
from ernie_vil2.data.loader import TrainingLoader, TrainingViews
from ernie_vil2.data.order import GlobalBatches
from ernie_vil2.data.records import BadRecord, Ledger, build_reader
from ernie_vil2.data.tokenize import Tokenizer
from ernie_vil2.data.transforms import TrainTransform
from ernie_vil2.data.views import ViewMaker
from ernie_vil2.distributed.replicated import build_parallel
from ernie_vil2.errors import UserError
from ernie_vil2.evaluation.embed import Evaluator
from ernie_vil2.training import earlier_run, resume_changes
from ernie_vil2.training.bad_share import BadShare
from ernie_vil2.training.build import (
    batch_norms,
    build_amp,
    build_objective,
    build_optimizer,
    check_batch_norm,
    local_batch_size,
    trainable,
)
from ernie_vil2.training.ema import EMA
from ernie_vil2.training.faults import Diverged, Faults
from ernie_vil2.training.meter import Meter
from ernie_vil2.training.objective import backward
from ernie_vil2.training.optim import build_scheduler
from ernie_vil2.training.runlog import RunLog
from ernie_vil2.training.watchdog import Watchdog
from ernie_vil2.weights.load import load_weights
from ernie_vil2.weights.vocabulary import (
    check_pretrained_vocabulary,
    check_resumed_vocabulary,
    check_vocabulary,
)

log = logging.getLogger("ernie_vil2")


class Interrupted(Exception):
    """Ctrl-C, SIGTERM or SIGHUP ended the run, after a checkpoint was saved."""


def _stop_signals() -> list:
    # nohup has SIGHUP ignored, so that a run outlives its terminal
    hangup = [] if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGINT, signal.SIGTERM, *hangup]


class Trainer:
    """Trains what a configuration describes, into its output_dir.

    resume: None starts anew; "auto" goes on from output_dir's newest checkpoint where there is one;
    a folder goes on from that checkpoint.
    on_stop: called when a signal ends the run, which then still saves.
    """

    def __init__(
        self,
        config: Config,
        resume: str | None = None,
        on_stop: Callable[[], None] | None = None,
    ):
        self.config, self.on_stop = config, on_stop
        self.output = Path(config.Global.output_dir)
        self.seed = config.Global.seed
        self._main = distributed.is_main()
        paddle.seed(self.seed)  # weights start alike on every rank

        self.tokenizer = Tokenizer(**config.Tokenizer)
        self.views = ViewMaker(
            **config.Views, transform=TrainTransform(**config.Transform), tokenizer=self.tokenizer
        )
        self.reader = build_reader(**config.DataLoader.Train.dataset)
        self.ledger = Ledger(self.output / "bad_records.jsonl")
        self.dataset = TrainingViews(self.reader, self.views, self.ledger, self.seed)
        self.evaluator = Evaluator(config, self.tokenizer) if config.DataLoader.Eval else None

        self.objective, self.frozen = build_objective(config, self.tokenizer)
        self.model = self.objective.model
        checkpoint_folder = self._find_checkpoint(resume)
        # Weights to start from come second to a resume, which already holds what became of them;
        # and before half precision and averages are made of them.
        if checkpoint_folder is None:
            self._start_anew()
        self.merge = config.Distributed.gradient_merge
        self.batch_size = local_batch_size(config)
        check_batch_norm(config, self.objective, self.batch_size)
        self.batch_norms = list(batch_norms(self.objective).values())
        self.steps_per_epoch = self._order().batches_per_epoch / self.merge
        self.total_steps = self._count_steps()
        self.scheduler = build_scheduler(config.LRScheduler, self.total_steps)
        # halves the weights, which the optimizer has to know and sharding shares out
        self.amp, self.scaler = build_amp(config, self.objective)
        self.parallel = build_parallel(
            self.objective, trainable(self.objective), config.Distributed.sharding
        )
        self.optimizer = build_optimizer(
            config, self.objective, self.parallel.owned, self.scheduler
        )
        self.ema = self._build_ema()
        self.faults = Faults(self.output / "faults.jsonl", config.Faults.spike, config.Faults.skips)
        self.bad_share = BadShare(config.Faults.bad_share, len(self.reader), self.ledger.path)
        self.checkpoints = self._build_checkpoints()

        self.step = 0
        self.batch = 0  # number of the next global batch in the data; a rollback skips some
        self.best: float | None = None
        self.evaluated_at: int | None = None
        self.saved_at: int | None = None
        self.stop_signal: int | None = None
        if checkpoint_folder is not None:
            self._resume(checkpoint_folder)
        self.run_log = RunLog(self.output, config) if self._main else None
        self.watchdog = Watchdog(config.Distributed.hang_timeout, distributed.rank())

    # -- building ----------------------------------------------------------------------------------

    def _order(self, first_batch: int = 0, last_batch: int = 0) -> GlobalBatches:
        loader = self.config.DataLoader.Train
        return GlobalBatches(
            len(self.reader),
            self.batch_size,
            distributed.rank(),
            distributed.world_size(),
            self.seed,
            loader.shuffle,
            first_batch,
            last_batch,
            loader.micro_batch_size,
        )

    def _count_steps(self) -> int:
        total = math.ceil(self.config.Global.epochs * self.steps_per_epoch)
        return min(total, self.config.Global.max_steps or total)

    def _build_ema(self) -> EMA | None:
        if not self.config.EMA.decay:
            return None
        owned = {n: p for n, p in self.parallel.owned.items() if n.startswith("model.")}
        return EMA({n[len("model.") :]: p for n, p in owned.items()}, self.config.EMA.decay)

    def _build_checkpoints(self) -> CheckpointWriter:
        # equal on all ranks, other for each start
        token = distributed.all_gather_objects(secrets.token_hex(4))[0]
        return CheckpointWriter(
            self.output / "checkpoints",
            self.config,
            self.tokenizer.vocab_file,
            keep=self.config.Global.keep_checkpoints,
            keep_every=self.config.Global.keep_every,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
            token=token,
            sharded=self.config.Distributed.sharding is not None,
        )

    def _find_checkpoint(self, resume: str | None) -> Path | None:
        if resume is None:
            return None
        if self._main:
            store.restore_links(self.output / "checkpoints")
        if resume != "auto":
            if self._main:
                store.check(Path(resume))
            return Path(resume)
        found = self._newest_checkpoint()
        if found is None:
            log.info("nothing to resume in %s: start anew", self.output / "checkpoints")
        return found

    def _newest_checkpoint(self) -> Path | None:
        # one rank looks, so that all go on from the same
        newest = store.find_latest(self.output / "checkpoints") if self._main else None
        return distributed.all_gather_objects(newest)[0]

    def _start_anew(self) -> None:
        if self.evaluator and self.config.Global.eval_interval:
            self.evaluator.check()  # now, and not when hours of training hang on it
        weights = self.config.Global.pretrained
        if weights:
            check_vocabulary(self.model, self.tokenizer, trained=True)
            if not self.config.Global.pretrained_other_vocab:
                check_pretrained_vocabulary(weights, self.tokenizer)
            load_weights(self.model, weights, self.config.Global.pretrained_partial)
            log.info("start from the weights of %s", weights)
        if self._main and (aside := earlier_run.put_aside(self.output)):
            kept = ", ".join(path.name for path in aside)
            log.warning("what an earlier run left is kept in %s: %s", self.output, kept)

    def _resume(self, folder: Path) -> None:
        check_resumed_vocabulary(folder, self.tokenizer)
        for change in resume_changes.changes(folder, self.config) if self._main else ():
            log.warning("not as in %s: %s", folder.name, change)
        state = self._restore(folder)
        if "faults" in state:
            self.faults.load_state_dict(state["faults"])
        self._put_later_ones_aside()
        log.info("resume from %s at step %d", folder, self.step)

    def _restore(self, folder: Path) -> dict:
        """Put a checkpoint in place, but for the count of faults; returns its state."""
        state = store.read_state(folder)
        self._check_same_batches(state, folder)
        self.step = self.saved_at = state["step"]
        self.batch = state.get("batch", self.step)
        self.best, self.evaluated_at = state["best"], state["evaluated_at"]
        self.scheduler.step(self.step)
        with self.parallel.whole():
            training_state.restore(
                folder,
                self.objective,
                self.optimizer,
                self.scheduler,
                self.ema,
                self.parallel.owned.keys(),
            )
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        if self.ema:
            self.ema.updates = state["ema_updates"]
        return state

    def _put_later_ones_aside(self) -> None:
        folder = self.output / "checkpoints"
        if self._main and (aside := store.put_aside(folder, after=self.step)):
            log.warning("checkpoints of later steps are kept in %s", aside)

    def _check_same_batches(self, state: dict, folder: Path) -> None:
        own = [self.batch_size * distributed.world_size(), self.merge]
        was = state.get("batches", own)
        if was != own:
            raise UserError(
                f"{folder} was trained with {was[0]} pairs a global batch and gradient_merge "
                f"{was[1]}, this run has {own[0]} and {own[1]}: to go on in the same data set "
                f"DataLoader.Train.global_batch_size={was[0]} Distributed.gradient_merge={was[1]}"
            )

    # -- the loop ----------------------------------------------------------------------------------

    def train(self) -> None:
        """Run to the last step.

        Ctrl-C, SIGTERM and SIGHUP end the run after the step at hand and a checkpoint, as
        `Interrupted`. Raises Diverged where steps keep failing after as many rollbacks as are
        allowed, and Unsaved where the last checkpoint could not be written.
        """
        log.info(
            "%d records, %d steps of %d pairs, %.1f steps an epoch",
            len(self.reader),
            self.total_steps,
            self.batch_size * distributed.world_size() * self.merge,
            self.steps_per_epoch,
        )
        if self.run_log and self.config.Global.sample_views:
            self._draw_views(self.config.Global.sample_views)
        handlers = {s: signal.signal(s, self._stop) for s in _stop_signals()}
        failing = True
        try:
            self._loop()
            failing = False
        except Interrupted:
            failing = False
            raise
        finally:
            self.watchdog.close()
            self.checkpoints.close(failing)
            for number, handler in handlers.items():
                signal.signal(number, handler)
            if self.run_log:
                self.run_log.close()
        if self.ledger.count:
            log.warning("%d bad records were skipped: %s", self.ledger.count, self.ledger.path)
        self.checkpoints.check_saved()
        log.info("done: %d steps, checkpoints in %s", self.step, self.output / "checkpoints")

    def _stop(self, number: int, frame) -> None:
        self.stop_signal = number
        if self.on_stop:
            self.on_stop()

    def _loop(self) -> None:
        every = self.config.Global
        meter = Meter()
        bar = tqdm(
            total=self.total_steps,
            initial=self.step,
            unit="step",
            dynamic_ncols=True,
            mininterval=0.5 if sys.stderr.isatty() else 30,  # a log file keeps every state of it
            disable=not self._main,
        )
        if self.step and self._due(every.eval_interval) and self.evaluated_at != self.step:
            self._evaluate()  # the run was killed before it came to that
        with bar:
            for batches in meter.timed(self._batches_by_step()):
                losses, stop = self._train_step(batches)
                failed = self.faults.in_a_row > 0
                self.step += 1
                self.batch += self.merge
                if self.faults.hopeless:
                    self._roll_back()
                    continue
                self.bad_share.check()
                self.watchdog.beat(f"step {self.step + 1}")
                bar.update(self.step - bar.n)
                if not failed:
                    meter.add(losses, sum(len(b["valid"]) for batch in batches for b in batch))
                if (self._due(every.log_interval) or self.step == self.total_steps) and meter.steps:
                    self._report(meter.collect(), bar)
                if self._due(every.histogram_interval):
                    self._histograms()
                if stop:
                    self._leave()
                # weights of a run that is failing are none to come back to
                if self._due(every.save_interval) and not failed:
                    self._save()
                if self._due(every.eval_interval):
                    self._evaluate()
        self.bad_share.check(at_end=True)
        if self.saved_at != self.step:  # first, since an evaluation may take long
            self._save()
        if every.eval_interval and self.evaluated_at != self.step:
            self._evaluate()

    def _leave(self) -> None:
        """Save, and end the run as a signal asked for."""
        if self.saved_at != self.step:
            self._save()
        self._stay_while_any_writes()
        self.checkpoints.check_saved()
        raise Interrupted(f"stopped at step {self.step}; --resume auto goes on from here")

    def _stay_while_any_writes(self) -> None:
        # paddle.distributed.launch kills the ranks that are left 3 s after the first has failed.
        # Short reductions, since gloo's time out after 30 s.
        while distributed.any_rank(self.checkpoints.writing):
            time.sleep(0.2)

    def _due(self, interval: int) -> bool:
        return interval > 0 and self.step % interval == 0

    def _batches_by_step(self):
        """Lists of `gradient_merge` batches from where the run is, also after a rollback."""
        while self.step < self.total_steps:
            rollbacks = self.faults.rollbacks
            last = self.batch + (self.total_steps - self.step) * self.merge
            batches = self._load(self._order(self.batch, last))
            while self.step < self.total_steps and rollbacks == self.faults.rollbacks:
                yield list(itertools.islice(batches, self.merge))

    def _load(self, order: GlobalBatches):
        """An iterator over the batches of `order`, read by the run's workers."""
        loader = self.config.DataLoader.Train
        return iter(TrainingLoader(self.dataset, order, loader.num_workers, loader.worker_timeout))

    def _train_mode(self) -> None:
        self.objective.train()
        for tower in self.frozen:
            tower.eval()

    def _train_step(self, batches: list) -> tuple[dict, bool]:
        """One optimizer step over `gradient_merge` batches; its losses, and whether to stop."""
        self._train_mode()
        # a forward changes these before its loss can be judged
        statistics = [(t, t.clone()) for n in self.batch_norms for t in (n._mean, n._variance)]
        losses = self._gradients(batches)
        norm = self.parallel.clip_gradients(self.config.Optimizer.clip_norm)
        losses["gradient_norm"] = norm
        # one small reduction a step, so that all ranks judge and stop alike
        stopping = float(self.stop_signal is not None)
        valid = paddle.concat([b["valid"] for batch in batches for b in batch])
        bad = int((~valid).sum())  # one transfer from a GPU, however many micro-batches
        loss, stopping, bad = distributed.mean([float(losses["loss"]), stopping, float(bad)])
        world_size = distributed.world_size()
        self.bad_share.add(round(bad * world_size), self.batch_size * self.merge * world_size)
        # under float16 an infinite gradient is the scaler's business, which lowers its scale
        scaling = self.scaler.is_enable() and math.isfinite(loss)
        fault = self.faults.judge(loss, 0.0 if scaling else float(norm))
        if fault is None:
            self.scaler.step(self.optimizer)
            self.parallel.publish()
        else:
            for tensor, before in statistics:
                paddle.assign(before, tensor)
            self._record_fault(fault, loss, float(norm), batches)
        self.scaler.update()
        self.optimizer.clear_grad()
        self.scheduler.step()
        self.objective.clamp()
        if self.ema and fault is None:
            self.ema.update()
        return losses, stopping > 0

    def _gradients(self, batches: list) -> dict:
        """Bring the owned parameters their mean gradients; returns the losses and accuracies."""
        parts = []
        with paddle.amp.auto_cast(**self.amp):
            for number, micro_batches in enumerate(batches):
                parts.append(
                    backward(
                        self.parallel,
                        [{k: v for k, v in b.items() if k != "index"} for b in micro_batches],
                        self._dropout_seeds(self.batch + number),
                        lambda loss: self.scaler.scale(loss / self.merge),
                        last=number == self.merge - 1,
                    )
                )
        self.parallel.reduce_gradients()
        self.parallel.unscale(self.scaler, self.optimizer)
        return {n: paddle.add_n([p[n].detach() for p in parts]) / self.merge for n in parts[0]}

    def _dropout_seeds(self, batch: int) -> list:
        # Dropout is a function of seed and place in the data, so a resume needs no saved random
        # state, and equal micro-batches draw alike on any number of processes.
        sequences = (
            np.random.SeedSequence([self.seed, batch, offset])
            for offset in self._order().micro_offsets
        )
        return [int(sequence.generate_state(1)[0]) for sequence in sequences]

    # -- faults ------------------------------------------------------------------------------------

    def _record_fault(self, fault: str, loss: float, norm: float, batches: list) -> None:
        """Write the skipped step down, with the records whose embeddings are not finite if any."""
        suspects = self._not_finite(batches)
        everybody = [int(i) for batch in batches for b in batch for i in b["index"]]
        rows = distributed.all_gather_objects((suspects, everybody))
        if not self.run_log:
            return
        suspects, everybody = ([i for row in rows for i in row[k]] for k in (0, 1))
        named = suspects if 0 < len(suspects) < len(everybody) else everybody
        log.warning("step %d is skipped: %s; %s", self.step + 1, fault, self.faults.path)
        event = {
            "step": self.step + 1,
            "batch": self.batch,
            "reason": fault,
            "loss": loss,
            "gradient_norm": norm,
            "records": [self._name(index) for index in named],
        }
        try:
            self.faults.write(**event)
        except OSError as error:
            log.warning("not written (%s): %s", error, event)

    def _not_finite(self, batches: list) -> list:
        """Numbers of this rank's records with an embedding that is not finite."""
        found = []
        self.objective.eval()
        with paddle.no_grad(), paddle.amp.auto_cast(**self.amp):
            for b in itertools.chain.from_iterable(batches):
                embeds = self.objective.embed(b["pixel_values"], b["input_ids"])
                finite = paddle.stack([e.isfinite().all(-1) for e in embeds.values()]).all(0)
                found += [int(i) for i, good in zip(b["index"], finite.tolist()) if not good]
        return found

    def _name(self, index: int) -> dict:
        try:
            record = self.reader[index]
            return {"index": index, "id": record.id, "source": record.source}
        except BadRecord as error:
            return {"index": index, "source": error.source}

    def _roll_back(self) -> None:
        """Return to the last checkpoint, and go on behind the data that was read since."""
        self.checkpoints.wait()
        allowed, failed_at, batch = self.config.Faults.rollbacks, self.step, self.batch
        folder = self._newest_checkpoint()
        if folder is None or self.faults.rollbacks >= allowed:
            why = f"after {self.faults.rollbacks} rollbacks" if folder else "without a checkpoint"
            raise Diverged(
                f"{self.faults.in_a_row} steps in a row failed up to step {failed_at}, {why}: see "
                f"{self.faults.path}; lower LRScheduler.learning_rate, or check the data"
            )
        self._restore(folder)
        self._put_later_ones_aside()
        self.batch = batch
        self.faults.rolled_back()
        if self.run_log:  # so that a resume from here skips the data too
            self.checkpoints.amend(self._state(), best=False)
        log.warning(
            "%d steps in a row failed up to step %d: back to %s, and on from global batch %d",
            self.config.Faults.skips,
            failed_at,
            folder,
            self.batch,
        )

    # -- reports, evaluation, checkpoints ----------------------------------------------------------

    def _report(self, means: dict, bar: tqdm) -> None:
        names = list(means)
        means = dict(zip(names, distributed.mean([means[name] for name in names])))
        if not self.run_log:
            return
        means["pairs_per_second"] *= distributed.world_size()
        means["learning_rate"] = self.scheduler.get_lr()
        means["logit_scale"] = float(self.model.logit_scale)
        means["epoch"] = self.batch / self.merge / self.steps_per_epoch
        means["bad_records"] = self.ledger.count
        means["skipped_steps"] = self.faults.total
        self.run_log.scalars(self.step, {f"train/{n}": round(v, 6) for n, v in means.items()})
        line = (
            f"loss {means['loss']:.3f}, scale {means['logit_scale']:.1f}, "
            f"{means['pairs_per_second']:.0f} pairs/s, data wait {means['data_wait']:.0%}"
        )
        bar.set_postfix_str(line, refresh=False)  # with the next step, as often as the bar may
        log.debug("step %d: %s", self.step, line)

    def _histograms(self) -> None:
        with self.parallel.whole():
            if self.run_log:
                self.run_log.histograms(self.step, trainable(self.objective))

    def _evaluate(self) -> None:
        if not self.evaluator:
            return
        self.model.eval()
        with self._averaged():
            embeddings = self.evaluator.embed(
                self.model,
                lambda: self.watchdog.beat("evaluation"),
                lambda: self.stop_signal is not None,
            )
        if embeddings is None:  # a resume evaluates this step
            self._leave()
        self.evaluated_at = self.step
        metric = self._score(embeddings) if self.run_log else None
        metric = distributed.all_gather_objects(metric)[0]
        best = self.best is None or metric > self.best
        if best:
            self.best = metric
        if self.saved_at == self.step:
            path = self.checkpoints.amend(self._state(), best)
            if path:
                log.info("%s is evaluated%s", path, " and the best" if best else "")
        elif best:
            self._save(best=True)

    def _score(self, embeddings) -> float:
        """Write the recalls down; returns the one that chooses the best checkpoint."""
        report = self.evaluator.score(embeddings)
        recalls = {
            f"eval/{direction}/{name}": value
            for direction in ("text_to_image", "image_to_text")
            for name, value in report[direction].items()
            if name.startswith("R@") or name == "mean_recall"
        }
        recalls["eval/mean_recall"] = report["mean_recall"]
        self.run_log.scalars(self.step, recalls)
        if report["bad_records"]:
            where = self.evaluator.ledger.path
            log.warning("%d bad rows were left out, see %s", report["bad_records"], where)
        log.info(
            "step %d: %s", self.step, ", ".join(f"{n[5:]} {v:.2%}" for n, v in recalls.items())
        )
        return recalls[f"eval/{self.config.Metric.best}"]

    @contextlib.contextmanager
    def _averaged(self):
        """Inside, every process has all weights, averaged where EMA is on."""
        with self.ema.applied() if self.ema else contextlib.nullcontext():
            self.parallel.publish()
            with self.parallel.whole():
                yield
        self.parallel.publish()

    def _state(self) -> dict:
        return {
            "step": self.step,
            "batch": self.batch,
            "batches": [self.batch_size * distributed.world_size(), self.merge],
            "best": self.best,
            "evaluated_at": self.evaluated_at,
            "scaler": self.scaler.state_dict(),
            "ema_updates": self.ema.updates if self.ema else 0,
            "faults": self.faults.state_dict(),
        }

    def _save(self, best: bool = False) -> None:
        self.saved_at = self.step
        average = self.parallel.gather(self.ema.average) if self.ema else None
        with self.parallel.whole():
            tensors = training_state.collect(self.objective, self.optimizer, average, self._main)
            self.checkpoints.save(*tensors, self._state(), best)

    def _draw_views(self, records: int) -> None:
        """Show the first records' views as the model will see them."""
        mean, std = (np.array(self.config.Transform[k]).reshape(3, 1, 1) for k in ("mean", "std"))
        for number, index in enumerate(self._order().indices(0)[:records]):
            sample = self.dataset[0, number, int(index)]
            for view in self.views.image_views:
                pixels = np.clip((sample[view] * std + mean) * 255, 0, 255).astype(np.uint8)
                self.run_log.picture(f"views/{number}/{view}", pixels.transpose(1, 2, 0))
            for view in self.views.text_views:
                self.run_log.text(f"views/{number}/{view}", self.tokenizer.decode(sample[view]))
