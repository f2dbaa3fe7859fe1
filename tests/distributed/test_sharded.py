"""Sharded training over real gloo processes against plain training in one."""

import json

import numpy as np
import paddle
import pytest

from ernie_vil2.distributed.sharded import Sharded, assign_owners
from ernie_vil2.distributed.units import find_units
from ernie_vil2.errors import UserError
from ernie_vil2.models.dual_encoder import build_model
from ernie_vil2.models.image import ImageTower
from tests.support.paths import SCRIPTS
from tests.support.processes import launch
from tests.support.scripts.distributed_step import ARCH
from tests.support.scripts.sharding_step import CASES, run_case


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """Results and the bytes that each rank held, by case."""
    folder = tmp_path_factory.mktemp("sharded")
    launch(2, folder, SCRIPTS / "sharding_step.py", str(folder), "2")
    return dict(np.load(folder / "sharded.npz")), json.loads((folder / "held.json").read_text())


HYBRID = ["1-Lamb", "2-AdamW", "3-all", "paddle-AdamW"]


@pytest.fixture(scope="module")
def two_by_two(tmp_path_factory):
    """The same of four processes, of which two share one model and two the other."""
    folder = tmp_path_factory.mktemp("hybrid")
    launch(4, folder, SCRIPTS / "sharding_step.py", str(folder), "2", *HYBRID)
    return dict(np.load(folder / "sharded.npz")), json.loads((folder / "held.json").read_text())


@pytest.fixture(scope="module")
def one_process():
    """case -> results, run once for the cases that ask for the same."""
    known = {}

    def run(case):
        plain = case._replace(stage=1, micro_batches=1, recompute=False, bucket=0, engine="ours")
        if plain not in known:
            known[plain], _ = run_case(plain)
        return known[plain]

    return run


@pytest.mark.parametrize("name", CASES)
def test_sharded_steps_are_the_plain_ones(two_processes, one_process, name):
    """Losses, gradients, norms, and embeddings; weights, averages and optimizer state by name."""
    assert_same(one_process(CASES[name]), two_processes[0], name)


@pytest.mark.parametrize("name", HYBRID)
def test_sharding_groups_that_are_replicas_make_the_plain_steps(two_by_two, one_process, name):
    assert_same(one_process(CASES[name]), two_by_two[0], name)


def test_replicas_hold_the_same_shares(two_by_two):
    for name in HYBRID:
        first, second = two_by_two[1][name][:2], two_by_two[1][name][2:]
        assert first == second
        states = [rank["most"]["optimizer"] for rank in first]
        assert max(states) < 0.6 * sum(states)


def assert_same(plain: dict, results: dict, name: str) -> None:
    sharded = {
        key[len(name) + 1 :]: value for key, value in results.items() if key.startswith(name + "/")
    }
    assert sharded.keys() == plain.keys()
    largest = max(np.abs(g).max() for key, g in plain.items() if key.startswith("gradient/"))
    for key, value in plain.items():
        # a gradient that is nearly zero, as of a bias before a softmax, is rounding noise
        floor = 1e-6 * largest if key.startswith(("gradient/", "state/")) else 0
        error = np.abs(value - sharded[key]).max()
        assert error <= 1e-5 * np.abs(value).max() + floor, (key, error)


@pytest.mark.parametrize("stage", [2, 3])
def test_buckets_change_no_bit_and_save_collectives(two_processes, stage):
    results, held = two_processes
    for key, value in results.items():
        name, _, rest = key.partition("/")
        if name == f"{stage}-apart":
            np.testing.assert_array_equal(value, results[f"{stage}-AdamW/{rest}"])
    tensors = sum(key.startswith(f"{stage}-apart/weight/") for key in results)
    alone, together = (held[f"{stage}-{kind}"][0]["collectives"] for kind in ("apart", "AdamW"))
    assert alone["start_reduce"] == tensors > 70
    assert together["start_reduce"] <= 20  # of an eighth of the gradients or less
    if stage == 2:
        assert alone["start_broadcast"] == tensors
        assert together["start_broadcast"] == 2  # one an owner
    else:
        assert together["start_broadcast"] < alone["start_broadcast"] / 3


def test_what_a_rank_holds(two_processes):
    held = two_processes[1]
    whole = held["1-Lamb"][0]["start"]["parameters"]
    for rank in (0, 1):
        one, two, three = (held[f"{stage}-Lamb"][rank] for stage in (1, 2, 3))
        for stage in (one, two, three):
            assert stage["reduction"]["gradients"] == pytest.approx(whole / 2, rel=0.02)
            assert stage["most"]["optimizer"] == pytest.approx(whole, rel=0.02)  # two moments
        assert one["backwards done"]["gradients"] == whole
        assert two["most"]["gradients"] < 0.8 * whole  # some left while the backward ran
        assert three["most"]["gradients"] < 0.8 * whole
        assert one["start"]["parameters"] == two["start"]["parameters"] == whole
        assert three["start"]["parameters"] == pytest.approx(whole / 2, rel=0.02)
        assert three["backwards done"]["parameters"] == three["start"]["parameters"]
        # a block or two beside this rank's share
        assert whole / 2 < three["most"]["parameters"] < 0.85 * whole


def test_owners_are_balanced_and_the_same_for_every_order():
    rng = np.random.default_rng(0)
    sizes = {f"p{i}": int(n) for i, n in enumerate(rng.integers(1, 10_000, 200))}
    owners = assign_owners(sizes, 8)
    loads = [sum(sizes[n] for n in sizes if owners[n] == rank) for rank in range(8)]
    assert max(loads) < 1.02 * sum(sizes.values()) / 8
    assert assign_owners(dict(reversed(sizes.items())), 8) == owners


def test_units_are_the_blocks_of_the_towers():
    model = build_model({**ARCH, "Image": {**ARCH["Image"], "depth": 3}})
    parameters = dict(model.named_parameters())
    units = find_units(model, parameters, dict.fromkeys(parameters, 0))
    layers = [unit.layer for unit in units]
    blocks = list(model.image_tower.backbone.blocks)
    chain = [unit for unit in units if any(unit.layer is block for block in blocks)]
    assert [unit.layer for unit in chain] == blocks
    assert [unit.before for unit in chain] == [None, *chain[:-1]]
    assert [unit.after for unit in chain] == [*chain[1:], None]
    assert any(layer is model.text_tower.ernie.encoder.layers[0] for layer in layers)
    names = [name for unit in units for name in unit.parameters]
    assert len(set(names)) == len(names)
    # used by layers that are no unit themselves, outside of any forward
    assert set(parameters) - set(names) == {
        "temperature",
        "image_tower.backbone.cls_token",
        "image_tower.backbone.pos_embed",
    }


@pytest.mark.parametrize("name", ["ResNet18", "EfficientNetB0"])
def test_units_of_a_convolutional_network_are_small(name):
    tower = ImageTower(name, img_size=32)
    parameters = {n: p for n, p in tower.named_parameters() if not p.stop_gradient}
    units = find_units(tower, parameters, dict.fromkeys(parameters, 0))
    sizes = [sum(int(p.size) for p in unit.parameters.values()) for unit in units]
    total = sum(int(p.size) for p in parameters.values())
    assert sum(sizes) > 0.95 * total
    assert max(sizes) < 0.5 * total


def test_a_shared_parameter_stays_on_all_ranks():
    first, second = paddle.nn.Linear(4, 4), paddle.nn.Linear(4, 4)
    second.weight = first.weight
    layer = paddle.nn.Sequential(first, second)
    parameters = dict(layer.named_parameters())
    units = find_units(layer, parameters, dict.fromkeys(parameters, 0))
    assert {name for unit in units for name in unit.parameters} == {"0.bias", "1.bias"}


def test_alone_it_is_the_plain_step():
    layer = paddle.nn.Linear(3, 2)
    parameters = dict(layer.named_parameters())
    sharding = Sharded(layer, parameters, 3)
    assert sharding.owned == parameters
    x = paddle.to_tensor([[3.0, 0.0, 4.0]])
    with sharding.no_sync():
        sharding(x).sum().backward()
    sharding(x).sum().backward()
    sharding.reduce_gradients()
    # 2 x [3, 0, 4] for each of two outputs, and 2 for each bias
    assert float(sharding.clip_gradients(None)) == pytest.approx((4 * (25 + 25 + 1 + 1)) ** 0.5)
    assert float(sharding.clip_gradients(1.0)) > 14
    assert float(sharding.clip_gradients(None)) == pytest.approx(1, rel=1e-5)
    sharding.publish()
    with sharding.whole():
        assert layer.weight._is_initialized()
    assert sharding.memory() == {"parameters": 32, "gradients": 32, "optimizer": 0}
    gathered = sharding.gather({"weight": layer.weight.astype("bfloat16")})
    assert gathered["weight"].dtype == np.float32
    np.testing.assert_allclose(gathered["weight"], layer.weight.numpy(), rtol=1e-2)


def test_wrong_stages_are_refused():
    layer = paddle.nn.Linear(2, 2)
    for stage in (0, 4, "2"):
        with pytest.raises(UserError, match="expected 1, 2 or 3"):
            Sharded(layer, dict(layer.named_parameters()), stage)
