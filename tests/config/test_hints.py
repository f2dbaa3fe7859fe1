"""Keys of other programs draw a hint, and each hint names a key that there is."""

import re

import pytest

from ernie_vil2.config.hints import HINTS
from ernie_vil2.config.load import load_config
from tests.support.configs import BASE, error_of, kind_at


@pytest.mark.parametrize(
    ("override", "remedy"),
    [
        ("Optimizer.lr=1e-4", "LRScheduler.learning_rate"),
        ("Optimizer.learning_rate=1e-4", "LRScheduler.learning_rate"),
        ("lr=1e-4", "LRScheduler.learning_rate"),
        ("Global.pretrained_model=x", "Global.pretrained"),
        ("Global.checkpoints=x", "--resume auto"),
        ("DataLoader.Train.batch_size_per_card=8", "DataLoader.Train.batch_size"),
        ("DataLoader.Train.sampler.batch_size_per_card=8", "DataLoader.Train.batch_size"),
        ("batch_size_per_card=8", "DataLoader.Train.batch_size"),
        ("Optimizer.lock_image_unlocked_groups=2", "Optimizer.unlocked_layers"),
        ("Arch.lora_rank=8", "Arch.Image.lora"),
        ("Global.accum_freq=2", "DataLoader.Train.micro_batch_size"),
        ("gradient_accumulation_steps=2", "Distributed.gradient_merge"),
        ("Global.precision=bf16", "AMP.level"),
        ("precision=amp_bf16", "AMP.level"),
        ("AMP.bf16=true", "AMP.dtype"),
        ("Global.bf16=true", "AMP.dtype"),
        ("Global.allow_tf32=true", "AMP.tf32"),
        ("amp=true", "AMP.level"),
        ("Amp.level=O1", "AMP"),
        ("Global.num_train_epochs=3", "Global.epochs"),
        ("Transform.interpolation=bicubic", "Transform.eval"),
        ("Optimizer.regularizer.coeff=0.1", "Optimizer.weight_decay"),
    ],
)
def test_another_programs_key_draws_a_hint(override, remedy):
    message = error_of(load_config, BASE, [override])
    assert message.startswith("-o: unknown key ")
    assert "known:" not in message
    assert remedy in message


def test_every_hint_names_a_key_that_there_is():
    for key, hint in HINTS.items():
        named = re.findall(r"\b[A-Z]\w+(?:\.[A-Za-z]\w*)+", hint)
        assert named or "--resume" in hint, key
        for name in named:
            kind_at(name.split("."))
