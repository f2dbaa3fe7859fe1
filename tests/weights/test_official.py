"""The official code's file holds what it held, and refuses what it cannot."""

import numpy as np
import pytest

import ernie_vil2
from ernie_vil2.errors import UserError
from ernie_vil2.files.pdparams import read_pdparams
from ernie_vil2.models.dual_encoder import build_model
from ernie_vil2.weights.official import save_official
from ernie_vil2.weights.paddlenlp import save_paddlenlp
from tests.support.official_form import ARCH


def test_official_round_trip(official, tmp_path):
    weights, config, _ = official
    save_official(ernie_vil2.load(weights, config), tmp_path / "new" / "o.pdparams")
    before, after = read_pdparams(weights), read_pdparams(tmp_path / "new" / "o.pdparams")
    assert before.keys() == after.keys()
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array, name)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"embed_dim": 16}, "a projection"),
        ({"Image": {**ARCH["Image"], "out_dim": 48}}, "a Linear after"),
        ({"Image": {**ARCH["Image"], "name": "MOCOV3_vit_small"}}, "backbone MOCOV3_vit_small"),
        ({"Image": {**ARCH["Image"], "qkv_bias": False}}, "qkv_bias"),
        ({"Image": {**ARCH["Image"], "hidden_act": "gelu"}}, "no place for GELU"),
        ({"Text": {**ARCH["Text"], "kind": "bert"}}, "a text tower that is no ERNIE"),
    ],
)
def test_models_that_the_others_cannot_hold(tmp_path, change, said):
    model = build_model({**ARCH, **change})
    for save in (save_paddlenlp, save_official):
        with pytest.raises(UserError, match=said):
            save(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()
