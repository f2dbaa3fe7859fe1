"""Losses and accuracies of each source of a mixture, between two reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import paddle

from ernie_vil2 import distributed
from ernie_vil2.data.formats.mixture import MixtureReader


class BySource:
    """Means over each source's records, of all processes."""

    def __init__(self, mixture: MixtureReader):
        self.names, self.ends = mixture.names, mixture.ends
        self._sums: paddle.Tensor | None = None  # float32 [M + 1, K], counts last
        self._what: list[str] = []  # the M names of what is added up

    def add(self, by_row: Mapping[str, paddle.Tensor], batches: Sequence[list]) -> None:
        """Take a step in, which stays on the device.

        Args:
            by_row: as `Step.gradients` gives it, [B] each, of all records of `batches`.
        """
        micro_batches = [micro_batch for batch in batches for micro_batch in batch]
        index = np.concatenate([each["index"] for each in micro_batches])
        valid = paddle.concat([each["valid"] for each in micro_batches])
        sources = np.searchsorted(self.ends, index, side="right")
        of_source = sources == np.arange(len(self.names))[:, None]
        of_source = paddle.to_tensor(of_source) & valid  # [K, B]
        values = paddle.stack([*by_row.values(), paddle.ones_like(by_row["loss"])])  # [M + 1, B]
        values = paddle.where(valid.expand_as(values), values, paddle.zeros_like(values))
        sums = (values.unsqueeze(1) * of_source.astype("float32")).sum(-1)  # [M + 1, K]
        self._sums = sums if self._sums is None else self._sums + sums
        self._what = list(by_row)

    def collect(self) -> dict[str, float]:
        """ "<source>/<name>" -> mean since the last call, alike on all processes, which call it
        together; nothing of a source of which no record has come."""
        if self._sums is None:
            return {}
        every = distributed.mean(self._sums.flatten().tolist())
        *sums, counts = np.reshape(every, [len(self._what) + 1, len(self.names)])
        self._sums = None
        return {
            f"{name}/{what}": float(total[k] / counts[k])
            for k, name in enumerate(self.names)
            for what, total in zip(self._what, sums)
            if counts[k]
        }
