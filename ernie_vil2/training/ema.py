"""The exponential moving average of a model's weights."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import paddle


class EMA:
    """Exponential moving average of a model's parameters, in float32.

    The decay is warmed up as (1 + n) / (10 + n) after n updates, so that early averages forget the
    random start (as TensorFlow's ExponentialMovingAverage with num_updates).
    """

    def __init__(self, parameters: Mapping, decay: float):
        self.parameters, self.decay, self.updates = parameters, decay, 0
        self.average = {
            name: p.detach().astype("float32").clone() for name, p in parameters.items()
        }

    @paddle.no_grad()
    def update(self) -> None:
        """Take the parameters' present values in."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        share = paddle.full([], 1 - decay, "float32")
        for name, p in self.parameters.items():
            # In one operation and in place: average + share * (p - average), which leaves an
            # average that is there already where it is.
            value = p if p.dtype == paddle.float32 else p.astype("float32")  # which would copy
            self.average[name].lerp_(value, share)

    @contextlib.contextmanager
    def applied(self):
        """Inside, the model's parameters hold the averages."""
        own = {name: p.detach().clone() for name, p in self.parameters.items()}
        try:
            self._set(self.average)
            yield
        finally:
            self._set(own)

    @paddle.no_grad()
    def _set(self, values: Mapping) -> None:
        for name, p in self.parameters.items():
            paddle.assign(values[name].astype(p.dtype), p)
