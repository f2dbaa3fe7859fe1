"""Keys that contradict one another, and those that may differ."""

import pytest

from ernie_vil2.config.load import load_config
from tests.support.configs import BASE, error_of


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["Views.image=[image1]"], ["Loss.pairs.0", "image2", "Views.image"]),
        (["Loss.pairs.1.views=[caption1, text2]"], ["Loss.pairs.1", "caption1", "Views.text"]),
        (["Loss.pairs.3.views=[image1, text1]"], ["Loss.pairs.3", "image1 and text1", "repeats"]),
        (["Loss.pairs.3.views=[text1, image1]"], ["Loss.pairs.3", "repeats"]),
        ([f"Loss.pairs.{i}.weight=0" for i in range(4)], ["Loss.pairs", "weight above 0"]),
        (["Loss.pairs.2.learnable=true"], ["Loss.pairs.2.learnable", "temperature"]),
        (["Loss.logit_scale.init=101"], ["Loss.logit_scale.init", "100.0"]),
        (["LRScheduler.min_lr=1"], ["LRScheduler.min_lr", "3e-05"]),
        (["Transform.blur.sigma.0=3"], ["Transform.blur.sigma", "smaller first"]),
        (["Transform.size=256"], ["Arch.Image.img_size is 224", "Transform.size, 256"]),
        (["Arch.Image.img_size=32"], ["Arch.Image.img_size is 32", "Transform.size, 224"]),
        (["Metric.best=recall"], ["Metric.best is 'recall'", 'did you mean "mean_recall"']),
        (["Metric.best=R@1"], ["Metric.best is 'R@1'", "known:", "image_to_text/R@1"]),
        (["Metric.best=text_to_image/R@2"], ["Metric.ks [1, 5, 10]", '"text_to_image/R@']),
        (["Metric.best=text_to_image/R@10", "Metric.ks=[1, 5]"], ["Metric.ks [1, 5]", "R@1"]),
        (["Metric.best=loss"], ["Metric.best is 'loss'", "known: image_to_text/R@1, "]),
        (
            ["Distributed.sharding=3", "AMP.level=O1"],
            ["sharding is 3 and AMP.level O1", "to O2", "Arch.Image.recompute and Arch.Text.rec"],
        ),
        (
            ["Distributed.sharding=3", "AMP.level=O1", "Arch.Image.recompute=true"],
            ["to O2, or also Arch.Text.recompute to true"],
        ),
        (["Arch.Text.lora.rank=4"], ["Arch.Text.lora.rank is 4", "Global.pretrained"]),
        (
            ["Arch.Image.lora.rank=4", "Global.pretrained=x", "Optimizer.freeze=[image]"],
            ["Optimizer.freeze has image and Arch.Image.lora.rank is 4", "take one of them"],
        ),
        (
            ["Optimizer.freeze=[text]", "Optimizer.unlocked_layers.text=0"],
            ["Optimizer.freeze has text and Optimizer.unlocked_layers.text is 0"],
        ),
        (["Distributed.as_two=true", "Loss.ring=true"], ["as_two is true and Loss.ring true"]),
        (
            ["Distributed.as_two=true", "Distributed.sharding=1"],
            ["as_two is true and Distributed.sharding 1", "set one of the two back"],
        ),
    ],
)
def test_keys_that_contradict_one_another(overrides, parts):
    message = error_of(load_config, BASE, overrides)
    for part in ["base.yaml with -o", *parts]:
        assert part in message


def test_stage_3_goes_with_o2_and_with_recompute():
    stage, both = (
        "Distributed.sharding=3",
        ["Arch.Image.recompute=true", "Arch.Text.recompute=true"],
    )
    load_config(BASE, [stage, "AMP.level=O2"])
    load_config(BASE, [stage, "AMP.level=O1", *both])
    load_config(BASE, ["Distributed.sharding=2", "AMP.level=O1"])


def test_fewer_views_and_own_temperatures(tmp_path):
    path = tmp_path / "delta.yaml"
    path.write_text(
        f"_BASE_: {BASE}\n"
        "Views: {image: [image1], text: [tags1, caption1]}\nLoss:\n  pairs:\n"
        "    - {views: [image1, caption1], temperature: 0.1}\n"
        "    - {views: [tags1, image1], weight: 0, temperature: 1, learnable: true}\n"
    )
    first, second = load_config(path).Loss.pairs
    assert first == {"views": ("image1", "caption1"), "weight": 1.0, "temperature": 0.1}
    assert (second.temperature, second.learnable) == (1.0, True)


def test_sizes_agree_or_the_tower_takes_any():
    overrides = ["Arch.Image.img_size=32", "Transform.size=32"]
    assert load_config(BASE, overrides).Arch.Image.img_size == 32
    config = load_config(BASE, ["Arch.Image.img_size=null", "Transform.size=256"])
    assert config.Transform.size == 256


def test_every_recall_can_choose_the_best():
    for direction in ("text_to_image", "image_to_text"):
        for name in ("R@2", "R@30", "mean_recall"):
            best = f"{direction}/{name}"
            config = load_config(BASE, ["Metric.ks=[2, 30]", f"Metric.best={best}"])
            assert config.Metric.best == best
