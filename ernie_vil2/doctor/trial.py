"""A trainer that the doctor tries out, and how its processes agree on what they find.

A check is a function of a `Trial` that every process runs. It returns a `Row`, or raises `Failed`
or `Skipped`; any other exception fails it too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

import paddle

from ernie_vil2 import distributed
from ernie_vil2.checkpoints import training_state
from ernie_vil2.losses.plain import plain_losses
from ernie_vil2.losses.targets import Targets
from ernie_vil2.models.precision import auto_cast
from ernie_vil2.training.objective import joined_identities
from ernie_vil2.training.plan import Plan
from ernie_vil2.training.stream import Stream
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

    Checks of what is computed take small global batches, those of `plan`: with micro-batches where
    the run has them, and two of them a step where it merges any.
    """

    def __init__(self, trainer: Trainer):
        self.trainer, self.world = trainer, distributed.world_size()
        self.objective, self.stepper = trainer.objective, trainer.stepper
        run = trainer.plan
        rows = micro = min(run.rows, max(2, 4 // self.world))
        if run.micro < run.rows:
            micro = rows // 2 if rows % 2 == 0 else 1
        self.plan = Plan(rows, micro, min(run.merge, 2))
        self.batches: list = []  # those records as this rank reads them
        self.alone: list = []  # those of all ranks as one process would read them
        # Figures that checks leave for later ones: seconds of a small step; of the gathers and
        # backwards, the reduction, the data and the computation of a step of the run; bytes.
        self.small_step = self.gathers = self.reduction = self.data = self.computation = 0.0
        self.checkpoint_bytes = 0

    # -- data --------------------------------------------------------------------------------------

    def stream(self, plan: Plan) -> Stream:
        """The run's data in batches of another plan."""
        return replace(self.trainer.stream, plan=plan)

    def stream_alone(self, plan: Plan) -> Stream:
        """The global batches of `plan` as one process reads them."""
        whole = replace(plan, rows=plan.rows * self.world)
        return replace(self.stream(whole), rank=0, world_size=1)

    def load(self, plan: Plan) -> list:
        """The batches of one step of a plan."""
        return _first_step(self.stream(plan))

    def load_small(self) -> None:
        """Read the records of the checks."""
        self.batches = self.load(self.plan)
        self.alone = _first_step(self.stream_alone(self.plan))

    # -- steps -------------------------------------------------------------------------------------

    def step(
        self, batches: list, plan: Plan, before_clipping: Callable[[], None] = lambda: None
    ) -> dict:
        """The run's step over the first batches of `plan`; its losses.

        Args:
            before_clipping: called when the step has its gradients.
        """
        trainer, stepper, stream = self.trainer, self.stepper, self.stream(plan)
        seeds = [stream.dropout_seeds(number) for number in range(len(batches))]
        losses = stepper.gradients(batches, seeds)
        before_clipping()
        losses["gradient_norm"] = norm = stepper.clip()
        (loss,) = distributed.mean([float(losses["loss"])])
        fault = trainer.faults.judge(loss, stepper.judged_norm(loss, norm))
        stepper.skip() if fault else stepper.apply()
        trainer.progress.step += 1
        return losses

    def small_step_kept(self) -> tuple[dict, dict]:
        """A step over `batches`; its losses, and the owned gradients before they were clipped."""
        kept = {}

        def keep() -> None:
            for name, parameter in self.stepper.parallel.owned.items():
                if parameter.grad is not None:
                    kept[name] = _float32(parameter.grad)

        return self.step(self.batches, self.plan, keep), kept

    def gradients_alone(self) -> tuple[float, dict]:
        """Loss and owned gradients of a step over `alone`, by plain autograd and no collective.

        Each micro-batch has its turn to be differentiated, while the others' rows are constants, so
        one has a graph at a time. In sharding stage 3 the weights still come from their owners.
        """
        stepper = self.stepper
        stepper.train_mode()
        total: float = 0.0
        gradients: dict = {}
        for number, parts in enumerate(self.alone):
            own_seeds = self.stream(self.plan).dropout_seeds(number)
            seeds = [seed for seeds in distributed.all_gather_objects(own_seeds) for seed in seeds]
            ids, valid = joined_identities(parts)
            with auto_cast(stepper.amp):
                with paddle.no_grad():
                    constants = [self._embed(*pair) for pair in zip(parts, seeds)]
                for turn, pair in enumerate(zip(parts, seeds)):
                    rows = [*constants[:turn], self._embed(*pair), *constants[turn + 1 :]]
                    loss = self._loss_alone(paddle.concat(rows), ids, valid, scalars=turn == 0)
                    (loss / self.plan.merge).backward()
                    for name, master in stepper.parallel.masters.items():
                        if name in stepper.parallel.owned and master.grad is not None:
                            gradients[name] = gradients.get(name, 0.0) + _float32(master.grad)
                        master.clear_gradient(False)
            total += float(loss) / self.plan.merge
        return total, gradients

    def _embed(self, part: Mapping, seed: int) -> paddle.Tensor:
        """Embeddings [m, V, D] of a micro-batch, float32."""
        paddle.seed(seed)
        embeds = self.objective.embed(part["pixel_values"], part["input_ids"])
        views = self.objective.loss.views
        return paddle.stack([embeds[view].astype("float32") for view in views], axis=1)

    def _loss_alone(self, rows, ids, valid, scalars: bool) -> paddle.Tensor:
        """The loss of rows [N, V, D]; `scalars`: scales and biases get their gradients."""
        loss, model = self.objective.loss, self.objective.model
        with paddle.amp.auto_cast(enable=False):
            scales, biases = loss.scales_and_biases(model.logit_scale)
            if not scalars:
                scales, biases = scales.detach(), biases.detach()
            ids = loss.used_ids(ids, len(rows))
            targets = Targets(ids, valid, ids, valid)
            losses, *_ = plain_losses(rows, rows, scales, biases, targets, loss.terms)
            weights = [pair.weight for pair in loss.pairs]
            return (losses * paddle.to_tensor(weights, dtype="float32")).sum()

    # -- state -------------------------------------------------------------------------------------

    def weight_digests(self) -> dict[str, str]:
        """Name -> digest of all weights."""
        with self.stepper.parallel.whole():
            return _digests(self.objective.state_dict())

    def state_digests(self) -> dict[str, str]:
        """Name -> digest of all that this process gets back from a checkpoint."""
        stepper = self.stepper
        tensors = training_state.optimizer_tensors(stepper.optimizer, self.objective)
        tensors.update({f"master.{n}": t for n, t in stepper.parallel.masters.full.items()})
        if stepper.ema:
            tensors.update({f"average.{n}": t for n, t in stepper.ema.average.items()})
        other = {"schedule": stepper.scheduler.last_epoch, **stepper.scaler.state_dict()}
        other = {name: str(value) for name, value in other.items()}
        return {**self.weight_digests(), **_digests(tensors), **other}


def _first_step(stream: Stream) -> list:
    return together(lambda: list(stream.batches(0, stream.plan.merge)))


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
