"""The weighted multi-view contrastive loss: named pairs of views, negatives from all ranks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import paddle
from paddle import nn

from ernie_vil2 import distributed
from ernie_vil2.distributed.ring import Ring
from ernie_vil2.errors import UserError, did_you_mean
from ernie_vil2.losses.chunked import chunked_losses
from ernie_vil2.losses.pairs import Pair, PairLike, Term
from ernie_vil2.losses.plain import plain_losses
from ernie_vil2.losses.ring import ring_losses
from ernie_vil2.losses.targets import Ids, Records, looked_at
from ernie_vil2.views import DEFAULT_PAIRS, SOURCES, VIEWS


def _temperature_name(pair: Pair) -> str:
    return f"temperature_{pair.a}_{pair.b}"


def _bias_name(pair: Pair) -> str:
    return f"bias_{pair.a}_{pair.b}"


class Everyone(NamedTuple):
    """The records of all ranks where they need not be gathered.

    Attributes:
        embeds, ids, valid: as `MultiViewContrastive.forward` takes them, of N records.
        first: which of them is row 0 of those whose loss is asked for.
    """

    embeds: Mapping[str, paddle.Tensor]
    ids: Ids
    valid: paddle.Tensor
    first: int


class MultiViewContrastive(nn.Layer):
    """Sum over pairs of weight x loss between the pair's views, exact over all ranks.

    The table in `targets.py` says which rows of all ranks are a row's positives and negatives.

    The softmax loss is the symmetric cross-entropy. With several positives the row's loss is the
    mean of their negative log-probabilities (L_out of Khosla et al. 2020, arXiv 2004.11362,
    equation 2); with one it is InfoNCE.

    The sigmoid loss is SigLIP's (Zhai et al. 2023, arXiv 2303.15343, section 3.1): the mean over
    rows of the sum over columns of -log sigmoid(z (scale a.b + bias)), z = 1 for positives and -1
    for negatives. It is symmetric, so that a's rows against b's columns give all of the loss and
    of its accuracy.

    Args:
        pairs: what `Pair.parse` reads, or a mapping "a-b" -> weight; by default the paper's four.
        multi_positive: whether the table in `targets.py` holds; else a row's only positive is its
            own record, and all other records are its negatives.
        max_logit_scale: bound of the pairs' learnable temperatures, see `clamp_temperatures`.
        chunk: columns that are scored at a time, for memory linear in the global batch; 1024 is a
            good choice. None scores all at once by plain autograd. The numbers agree to float32
            rounding.
        ring: whether the ranks' embeddings travel from rank to rank instead of being gathered, for
            memory that grows with the local batch alone; with `chunk`, so many of a rank's at a
            time. The numbers agree to float32 rounding.

    Attributes:
        by_row: whether the numbers of each row are given too.

    Raises:
        UserError: no pair has a weight above 0, a pair stands twice or is none, chunk is below 1.
    """

    by_row = False

    def __init__(
        self,
        pairs: Mapping[str, float] | Iterable[PairLike] = DEFAULT_PAIRS,
        multi_positive: bool = True,
        max_logit_scale: float = 100.0,
        chunk: int | None = None,
        ring: bool = False,
    ):
        super().__init__()
        if isinstance(pairs, Mapping):
            pairs = [(*name.split("-"), weight) for name, weight in pairs.items()]
        parsed = [Pair.parse(pair) for pair in pairs]
        if len({frozenset(pair[:2]) for pair in parsed}) < len(parsed):
            raise UserError(f"a pair stands twice in {', '.join(p.name for p in parsed)}")
        self.pairs = [pair for pair in parsed if pair.weight > 0]
        if not self.pairs:
            raise UserError("the loss has no pair with a weight above 0: name at least one")
        if chunk is not None and not chunk >= 1:
            raise UserError(f"chunk is {chunk}: give a number of columns from 1, or null for all")
        self.views = [v for v in VIEWS if any(v in pair[:2] for pair in self.pairs)]
        self.terms = [Term.of(pair, self.views) for pair in self.pairs]
        self.multi_positive = multi_positive
        self.max_log_scale = math.log(max_logit_scale)
        self.chunk, self.ring = chunk, ring
        for pair in self.pairs:
            if pair.temperature and pair.learnable:
                self._add_scalar(_temperature_name(pair), -math.log(pair.temperature))
            if pair.bias is not None:  # of a sigmoid
                self._add_scalar(_bias_name(pair), pair.bias)

    def _add_scalar(self, name: str, value: float) -> None:
        constant = nn.initializer.Constant(value)
        self.add_parameter(name, self.create_parameter([1], default_initializer=constant))

    def _scale(self, pair: Pair, logit_scale: paddle.Tensor) -> paddle.Tensor:
        if pair.temperature is None:
            return logit_scale
        if pair.learnable:
            return getattr(self, _temperature_name(pair)).exp()
        return paddle.to_tensor([1.0 / pair.temperature])

    def _bias(self, pair: Pair) -> paddle.Tensor:
        return getattr(self, _bias_name(pair)) if pair.sigmoid else paddle.zeros([1])

    def scales_and_biases(self, logit_scale: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Scale and bias of each pair's logits, float32 [P] both.

        Args:
            logit_scale: float32 [1], of the pairs without a temperature of their own.
        """
        scales = paddle.concat([self._scale(pair, logit_scale) for pair in self.pairs])
        return scales, paddle.concat([self._bias(pair) for pair in self.pairs])

    def used_ids(self, ids: Ids | None, rows: int) -> dict[str, paddle.Tensor]:
        """Of `ids`, as `forward` takes them, those that this loss looks at; all are checked."""
        if ids is None:
            return {}
        if not isinstance(ids, Mapping):
            raise UserError(
                f"ids is a {type(ids).__name__}: expected a mapping of {', '.join(SOURCES)} "
                "to int64 [B], or None"
            )
        for name, values in ids.items():
            if name not in SOURCES:
                raise UserError(f'ids has no source "{name}"{did_you_mean(name, SOURCES)}')
            if list(values.shape) != [rows]:
                raise UserError(
                    f'ids of "{name}" have the shape {list(values.shape)}: '
                    f"expected [{rows}], one a row"
                )
        if not self.multi_positive:
            return {}
        used = {s for term in self.terms for s in looked_at(term.sources)}
        return {s: ids[s].astype("int64") for s in SOURCES if s in used and s in ids}

    @paddle.no_grad()
    def clamp_temperatures(self) -> None:
        """Bring learnable temperatures of pairs back under the bound, in place."""
        for pair in self.pairs:
            if pair.temperature and pair.learnable:
                log_scale = getattr(self, _temperature_name(pair))
                paddle.assign(paddle.clip(log_scale, max=self.max_log_scale), log_scale)

    def forward(
        self,
        embeds: dict[str, paddle.Tensor],
        logit_scale: paddle.Tensor | float,
        ids: Ids | None = None,
        valid: paddle.Tensor | None = None,
        everyone: Everyone | None = None,
    ) -> dict[str, Any]:
        """Loss of this rank's rows against the rows of all ranks.

        Args:
            embeds: view -> [B, D], L2-normalised, this rank's rows (B equal on all ranks).
            logit_scale: [1], or a number.
            ids: source ("image", "text", "caption", "tags") -> int64 [B], where known; rows that
                agree are the same image, the same drawn text. All ranks have the same sources.
            valid: bool [B]; a row that is False is neither anchor, positive nor negative.
            everyone: the records of all ranks; None: they are gathered.

        Returns:
            float32 scalars: "loss", and for each pair its unweighted "<a>-<b>" and
            "<a>-<b>/accuracy", the share of rows whose best positive beats all negatives. The mean
            of "loss" over ranks is the loss of the global batch, and so are its gradients. With
            `by_row`, "by_row" has the same names with those of each row, float32 [B] without a
            gradient; of a row that is not valid they mean nothing.

        Raises:
            UserError: a pair's view is missing, or ids are of another form.
        """
        missing = [view for view in self.views if view not in embeds]
        if missing:
            raise UserError(f"the loss needs the views {missing}, got {sorted(embeds)}")
        with paddle.amp.auto_cast(enable=False):
            rows = self._stacked(embeds)
            if valid is None:
                valid = paddle.ones([rows.shape[0]], dtype="bool")
            records = Records(self.used_ids(ids, rows.shape[0]), valid)
            if not isinstance(logit_scale, paddle.Tensor):
                logit_scale = paddle.to_tensor(logit_scale)
            logit_scale = logit_scale.astype("float32").reshape([1])
            scales, biases = self.scales_and_biases(logit_scale)
            losses, accuracies, of_rows = self._losses(rows, scales, biases, records, everyone)
            result: dict[str, Any] = self._named(losses, accuracies)
            if self.by_row:
                result["by_row"] = self._named(*of_rows)
            return result

    def _named(self, losses: paddle.Tensor, accuracies: paddle.Tensor) -> dict[str, paddle.Tensor]:
        """The weighted loss, and the pairs' losses and accuracies; [P] or [P, B] both."""
        weights = paddle.to_tensor([pair.weight for pair in self.pairs], dtype="float32")
        if losses.ndim == 1:
            result = {"loss": (losses * weights).sum()}
        else:
            result = {"loss": (losses * weights.unsqueeze(1)).sum(0)}
        for pair, loss, accuracy in zip(self.pairs, losses, accuracies):
            result[pair.name], result[f"{pair.name}/accuracy"] = loss, accuracy
        return result

    def _stacked(self, embeds: Mapping[str, paddle.Tensor]) -> paddle.Tensor:
        """The views that the loss looks at, float32 [B, V, D]."""
        return paddle.stack([embeds[v].astype("float32") for v in self.views], axis=1)

    def _losses(
        self,
        rows: paddle.Tensor,
        scales: paddle.Tensor,
        biases: paddle.Tensor,
        records: Records,
        everyone: Everyone | None,
    ) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
        """What `plain_losses` gives, by the way that was chosen."""
        if self.ring:
            return ring_losses(rows, scales, biases, records, self.terms, self.chunk, Ring())
        if everyone is None:
            columns = distributed.all_gather_with_gradient(rows)  # [B, V, D] -> [WB, V, D]
            targets = records.gather()
        else:
            columns = self._stacked(everyone.embeds)
            ids = self.used_ids(everyone.ids, columns.shape[0])
            targets = records.against(Records(ids, everyone.valid).keys(), everyone.first)
        inputs = (rows, columns, scales, biases, targets, self.terms)
        if self.chunk is None:
            return plain_losses(*inputs)
        return chunked_losses(*inputs, self.chunk)
