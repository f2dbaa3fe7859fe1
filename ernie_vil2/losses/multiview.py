"""The weighted multi-view contrastive loss: named pairs of views, negatives from all ranks."""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple, Optional, Union

import paddle
from paddle import nn

from ernie_vil2 import distributed
from ernie_vil2.errors import UserError, did_you_mean

# text1 and text2 stand for the caption or the tag sentence, whichever was drawn.
VIEWS = ("image1", "image2", "text1", "text2", "caption1", "caption2", "tags1", "tags2")

DEFAULT_PAIRS = (("image1", "image2"), ("text1", "text2"), ("image1", "text1"), ("image2", "text2"))

_MASKED = -1e9  # a logit that no softmax sees; finite, so that no gradient is NaN


class Pair(NamedTuple):
    """Two views whose embeddings of one record attract each other.

    temperature: None shares the model's logit scale; a number is this pair's own, fixed unless
    `learnable`.
    """

    a: str
    b: str
    weight: float = 1.0
    temperature: Optional[float] = None
    learnable: bool = False

    @property
    def name(self) -> str:
        return f"{self.a}-{self.b}"

    @classmethod
    def parse(cls, pair: Union[str, Iterable, Mapping]) -> "Pair":
        """Read `{views: [a, b], weight, ...}`, `(a, b, weight, ...)` or `"a-b"`."""
        given = pair
        try:
            if isinstance(given, Mapping):
                options = dict(given)
                pair = cls(*options.pop("views", ()), **options)
            else:
                pair = cls(*(given.split("-") if isinstance(given, str) else given))
        except TypeError as error:
            raise UserError(
                f"{given!r} is no pair ({error}): give {{views: [a, b], weight: 1.0}}"
            ) from error
        for view in pair[:2]:
            if view not in VIEWS:
                raise UserError(f'no view is named "{view}"{did_you_mean(view, VIEWS)}')
        if pair.a == pair.b:
            raise UserError(f"pair {pair.name} has one view twice: name two different ones")
        if not (pair.weight >= 0 and math.isfinite(pair.weight)):
            raise UserError(f"pair {pair.name} has weight {pair.weight}: give a number from 0")
        if pair.temperature is not None and not pair.temperature > 0:
            raise UserError(
                f"pair {pair.name} has temperature {pair.temperature}: give one above 0"
            )
        return pair


class MultiViewContrastive(nn.Layer):
    """Sum over pairs of weight x symmetric cross-entropy between the pair's views.

    A row's negatives in a pair (a, b) are the other view's rows of every other record, on all
    ranks; with several positives the row's loss is the mean of their negative log-probabilities
    (L_out of Khosla et al. 2020, arXiv 2004.11362, equation 2), which is InfoNCE for one.

    pairs: what `Pair.parse` reads, or a mapping "a-b" -> weight; default the paper's four pairs.
    multi_positive: records that share an id count as each other's positives, not negatives.
    max_logit_scale: bound of learnable temperatures of pairs, applied by `clamp_temperatures`.
    """

    def __init__(self, pairs=DEFAULT_PAIRS, multi_positive: bool = True, max_logit_scale=100.0):
        super().__init__()
        if isinstance(pairs, Mapping):
            pairs = [(*name.split("-"), weight) for name, weight in pairs.items()]
        parsed = [Pair.parse(pair) for pair in pairs]
        if len({frozenset(pair[:2]) for pair in parsed}) < len(parsed):
            raise UserError(f"a pair stands twice in {', '.join(p.name for p in parsed)}")
        self.pairs = [pair for pair in parsed if pair.weight > 0]
        if not self.pairs:
            raise UserError("the loss has no pair with a weight above 0: name at least one")
        self.views = [v for v in VIEWS if any(v in pair[:2] for pair in self.pairs)]
        self.multi_positive = multi_positive
        self.max_log_scale = math.log(max_logit_scale)
        for pair in self.pairs:
            if pair.temperature and pair.learnable:
                log_scale = self.create_parameter(
                    [1], default_initializer=nn.initializer.Constant(-math.log(pair.temperature))
                )
                self.add_parameter(self._temperature_name(pair), log_scale)

    @staticmethod
    def _temperature_name(pair: Pair) -> str:
        return f"temperature_{pair.a}_{pair.b}"

    def _scale(self, pair: Pair, logit_scale: paddle.Tensor):
        if pair.temperature is None:
            return logit_scale
        if pair.learnable:
            return getattr(self, self._temperature_name(pair)).exp()
        return 1.0 / pair.temperature

    @paddle.no_grad()
    def clamp_temperatures(self) -> None:
        """Bring learnable temperatures of pairs back under the bound, in place."""
        for log_scale in self.parameters():
            log_scale.set_value(paddle.clip(log_scale, max=self.max_log_scale))

    def forward(
        self,
        embeds: "dict[str, paddle.Tensor]",
        logit_scale: paddle.Tensor,
        ids: Optional[paddle.Tensor] = None,
        valid: Optional[paddle.Tensor] = None,
    ) -> "dict[str, paddle.Tensor]":
        """Loss of this rank's rows against the rows of all ranks.

        embeds: view -> [B, D], L2-normalised, this rank's rows (B equal on all ranks).
        logit_scale: [1], or a number.
        ids: int64 [B, K]; rows that agree in any column are the same item (image id, text hash).
        valid: bool [B]; a row that is False is neither anchor, positive nor negative.
        Returns float32 scalars: "loss", and for each pair its unweighted "<a>-<b>" and
        "<a>-<b>/accuracy", the share of rows whose best positive beats all negatives. The mean of
        "loss" over ranks is the loss of the global batch, and so are its gradients.
        Raises UserError where a pair's view is missing.
        """
        missing = [view for view in self.views if view not in embeds]
        if missing:
            raise UserError(f"the loss needs the views {missing}, got {sorted(embeds)}")
        with paddle.amp.auto_cast(enable=False):
            rows = paddle.stack([embeds[v].astype("float32") for v in self.views], axis=1)
            columns = distributed.all_gather_with_gradient(rows)  # [B, V, D] -> [WB, V, D]
            local = dict(zip(self.views, rows.unbind(1)))
            everywhere = dict(zip(self.views, columns.unbind(1)))
            if not isinstance(logit_scale, paddle.Tensor):
                logit_scale = paddle.to_tensor(logit_scale)
            targets = _Targets(rows.shape[0], ids if self.multi_positive else None, valid)
            result, losses = {}, []
            for pair in self.pairs:
                scale = self._scale(pair, logit_scale.astype("float32"))
                ab, ab_right = targets.cross_entropy(scale * local[pair.a] @ everywhere[pair.b].T)
                ba, ba_right = targets.cross_entropy(scale * local[pair.b] @ everywhere[pair.a].T)
                result[pair.name] = (ab + ba) / 2
                result[f"{pair.name}/accuracy"] = (ab_right + ba_right) / 2
                losses.append(pair.weight * result[pair.name])
            return {"loss": paddle.add_n(losses), **result}


class _Targets:
    """Which columns are a row's positives, and which rows and columns count."""

    def __init__(self, rows: int, ids: Optional[paddle.Tensor], valid: Optional[paddle.Tensor]):
        world = distributed.world_size()
        if ids is None:  # each record is its own only positive
            ids = (paddle.arange(rows) + rows * distributed.rank()).unsqueeze(1)
        if valid is None:
            valid = paddle.ones([rows], dtype="bool")
        # One gather for ids and validity. [B, K + 1] -> [WB, K + 1]
        keys = paddle.concat([ids, valid.astype("int64").unsqueeze(1)], axis=1)
        columns = distributed.all_gather(keys)
        self.column_valid = columns[:, -1].astype("bool")  # [WB]
        same = (ids.unsqueeze(1) == columns[:, :-1].unsqueeze(0)).any(-1)  # [B, WB]
        self.positive = same & self.column_valid
        share = self.positive.astype("float32")
        self.share = share / share.sum(-1, keepdim=True).clip(min=1.0)  # rows sum to 1
        # The mean over valid rows of all ranks is the mean over ranks of these weighted sums.
        count = self.column_valid.astype("float32").sum().clip(min=1.0)
        self.row_weight = valid.astype("float32") * (world / count)

    def cross_entropy(self, logits: paddle.Tensor) -> "tuple[paddle.Tensor, paddle.Tensor]":
        """Loss and accuracy, scalars, of logits [B, WB]."""
        logits = paddle.where(self.column_valid, logits, paddle.full_like(logits, _MASKED))
        per_row = paddle.logsumexp(logits, axis=-1) - (logits * self.share).sum(-1)  # [B]
        with paddle.no_grad():
            masked = paddle.full_like(logits, _MASKED)
            best_positive = paddle.where(self.positive, logits, masked).max(-1)
            best_negative = paddle.where(self.positive, masked, logits).max(-1)
            right = (best_positive > best_negative).astype("float32")
        return (per_row * self.row_weight).sum(), (right * self.row_weight).sum()
