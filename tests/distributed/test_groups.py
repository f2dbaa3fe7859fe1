"""How many models there are, and how many processes share each."""

import pytest

from ernie_vil2.distributed.groups import degrees, everyone, replicas, sharding, strategy
from ernie_vil2.errors import UserError


def test_alone_one_process_is_all_groups():
    assert everyone().ranks == sharding().ranks == replicas().ranks == (0,)


def test_what_fleet_is_told(monkeypatch):
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "8")
    told = strategy(2, None, 4).hybrid_configs
    assert [told[f"{kind}_degree"] for kind in ("dp", "mp", "pp", "sharding")] == [2, 1, 1, 4]
    assert strategy(2, None, None) is strategy(None, None, None) is None  # its default


@pytest.mark.parametrize(
    "stage,dp,shares,expected",
    [
        (None, None, None, (8, 1)),
        (None, 8, -1, (8, 1)),
        (None, -1, 1, (8, 1)),
        (2, None, None, (1, 8)),
        (2, -1, -1, (1, 8)),
        (1, 2, None, (2, 4)),
        (3, None, 2, (4, 2)),
        (3, 4, 2, (4, 2)),
    ],
)
def test_degrees_of_eight_processes(stage, dp, shares, expected):
    assert degrees(stage, dp, shares, 8) == expected


@pytest.mark.parametrize(
    "stage,dp,shares,message",
    [
        (None, None, 4, "sharding_degree is 4, but Distributed.sharding is null"),
        (None, 4, None, r"is 4 x 1, but there are 8 processes: make the product 8"),
        (2, 3, None, r"is 3 x 2, but there are 8 processes"),
        (2, 2, 8, r"is 2 x 8, but there are 8 processes"),
        (2, None, 16, r"is 1 x 16, but there are 8 processes"),
        (2, None, 1, "shares nothing out, but Distributed.sharding is 2"),
    ],
)
def test_degrees_that_do_not_fit_are_one_line(stage, dp, shares, message):
    with pytest.raises(UserError, match=message) as error:
        degrees(stage, dp, shares, 8)
    assert "\n" not in str(error.value)
