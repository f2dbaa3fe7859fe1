"""What of the towers does not learn, beside what adapters leave as it is."""

from __future__ import annotations

from paddle import nn

from ernie_vil2.config.load import Config
from ernie_vil2.errors import UserError
from ernie_vil2.models.dual_encoder import DualEncoder
from ernie_vil2.models.layers import BATCH_NORMS


def freeze(model: DualEncoder, config: Config) -> list[nn.Layer]:
    """Stop the gradients of what `Optimizer` says does not learn.

    Returns:
        Layers that training runs as an evaluation does: whole towers, and of others batch norms
        that do not learn, whose statistics stay. Dropout goes on in a tower that learns in part,
        as in open_clip and PEFT: it also makes the two views of a text.

    Raises:
        UserError: more layers than a tower has.
    """
    still = []
    for name, tower in (("image", model.image_tower), ("text", model.text_tower)):
        if name in config.Optimizer.freeze:
            _stop(tower, tower.num_layers + 1)
            still.append(tower)
            continue
        unlocked = config.Optimizer.unlocked_layers[name]
        if unlocked is not None:
            if unlocked > tower.num_layers:
                raise UserError(
                    f"Optimizer.unlocked_layers.{name} is {unlocked}, but the tower has "
                    f"{tower.num_layers}: expected fewer, or null to let all of it learn"
                )
            _stop(tower, tower.num_layers - unlocked)
        norms = [layer for layer in tower.sublayers() if isinstance(layer, BATCH_NORMS)]
        still += [x for x in norms if all(p.stop_gradient for p in x.parameters())]
    return still


def _stop(tower: nn.Layer, depth: int) -> None:
    """Let nothing learn up to a layer; 0 is the stem."""
    for name, parameter in tower.named_parameters():
        if tower.layer_of(name) <= depth:
            parameter.stop_gradient = True
