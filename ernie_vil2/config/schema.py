"""Every key of the configuration: its type and its default.

`SCHEMA` has the shape of configs/base.yaml, which says what each key is for.
"""

from __future__ import annotations

from ernie_vil2.config.arch import ARCH
from ernie_vil2.config.kinds import (
    OPTIONAL,
    Either,
    Leaf,
    ListOf,
    boolean,
    choice,
    component,
    integer,
    listof,
    nullable,
    number,
    odd_integer,
    regex,
    section,
    string,
    template,
)
from ernie_vil2.limits import (
    ABOVE_ONE,
    BELOW_ONE,
    DEGREE,
    NOT_NEGATIVE,
    PAIR_LOSSES,
    PAIR_NUMBERS,
    PAIR_VIEWS,
    POSITIVE,
    PROBABILITY,
    SECONDS,
    SET,
    SHARE,
    SOME,
    SOME_SET,
    TRANSFORM_LISTS,
    TRANSFORM_NUMBERS,
    between,
)
from ernie_vil2.preprocessing import PREPROCESSINGS
from ernie_vil2.views import (
    DEFAULT_IMAGE_VIEWS,
    DEFAULT_PAIRS,
    DEFAULT_TEXT_VIEWS,
    IMAGE_VIEWS,
    TEXT_VIEWS,
    VIEWS,
)

_UNLOCKED = nullable(integer(NOT_NEGATIVE, None, 10_000))  # layers of a tower
_PATHS = Leaf(
    "a file, a pattern of files, or a list of them",
    (str, list),
    lambda value: value and all(isinstance(part, str) and part for part in value),
    OPTIONAL,
)
_DATASET = component(name=string(), path=_PATHS)  # what a format needs its reader checks


def _transform_list(key: str, default: list[float] | None) -> ListOf:
    return listof(number(TRANSFORM_NUMBERS[key]), TRANSFORM_LISTS[key], default)


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
        log_to=listof(choice("visualdl", "tensorboard", "wandb"), SET, ["visualdl"]),
        histogram_interval=integer(NOT_NEGATIVE, 0),
        sample_views=integer(NOT_NEGATIVE, 4, most=10_000),
        pretrained=nullable(string(None)),
        pretrained_partial=boolean(False),
        pretrained_other_vocab=boolean(False),
    ),
    Arch=ARCH,
    Tokenizer=section(
        vocab_file=string(),
        max_len=integer(between(3, 65536), 48),
        lowercase=boolean(True),
        straight_quotes=boolean(False),
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
        size=integer(TRANSFORM_NUMBERS["size"], 224),
        flip_prob=number(TRANSFORM_NUMBERS["flip_prob"], 0.5),
        jitter=section(
            brightness=number(TRANSFORM_NUMBERS["jitter.brightness"], 0.4),
            contrast=number(TRANSFORM_NUMBERS["jitter.contrast"], 0.4),
            saturation=number(TRANSFORM_NUMBERS["jitter.saturation"], 0.4),
            hue=number(TRANSFORM_NUMBERS["jitter.hue"], 0.1),
            prob=number(TRANSFORM_NUMBERS["jitter.prob"], 0.8),
        ),
        gray_prob=number(TRANSFORM_NUMBERS["gray_prob"], 0.2),
        blur=section(
            kernel=odd_integer(TRANSFORM_NUMBERS["blur.kernel"], 5),
            sigma=_transform_list("blur.sigma", [0.1, 2.0]),
            prob=number(TRANSFORM_NUMBERS["blur.prob"], 0.5),
        ),
        crop_scale=nullable(_transform_list("crop_scale", None)),
        eval=nullable(choice(*PREPROCESSINGS, default=None)),
        # null in a file; read, they are those of `eval`
        mean=nullable(_transform_list("mean", None)),
        std=nullable(_transform_list("std", None)),
        scaled_decode=boolean(False),
    ),
    Loss=section(
        pairs=listof(
            section(
                views=listof(choice(*VIEWS), PAIR_VIEWS),
                weight=number(PAIR_NUMBERS["weight"], 1.0),
                # absent or null: the shared logit scale
                temperature=nullable(number(PAIR_NUMBERS["temperature"], OPTIONAL)),
                learnable=boolean(OPTIONAL),
                loss=choice(*PAIR_LOSSES, default=OPTIONAL),  # absent: softmax
                bias=number(PAIR_NUMBERS["bias"], OPTIONAL),  # of the sigmoid
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
        ring=boolean(False),
    ),
    Optimizer=section(
        name=choice("AdamW", "Lamb", default="AdamW"),
        beta1=number(BELOW_ONE, 0.9),
        beta2=number(BELOW_ONE, 0.98),
        epsilon=number(POSITIVE, 1e-6),
        weight_decay=number(NOT_NEGATIVE, 0.001),
        clip_norm=nullable(number(POSITIVE, 1.0)),
        layer_decay=nullable(number(SHARE, None)),
        fused=boolean(True),
        freeze=listof(choice("image", "text"), SET, []),
        unlocked_layers=section(
            image=_UNLOCKED,
            text=_UNLOCKED,
        ),
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
        tf32=boolean(True),
    ),
    EMA=section(
        decay=nullable(number(BELOW_ONE, None)),
    ),
    Distributed=section(
        sharding=nullable(integer(between(1, 3), None)),
        engine=choice("auto", "ours", "paddle", default="auto"),
        dp_degree=nullable(integer(DEGREE, None)),
        sharding_degree=nullable(integer(DEGREE, None)),
        gradient_merge=integer(POSITIVE, 1),
        as_two=boolean(False),
        hang_timeout=nullable(number(SECONDS, 1800.0)),
    ),
    Faults=section(
        spike=nullable(number(ABOVE_ONE, None)),
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
            num_workers=nullable(integer(NOT_NEGATIVE, None, most=1024)),
            worker_timeout=nullable(number(SECONDS, 600.0)),
            shuffle=Either(
                boolean(True),
                section(
                    mode=choice("global", "shards"),
                    window=integer(POSITIVE, 16, most=10**6),  # shards
                ),
                True,
            ),
        ),
        Eval=nullable(
            section(
                dataset=_DATASET,
                batch_size=integer(POSITIVE, 64),
                num_workers=nullable(integer(NOT_NEGATIVE, None, most=1024)),
                worker_timeout=nullable(number(SECONDS, 600.0)),
                skip_bad=boolean(False),
            )
        ),
        store=section(
            cache_dir=nullable(string(None)),
            cache_gb=nullable(number(POSITIVE, None)),
            attempts=integer(POSITIVE, 6, most=100),
            seconds=number(SECONDS, 120.0),
        ),
    ),
    Metric=section(
        ks=listof(integer(POSITIVE), SOME_SET, [1, 5, 10]),
        protocol=choice("strict", "official", "chinese_clip", default="strict"),
        equal_captions=choice("apart", "one", default="apart"),
        bootstrap=integer(NOT_NEGATIVE, 1000, most=10**6),
        block=integer(POSITIVE, 1024),
        best=string("mean_recall"),  # one of those that `check_together` makes of ks
    ),
)
