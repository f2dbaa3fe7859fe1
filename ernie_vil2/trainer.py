"""The training loop: views -> towers -> loss -> step -> log, evaluate, checkpoint."""

import contextlib
import logging
import signal
import sys
from pathlib import Path
from typing import Optional

import numpy as np
import paddle
from paddle import nn
from tqdm import tqdm

from ernie_vil2 import checkpoint, distributed
from ernie_vil2.config import Config
from ernie_vil2.data.loader import GlobalBatches, TrainingViews, training_loader
from ernie_vil2.data.records import Ledger, build_reader
from ernie_vil2.data.tokenize import Tokenizer
from ernie_vil2.data.transforms import TrainTransform
from ernie_vil2.data.views import ViewMaker
from ernie_vil2.errors import UserError
from ernie_vil2.evaluation.embed import Evaluator
from ernie_vil2.losses.multiview import MultiViewContrastive
from ernie_vil2.models.convert import check_vocabulary, load_weights
from ernie_vil2.models.dual_encoder import DualEncoder, build_model
from ernie_vil2.optim import (
    EMA,
    build_optimizer,
    build_scheduler,
    clip_gradients,
    format_groups,
    parameter_groups,
)
from ernie_vil2.runlog import Meter, RunLog

log = logging.getLogger("ernie_vil2")


class Interrupted(Exception):
    """Ctrl-C or SIGTERM ended the run, after a checkpoint was saved."""


class Objective(nn.Layer):
    """Towers and loss as one layer: data parallelism sees one forward and all parameters."""

    def __init__(self, model: nn.Layer, loss: MultiViewContrastive, image_views, text_views):
        super().__init__()
        self.model, self.loss = model, loss
        self.image_views, self.text_views = list(image_views), list(text_views)

    def forward(self, pixel_values, input_ids, ids, valid):
        """Losses and accuracies of `MultiViewContrastive` for a batch of `ViewMaker.collate`."""
        image_embeds, text_embeds = self.model(pixel_values, input_ids)
        embeds = dict(zip(self.image_views, image_embeds.chunk(len(self.image_views))))
        embeds.update(zip(self.text_views, text_embeds.chunk(len(self.text_views))))
        return self.loss(embeds, self.model.logit_scale, ids, valid)

    def clamp(self) -> None:
        """Bring the logit scale and the pairs' temperatures back into their bounds."""
        self.model.clamp_logit_scale()
        self.loss.clamp_temperatures()


class Trainer:
    """Trains what a configuration describes, into its output_dir.

    resume: None starts anew; "auto" goes on from output_dir's newest checkpoint where there is one;
    a folder goes on from that checkpoint.
    """

    def __init__(self, config: Config, resume: Optional[str] = None):
        self.config = config
        self.output = Path(config.Global.output_dir)
        self.seed = config.Global.seed
        paddle.seed(self.seed)  # weights start alike on every rank

        self.tokenizer = Tokenizer(**config.Tokenizer)
        self.views = ViewMaker(
            **config.Views, transform=TrainTransform(**config.Transform), tokenizer=self.tokenizer
        )
        self.reader = build_reader(**config.DataLoader.Train.dataset)
        self.ledger = Ledger(self.output / "bad_records.jsonl")
        self.evaluator = Evaluator(config, self.tokenizer) if config.DataLoader.Eval else None

        self.frozen: list = []  # towers that do not learn
        self.objective = self._build_objective()
        self.model = self.objective.model
        checkpoint_folder = self._find_checkpoint(resume)
        # Weights to start from come second to a resume, which already holds what became of them;
        # and before half precision and averages are made of them.
        if checkpoint_folder is None:
            self._start_anew()
        self.steps_per_epoch = self._batches().steps_per_epoch
        self.total_steps = self._count_steps()
        self.scheduler = build_scheduler(config.LRScheduler, self.total_steps)
        self.trainable = self._trainable(self.objective)
        self.optimizer = self._build_optimizer()
        self.amp, self.scaler = self._build_amp()
        self.ema = EMA(self._trainable(self.model), config.EMA.decay) if config.EMA.decay else None

        self.step = 0
        self.best: Optional[float] = None
        self.evaluated_at: Optional[int] = None
        self.saved_at: Optional[int] = None
        self.stop_signal: Optional[int] = None
        if checkpoint_folder is not None:
            self._restore(checkpoint_folder)
        self.parallel = distributed.wrap(self.objective)
        self.parallel_optimizer = distributed.wrap_optimizer(self.optimizer)
        self.run_log = RunLog(self.output, config) if distributed.is_main() else None

    # -- building --------------------------------------------------------------------------------

    def _build_objective(self) -> Objective:
        config = self.config
        model = build_model(config.Arch, config.Loss.logit_scale)
        check_vocabulary(model, self.tokenizer, trained=False)
        loss = MultiViewContrastive(
            config.Loss.pairs, config.Loss.multi_positive, config.Loss.logit_scale["max"]
        )
        towers = {"image": model.image_tower, "text": model.text_tower}
        self.frozen = [towers[name] for name in config.Optimizer.freeze]
        for tower in self.frozen:
            for parameter in tower.parameters():
                parameter.stop_gradient = True
        return Objective(model, loss, config.Views.image, config.Views.text)

    def _batches(self, first_step: int = 0, last_step: int = 0) -> GlobalBatches:
        loader = self.config.DataLoader.Train
        return GlobalBatches(
            len(self.reader),
            loader.batch_size,
            distributed.rank(),
            distributed.world_size(),
            self.seed,
            loader.shuffle,
            first_step,
            last_step,
        )

    def _count_steps(self) -> int:
        total = self.config.Global.epochs * self.steps_per_epoch
        return min(total, self.config.Global.max_steps or total)

    @staticmethod
    def _trainable(layer: nn.Layer) -> "dict[str, paddle.Tensor]":
        return {name: p for name, p in layer.named_parameters() if not p.stop_gradient}

    def _build_optimizer(self):
        config = self.config.Optimizer
        lr_scales = {}
        if config.layer_decay:
            for name in self._trainable(self.model):
                lr_scales[f"model.{name}"] = config.layer_decay ** self.model.layers_above(name)
        groups = parameter_groups(self.trainable, config.groups, config.weight_decay, lr_scales)
        log.info(format_groups(groups, self.trainable))
        half = self.config.AMP.level == "O2"
        return build_optimizer(config, groups, self.trainable, self.scheduler, half)

    def _build_amp(self) -> "tuple[dict, paddle.amp.GradScaler]":
        """Arguments of auto_cast, and the scaler; under O2 weights become half precision here."""
        amp = self.config.AMP
        enable = amp.level != "O0"
        if enable and not distributed.on_gpu():
            raise UserError(
                f"AMP.level is {amp.level}, which needs a GPU, and this run is on the CPU: "
                "set it to O0"
            )
        if amp.level == "O2":
            self.objective, self.optimizer = paddle.amp.decorate(
                self.objective,
                self.optimizer,
                level="O2",
                dtype=amp.dtype,
                # temperatures are too fine for half precision; the layers below are not excluded
                excluded_layers=[DualEncoder, MultiViewContrastive],
            )
        scaler = paddle.amp.GradScaler(
            enable=enable and amp.dtype == "float16", init_loss_scaling=amp.init_loss_scaling
        )
        return {"enable": enable, "level": amp.level, "dtype": amp.dtype}, scaler

    def _find_checkpoint(self, resume: Optional[str]) -> Optional[Path]:
        if resume != "auto":
            return resume and Path(resume)
        found = checkpoint.find_latest(self.output / "checkpoints")
        if found is None:
            log.info("nothing to resume in %s: start anew", self.output / "checkpoints")
        return found

    def _start_anew(self) -> None:
        if distributed.is_main() and (aside := checkpoint.put_aside(self.output / "checkpoints")):
            log.warning("an earlier run's checkpoints are kept in %s; --resume goes on", aside)
        weights = self.config.Global.pretrained
        if weights:
            load_weights(self.model, weights, self.config.Global.pretrained_partial)
            log.info("start from the weights of %s", weights)
            check_vocabulary(self.model, self.tokenizer, trained=True)

    def _restore(self, folder: Path) -> None:
        state = checkpoint.read_state(folder)
        self.step = self.saved_at = state["step"]
        self.best, self.evaluated_at = state["best"], state["evaluated_at"]
        self.scheduler.step(self.step)
        checkpoint.restore(folder, self.objective, self.optimizer, self.scheduler, self.ema)
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        if self.ema:
            self.ema.updates = state["ema_updates"]
        log.info("resume from %s at step %d", folder, self.step)

    # -- the loop --------------------------------------------------------------------------------

    def train(self) -> None:
        """Run to the last step.

        Ctrl-C and SIGTERM end the run after the step at hand and a checkpoint, as `Interrupted`.
        """
        log.info(
            "%d records, %d steps of %d pairs, %d steps an epoch",
            len(self.reader),
            self.total_steps,
            self.config.DataLoader.Train.batch_size * distributed.world_size(),
            self.steps_per_epoch,
        )
        if self.run_log and self.config.Global.sample_views:
            self._draw_views(self.config.Global.sample_views)
        handlers = {s: signal.signal(s, self._stop) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            self._loop()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            if self.run_log:
                self.run_log.close()
        if self.ledger.count:
            log.warning("%d bad records were skipped: %s", self.ledger.count, self.ledger.path)
        log.info("done: %d steps, checkpoints in %s", self.step, self.output / "checkpoints")

    def _stop(self, number: int, frame) -> None:
        self.stop_signal = number

    def _loop(self) -> None:
        every = self.config.Global
        meter = Meter()
        bar = tqdm(
            total=self.total_steps,
            initial=self.step,
            unit="step",
            dynamic_ncols=True,
            mininterval=0.5 if sys.stderr.isatty() else 30,  # a log file keeps every state of it
            disable=not distributed.is_main(),
        )
        with bar:
            for batch in meter.timed(self._load()):
                losses = self._train_step(batch)
                self.step += 1
                bar.update()
                meter.add(losses, len(batch["valid"]))
                if self._due(every.log_interval) or self.step == self.total_steps:
                    self._report(meter.collect(), bar)
                if self._due(every.histogram_interval) and self.run_log:
                    self.run_log.histograms(self.step, self.trainable)
                # asking the other ranks makes all wait for each other, so not at each step
                ask = distributed.world_size() == 1 or self._due(every.log_interval)
                if ask and distributed.any_rank(self.stop_signal is not None):
                    self._save()
                    raise Interrupted(
                        f"stopped at step {self.step}; --resume auto goes on from here"
                    )
                if self._due(every.save_interval):
                    self._save()
                if self._due(every.eval_interval):
                    self._evaluate()
        if self.saved_at != self.step:  # first, since an evaluation may take long
            self._save()
        if self.evaluated_at != self.step >= every.eval_interval:
            self._evaluate()

    def _due(self, interval: int) -> bool:
        return interval > 0 and self.step % interval == 0

    def _load(self):
        dataset = TrainingViews(self.reader, self.views, self.ledger, self.seed)
        batches = self._batches(self.step, self.total_steps)
        return training_loader(dataset, batches, self.config.DataLoader.Train.num_workers)

    def _train_step(self, batch: dict) -> dict:
        # Dropout is a function of seed, step and rank, so a resume needs no saved random state.
        seed = np.random.SeedSequence([self.seed, self.step, distributed.rank()])
        paddle.seed(int(seed.generate_state(1)[0]))
        self.objective.train()
        for tower in self.frozen:
            tower.eval()
        with paddle.amp.auto_cast(**self.amp):
            losses = self.parallel(**batch)
        self.scaler.scale(losses["loss"]).backward()
        self.scaler.unscale_(self.parallel_optimizer)
        losses["gradient_norm"] = clip_gradients(
            self.trainable.values(), self.config.Optimizer.clip_norm
        )
        self.scaler.step(self.parallel_optimizer)
        self.scaler.update()
        self.parallel_optimizer.clear_grad()
        self.scheduler.step()
        self.objective.clamp()
        if self.ema:
            self.ema.update()
        return losses

    def _report(self, means: dict, bar: tqdm) -> None:
        names = list(means)
        means = dict(zip(names, distributed.mean([means[name] for name in names])))
        if not self.run_log:
            return
        means["pairs_per_second"] *= distributed.world_size()
        means["learning_rate"] = self.scheduler.get_lr()
        means["logit_scale"] = float(self.model.logit_scale)
        means["epoch"] = self.step / self.steps_per_epoch
        means["bad_records"] = self.ledger.count
        self.run_log.scalars(self.step, {f"train/{n}": round(v, 6) for n, v in means.items()})
        line = (
            f"loss {means['loss']:.3f}, scale {means['logit_scale']:.1f}, "
            f"{means['pairs_per_second']:.0f} pairs/s, data wait {means['data_wait']:.0%}"
        )
        bar.set_postfix_str(line, refresh=False)  # with the next step, as often as the bar may
        log.debug("step %d: %s", self.step, line)

    def _evaluate(self) -> None:
        self.evaluated_at = self.step
        if not self.evaluator:
            return
        self.model.eval()
        with self.ema.applied() if self.ema else contextlib.nullcontext():
            embeddings = self.evaluator.embed(self.model)
        if not self.run_log:
            return
        report = self.evaluator.score(embeddings)
        recalls = {
            f"eval/{direction}/{name}": value
            for direction in ("text_to_image", "image_to_text")
            for name, value in report[direction].items()
            if name.startswith("R@") or name == "mean_recall"
        }
        recalls["eval/mean_recall"] = report["mean_recall"]
        self.run_log.scalars(self.step, recalls)
        log.info(
            "step %d: %s", self.step, ", ".join(f"{n[5:]} {v:.2%}" for n, v in recalls.items())
        )
        metric = recalls[f"eval/{self.config.Metric.best}"]
        best = self.best is None or metric > self.best
        if best:
            self.best = metric
        if self.saved_at == self.step:
            path = checkpoint.amend(self.output / "checkpoints", self._state(), best)
            log.info("%s is evaluated%s", path, " and the best" if best else "")
        elif best:
            self._save(best=True)

    def _state(self) -> dict:
        return {
            "step": self.step,
            "best": self.best,
            "evaluated_at": self.evaluated_at,
            "scaler": self.scaler.state_dict(),
            "ema_updates": self.ema.updates if self.ema else 0,
        }

    def _save(self, best: bool = False) -> None:
        self.saved_at = self.step
        if not self.run_log:
            return
        path = checkpoint.write_checkpoint(
            self.output / "checkpoints",
            self.objective,
            self.optimizer,
            self.ema,
            self._state(),
            self.config,
            self.tokenizer.vocab_file,
            best=best,
            keep=self.config.Global.keep_checkpoints,
        )
        log.info("saved %s%s", path, " (best)" if best else "")

    def _draw_views(self, records: int) -> None:
        """Show the first records' views as the model will see them."""
        mean, std = (np.array(self.config.Transform[k]).reshape(3, 1, 1) for k in ("mean", "std"))
        dataset = TrainingViews(self.reader, self.views, self.ledger, self.seed)
        for number, index in enumerate(self._batches().indices(0)[:records]):
            sample = dataset[0, int(index)]
            for view in self.views.image_views:
                pixels = np.clip((sample[view] * std + mean) * 255, 0, 255).astype(np.uint8)
                self.run_log.picture(f"views/{number}/{view}", pixels.transpose(1, 2, 0))
            for view in self.views.text_views:
                self.run_log.text(f"views/{number}/{view}", self.tokenizer.decode(sample[view]))
