"""Paddle's own switches, where this build has them (2.6 for GPUs, and all of 3.3)."""

import pytest
from paddle.base import core

from ernie_vil2.tf32 import allow_tf32, full_float32

SWITCHES = ("cublas", "cudnn")


def switches():
    return [getattr(core, f"get_{name}_switch")() for name in SWITCHES]


@pytest.fixture
def real(monkeypatch):
    """Paddle's switches, or in a build without them two like them."""
    if hasattr(core, "get_cublas_switch"):
        before = switches()
        yield
        for name, value in zip(SWITCHES, before):
            getattr(core, f"set_{name}_switch")(value)
        return
    state = dict.fromkeys(SWITCHES, True)
    for name in SWITCHES:
        monkeypatch.setattr(core, f"get_{name}_switch", lambda n=name: state[n], raising=False)
        monkeypatch.setattr(
            core, f"set_{name}_switch", lambda on, n=name: state.update({n: on}), raising=False
        )
    yield


@pytest.mark.parametrize("before", [True, False])
def test_tf32_is_off_inside_and_as_it_was_after(real, before):
    core.set_cublas_switch(before)
    core.set_cudnn_switch(True)
    with pytest.raises(KeyError), full_float32():
        assert switches() == [False, False]
        raise KeyError
    assert switches() == [before, True]


def test_tf32_is_allowed_and_forbidden(real):
    allow_tf32(False)
    assert switches() == [False, False]
    allow_tf32(True)
    assert switches() == [True, True]


@pytest.mark.skipif(hasattr(core, "set_cublas_switch"), reason="this build has the switches")
def test_a_build_without_switches_has_nothing_to_switch():
    allow_tf32(True)
    with full_float32():
        pass
