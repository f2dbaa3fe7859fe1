"""The parts of a training run, as its configuration asks for them."""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import Mapping
from pathlib import Path

import paddle
from paddle import nn

from ernie_vil2 import distributed
from ernie_vil2.checkpoints.writer import CheckpointWriter
from ernie_vil2.config.load import Config
from ernie_vil2.data.normalise import Normalise
from ernie_vil2.distributed import groups
from ernie_vil2.errors import UserError
from ernie_vil2.losses.multiview import MultiViewContrastive
from ernie_vil2.models.dual_encoder import DualEncoder, build_model
from ernie_vil2.models.layers import BATCH_NORMS
from ernie_vil2.models.precision import check_precision, halve
from ernie_vil2.tf32 import allow_tf32
from ernie_vil2.training import optim
from ernie_vil2.training.ema import EMA
from ernie_vil2.training.freezing import freeze
from ernie_vil2.training.objective import Objective
from ernie_vil2.training.plan import Plan
from ernie_vil2.weights.vocabulary import check_max_len, check_vocabulary

log = logging.getLogger("ernie_vil2")


def build_objective(config: Config, tokenizer) -> tuple[Objective, list]:
    """Towers and loss, and those of their layers that training leaves in eval mode."""
    model = build_model(config.Arch, config.Loss.logit_scale)
    check_vocabulary(model, tokenizer, trained=False)
    check_max_len(model, tokenizer)
    loss = MultiViewContrastive(
        config.Loss.pairs,
        config.Loss.multi_positive,
        config.Loss.logit_scale["max"],
        config.Loss.chunk,
        config.Loss.ring,
    )
    frozen = freeze(model, config)
    normalise = Normalise(config.Transform.mean, config.Transform.std)
    return Objective(model, loss, config.Views.image, config.Views.text, normalise), frozen


def trainable(layer: nn.Layer) -> dict[str, paddle.Tensor]:
    """The parameters that learn, by structured name."""
    return {name: p for name, p in layer.named_parameters() if not p.stop_gradient}


def count_steps(config: Config, steps_per_epoch: float) -> int:
    """Of the whole run."""
    total = math.ceil(config.Global.epochs * steps_per_epoch)
    return min(total, config.Global.max_steps or total)


def batch_norms(objective: Objective) -> dict[str, nn.Layer]:
    """The batch norms that learn, by name."""
    learning = {id(p) for p in trainable(objective).values()}
    return {
        name: layer
        for name, layer in objective.named_sublayers()
        if isinstance(layer, BATCH_NORMS) and any(id(p) in learning for p in layer.parameters())
    }


def check_batch_norm(objective: Objective, plan: Plan) -> None:
    """Batch norm is the one layer that makes a sample's embedding depend on its batch.

    Raises UserError where micro-batches would change it; warns where processes do.
    """
    normalised = list(batch_norms(objective))
    if not normalised:
        return
    if plan.micro < plan.rows:
        raise UserError(
            f"DataLoader.Train.micro_batch_size is {plan.micro}, but {normalised[0]} normalises "
            "over the whole batch: set it to null, take a tower without batch norm, or freeze this "
            "one"
        )
    if distributed.world_size() > 1:
        log.warning(
            "%s and %d more normalise over their own process's batch: the gradients are not those "
            "of one process",
            normalised[0],
            len(normalised) - 1,
        )


def build_amp(config: Config, objective: Objective) -> tuple[paddle.amp.GradScaler, dict]:
    """The scaler of the loss, and what the weights were that become half precision here (O2).

    Raises:
        UserError: the device cannot do what `AMP` asks for.
    """
    amp = config.AMP
    check_precision(amp)
    allow_tf32(amp.tf32)
    originals = {}
    if amp.level == "O2":
        # temperatures are too fine for half precision; the layers below are not excluded
        originals = halve(objective, amp.dtype, keep=(DualEncoder, MultiViewContrastive))
    scaler = paddle.amp.GradScaler(
        enable=amp.level != "O0" and amp.dtype == "float16", init_loss_scaling=amp.init_loss_scaling
    )
    return scaler, originals


def build_optimizer(config: Config, objective: Objective, owned: Mapping, scheduler):
    """The optimizer of the parameters that this process owns; logs the groups of all."""
    parameters, lr_scales = trainable(objective), {}
    if config.Optimizer.layer_decay:
        for name in trainable(objective.model):
            layers = objective.model.layers_above(name)
            lr_scales[f"model.{name}"] = config.Optimizer.layer_decay**layers
    groups = optim.parameter_groups(
        parameters, config.Optimizer.groups, config.Optimizer.weight_decay, lr_scales
    )
    log.info(optim.format_groups(groups, parameters))
    return optim.build_optimizer(config.Optimizer, groups, owned, scheduler)


def build_ema(config: Config, owned: Mapping) -> EMA | None:
    """The average of those of the model's parameters that this process owns, if any is wanted."""
    if not config.EMA.decay:
        return None
    prefix = "model."
    model = {n[len(prefix) :]: p for n, p in owned.items() if n.startswith(prefix)}
    return EMA(model, config.EMA.decay)


def build_checkpoints(config: Config, tokenizer, model: DualEncoder) -> CheckpointWriter:
    """The writer of output_dir/checkpoints, which leave out what the model has from its base."""
    # equal on all ranks, other for each start
    token = distributed.all_gather_objects(secrets.token_hex(4))[0]
    writers = groups.sharding().ranks  # the first such group writes for the others
    return CheckpointWriter(
        Path(config.Global.output_dir) / "checkpoints",
        config,
        tokenizer.vocab_file,
        keep=config.Global.keep_checkpoints,
        keep_every=config.Global.keep_every,
        rank=distributed.rank(),
        world_size=len(writers),
        token=token,
        sharded=config.Distributed.sharding is not None and 0 in writers,
        base=model.base.note() if model.base else None,
    )
