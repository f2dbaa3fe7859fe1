"""The limits: a file and a class refuse the same numbers, and none allows what no float holds."""

import math

import pytest

from ernie_vil2 import limits
from ernie_vil2.config.load import load_config
from ernie_vil2.errors import UserError
from ernie_vil2.losses.pairs import Pair

EVERY = [value for value in vars(limits).values() if isinstance(value, limits.Limit)]
NUMBERS = {**limits.PAIR_NUMBERS, **limits.TRANSFORM_NUMBERS}


@pytest.mark.parametrize("limit", [*EVERY, *NUMBERS.values()], ids=lambda limit: limit.words)
def test_no_limit_allows_what_is_no_finite_number(limit):
    for value in (math.inf, -math.inf, math.nan, 10**400, -(10**400)):
        assert not limit.allows(value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("weight", -0.5),
        ("weight", math.inf),
        ("temperature", 0.0),
        ("temperature", math.inf),
        ("bias", math.nan),
        ("bias", math.inf),
    ],
)
def test_a_pair_is_refused_alike_in_a_file_and_in_python(key, value):
    pair = {"views": ["image1", "text1"], "loss": "sigmoid", key: value}
    with pytest.raises(UserError, match=f"pair image1-text1 has {key} {value}: give"):
        Pair.parse(pair)
    spelt = {math.inf: ".inf"}.get(value, ".nan" if math.isnan(value) else value)
    override = f"Loss.pairs=[{{views: [image1, text1], loss: sigmoid, {key}: {spelt}}}]"
    with pytest.raises(UserError, match=f"Loss.pairs.0.{key} is {value}; expected a number"):
        load_config("base", [override])
