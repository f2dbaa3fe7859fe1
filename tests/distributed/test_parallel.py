"""All ways to share a model, as their protocol states them."""

import inspect

import paddle
import pytest

from ernie_vil2.distributed.paddle_sharded import PaddleSharded
from ernie_vil2.distributed.parallel import Parallel, build_parallel
from ernie_vil2.distributed.replicated import Replicated
from ernie_vil2.distributed.sharded import Sharded


@pytest.mark.parametrize("way", [Replicated, Sharded, PaddleSharded])
def test_each_way_has_the_methods_of_the_protocol(way):
    stated = [
        name
        for name, member in vars(Parallel).items()
        if inspect.isfunction(member) and (name == "__call__" or not name.startswith("_"))
    ]
    assert {"__call__", "no_sync", "publish", "memory"} <= set(stated)
    for name in stated:
        expected = list(inspect.signature(getattr(Parallel, name)).parameters.values())
        given = list(inspect.signature(getattr(way, name)).parameters.values())
        assert [(p.name, p.kind, p.default) for p in given] == [
            (p.name, p.kind, p.default) for p in expected
        ]


@pytest.mark.parametrize("stage", [None, 3])
def test_alone_nothing_is_shared(stage):
    layer = paddle.nn.Linear(2, 2)
    parameters = dict(layer.named_parameters())
    parallel = build_parallel(layer, parameters, stage)
    assert isinstance(parallel, Replicated) and parallel.owned == parameters
