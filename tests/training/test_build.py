"""The parts of a run, as a configuration asks for them."""

import pytest

from ernie_vil2.errors import UserError
from tests.support.shapes import write_run


@pytest.mark.parametrize("name", ["PPLCNet_x0_25", "EfficientNetB0"])
def test_batch_norms_of_both_kinds_are_known(tmp_path, name):
    """Paddle's two classes have no other base than Layer."""
    from ernie_vil2.config.load import load_config
    from ernie_vil2.data.tokenize import Tokenizer
    from ernie_vil2.training.build import batch_norms, build_objective, check_batch_norm
    from ernie_vil2.training.plan import Plan

    arch = f"Arch.Image={{name: {name}, img_size: 32, out_dim: 16}}"
    config = load_config(write_run(tmp_path), [arch, "DataLoader.Train.micro_batch_size=4"])
    objective, _ = build_objective(config, Tokenizer(**config.Tokenizer))
    tensors = {key for key in objective.state_dict() if key.endswith("._variance")}
    assert {f"{key}._variance" for key in batch_norms(objective)} == tensors != set()
    with pytest.raises(UserError, match=r"micro_batch_size is 4, but .* normalises"):
        check_batch_norm(objective, Plan.of(config))
