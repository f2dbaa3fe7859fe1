"""The configuration: YAML with `_BASE_` and `-o` overrides, keys and types checked, frozen.

`SCHEMA` holds every key with its type and default; configs/base.yaml says what each is for. Nothing
heavy is imported, so that `--help` stays quick.
"""

from __future__ import annotations

import os
import re
import reprlib
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import yaml

from ernie_vil2.errors import UserError, did_you_mean


def load_config(path, overrides: Iterable = ()) -> Config:
    """Read a YAML file with its `_BASE_` files, apply `-o` overrides, fill in defaults, check.

    overrides: strings "Section.key=VALUE", VALUE in YAML; in the key a number indexes a list.
    Raises UserError for whatever is wrong with the files or the overrides.
    """
    assert not isinstance(overrides, str), "overrides is a list of strings"
    changes: dict = {}
    for override in overrides:
        changes = _merge(changes, _parse_override(override), None)
    tree = _merge(_read_layers(path), changes, SCHEMA)
    where = f"{path} with -o" if changes else str(path)
    tree = SCHEMA.check(tree, "", where, whole=True)
    _check_together(tree, where)
    return Config(tree)


def check_arch(source) -> Config:
    """The `Arch` node of a YAML file or of a mapping, checked and with its defaults filled in.

    Of a mapping everything else is left alone; a file may lack other sections, not misspell them.
    """
    if isinstance(source, Mapping):
        where, tree = "the given config", {k: _thaw(v) for k, v in source.items() if k == "Arch"}
        _check_plain(tree, "", where)
    else:
        where, tree = str(source), _read_layers(source)
    if "Arch" not in tree:
        raise UserError(f"{where}: Arch is missing; expected its Image and Text, see base.yaml")
    return Config(SCHEMA.fields["Arch"].check(tree["Arch"], "Arch", where, whole=True))


class Config(Mapping):
    """A frozen mapping: `cfg.Global.seed` is `cfg["Global"]["seed"]`; lists are tuples."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping):
        object.__setattr__(self, "_items", {key: _freeze(item) for key, item in items.items()})

    def __getitem__(self, key):
        return self._items[key]

    def __iter__(self):
        return iter(self._items)

    def __len__(self):
        return len(self._items)

    def __getattr__(self, key):
        try:
            return self._items[key]
        except KeyError:
            raise AttributeError(f"no key {key}{did_you_mean(key, self._items)}") from None

    def __setattr__(self, key, value):
        raise AttributeError(f"the configuration is frozen: {key} cannot be set")

    def __delattr__(self, key):
        raise AttributeError(f"the configuration is frozen: {key} cannot be deleted")

    def __reduce__(self):  # pickle and copy would set attributes
        return Config, (self.to_dict(),)

    def __repr__(self):
        return f"Config({self.to_dict()})"

    def to_dict(self) -> dict:
        """Plain dicts and lists, all of them new."""
        return _thaw(self)

    def dump(self, path) -> None:
        """Write YAML that `load_config` reads back as an equal Config."""
        with open(path, "w", encoding="utf-8") as file:
            yaml.dump(self.to_dict(), file, _Dumper, sort_keys=False, allow_unicode=True)


def _freeze(value):
    if isinstance(value, Mapping):
        return Config(value)
    return tuple(map(_freeze, value)) if isinstance(value, (list, tuple)) else value


def _thaw(value):
    if isinstance(value, Mapping):
        return {key: _thaw(item) for key, item in value.items()}
    return list(map(_thaw, value)) if isinstance(value, (list, tuple)) else value


# ---- Errors --------------------------------------------------------------------------------------

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 60


def _show(value) -> str:
    """The value on one short line, spelt as in YAML where Python differs."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return _REPR.repr(value)


def _join(key: str, name) -> str:
    name = name if str(name).isprintable() else repr(name)
    return f"{key}.{name}" if key else str(name)


def _wrong(where: str, key: str, value, expected: str) -> UserError:
    return UserError(f"{where}: {key or 'its content'} is {_show(value)}; expected {expected}")


# ---- Types ---------------------------------------------------------------------------------------
# kind.check(value, key, where, whole) returns the value as the program wants it, or refuses it.
# where: the file, or "-o". whole: require and fill in what is missing; else check what is stated.

REQUIRED, OPTIONAL = object(), object()  # instead of a default: must be stated; may be absent


class _Kind:
    def check(self, value, key, where, whole):
        if value is None and self.null:
            return None
        try:
            return self.read(value, key, where, whole)
        except _Misfit:
            expected = self.expected + (", or null" if self.null else "")
            raise _wrong(where, key, value, expected) from None


class _Misfit(Exception):
    """The value is not of the kind."""


def _fit(fits) -> None:
    if not fits:
        raise _Misfit


@dataclass(frozen=True)
class Leaf(_Kind):
    """One value, of one of `types` (a bool is no int), for which `valid` holds."""

    expected: str
    types: tuple
    valid: Callable
    default: Any = REQUIRED
    null: bool = False

    def read(self, value, key, where, whole):
        _fit(type(value) in self.types and self.valid(value))
        return float(value) if float in self.types else value


@dataclass(frozen=True)
class ListOf(_Kind):
    """A list of one kind. length: how many; None for one or more."""

    item: _Kind
    default: Any = REQUIRED
    length: int | None = None
    empty: bool = False
    unique: bool = False
    ascending: bool = False
    null: bool = False

    @property
    def expected(self):
        count = f"{self.length} " if self.length else "" if self.empty else "one or more "
        items = "different items" if self.unique else "items"
        order = ", the smaller first" if self.ascending else ""
        return f"a list of {count}{items}{order}, each {self.item.expected}"

    def read(self, value, key, where, whole):
        if isinstance(value, _Dotted):
            return {i: self.item.check(v, _join(key, i), where, False) for i, v in value.items()}
        _fit(isinstance(value, list))
        # Lists are replaced, never merged: their items are whole.
        items = [self.item.check(v, _join(key, i), where, True) for i, v in enumerate(value)]
        _fit(len(items) == self.length if self.length else items or self.empty)
        _fit(not (self.unique and any(item in items[:i] for i, item in enumerate(items))))
        _fit(not self.ascending or items == sorted(items))
        return items


@dataclass(frozen=True)
class Section(_Kind):
    """A mapping with known keys; a nullable one is null when missing.

    component: takes further keys, which its builder checks against the component of that `name`;
    what belongs to another component is dropped when `name` changes (`_merge`).
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
        _fit(isinstance(value, dict))
        for name in value:
            if name not in self.fields and not self.component:
                hint = did_you_mean(name, self.fields)
                raise UserError(f"{where}: unknown key {_join(key, name)}{hint}")
        result = {}
        for name, kind in self.fields.items():
            at = _join(key, name)
            if name in value:
                result[name] = kind.check(value[name], at, where, whole)
            elif whole and kind.default is REQUIRED:
                raise UserError(f"{where}: {at} is missing; state {kind.expected}")
            elif whole and kind.default is not OPTIONAL:
                result[name] = kind.check(kind.default, at, where, whole)
        return {**result, **{name: value[name] for name in value if name not in result}}


POSITIVE = ("above 0", lambda x: x > 0)
NOT_NEGATIVE = ("of at least 0", lambda x: x >= 0)
PROBABILITY = ("from 0 to 1", lambda x: 0 <= x <= 1)
BELOW_ONE = ("from 0 to below 1", lambda x: 0 <= x < 1)
SHARE = ("above 0 and at most 1", lambda x: 0 < x <= 1)


def section(**fields) -> Section:
    return Section(fields)


def component(**fields) -> Section:
    return Section(fields, component=True)


def nullable(kind):
    return replace(kind, null=True)


def integer(valid, default=REQUIRED) -> Leaf:
    return Leaf(f"an integer {valid[0]}", (int,), valid[1], default)


def number(valid, default=REQUIRED) -> Leaf:
    return Leaf(
        f"a number {valid[0]}",
        (int, float),
        lambda x: abs(x) < sys.float_info.max and valid[1](x),  # neither inf, NaN nor a huge int
        default,
    )


def boolean(default) -> Leaf:
    return Leaf("true or false", (bool,), lambda value: True, default)


def string(default=REQUIRED, expected="a string that is not empty", valid=str.strip) -> Leaf:
    return Leaf(expected, (str,), valid, default)


def choice(*options, default=REQUIRED) -> Leaf:
    return string(default, f"one of {', '.join(options)}", lambda value: value in options)


def _is_regex(value: str) -> bool:
    try:
        return value != "" and bool(re.compile(value))
    except re.error:
        return False


# ---- Schema --------------------------------------------------------------------------------------

IMAGE_VIEWS = ("image1", "image2")
TEXT_VIEWS = ("text1", "text2", "caption1", "caption2", "tags1", "tags2")

_SIZE = nullable(integer(POSITIVE, OPTIONAL))  # absent or null: what the name stands for
_TEMPLATE = string(
    expected='a sentence with one "{}" where the tags go, and no other braces',
    valid=lambda value: re.fullmatch(r"[^{}]*\{\}[^{}]*", value),
)
_SEPARATOR = string(expected="a string", valid=lambda value: True)
_DATASET = component(name=string(), path=string())

SCHEMA = section(
    Global=section(
        output_dir=string("output"),
        device=choice("auto", "cpu", "gpu", default="auto"),
        seed=integer(("from 0 to 4294967295", lambda x: 0 <= x < 2**32), 42),
        epochs=integer(POSITIVE, 50),
        max_steps=nullable(integer(POSITIVE, None)),
        log_interval=integer(POSITIVE, 10),
        eval_interval=integer(NOT_NEGATIVE, 1000),
        save_interval=integer(NOT_NEGATIVE, 1000),
        keep_checkpoints=integer(POSITIVE, 3),
        histogram_interval=integer(NOT_NEGATIVE, 0),
        sample_views=integer(NOT_NEGATIVE, 4),
        pretrained=nullable(string(None)),
        pretrained_partial=boolean(False),
    ),
    Arch=section(
        embed_dim=nullable(integer(POSITIVE, None)),
        Image=component(
            name=string(),
            pretrained=boolean(False),
            img_size=nullable(integer(POSITIVE, 224)),
            patch_size=_SIZE,
            embed_dim=_SIZE,
            depth=_SIZE,
            num_heads=_SIZE,
            mlp_ratio=nullable(number(POSITIVE, OPTIONAL)),
            qkv_bias=nullable(boolean(OPTIONAL)),
            epsilon=nullable(number(POSITIVE, OPTIONAL)),
            out_dim=nullable(integer(POSITIVE, None)),
            activation=nullable(choice("tanh", default=None)),
            recompute=boolean(False),
        ),
        Text=component(
            name=string(),
            pretrained=boolean(False),
            vocab_size=_SIZE,
            hidden_size=_SIZE,
            num_hidden_layers=_SIZE,
            num_attention_heads=_SIZE,
            intermediate_size=_SIZE,
            max_position_embeddings=_SIZE,
            hidden_dropout_prob=number(BELOW_ONE, 0.1),
            attention_probs_dropout_prob=number(BELOW_ONE, 0.1),
            recompute=boolean(False),
        ),
    ),
    Tokenizer=section(
        vocab_file=string(),
        max_len=integer(("of at least 3", lambda x: x >= 3), 48),
        lowercase=boolean(True),
    ),
    Views=section(
        image=ListOf(choice(*IMAGE_VIEWS), ["image1", "image2"], unique=True),
        text=ListOf(choice(*TEXT_VIEWS), ["text1", "text2"], unique=True),
        draw=section(
            tags_prob=number(PROBABILITY, 0.5),
            per=choice("batch", "sample", default="batch"),
        ),
        tags=section(
            zh=section(
                template=replace(_TEMPLATE, default="该图片包含：{}"),
                separator=replace(_SEPARATOR, default="，"),
            ),
            en=section(
                template=replace(_TEMPLATE, default="The picture contains {}"),
                separator=replace(_SEPARATOR, default=", "),
            ),
        ),
    ),
    Transform=section(
        size=integer(POSITIVE, 224),
        flip_prob=number(PROBABILITY, 0.5),
        jitter=section(
            brightness=number(NOT_NEGATIVE, 0.4),
            contrast=number(NOT_NEGATIVE, 0.4),
            saturation=number(NOT_NEGATIVE, 0.4),
            hue=number(("from 0 to 0.5", lambda x: 0 <= x <= 0.5), 0.1),
            prob=number(PROBABILITY, 0.8),
        ),
        gray_prob=number(PROBABILITY, 0.2),
        blur=section(
            kernel=integer(("above 0 and odd", lambda x: x > 0 and x % 2), 5),
            sigma=ListOf(number(POSITIVE), [0.1, 2.0], length=2, ascending=True),
            prob=number(PROBABILITY, 0.5),
        ),
        crop_scale=nullable(ListOf(number(SHARE), None, length=2, ascending=True)),
        mean=ListOf(number(PROBABILITY), [0.485, 0.456, 0.406], length=3),
        std=ListOf(number(POSITIVE), [0.229, 0.224, 0.225], length=3),
    ),
    Loss=section(
        pairs=ListOf(
            section(
                views=ListOf(choice(*IMAGE_VIEWS, *TEXT_VIEWS), length=2, unique=True),
                weight=number(NOT_NEGATIVE, 1.0),
                temperature=nullable(number(POSITIVE, OPTIONAL)),  # else the shared logit scale
                learnable=boolean(OPTIONAL),
            ),
            [
                {"views": ["image1", "image2"], "weight": 1.0},
                {"views": ["text1", "text2"], "weight": 1.0},
                {"views": ["image1", "text1"], "weight": 1.0},
                {"views": ["image2", "text2"], "weight": 1.0},
            ],
        ),
        logit_scale=section(
            init=number(POSITIVE, 14.285714),
            max=number(POSITIVE, 100.0),
            learnable=boolean(True),
        ),
        multi_positive=boolean(True),
    ),
    Optimizer=section(
        name=choice("AdamW", "Lamb", default="AdamW"),
        beta1=number(BELOW_ONE, 0.9),
        beta2=number(BELOW_ONE, 0.98),
        epsilon=number(POSITIVE, 1e-6),
        weight_decay=number(NOT_NEGATIVE, 0.001),
        clip_norm=nullable(number(POSITIVE, 1.0)),
        layer_decay=nullable(number(SHARE, None)),
        freeze=ListOf(choice("image", "text"), [], empty=True, unique=True),
        groups=ListOf(
            section(
                match=string(expected="a regular expression that is not empty", valid=_is_regex),
                weight_decay=number(NOT_NEGATIVE, OPTIONAL),  # else Optimizer.weight_decay
                lr_scale=number(NOT_NEGATIVE, OPTIONAL),  # factor of the learning rate
            ),
            [
                {"match": "logit_scale|temperature", "weight_decay": 0.0},
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
    EMA=section(decay=nullable(number(BELOW_ONE, None))),
    DataLoader=section(
        Train=section(
            dataset=_DATASET,
            batch_size=integer(POSITIVE, 128),
            num_workers=integer(NOT_NEGATIVE, 2),
            shuffle=boolean(True),
        ),
        Eval=nullable(
            section(
                dataset=_DATASET,
                batch_size=integer(POSITIVE, 64),
                num_workers=integer(NOT_NEGATIVE, 2),
            )
        ),
    ),
    Metric=section(
        ks=ListOf(integer(POSITIVE), [1, 5, 10], unique=True),
        bootstrap=integer(NOT_NEGATIVE, 1000),
        block=integer(POSITIVE, 1024),
        best=string("mean_recall"),
    ),
)


def _check_together(tree: dict, where: str) -> None:
    """What no key can tell alone."""
    seen = set()
    for i, pair in enumerate(tree["Loss"]["pairs"]):
        at = f"{where}: Loss.pairs.{i}"
        for view in pair["views"]:
            tower = "image" if view in IMAGE_VIEWS else "text"
            made = tree["Views"][tower]
            if view not in made:
                raise UserError(
                    f"{at}.views has {view}, which Views.{tower} [{', '.join(made)}] lacks; "
                    f"add it to Views.{tower} or pair other views"
                )
        if frozenset(pair["views"]) in seen:
            raise UserError(
                f"{at} repeats the pair of {' and '.join(pair['views'])}; state it once"
            )
        seen.add(frozenset(pair["views"]))
        if pair.get("learnable") and pair.get("temperature") is None:
            raise UserError(
                f"{at}.learnable is true, but what would be learnt is missing; "
                "state the pair's own temperature, for example 0.07"
            )
    if not any(pair["weight"] > 0 for pair in tree["Loss"]["pairs"]):
        raise UserError(
            f"{where}: Loss.pairs have weight 0, all of them; give one a weight above 0"
        )
    scale, schedule = tree["Loss"]["logit_scale"], tree["LRScheduler"]
    if scale["init"] > scale["max"]:
        expected = f"at most Loss.logit_scale.max, {scale['max']}"
        raise _wrong(where, "Loss.logit_scale.init", scale["init"], expected)
    if schedule["min_lr"] > schedule["learning_rate"]:
        expected = f"at most LRScheduler.learning_rate, {schedule['learning_rate']}"
        raise _wrong(where, "LRScheduler.min_lr", schedule["min_lr"], expected)


# ---- Files, overrides, merging -------------------------------------------------------------------


class _Dotted(dict):
    """A mapping made of the dotted key of an override: over a list its keys are indices."""


def _parse_override(override: str) -> _Dotted:
    key, equals, text = override.partition("=")
    names = key.strip().split(".")
    if not equals or not all(names):
        raise UserError(
            f"-o {_show(override)}: expected SECTION.KEY=VALUE, for example -o Global.seed=1"
        )
    tree = _parse_yaml(text, f"-o {key}={_show(text)}")
    _check_plain(tree, key.strip(), "-o")
    for name in reversed(names):
        tree = _Dotted({name: tree})
    SCHEMA.check(tree, "", "-o", whole=False)
    return tree


def _read_layers(path, above: tuple = ()) -> dict:
    """The file over those it inherits from; each checked alone, so that an error names its file."""
    path = os.fspath(path)
    if any(os.path.realpath(path) == os.path.realpath(other) for other in above):
        chain = " -> ".join([*above, path])
        raise UserError(f"{path}: _BASE_ leads back to this file ({chain}); remove one of them")
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8; save the YAML file with that encoding") from None
    except (OSError, ValueError) as error:  # ValueError: a null character
        reason = getattr(error, "strerror", None) or error
        named = f" (_BASE_ of {above[-1]})" if above else ""
        raise UserError(f"{path}{named}: {reason}; expected a readable YAML file") from None
    tree = _parse_yaml(text, path)
    if not isinstance(tree, dict):
        raise _wrong(path, "", tree, SCHEMA.expected)
    _check_plain(tree, "", path)
    base = tree.pop("_BASE_", None)
    if base is not None and not (isinstance(base, str) and base):
        raise _wrong(path, "_BASE_", base, "the path of a YAML file, relative to this one")
    SCHEMA.check(tree, "", path, whole=False)
    if base is None:
        return tree
    base = os.path.normpath(os.path.join(os.path.dirname(path), base))
    return _merge(_read_layers(base, (*above, path)), tree, SCHEMA)


def _merge(base, delta, kind: _Kind | None, key: str = ""):
    """`delta` over `base`, both kept: mappings merge key by key, anything else replaces.

    kind: the type of both; None merges overrides among themselves, where no name drops any key.
    """
    if isinstance(delta, _Dotted) and (isinstance(base, list) or isinstance(kind, ListOf)):
        return _merge_items(base, delta, kind, key)
    if not isinstance(delta, dict):
        return delta
    result = type(base)(base) if isinstance(base, dict) else type(delta)()
    fields = kind.fields if isinstance(kind, Section) else {}
    renamed = "name" in delta and "name" in result and delta["name"] != result["name"]
    if renamed and kind and kind.component:
        result = {name: value for name, value in result.items() if name in kind.common}
    for name, value in delta.items():
        field = fields.get(name)
        below = result.get(name)
        if name not in result and isinstance(field, ListOf) and field.default is not REQUIRED:
            below = field.default
        result[name] = _merge(below, value, field, _join(key, name))
    return result


def _merge_items(base, delta: _Dotted, kind: ListOf | None, key: str) -> list:
    if not isinstance(base, list):
        raise UserError(f"-o: {key} is {_show(base)}, no list; set it whole: -o {key}=[...]")
    result = list(base)
    for index, value in delta.items():
        if not re.fullmatch("[0-9]{1,9}", index) or int(index) >= len(result):
            raise UserError(
                f"-o: {_join(key, index)} does not exist, {key} is a list of length {len(result)}; "
                f"indices begin at 0; to lengthen it set it whole: -o {key}=[...]"
            )
        at = int(index)
        result[at] = _merge(result[at], value, kind and kind.item, _join(key, index))
    return result


# ---- YAML ----------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """Plain values: no tag makes an object, a date is a string, a key stands once in a mapping."""

    # Without those that would make dates, or refuse a plain "=".
    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, regex) for tag, regex in pairs if not tag.endswith((":timestamp", ":value"))]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_mapping_node(self, anchor):
        node, seen = super().compose_mapping_node(anchor), set()
        for key, _ in node.value:
            if (key.tag, str(key.value)) in seen:
                self.refuse(key, f"the key {key.value} stands twice in one mapping; keep one")
            seen.add((key.tag, str(key.value)))
        return node

    def construct_object(self, node, deep=False):
        try:
            return super().construct_object(node, deep)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            self.refuse(node, f"{_show(node.value)} cannot be read as {node.tag}; quote a string")

    def refuse_tag(self, node):
        self.refuse(node, f"the tag {node.tag} is not allowed; write plain values")

    def refuse(self, node, problem: str):
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


class _Dumper(yaml.SafeDumper):
    """Quotes the strings that `_Loader` would read as numbers."""


_Loader.add_constructor(None, _Loader.refuse_tag)
for _class in (_Loader, _Dumper):
    # Numbers in YAML 1.2 that PyYAML, made for 1.1, takes for strings: 1e-4, 3e5, 1.5e3
    _class.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"[-+]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)[eE][-+]?[0-9]+$"),
        list("-+.0123456789"),
    )


def _parse_yaml(text: str, where: str):
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = error.problem or error.context
    except yaml.YAMLError as error:
        at, problem = "", error
    except RecursionError:
        at, problem = "", "nested too deeply"
    raise UserError(f"{where}{at}: not valid YAML: {' '.join(str(problem).split())}")


def _check_plain(value, key: str, where: str, parents: tuple = ()) -> None:
    """Refuse what -o and `dump` could not express, and a container that holds itself."""
    if any(value is parent for parent in parents):
        raise UserError(f"{where}: {key} contains itself; an alias must not name its own parent")
    if isinstance(value, dict):
        for name, item in value.items():
            if not isinstance(name, str):
                raise _wrong(where, _join(key, "(key)"), name, f'a string: "{name}" in quotes')
            _check_plain(item, _join(key, name), where, (*parents, value))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            _check_plain(item, _join(key, i), where, (*parents, value))
    elif not (value is None or isinstance(value, (bool, int, float, str))):
        raise _wrong(where, key, value, "a string, number, true, false, null, list or mapping")
