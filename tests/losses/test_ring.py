"""The loss whose columns travel: real processes over gloo against float64 and the plain loss."""

from dataclasses import replace

import numpy as np
import pytest

from ernie_vil2.config.load import load_config
from ernie_vil2.doctor.costs import Costs
from tests.support import reference
from tests.support.paths import ROOT, SCRIPTS
from tests.support.processes import launch
from tests.support.reference import relative_error
from tests.support.scripts.ring_loss import (
    CASES,
    DIM,
    IDS,
    LOGIT_SCALE,
    ROWS,
    VALID,
    arrays,
    run_case,
)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What so many processes found, each number of them launched once."""
    folder, known = tmp_path_factory.mktemp("ring"), {}

    def run(processes):
        if processes not in known:
            launch(processes, folder, SCRIPTS / "ring_loss.py", f"{processes}.npz")
            known[processes] = dict(np.load(folder / f"{processes}.npz"))
        return known[processes]

    return run


def float64(pairs, several):
    """What `reference.multi_view` finds of all records."""
    numbers = []
    for pair in pairs:
        scale = 1 / pair["temperature"] if "temperature" in pair else LOGIT_SCALE
        numbers.append((*pair["views"], pair.get("weight", 1.0), scale, pair.get("bias")))
    return reference.multi_view(arrays(), numbers, IDS if several else None, VALID)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("processes", [4, pytest.param(3, marks=pytest.mark.slow)])
def test_each_kind_of_pair_against_float64_and_the_plain_loss(found, processes, name):
    """Losses, accuracies, and gradients of embeddings, temperatures, the scale and biases.

    One of four ranks has no valid record. No operator got an empty tensor, says the script.
    """
    ring = found(processes)
    pairs, _, several = CASES[name]
    expected = float64(pairs, several)
    losses, embeds, scalars = run_case(name, slice(None), ring=False)  # the plain loss
    for key, value in losses.items():
        assert ring[f"{name}/{key}"] == pytest.approx(expected[key], rel=1e-5)
        assert ring[f"{name}/{key}"] == pytest.approx(value, rel=1e-5)
    for view, gradient in embeds.items():
        assert relative_error(ring[f"{name}/{view}"], expected["embeds"][view]) < 1e-5
        assert relative_error(ring[f"{name}/{view}"], gradient) < 1e-5
    for key, gradient in scalars.items():
        assert ring[f"{name}/{key}"] == pytest.approx(gradient, rel=1e-5), key
    for pair in pairs:
        key = "_".join(pair["views"])
        if pair.get("learnable"):  # the parameter is the logarithm of the scale
            slope = expected["-".join(pair["views"]) + "/scale"] / pair["temperature"]
            assert ring[f"{name}/temperature_{key}"] == pytest.approx(slope, rel=1e-5)
        if pair.get("bias") is not None:
            slope = expected["-".join(pair["views"]) + "/bias"]
            assert ring[f"{name}/bias_{key}"] == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize("processes", [4, pytest.param(3, marks=pytest.mark.slow)])
def test_bytes_are_those_that_costs_state(found, processes):
    cost = Costs.of(load_config(ROOT / "configs/base.yaml"))
    cost = replace(cost, embed_dim=DIM, sources=len(IDS))
    for name in ("mixed-None", "mixed-1", "mixed-100"):  # four views, as base has
        assert set(found(processes)[f"{name}/sent"]) == {cost.ring(processes, ROWS)}
    alone = replace(cost, sources=0)
    assert set(found(processes)["one positive/sent"]) == {alone.ring(processes, ROWS)}
