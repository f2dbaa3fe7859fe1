"""A trainer that the doctor tries out, and how its processes agree on what they find.

A check is a function of a `Trial` that every process runs. It returns a `Row`, or raises `Failed`
or `Skipped`; any other exception fails it too.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import paddle

from ernie_vil2 import distributed
from ernie_vil2.checkpoints import training_state
from ernie_vil2.config.load import Config
from ernie_vil2.data.order import GlobalBatches
from ernie_vil2.losses.plain import plain_losses
from ernie_vil2.losses.targets import Targets
from ernie_vil2.training.build import trainable
from ernie_vil2.training.objective import joined_identities
from ernie_vil2.training.trainer import Trainer


class Row(NamedTuple):
    result: str  # pass, FAIL, skipped, or a figure
    detail: str


class Failed(Exception):
    """What is wrong, in a line."""


class Skipped(Exception):
    """Why a check makes no sense here."""


class Trial:
    """A trainer that has not begun, and is of no use for training after this.

    Checks of what is computed take a small global batch: `rows` records of each process, in
    micro-batches of `part` where the run has them, and `merge` such batches a step.
    """

    def __init__(self, trainer: Trainer):
        self.trainer, self.world = trainer, distributed.world_size()
        full, micro = trainer.batch_size, trainer.config.DataLoader.Train.micro_batch_size
        self.rows = self.part = min(full, max(2, 4 // self.world))
        if micro and micro < full:
            self.part = self.rows // 2 if self.rows % 2 == 0 else 1
        self.merge = min(trainer.merge, 2)
        self.batches: list = []  # those records as this rank reads them
        self.alone: list = []  # those of all ranks as one process would read them
        # Figures that checks leave for later ones: seconds of a small step; of the gathers and
        # backwards, the reduction, the data and the computation of a step of the run; bytes.
        self.small_step = self.gathers = self.reduction = self.data = self.computation = 0.0
        self.checkpoint_bytes = 0

    @contextlib.contextmanager
    def batches_of(self, rows: int, micro: int | None, merge: int = 1):
        """Inside, the trainer's batches have `rows` records, and `merge` of them make a step."""
        trainer = self.trainer
        before = trainer.config, trainer.batch_size, trainer.merge
        loader = trainer.config.DataLoader
        loader = {**loader, "Train": {**loader.Train, "micro_batch_size": micro}}
        trainer.config = Config({**trainer.config, "DataLoader": loader})
        trainer.batch_size, trainer.merge = rows, merge
        try:
            yield
        finally:
            trainer.config, trainer.batch_size, trainer.merge = before

    def small_batches(self):
        """Inside, the trainer takes batches like those that are checked."""
        return self.batches_of(self.rows, self.part, self.merge)

    # -- data --------------------------------------------------------------------------------------

    def order_alone(self, rows: int, batches: int = 0) -> GlobalBatches:
        """The first global batches of `rows` records a process, as one process reads them."""
        trainer = self.trainer
        return GlobalBatches(
            len(trainer.reader),
            rows * self.world,
            0,
            1,
            trainer.seed,
            trainer.config.DataLoader.Train.shuffle,
            0,
            batches,
            self.part,
        )

    def stream(self, count: int, order: GlobalBatches | None = None) -> Iterator:
        """The run's first `count` batches, or those of another order."""
        return self.trainer._load(order or self.trainer._order(0, count))

    def load(self) -> list:
        """The batches of one step."""
        return together(lambda: list(self.stream(self.trainer.merge)))

    def load_small(self) -> None:
        """Read the records of the checks."""
        with self.small_batches():
            self.batches = self.load()
            order = self.order_alone(self.rows, self.merge)
            self.alone = together(lambda: list(self.stream(self.merge, order)))

    # -- steps -------------------------------------------------------------------------------------

    def step(self, batches: list) -> dict:
        """The trainer's step; its losses."""
        losses, _ = self.trainer._train_step(batches)
        self.trainer.step += 1
        return losses

    @contextlib.contextmanager
    def before_clipping(self, action: Callable[[], None]):
        """Inside, each step calls `action` when it has its gradients."""
        parallel = self.trainer.parallel
        clip = parallel.clip_gradients

        def act_and_clip(max_norm):
            action()
            return clip(max_norm)

        parallel.clip_gradients = act_and_clip
        try:
            yield
        finally:
            del parallel.clip_gradients  # the instance's

    @contextlib.contextmanager
    def gradients_kept(self):
        """Inside, what this gives holds the last step's owned gradients."""
        kept = {}

        def keep() -> None:
            kept.clear()
            for name, parameter in self.trainer.parallel.owned.items():
                if parameter.grad is not None:
                    kept[name] = _float32(parameter.grad)

        with self.before_clipping(keep):
            yield kept

    def gradients_alone(self) -> tuple[float, dict]:
        """Loss and owned gradients of a step over `alone`, by plain autograd and no collective.

        Each micro-batch has its turn to be differentiated, while the others' rows are constants, so
        one has a graph at a time. In sharding stage 3 the weights still come from their owners.
        """
        trainer, objective = self.trainer, self.trainer.objective
        trainer._train_mode()
        total, gradients = 0.0, {}
        for number, parts in enumerate(self.alone):
            everyone = distributed.all_gather_objects(trainer._dropout_seeds(number))
            seeds = [seed for seeds in everyone for seed in seeds]
            ids, valid = joined_identities(parts)
            with paddle.amp.auto_cast(**trainer.amp):
                with paddle.no_grad():
                    constants = [self._embed(*pair) for pair in zip(parts, seeds)]
                for turn, pair in enumerate(zip(parts, seeds)):
                    rows = [*constants[:turn], self._embed(*pair), *constants[turn + 1 :]]
                    loss = self._loss_alone(paddle.concat(rows), ids, valid, scalars=turn == 0)
                    (loss / self.merge).backward()
                    for name, parameter in trainable(objective).items():
                        if name in trainer.parallel.owned and parameter.grad is not None:
                            gradients[name] = gradients.get(name, 0.0) + _float32(parameter.grad)
                        parameter.clear_gradient(False)
            total += float(loss) / self.merge
        return total, gradients

    def _embed(self, part: Mapping, seed: int) -> paddle.Tensor:
        """Embeddings [m, V, D] of a micro-batch, float32."""
        paddle.seed(seed)
        objective = self.trainer.objective
        embeds = objective.embed(part["pixel_values"], part["input_ids"])
        return paddle.stack([embeds[v].astype("float32") for v in objective.loss.views], axis=1)

    def _loss_alone(self, rows, ids, valid, scalars: bool) -> paddle.Tensor:
        """The loss of rows [N, V, D]; `scalars`: scales and biases get their gradients."""
        loss, model = self.trainer.objective.loss, self.trainer.model
        with paddle.amp.auto_cast(enable=False):
            scales, biases = loss.scales_and_biases(model.logit_scale)
            if not scalars:
                scales, biases = scales.detach(), biases.detach()
            ids = loss.used_ids(ids, len(rows))
            targets = Targets(ids, valid, ids, valid)
            losses, _ = plain_losses(rows, rows, scales, biases, targets, loss.terms)
            weights = [pair.weight for pair in loss.pairs]
            return (losses * paddle.to_tensor(weights, dtype="float32")).sum()

    # -- state -------------------------------------------------------------------------------------

    def weight_digests(self) -> dict[str, str]:
        """Name -> digest of all weights."""
        with self.trainer.parallel.whole():
            return _digests(self.trainer.objective.state_dict())

    def state_digests(self) -> dict[str, str]:
        """Name -> digest of all that this process gets back from a checkpoint."""
        trainer = self.trainer
        tensors = training_state.optimizer_tensors(trainer.optimizer, trainer.objective)
        if trainer.ema:
            tensors.update({f"average.{n}": t for n, t in trainer.ema.average.items()})
        other = {"schedule": trainer.scheduler.last_epoch, **trainer.scaler.state_dict()}
        other = {name: str(value) for name, value in other.items()}
        return {**self.weight_digests(), **_digests(tensors), **other}


def _digests(tensors: Mapping) -> dict[str, str]:
    return {name: digest([t.numpy().tobytes()]) for name, t in tensors.items()}


def _float32(tensor: paddle.Tensor) -> paddle.Tensor:
    return tensor.detach().clone().astype("float32")


def digest(pieces: Iterable[bytes]) -> str:
    """16 characters that tell contents apart."""
    total = hashlib.sha256()
    for piece in pieces:
        total.update(piece)
    return total.hexdigest()[:16]


def together(action: Callable):
    """What `action` returns; where it raises on one process, all fail, and none waits for it.

    For what has no collective in it that a process could miss.
    """
    value = problem = None
    try:
        value = action()
    except Exception as error:
        problem = one_line(error)
    for rank, line in enumerate(distributed.all_gather_objects(problem)):
        if line:
            raise Failed(f"rank {rank}: {line}")
    return value


def one_line(error: BaseException) -> str:
    """An exception's type and the first line of its text, without Paddle's C++ stack."""
    text = str(error).rpartition("Error Message Summary:")[2]
    lines = [line.strip() for line in text.splitlines() if line.strip("- ")]
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}"
