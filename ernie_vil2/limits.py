"""What numbers and lists may be: each limit said once, in words and as a test.

The configuration's schema checks a file against these. Classes that are also built from Python, as
a pair of the loss, check what they are given against the same ones. The standard library suffices.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from typing import Any, Callable, NamedTuple

# -- Numbers ---------------------------------------------------------------------------------------


class Limit(NamedTuple):
    """A limit of a number.

    Attributes:
        words: what is expected, as it follows "a number".
        holds: whether a number that is finite keeps the limit.
    """

    words: str
    holds: Callable[[float], bool]

    def allows(self, value: float) -> bool:
        """Whether `value` keeps the limit; infinity, NaN and what no float can hold never do."""
        return abs(value) < sys.float_info.max and self.holds(value)


def between(low: float, high: float) -> Limit:
    return Limit(f"from {low} to {high}", lambda x: low <= x <= high)


POSITIVE = Limit("above 0", lambda x: x > 0)
ANY = Limit("that is finite", lambda x: True)
NOT_NEGATIVE = Limit("of at least 0", lambda x: x >= 0)
PROBABILITY = between(0, 1)
BELOW_ONE = Limit("from 0 to below 1", lambda x: 0 <= x < 1)
SHARE = Limit("above 0 and at most 1", lambda x: 0 < x <= 1)
ABOVE_ONE = Limit("above 1", lambda x: x > 1)
DEGREE = Limit("above 0, or -1", lambda x: x == -1 or 0 < x <= MANY)
SECONDS = Limit("above 0 and at most 31536000, a year", lambda x: 0 < x <= 31_536_000)

# Upper bounds, far beyond any use: a number above them is a slip, which would end in a hang, in a
# full memory or in the error of a library that says nothing of the key.
MANY = 10**9  # steps, records
WIDE = 10**6  # widths and lengths of a tower
PIXELS = 16_384  # the side of a picture


# -- Lists -----------------------------------------------------------------------------------------


class Items(NamedTuple):
    """How many items a list has, and which.

    Attributes:
        words: what is expected, as it follows "a list of".
        holds: whether a list keeps the limit.
    """

    words: str
    holds: Callable[[Sequence[Any]], bool]


def _different(items: Collection[Any]) -> bool:
    return len(set(items)) == len(items)


SOME = Items("one or more items", lambda items: len(items) > 0)
SET = Items("different items", _different)
SOME_SET = Items("one or more different items", lambda x: len(x) > 0 and _different(x))
TWO = Items("2 different items", lambda x: len(x) == 2 and _different(x))
RANGE = Items("2 items, the smaller first", lambda x: len(x) == 2 and x[0] <= x[1])
THREE = Items("3 items", lambda x: len(x) == 3)


# -- A pair of views of the loss -------------------------------------------------------------------

PAIR_VIEWS = TWO
PAIR_NUMBERS = {"weight": NOT_NEGATIVE, "temperature": POSITIVE, "bias": ANY}
PAIR_LOSSES = ("softmax", "sigmoid")
PAIR_LOSSES_WITH_BIAS = ("sigmoid",)  # in a softmax a bias cancels


# -- The augmentation of training images -----------------------------------------------------------

# Keys as `Transform` has them in configs/base.yaml. Of a list the limit is each item's.
TRANSFORM_NUMBERS = {
    "size": between(1, PIXELS),
    "flip_prob": PROBABILITY,
    "jitter.brightness": between(0, 10),
    "jitter.contrast": between(0, 10),
    "jitter.saturation": between(0, 10),
    "jitter.hue": between(0, 0.5),
    "jitter.prob": PROBABILITY,
    "gray_prob": PROBABILITY,
    "blur.kernel": Limit("from 1 to 255", lambda x: 1 <= x <= 255 and x % 2 == 1),  # odd ones
    "blur.sigma": POSITIVE,
    "blur.prob": PROBABILITY,
    "crop_scale": SHARE,
    "mean": PROBABILITY,
    "std": POSITIVE,
}
TRANSFORM_LISTS = {"blur.sigma": RANGE, "crop_scale": RANGE, "mean": THREE, "std": THREE}
