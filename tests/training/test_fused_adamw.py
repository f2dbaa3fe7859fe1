"""One operation for all tensors: AdamW's numbers bit for bit, and its state."""

import numpy as np
import paddle
import pytest

from ernie_vil2.training.fused_adamw import FusedAdamW

SHAPES = {"a.weight": (64, 33), "a.bias": (33,), "b.weight": (5, 3, 4), "b.bias": (7,), "t": (1,)}


def build(kind, seed=0, dtype="float32"):
    """name -> parameter, and an optimizer with groups that differ in decay and in rate."""
    rng = np.random.default_rng(seed)
    parameters = {
        name: paddle.create_parameter(
            list(shape),
            dtype,
            default_initializer=paddle.nn.initializer.Assign(rng.normal(size=shape)),
        )
        for name, shape in SHAPES.items()
    }
    groups = [
        {"params": [parameters["a.weight"], parameters["b.weight"]], "weight_decay": 0.1},
        {"params": [parameters["a.bias"], parameters["b.bias"]], "weight_decay": 0.0},
        {"params": [parameters["t"]], "weight_decay": 0.1, "learning_rate": 0.25},
    ]
    schedule = paddle.optimizer.lr.LambdaDecay(0.01, lambda step: 1 / (1 + step))
    return parameters, kind(schedule, 0.9, 0.98, 1e-6, parameters=groups)


def steps(parameters, optimizer, count, first=0, without=()):
    for number in range(first, first + count):
        rng = np.random.default_rng(number)
        for name, parameter in parameters.items():
            gradient = rng.normal(size=parameter.shape)
            if name not in without:
                parameter.grad = paddle.to_tensor(gradient).astype(parameter.dtype)
        optimizer.step()
        optimizer.clear_grad(set_to_zero=False)
        optimizer._learning_rate.step()


def state(parameters, optimizer):
    """All that the optimizer leaves: name or name|accumulator -> array."""
    own = {p.name: name for name, p in parameters.items()}
    result = {name: p.numpy() for name, p in parameters.items()}
    for accumulator, tensors in optimizer._accumulators.items():
        result.update({f"{own[n]}|{accumulator}": t.numpy() for n, t in tensors.items()})
    return result


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@pytest.fixture
def updates(monkeypatch):
    """How many tensors each operation updated."""
    counts = []
    update = FusedAdamW._update

    def counted(self, kind, params_and_grads):
        counts.append(len(params_and_grads))
        update(self, kind, params_and_grads)

    monkeypatch.setattr(FusedAdamW, "_update", counted)
    return counts


def test_five_steps_are_adamws(updates):
    plain, fused = build(paddle.optimizer.AdamW), build(FusedAdamW)
    before = state(*fused)
    for run in (plain, fused):
        steps(*run, count=5)
    assert_equal(state(*plain), state(*fused))
    assert all((state(*fused)[name] != before[name]).all() for name in SHAPES)
    assert updates == 5 * [2, 2, 1]


def test_a_bias_correction_of_its_own_for_what_missed_a_step(updates):
    plain, fused = build(paddle.optimizer.AdamW), build(FusedAdamW)
    for run in (plain, fused):
        steps(*run, count=1, without=("a.weight", "b.bias"))
        steps(*run, count=1, first=1)
        steps(*run, count=1, first=2, without=("b.weight",))
        steps(*run, count=1, first=3)
    assert_equal(state(*plain), state(*fused))
    assert updates == [1, 1, 1, *(1, 1, 1, 1, 1), *(1, 1, 1, 1), *(2, 1, 1, 1)]


def test_another_precision_is_left_to_adamw(updates):
    plain, fused = (build(kind, dtype="float64") for kind in (paddle.optimizer.AdamW, FusedAdamW))
    for run in (plain, fused):
        steps(*run, count=3)
    assert_equal(state(*plain), state(*fused))
    assert not updates


@pytest.mark.parametrize(
    "kinds", [(paddle.optimizer.AdamW, FusedAdamW), (FusedAdamW, paddle.optimizer.AdamW)]
)
@pytest.mark.parametrize("begun", [False, True])
def test_either_goes_on_from_the_others_state(kinds, begun):
    """Into an optimizer that has not stepped, as at a resume, and into one that has."""
    (parameters, optimizer), other = build(kinds[0]), build(kinds[1], seed=9)
    steps(parameters, optimizer, count=3)
    if begun:
        steps(*other, count=5)
    names = {p.name: other[0][name].name for name, p in parameters.items()}
    saved = {}
    for key, value in optimizer.state_dict().items():
        if key != "LR_Scheduler":
            own = max((name for name in names if key.startswith(name + "_")), key=len)
            value = value.clone()
            key = value.name = names[own] + key[len(own) :]
        saved[key] = value
    other[1].set_state_dict(saved)
    for name, parameter in parameters.items():
        other[0][name].set_value(parameter)
    for run in ((parameters, optimizer), other):
        steps(*run, count=2, first=3)
    assert_equal(state(parameters, optimizer), state(*other))


def test_an_overflow_changes_nothing():
    parameters, optimizer = build(FusedAdamW)
    steps(parameters, optimizer, count=2)
    before = state(parameters, optimizer)
    for parameter in parameters.values():
        parameter.grad = paddle.full(parameter.shape, float("inf"))
    optimizer._set_auxiliary_var("found_inf", paddle.to_tensor([True]))
    optimizer.step()
    assert_equal(before, state(parameters, optimizer))
