"""Fill a tower with the weights that a library has published for its name."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from paddle import nn

from ernie_vil2.errors import UserError
from ernie_vil2.models.positions import fit_all

log = logging.getLogger("ernie_vil2")


def fill_pretrained(
    layer: nn.Layer, weights: Mapping[str, Any], name: str, prefix: str, remedy: str
) -> None:
    """Load the weights that `layer` has parameters for; `weights` may hold more.

    Position embeddings of another size are made to fit; the log says so.

    Args:
        weights: name -> array or tensor, by the layer's own names.
        name: whose weights they are, for messages.
        prefix: of the layer's names in the whole model.
        remedy: what the error advises.

    Raises:
        UserError: a weight is missing or has another shape.
    """
    wanted = layer.state_dict()
    found, resized = fit_all(weights, wanted, prefix)
    bad = [
        key
        for key in wanted
        if key not in found or tuple(found[key].shape) != tuple(wanted[key].shape)
    ]
    if bad:
        raise UserError(
            f"the weights of {name} lack or have other shapes for {', '.join(bad[:10])} "
            f"({len(bad)} in all): {remedy}"
        )
    layer.set_state_dict({key: found[key] for key in wanted})
    for line in resized:
        log.warning("%s: %s", name, line)
