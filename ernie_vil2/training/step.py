"""One optimizer step: gradients, clipping, and what the optimizer makes of them."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import paddle
from paddle import nn

from ernie_vil2 import distributed
from ernie_vil2.checkpoints import training_state
from ernie_vil2.checkpoints.writer import CheckpointWriter
from ernie_vil2.config.load import Config
from ernie_vil2.distributed.parallel import build_parallel
from ernie_vil2.models.precision import auto_cast
from ernie_vil2.training.as_two import Halves, backward_as_two
from ernie_vil2.training.build import (
    batch_norms,
    build_amp,
    build_ema,
    build_optimizer,
    trainable,
)
from ernie_vil2.training.engine import sharding_engine
from ernie_vil2.training.objective import Objective, backward
from ernie_vil2.training.optim import build_scheduler


class Step:
    """What an optimizer step reads and changes. A step is

        losses = step.gradients(batches, seeds)
        norm = step.clip()
        step.apply()  # or, where it would harm the model, step.skip()

    on every process.

    Args:
        objective: towers and loss, with the weights to begin from; AMP O2 halves them here.
        frozen: the layers of it that stay in eval mode.
        total_steps: of the learning rate's schedule.

    Attributes:
        parallel: the objective as the processes share it.
        amp: the section `AMP` of the configuration, as `precision.auto_cast` takes it.
        ema: the averages of the weights, where the configuration asks for them.
    """

    def __init__(
        self, config: Config, objective: Objective, frozen: Sequence[nn.Layer], total_steps: int
    ):
        self.objective, self.frozen = objective, frozen
        self.clip_norm = config.Optimizer.clip_norm
        self._batch_norms = list(batch_norms(objective).values())
        self._statistics: list[tuple] = []  # of batch norms: where they are, and as they were
        self.scheduler = build_scheduler(config.LRScheduler, total_steps)
        # halves the weights, which the optimizer has to know and sharding shares out
        self.amp = config.AMP
        self.scaler, originals = build_amp(config, objective)
        learning = trainable(objective)
        # of weights that do not learn, for checkpoints, which hold no halves
        self._frozen = {
            name: original.numpy()
            for name, original in originals.items()
            if name not in learning and distributed.is_main()
        }
        self.parallel = build_parallel(
            objective,
            learning,
            config.Distributed.sharding,
            {name: original for name, original in originals.items() if name in learning},
            sharding_engine(config),
        )
        self.optimizer = build_optimizer(config, objective, self.parallel.owned, self.scheduler)
        self._as_two = config.Distributed.as_two
        alone = distributed.world_size() == 1
        self._halves = Halves(self.parallel.masters) if self._as_two and alone else None
        self.ema = build_ema(config, self.parallel.owned)

    # -- a step ------------------------------------------------------------------------------------

    def gradients(self, batches: Sequence[list], seeds: Sequence[list]) -> dict:
        """Bring the owned parameters their mean gradients; returns the losses and accuracies.

        "by_row", where the loss gives it, has those of the rows of all batches.

        Args:
            batches: of `Stream.steps`, each in micro-batches.
            seeds: of dropout, for each micro-batch of each batch.
        """
        self.train_mode()
        # a forward changes these before its loss can be judged
        self._statistics = [
            (t, t.clone()) for n in self._batch_norms for t in (n._mean, n._variance)
        ]
        parts = []
        with auto_cast(self.amp):
            for number, (micro_batches, own_seeds) in enumerate(zip(batches, seeds), start=1):
                micro_batches = [
                    {k: v for k, v in b.items() if k != "index"} for b in micro_batches
                ]
                parts.append(self._backward(micro_batches, own_seeds, number, len(batches)))
        if self._halves:
            self._halves.join()
        self.parallel.reduce_gradients()
        self.parallel.unscale(self.scaler, self.optimizer)
        by_row = [part.pop("by_row") for part in parts if "by_row" in part]
        means = {n: paddle.add_n([p[n].detach() for p in parts]) / len(parts) for n in parts[0]}
        if by_row:
            means["by_row"] = {n: paddle.concat([rows[n] for rows in by_row]) for n in by_row[0]}
        return means

    def _backward(self, micro_batches: list, seeds: list, number: int, count: int) -> dict:
        """Add the gradients of the batch of this number, of `count` in a step."""

        def scale(loss):
            return self.scaler.scale(loss / count)

        if self._halves:
            return backward_as_two(self.parallel, self._halves, micro_batches, seeds, scale)
        last = number == count
        return backward(self.parallel, micro_batches, seeds, scale, last, not self._as_two)

    def clip(self) -> paddle.Tensor:
        """Clip the gradients as the configuration says; returns their norm before."""
        return self.parallel.clip_gradients(self.clip_norm)

    def judged_norm(self, loss: float, norm: paddle.Tensor) -> float:
        """The gradient's norm as it is to be judged.

        Under float16 an infinite one is the scaler's business, which lowers its scale.
        """
        return 0.0 if self.scaler.is_enable() and math.isfinite(loss) else float(norm)

    def apply(self) -> None:
        """Let the weights follow the gradients."""
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.parallel.publish()
        self._finish()
        if self.ema:
            self.ema.update()

    def skip(self) -> None:
        """Leave the model as it was before the step, which counts all the same."""
        for tensor, before in self._statistics:
            paddle.assign(before, tensor)
        if self.scaler.is_enable():
            # What `update` does beside judging the scale, for which the step at hand is no reason:
            # gradients that overflow are no fault, see `judged_norm`.
            self.scaler._optimizer_states.clear()
        self._finish()

    def _finish(self) -> None:
        self._statistics = []
        # Zeros would have to be written; and by Paddle's sharding the next backward would replace
        # a gradient of zeros, and no longer add to what its buffer shows.
        self.optimizer.clear_grad(set_to_zero=False)
        self.scheduler.step()
        self.objective.clamp()

    # -- the model ---------------------------------------------------------------------------------

    def train_mode(self) -> None:
        """Set the objective to training, but for what stays in eval mode."""
        self.objective.train()
        for layer in self.frozen:
            layer.eval()

    def suspects(self, batches: Sequence[list]) -> list[int]:
        """Numbers of the step's records, of all ranks, with an embedding that is not finite.

        Where that is so of none or of all of them, each is a suspect.
        """
        everybody = [int(i) for b in itertools.chain.from_iterable(batches) for i in b["index"]]
        ranks = distributed.all_gather_objects((self._not_finite(batches), everybody))
        found, everybody = ([i for rank in ranks for i in rank[k]] for k in (0, 1))
        return found if 0 < len(found) < len(everybody) else everybody

    def _not_finite(self, batches: Sequence[list]) -> list[int]:
        found: list[int] = []
        self.objective.eval()
        with paddle.no_grad(), auto_cast(self.amp):
            for b in itertools.chain.from_iterable(batches):
                embeds = self.objective.embed(b["pixel_values"], b["input_ids"])
                finite = paddle.stack([e.isfinite().all(-1) for e in embeds.values()]).all(0)
                found += [int(i) for i, good in zip(b["index"], finite.tolist()) if not good]
        return found

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """For an evaluation: every process has all weights, averaged where EMA is on.

        Inside, forwards compute in the precision of training.
        """
        with self.ema.applied() if self.ema else contextlib.nullcontext():
            self.parallel.publish()
            with self.parallel.whole(), auto_cast(self.amp):
                yield
        self.parallel.publish()

    # -- checkpoints -------------------------------------------------------------------------------

    def save(self, checkpoints: CheckpointWriter, state: Mapping, best: bool) -> None:
        """Begin to write weights, moments and averages, with `state`."""
        gather, masters = self.parallel.gather, self.parallel.masters
        average = gather(self.ema.average) if self.ema else None
        full = {**self._frozen, **(gather(masters.full) if masters.halves else {})}
        with self.parallel.whole():
            tensors = training_state.collect(
                self.objective, self.optimizer, average, full, distributed.is_main()
            )
            checkpoints.save(*tensors, state, best)

    def restore(self, folder: Path, step: int) -> None:
        """Bring back what a checkpoint of `step` holds of these."""
        self.scheduler.step(step)
        with self.parallel.whole():
            training_state.restore(
                folder,
                self.objective,
                self.optimizer,
                self.scheduler,
                self.ema,
                self.parallel.owned.keys(),
                {**self._frozen, **self.parallel.masters.full},
            )

    def state_dict(self) -> dict:
        """The numbers beside the tensors of a checkpoint."""
        return {
            "scaler": self.scaler.state_dict(),
            "ema_updates": self.ema.updates if self.ema else 0,
        }

    def load_state_dict(self, state: Mapping) -> None:
        """The reverse of `state_dict`."""
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        if self.ema:
            self.ema.updates = state["ema_updates"]
