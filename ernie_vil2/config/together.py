"""What must hold between keys of the configuration, each of them right alone."""

from __future__ import annotations

from typing import Any

from ernie_vil2.config.messages import show, wrong
from ernie_vil2.errors import UserError, did_you_mean
from ernie_vil2.limits import PAIR_LOSSES_WITH_BIAS
from ernie_vil2.views import IMAGE_VIEWS


def check_together(tree: dict[str, Any], where: str) -> None:
    """Refuse a whole tree whose keys, each right alone, contradict one another.

    Raises:
        UserError: it names the keys, and `where` they stand.
    """
    _check_pairs(tree["Loss"]["pairs"], tree["Views"], where)

    scale, schedule = tree["Loss"]["logit_scale"], tree["LRScheduler"]
    if scale["init"] > scale["max"]:
        expected = f"at most Loss.logit_scale.max, {scale['max']}"
        raise wrong(where, "Loss.logit_scale.init", scale["init"], expected)
    if schedule["min_lr"] > schedule["learning_rate"]:
        expected = f"at most LRScheduler.learning_rate, {schedule['learning_rate']}"
        raise wrong(where, "LRScheduler.min_lr", schedule["min_lr"], expected)

    img_size, size = tree["Arch"]["Image"]["img_size"], tree["Transform"]["size"]
    if img_size not in (None, size):
        expected = f"Transform.size, {size}: set both to the same"
        raise wrong(where, "Arch.Image.img_size", img_size, expected)

    longest = tree["Arch"]["Text"].get("max_position_embeddings")
    if longest and tree["Tokenizer"]["max_len"] > longest:
        expected = f"at most Arch.Text.max_position_embeddings, {longest}"
        raise wrong(where, "Tokenizer.max_len", tree["Tokenizer"]["max_len"], expected)

    _check_what_learns(tree, where)
    _check_stage_3(tree, where)
    if tree["Distributed"]["as_two"]:
        _check_as_two(tree, where)

    best, ks = tree["Metric"]["best"], tree["Metric"]["ks"]
    recalls = [*(f"R@{k}" for k in ks), "mean_recall"]
    numbers = [f"{way}/{name}" for way in ("text_to_image", "image_to_text") for name in recalls]
    if best not in ("mean_recall", *numbers):
        expected = f"a recall that Metric.ks {ks} gives"
        expected += did_you_mean(best, ["mean_recall", *numbers])
        raise wrong(where, "Metric.best", best, expected)


def _check_what_learns(tree: dict[str, Any], where: str) -> None:
    """A tower is frozen, partly frozen or adapted; and adapters need weights that stay."""
    optimizer = tree["Optimizer"]
    for name in ("image", "text"):
        section = f"Arch.{name.capitalize()}"
        rank = tree["Arch"][name.capitalize()]["lora"]["rank"]
        layers = optimizer["unlocked_layers"][name]
        ways = [
            f"Optimizer.freeze has {name}" if name in optimizer["freeze"] else "",
            "" if layers is None else f"Optimizer.unlocked_layers.{name} is {layers}",
            "" if rank is None else f"{section}.lora.rank is {rank}",
        ]
        ways = list(filter(None, ways))
        if len(ways) > 1:
            raise UserError(
                f"{where}: {' and '.join(ways)}, which are ways to say what of a tower learns: "
                "take one of them"
            )
        if rank is not None and tree["Global"]["pretrained"] is None:
            raise UserError(
                f"{where}: {section}.lora.rank is {rank}, but there are no weights to adapt: name "
                "them in Global.pretrained"
            )


def _check_stage_3(tree: dict[str, Any], where: str) -> None:
    """Under O1 the backward keeps half-precision copies of all weights, in every process."""
    stage, level = tree["Distributed"]["sharding"], tree["AMP"]["level"]
    towers = ("Image", "Text")
    kept = [t for t in towers if not tree["Arch"][t].get("recompute")]
    if stage == 3 and level == "O1" and kept:
        raise UserError(
            f"{where}: Distributed.sharding is 3 and AMP.level O1, whose copies of the weights "
            f"stay on every process until the backward; set AMP.level to O2, or also "
            f"{' and '.join(f'Arch.{t}.recompute' for t in kept)} to true"
        )


def _check_as_two(tree: dict[str, Any], where: str) -> None:
    """Both add up in another order on two processes than one process can."""
    for section, key in (("Distributed", "sharding"), ("Loss", "ring")):
        value = tree[section][key]
        if value:
            raise UserError(
                f"{where}: Distributed.as_two is true and {section}.{key} {show(value)}: it "
                "is only for processes that hold all of the model and gather all embeddings; "
                "set one of the two back"
            )


def _check_pairs(pairs: list[dict[str, Any]], views: dict[str, Any], where: str) -> None:
    seen = []
    for i, pair in enumerate(pairs):
        at = f"{where}: Loss.pairs.{i}"
        for view in pair["views"]:
            tower = "image" if view in IMAGE_VIEWS else "text"
            if view not in views[tower]:
                raise UserError(
                    f"{at}.views has {view}, which Views.{tower} [{', '.join(views[tower])}] "
                    f"lacks; add it to Views.{tower} or pair other views"
                )
        if set(pair["views"]) in seen:
            both = " and ".join(pair["views"])
            raise UserError(f"{at} repeats the pair of {both}; state it once")
        seen.append(set(pair["views"]))
        if pair.get("learnable") and pair.get("temperature") is None:
            raise UserError(
                f"{at}.learnable is true, but what would be learnt is missing; "
                "state the pair's own temperature, for example 0.07"
            )
        if "bias" in pair and pair.get("loss") not in PAIR_LOSSES_WITH_BIAS:
            raise UserError(
                f"{at}.bias is {show(pair['bias'])}, which only the sigmoid loss has; "
                "state loss: sigmoid, or drop it"
            )
    if not any(pair["weight"] > 0 for pair in pairs):
        raise UserError(
            f"{where}: Loss.pairs have weight 0, all of them; give one a weight above 0"
        )
