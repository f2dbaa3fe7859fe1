"""Every key of the configuration: its type, its default, and what must hold between keys.

`SCHEMA` has the shape of configs/base.yaml, which says what each key is for.
"""

from __future__ import annotations

import re
import reprlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ernie_vil2.config.hints import hint
from ernie_vil2.errors import UserError, did_you_mean
from ernie_vil2.views import (
    DEFAULT_IMAGE_VIEWS,
    DEFAULT_PAIRS,
    DEFAULT_TEXT_VIEWS,
    IMAGE_VIEWS,
    TEXT_VIEWS,
    VIEWS,
)

# -- Messages --------------------------------------------------------------------------------------

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 60


def show(value) -> str:
    """The value on one short line, spelt as in YAML where Python differs."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return _REPR.repr(value)


def join(key: str, name) -> str:
    name = name if str(name).isprintable() else repr(name)
    return f"{key}.{name}" if key else str(name)


def wrong(where: str, key: str, value, expected: str) -> UserError:
    return UserError(f"{where}: {key or 'its content'} is {show(value)}; expected {expected}")


# -- Kinds of values -------------------------------------------------------------------------------

REQUIRED, OPTIONAL = object(), object()  # instead of a default: must be stated; may be absent


class Dotted(dict):
    """A mapping made of the dotted key of an override: over a list its keys are indices."""


class Kind:
    """What a key may hold: `expected` in words, its `default`, and whether it may be `null`."""

    def check(self, value, key: str, where: str, whole: bool):
        """The value as the program wants it; UserError unless it is of this kind.

        where: the file, or "-o". whole: fill in what is missing too, or demand it.
        """
        return None if value is None and self.null else self.read(value, key, where, whole)

    def refuse(self, value, key: str, where: str):
        raise wrong(where, key, value, self.expected + (", or null" if self.null else ""))


@dataclass(frozen=True)
class Leaf(Kind):
    """One value, of one of `types` (a bool is no int), for which `valid` holds.

    spellings: of names that are read in any case, lower case -> as the program spells it.
    """

    expected: str
    types: tuple
    valid: Callable
    default: Any = REQUIRED
    null: bool = False
    spellings: Mapping | None = None

    def read(self, value, key, where, whole):
        if self.spellings and isinstance(value, str):
            value = self.spellings.get(value.lower(), value)
        if type(value) not in self.types or not self.valid(value):
            self.refuse(value, key, where)
        return float(value) if float in self.types else value


@dataclass(frozen=True)
class ListOf(Kind):
    """A list of one kind, for which `valid` holds."""

    item: Kind
    expected: str
    valid: Callable
    default: Any = REQUIRED
    null: bool = False

    def read(self, value, key, where, whole):
        if isinstance(value, Dotted):
            return {i: self.item.check(v, join(key, i), where, False) for i, v in value.items()}
        if not isinstance(value, list):
            self.refuse(value, key, where)
        # Lists are replaced, never merged: their items are whole.
        items = [self.item.check(v, join(key, i), where, True) for i, v in enumerate(value)]
        if not self.valid(items):
            self.refuse(value, key, where)
        return items


@dataclass(frozen=True)
class Section(Kind):
    """A mapping with known keys; a nullable one is null when missing.

    component: takes further keys, which its builder checks against the component of that `name`;
    what belongs to another component is dropped when `name` changes.
    """

    fields: Mapping
    component: bool = False
    null: bool = False

    @property
    def default(self):
        return None if self.null else {}

    @property
    def expected(self):
        return f"a mapping with {', '.join(self.fields)}"

    @property
    def common(self) -> set:
        """Keys that mean the same whatever the component's name."""
        return {k for k, kind in self.fields.items() if kind.default not in (REQUIRED, OPTIONAL)}

    def read(self, value, key, where, whole):
        if not isinstance(value, dict):
            self.refuse(value, key, where)
        further = {name: item for name, item in value.items() if name not in self.fields}
        if further and not self.component:
            name = next(iter(further))
            meant = hint(key, name, self.fields)
            raise UserError(f"{where}: unknown key {join(key, name)}{meant}")
        known = {}
        for name, kind in self.fields.items():
            at = join(key, name)
            if name in value:
                known[name] = kind.check(value[name], at, where, whole)
            elif whole and kind.default is REQUIRED:
                raise UserError(f"{where}: {at} is missing; state {kind.expected}")
            elif whole and kind.default is not OPTIONAL:
                known[name] = kind.check(kind.default, at, where, whole)
        return {**known, **further}


def section(**fields) -> Section:
    return Section(fields)


def component(**fields) -> Section:
    return Section(fields, component=True)


def nullable(kind):
    return replace(kind, null=True)


# Limits: what is expected, in words, and the test of it.
def between(low: int, high: int) -> tuple:
    return f"from {low} to {high}", lambda x: low <= x <= high


POSITIVE = ("above 0", lambda x: x > 0)
ANY = ("that is finite", lambda x: True)
NOT_NEGATIVE = ("of at least 0", lambda x: x >= 0)
PROBABILITY = ("from 0 to 1", lambda x: 0 <= x <= 1)
BELOW_ONE = ("from 0 to below 1", lambda x: 0 <= x < 1)
SHARE = ("above 0 and at most 1", lambda x: 0 < x <= 1)
SECONDS = ("above 0 and at most 31536000, a year", lambda x: 0 < x <= 31_536_000)

# Upper bounds, far beyond any use: past them a number is a slip, which would end in a hang, in a
# full memory or in an error of a library that has never heard of the key.
MANY = 10**9  # steps, records
WIDE = 10**6  # widths and lengths of a tower
PIXELS = 16_384  # the side of a picture


def integer(limits, default=REQUIRED, most: int = MANY) -> Leaf:
    """most: the upper bound of POSITIVE and NOT_NEGATIVE; other limits have one of their own."""
    if limits in (POSITIVE, NOT_NEGATIVE):
        limits = between(int(limits is POSITIVE), most)
    return Leaf(f"an integer {limits[0]}", (int,), limits[1], default)


def number(limits, default=REQUIRED) -> Leaf:
    expected, valid = limits

    def finite(x):  # neither inf, NaN nor an integer that no float can hold
        return abs(x) < sys.float_info.max and valid(x)

    return Leaf(f"a number {expected}", (int, float), finite, default)


def boolean(default) -> Leaf:
    return Leaf("true or false", (bool,), lambda value: True, default)


def string(default=REQUIRED, expected="a string that is not empty", valid=str.strip) -> Leaf:
    return Leaf(expected, (str,), valid, default)


def choice(*options, default=REQUIRED) -> Leaf:
    """One of `options`, in any case: `adamw` is `AdamW`."""
    leaf = string(default, f"one of {', '.join(options)}", lambda value: value in options)
    return replace(leaf, spellings={option.lower(): option for option in options})


def template(default) -> Leaf:
    expected = 'a sentence with one "{}" where the tags go, and no other braces'
    return string(default, expected, lambda value: re.fullmatch(r"[^{}]*\{\}[^{}]*", value))


def regex() -> Leaf:
    def valid(value):
        try:
            return value != "" and bool(re.compile(value))
        except re.error:
            return False

    return string(expected="a regular expression that is not empty", valid=valid)


def _different(items) -> bool:
    return len(set(items)) == len(items)


# How many items, and which: in words, and the test of it.
SOME = ("one or more items", len)
SET = ("different items", _different)
SOME_SET = ("one or more different items", lambda items: items and _different(items))
PAIR = ("2 different items", lambda items: len(items) == 2 and _different(items))
RANGE = ("2 items, the smaller first", lambda items: len(items) == 2 and items[0] <= items[1])
THREE = ("3 items", lambda items: len(items) == 3)


def listof(item: Kind, items, default=REQUIRED) -> ListOf:
    return ListOf(item, f"a list of {items[0]}, each {item.expected}", items[1], default)


# -- The configuration -----------------------------------------------------------------------------

_SIZE = nullable(integer(POSITIVE, OPTIONAL, WIDE))  # absent or null: what the name stands for
_LAYERS = nullable(integer(POSITIVE, OPTIONAL, 10_000))
_PATHS = Leaf(
    "a file, a pattern of files, or a list of them",
    (str, list),
    lambda value: value and all(isinstance(part, str) and part for part in value),
    OPTIONAL,
)
_DATASET = component(name=string(), path=_PATHS)  # what a format needs its reader checks

SCHEMA = section(
    Global=section(
        output_dir=string("output"),
        device=choice("auto", "cpu", "gpu", default="auto"),
        seed=integer(between(0, 2**32 - 1), 42),
        epochs=integer(POSITIVE, 50),
        max_steps=nullable(integer(POSITIVE, None)),
        log_interval=integer(POSITIVE, 10),
        eval_interval=integer(NOT_NEGATIVE, 1000),
        save_interval=integer(NOT_NEGATIVE, 1000),
        keep_checkpoints=integer(POSITIVE, 3),
        keep_every=integer(NOT_NEGATIVE, 0),
        histogram_interval=integer(NOT_NEGATIVE, 0),
        sample_views=integer(NOT_NEGATIVE, 4, most=10_000),
        pretrained=nullable(string(None)),
        pretrained_partial=boolean(False),
        pretrained_other_vocab=boolean(False),
    ),
    Arch=section(
        embed_dim=nullable(integer(POSITIVE, None, WIDE)),
        Image=component(
            name=string(),
            pretrained=boolean(False),
            img_size=nullable(integer(POSITIVE, 224, PIXELS)),
            patch_size=nullable(integer(POSITIVE, OPTIONAL, PIXELS)),
            embed_dim=_SIZE,
            depth=_LAYERS,
            num_heads=_LAYERS,
            mlp_ratio=nullable(number(POSITIVE, OPTIONAL)),
            qkv_bias=nullable(boolean(OPTIONAL)),
            epsilon=nullable(number(POSITIVE, OPTIONAL)),
            out_dim=nullable(integer(POSITIVE, None, WIDE)),
            activation=nullable(choice("tanh", default=None)),
            recompute=boolean(False),
        ),
        Text=component(
            name=string(),
            pretrained=boolean(False),
            vocab_size=nullable(integer(POSITIVE, OPTIONAL, 10**8)),
            hidden_size=_SIZE,
            num_hidden_layers=_LAYERS,
            num_attention_heads=_LAYERS,
            intermediate_size=_SIZE,
            max_position_embeddings=_SIZE,
            hidden_dropout_prob=number(BELOW_ONE, 0.1),
            attention_probs_dropout_prob=number(BELOW_ONE, 0.1),
            hidden_act=nullable(choice("gelu", "relu", default=OPTIONAL)),
            initializer_range=nullable(number(POSITIVE, OPTIONAL)),
            epsilon=number(POSITIVE, 1e-5),
            recompute=boolean(False),
        ),
    ),
    Tokenizer=section(
        vocab_file=string(),
        max_len=integer(between(3, 65536), 48),
        lowercase=boolean(True),
    ),
    Views=section(
        image=listof(choice(*IMAGE_VIEWS), SOME_SET, list(DEFAULT_IMAGE_VIEWS)),
        text=listof(choice(*TEXT_VIEWS), SOME_SET, list(DEFAULT_TEXT_VIEWS)),
        draw=section(
            tags_prob=number(PROBABILITY, 0.5),
            per=choice("batch", "sample", default="batch"),
        ),
        tags=section(
            zh=section(
                template=template("该图片包含：{}"),
                separator=string("，", "a string", lambda value: True),
            ),
            en=section(
                template=template("The picture contains {}"),
                separator=string(", ", "a string", lambda value: True),
            ),
        ),
    ),
    Transform=section(
        size=integer(POSITIVE, 224, PIXELS),
        flip_prob=number(PROBABILITY, 0.5),
        jitter=section(
            brightness=number(between(0, 10), 0.4),
            contrast=number(between(0, 10), 0.4),
            saturation=number(between(0, 10), 0.4),
            hue=number(("from 0 to 0.5", lambda x: 0 <= x <= 0.5), 0.1),
            prob=number(PROBABILITY, 0.8),
        ),
        gray_prob=number(PROBABILITY, 0.2),
        blur=section(
            kernel=Leaf("an odd integer from 1 to 255", (int,), lambda x: 0 < x < 256 and x % 2, 5),
            sigma=listof(number(POSITIVE), RANGE, [0.1, 2.0]),
            prob=number(PROBABILITY, 0.5),
        ),
        crop_scale=nullable(listof(number(SHARE), RANGE, None)),
        mean=listof(number(PROBABILITY), THREE, [0.485, 0.456, 0.406]),
        std=listof(number(POSITIVE), THREE, [0.229, 0.224, 0.225]),
    ),
    Loss=section(
        pairs=listof(
            section(
                views=listof(choice(*VIEWS), PAIR),
                weight=number(NOT_NEGATIVE, 1.0),
                temperature=nullable(number(POSITIVE, OPTIONAL)),  # else the shared logit scale
                learnable=boolean(OPTIONAL),
                loss=choice("softmax", "sigmoid", default=OPTIONAL),  # else softmax
                bias=number(ANY, OPTIONAL),  # of the sigmoid
            ),
            SOME,
            [{"views": list(pair), "weight": 1.0} for pair in DEFAULT_PAIRS],
        ),
        logit_scale=section(
            init=number(POSITIVE, 14.285714),
            max=number(POSITIVE, 100.0),
            learnable=boolean(True),
        ),
        multi_positive=boolean(True),
        chunk=nullable(integer(POSITIVE, None)),
    ),
    Optimizer=section(
        name=choice("AdamW", "Lamb", default="AdamW"),
        beta1=number(BELOW_ONE, 0.9),
        beta2=number(BELOW_ONE, 0.98),
        epsilon=number(POSITIVE, 1e-6),
        weight_decay=number(NOT_NEGATIVE, 0.001),
        clip_norm=nullable(number(POSITIVE, 1.0)),
        layer_decay=nullable(number(SHARE, None)),
        freeze=listof(choice("image", "text"), SET, []),
        groups=listof(
            section(
                match=regex(),
                weight_decay=number(NOT_NEGATIVE, OPTIONAL),  # else Optimizer.weight_decay
                lr_scale=number(NOT_NEGATIVE, OPTIONAL),  # factor of the learning rate
            ),
            SOME,
            [
                {"match": r"logit_scale|temperature|^loss\.bias_", "weight_decay": 0.0},
                {
                    "match": r"norm|ln_pre|\.bn|_bn|bias$|embeddings|cls_token|pos_embed",
                    "weight_decay": 0.0,
                },
                {"match": ".*"},
            ],
        ),
    ),
    LRScheduler=section(
        name=choice("Cosine", "Linear", "Constant", default="Cosine"),
        learning_rate=number(POSITIVE, 3e-5),
        warmup_steps=integer(NOT_NEGATIVE, 1000),
        min_lr=number(NOT_NEGATIVE, 0.0),
    ),
    AMP=section(
        level=choice("O0", "O1", "O2", default="O0"),
        dtype=choice("bfloat16", "float16", default="bfloat16"),
        init_loss_scaling=number(POSITIVE, 65536.0),
    ),
    EMA=section(
        decay=nullable(number(BELOW_ONE, None)),
    ),
    Distributed=section(
        sharding=nullable(integer(between(1, 3), None)),
        gradient_merge=integer(POSITIVE, 1),
        hang_timeout=nullable(number(SECONDS, 1800.0)),
    ),
    Faults=section(
        spike=nullable(number(("above 1", lambda x: x > 1), None)),
        skips=integer(POSITIVE, 5),
        rollbacks=integer(NOT_NEGATIVE, 3),
        bad_share=nullable(number(PROBABILITY, 0.5)),
    ),
    DataLoader=section(
        Train=section(
            dataset=_DATASET,
            batch_size=integer(POSITIVE, 128),
            global_batch_size=nullable(integer(POSITIVE, None)),
            micro_batch_size=nullable(integer(POSITIVE, None)),
            num_workers=integer(NOT_NEGATIVE, 2, most=1024),
            worker_timeout=nullable(number(SECONDS, 600.0)),
            shuffle=boolean(True),
        ),
        Eval=nullable(
            section(
                dataset=_DATASET,
                batch_size=integer(POSITIVE, 64),
                num_workers=integer(NOT_NEGATIVE, 2, most=1024),
                worker_timeout=nullable(number(SECONDS, 600.0)),
                skip_bad=boolean(False),
            )
        ),
    ),
    Metric=section(
        ks=listof(integer(POSITIVE), SOME_SET, [1, 5, 10]),
        protocol=choice("strict", "official", "chinese_clip", default="strict"),
        bootstrap=integer(NOT_NEGATIVE, 1000, most=10**6),
        block=integer(POSITIVE, 1024),
        best=string("mean_recall"),  # one of those that `check_together` makes of ks
    ),
)


# -- What no key can tell alone --------------------------------------------------------------------


def check_together(tree: dict, where: str) -> None:
    """UserError where keys of the whole tree, each right alone, contradict one another."""
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

    best, ks = tree["Metric"]["best"], tree["Metric"]["ks"]
    recalls = [*(f"R@{k}" for k in ks), "mean_recall"]
    numbers = [f"{way}/{name}" for way in ("text_to_image", "image_to_text") for name in recalls]
    if best not in ("mean_recall", *numbers):
        expected = f"a recall that Metric.ks {ks} gives"
        expected += did_you_mean(best, ["mean_recall", *numbers])
        raise wrong(where, "Metric.best", best, expected)


def _check_pairs(pairs: list, views: dict, where: str) -> None:
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
        if "bias" in pair and pair.get("loss") != "sigmoid":
            raise UserError(
                f"{at}.bias is {show(pair['bias'])}, which only the sigmoid loss has; "
                "state loss: sigmoid, or drop it"
            )
    if not any(pair["weight"] > 0 for pair in pairs):
        raise UserError(
            f"{where}: Loss.pairs have weight 0, all of them; give one a weight above 0"
        )
