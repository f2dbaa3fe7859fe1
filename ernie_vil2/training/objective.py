"""Towers and loss as one layer, and its gradients for batches that memory does not hold at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext

import paddle
from paddle import nn

from ernie_vil2.data.normalise import Normalise
from ernie_vil2.losses.multiview import MultiViewContrastive
from ernie_vil2.models.dual_encoder import DualEncoder


class Objective(nn.Layer):
    """Towers and loss as one layer: data parallelism sees one forward and all parameters.

    Args:
        normalise: what it makes of pixels before the image tower sees them; None: the official
            `Normalise`.
    """

    def __init__(
        self,
        model: DualEncoder,
        loss: MultiViewContrastive,
        image_views,
        text_views,
        normalise: Normalise | None = None,
    ):
        super().__init__()
        self.model, self.loss, self.normalise = model, loss, normalise or Normalise()
        self.image_views, self.text_views = list(image_views), list(text_views)

    def embed(self, pixel_values, input_ids) -> dict[str, paddle.Tensor]:
        """View -> [B, D], L2-normalised, of a batch of `ViewMaker.collate`."""
        image_embeds, text_embeds = self.model(self.normalise(pixel_values), input_ids)
        embeds = dict(zip(self.image_views, image_embeds.chunk(len(self.image_views))))
        embeds.update(zip(self.text_views, text_embeds.chunk(len(self.text_views))))
        return embeds

    def score(self, embeds, ids, valid, everyone=None) -> dict[str, paddle.Tensor]:
        """Losses and accuracies of `MultiViewContrastive` for embeddings of all views."""
        return self.loss(embeds, self.model.logit_scale, ids, valid, everyone)

    def forward(self, pixel_values, input_ids, ids=None, valid=None, gradients=None):
        """`score` of the batch's embeddings or, with `gradients`, a scalar that has these.

        Args:
            gradients: view -> float32 [B, D], what the backward of the scalar brings the
                embeddings.
        """
        embeds = self.embed(pixel_values, input_ids)
        if gradients is None:
            return self.score(embeds, ids, valid)
        with paddle.amp.auto_cast(enable=False):
            terms = [(embeds[v].astype("float32") * g).sum() for v, g in gradients.items()]
            # Temperatures have their gradients already, but data parallelism reduces when each
            # parameter has come by, and waits for one that does not.
            own = [self.model.temperature, *self.loss.parameters()]
            terms += [0.0 * p.sum() for p in own if not p.stop_gradient]
            return paddle.add_n(terms)

    def clamp(self) -> None:
        """Bring the logit scale and the pairs' temperatures back into their bounds."""
        self.model.clamp_logit_scale()
        self.loss.clamp_temperatures()


def joined_identities(micro_batches: Sequence[Mapping]) -> tuple[dict, paddle.Tensor]:
    """Source -> int64 [B], and bool [B], of the batch that the micro-batches make."""
    ids = {
        source: paddle.concat([batch["ids"][source] for batch in micro_batches])
        for source in micro_batches[0]["ids"]
    }
    return ids, paddle.concat([batch["valid"] for batch in micro_batches])


@paddle.no_grad()
def embed_all(objective: Objective, micro_batches, seeds) -> dict[str, paddle.Tensor]:
    """View -> [B, D] of the batch that the micro-batches make, without a graph."""
    parts = []
    for batch, seed in zip(micro_batches, seeds):
        paddle.seed(seed)
        parts.append(objective.embed(batch["pixel_values"], batch["input_ids"]))
    return {view: paddle.concat([part[view] for part in parts]) for view in parts[0]}


def backward(
    parallel, micro_batches: list, seeds: list, scale, last: bool = True, one_graph: bool = True
) -> dict:
    """Add the gradients of one batch to its parameters'; returns its losses and accuracies.

    More than one micro-batch is accumulated as in GradCache (Gao et al. 2021, arXiv 2101.06983):
    embeddings without a graph, the loss of all and its gradients with respect to them, then each
    micro-batch once more with its graph. The result is that of the whole batch in one graph.

    Args:
        parallel: an `Objective` as `Replicated` or `Sharding`.
        micro_batches: dicts of `ViewMaker.collate`, of any sizes, together this rank's batch.
        seeds: one a micro-batch; dropout draws the same masks both times.
        scale: applied to the loss before its backward, as a GradScaler or a mean over batches
            needs.
        last: False keeps the gradients on this rank, for another batch to be added before the
            step.
        one_graph: whether a single micro-batch goes through towers and loss at once, which is
            faster, and other than accumulated ones in the last bits.
    """
    objective = parallel.objective

    def synced(now: bool):
        return nullcontext() if now and last else parallel.no_sync()

    if len(micro_batches) == 1 and one_graph:
        paddle.seed(seeds[0])
        with synced(True):
            losses = parallel(**micro_batches[0])
            scale(losses["loss"]).backward()
        return losses

    embeds = embed_all(objective, micro_batches, seeds)
    for leaf in embeds.values():
        leaf.stop_gradient = False
    ids, valid = joined_identities(micro_batches)
    losses = objective.score(embeds, ids, valid)
    scale(losses["loss"]).backward()

    row = 0
    for number, (batch, seed) in enumerate(zip(micro_batches, seeds), start=1):
        rows = slice(row, row + len(batch["valid"]))
        row = rows.stop
        gradients = {v: e.grad[rows] for v, e in embeds.items() if e.grad is not None}
        paddle.seed(seed)
        with synced(number == len(micro_batches)):
            parallel(batch["pixel_values"], batch["input_ids"], gradients=gradients).backward()
    return losses
