"""YAML: what is refused, where it stands, and what PyYAML would read as something else."""

import pytest

from ernie_vil2.config.load import load_config
from tests.support.configs import BASE, MINIMAL, error_of


def laughs(pattern: str) -> str:
    """30 short lines, each of them holding the one before twice."""
    lines = [f"k{i}: &a{i} {pattern.format(f'*a{i - 1}')}" for i in range(1, 30)]
    return "\n".join(["k0: &a0 {x: 1}", *lines])


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("Global: {seed: 1", ["line 1", "not valid YAML"]),
        ("Global:\n\tseed: 1\n", ["line 2", "not valid YAML"]),
        ("Global:\n  seed: 1\n  seed: 2\n", ["line 3", "seed stands twice"]),
        ("Global: {}\nEMA: {}\nGlobal: {}\n", ["line 3", "Global stands twice"]),
        ("Arch: {Image: {x: {'a': 1, a: 2}}}\n", ["line 1", "a stands twice"]),
        ("a: 1\n---\nb: 2\n", ["not valid YAML"]),
        (
            "Global: !!python/object/new:os.system [ls]\n",
            ["line 1", "python/object", "not allowed"],
        ),
        ("Arch: {Image: &a {x: *a}}\n", ["Arch.Image.x contains itself"]),
        ("Arch: {Image: {x: &a [1, *a]}}\n", ["Arch.Image.x.1 contains itself"]),
        (laughs("[{0}, {0}]"), ["line 16", "more than 100000 values, counting each alias"]),
        (laughs("{{<<: [{0}, {0}]}}"), ["line 16", "more than 100000 values"]),
        (laughs("{{x: {0}, y: {0}}}"), ["line 16", "more than 100000 values"]),
        ("1: 2\n", ["quotes"]),
        ("Arch: {Image: {no: 1}}\n", ["Arch.Image", "false", "quotes"]),
        (b"Global: {output_dir: \xff}\n", ["not UTF-8"]),
        ("Global: {seed: 1}\n".encode("utf-16"), ["not UTF-8"]),
        (b"Global: \0\n", ["not valid YAML"]),
    ],
)
def test_wrong_yaml(write, text, parts):
    message = error_of(load_config, write(text))
    for part in ["delta.yaml", *parts]:
        assert part in message


def test_anchors_aliases_merge_keys_and_a_byte_order_mark(write):
    text = MINIMAL.replace("{dataset: {name", "{dataset: &set {name")
    text += "  Eval: {dataset: {<<: *set, path: other.tsv}}\n"
    config = load_config(write(b"\xef\xbb\xbf" + text.encode()))
    assert config.DataLoader.Eval.dataset == {"name": "tsv", "path": "other.tsv"}
    assert config.DataLoader.Train.dataset == {"name": "tsv", "path": "train.tsv"}


@pytest.mark.parametrize(
    "text", ["1e-4", "1E-4", "+1e-4", "0.1e-3", "1.e-4", ".1e-3", "0.0001", "1.0e-4", "1_0e-5"]
)
def test_numbers_with_an_exponent(write, text):
    delta = write(f"_BASE_: base\nLRScheduler: {{learning_rate: {text}}}\n")
    for config in (
        load_config(delta),
        load_config(BASE, [f"LRScheduler.learning_rate={text}"]),
    ):
        assert config.LRScheduler.learning_rate == pytest.approx(1e-4, rel=1e-12)
