"""A folder of ours gives the same model again, and tells when it is damaged."""

import numpy as np
import pytest

import ernie_vil2
from ernie_vil2.errors import UserError
from ernie_vil2.models.dual_encoder import build_model
from ernie_vil2.weights.ours import save_checkpoint
from tests.support.checkpoints import damage
from tests.support.official_form import ARCH, embed, random_inputs


@pytest.mark.parametrize("embed_dim, text_size", [(None, 48), (20, 36)])
def test_our_folder_round_trip(tmp_path, embed_dim, text_size):
    text = {**ARCH["Text"], "hidden_size": text_size}
    model = build_model({**ARCH, "embed_dim": embed_dim, "Text": text})
    model.eval()
    save_checkpoint(model, tmp_path / "run" / "checkpoints" / "latest")
    numbers = random_inputs()
    for path in (tmp_path / "run", tmp_path / "run" / "checkpoints" / "latest"):
        again = ernie_vil2.load(path)
        for ours, theirs in zip(embed(model, numbers), embed(again, numbers)):
            np.testing.assert_array_equal(ours, theirs)


def test_a_converted_folder_has_a_manifest(tmp_path):
    save_checkpoint(build_model(ARCH), tmp_path / "ours")
    ernie_vil2.load(tmp_path / "ours")
    damage(tmp_path / "ours" / "model.safetensors", "flipped")
    with pytest.raises(UserError, match=r"is damaged \(model.safetensors .*: copy it again"):
        ernie_vil2.load(tmp_path / "ours")
