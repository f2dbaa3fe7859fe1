"""What a resumed run does otherwise than the one whose checkpoint it goes on from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml

from ernie_vil2.config.load import Config, load_config
from ernie_vil2.config.messages import join, show
from ernie_vil2.errors import UserError

# Keys that say where and how often, on what machine, and nothing of what is learned.
_HARMLESS = (
    "Global.output_dir", "Global.device", "Global.pretrained", "Global.pretrained_partial",
    "Global.pretrained_other_vocab", "Global.log_interval", "Global.eval_interval",
    "Global.save_interval", "Global.keep_checkpoints", "Global.keep_every",
    "Global.histogram_interval",
    "Global.sample_views", "Tokenizer.vocab_file", "Arch.Image.pretrained", "Arch.Text.pretrained",
    "Optimizer.fused", "DataLoader.Train.num_workers", "DataLoader.Train.worker_timeout",
    "DataLoader.Eval.num_workers", "DataLoader.Eval.batch_size",
    "Distributed.engine", "Distributed.dp_degree", "Distributed.sharding_degree",
    "Distributed.hang_timeout", "Metric.bootstrap", "Metric.block",
)  # fmt: skip
# The place in a source is a function of the position in the mixture and of its share alone.
_AS_IF = "other data from here on, each source where it would be had it been so from step 1"
# What follows, by the beginning of the key; the first that fits.
_FOLLOWS = {
    "Global.epochs": "the schedule ends elsewhere",
    "Global.max_steps": "the schedule ends elsewhere",
    "Global.seed": "other order, augmentation and dropout from here on",
    "DataLoader.Train.dataset.on_end": "the schedule ends elsewhere",
    "DataLoader.Train.dataset.temperature": _AS_IF,
    "DataLoader.Train.dataset.sources": _AS_IF,
    "DataLoader.Train": "other data from here on",
    "Transform.eval": "recalls are not to be compared with those before",
    "DataLoader.Eval": "recalls are not to be compared with those before",
    "Metric": "recalls are not to be compared with those before",
    "EMA": "averages begin anew, or end, here",
    "Optimizer.freeze": "moments of towers that learn only now begin at zero",
    "Optimizer.unlocked_layers": "moments of layers that learn only now begin at zero",
    "Optimizer": "its state so far stays where the names agree",
    "LRScheduler": "the new schedule, as if it had been so from step 1",
}


def changes(checkpoint: Path, config: Config) -> list[str]:
    """A line for each key that was another when `checkpoint` was written; none where it is old."""
    path = checkpoint / "config.yaml"
    try:
        before = load_config(path).to_dict()
    except UserError:  # of another version of this project: what is there can be compared
        try:
            before = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            return []
    if not isinstance(before, dict):
        return []
    return [
        f"{key} was {show(was)} and is {show(now)}{_follows(key)}"
        for key, was, now in _differences(before, config.to_dict(), "")
        if key not in _HARMLESS
    ]


def _differences(before, now, key: str) -> Iterator[tuple]:
    if isinstance(before, dict) and isinstance(now, dict):
        for name in dict.fromkeys((*now, *before)):
            yield from _differences(before.get(name), now.get(name), join(key, name))
    elif before != now:
        yield key, before, now


def _follows(key: str) -> str:
    said = (text for start, text in _FOLLOWS.items() if f"{key}.".startswith(f"{start}."))
    text = next(said, None)
    return f": {text}" if text else ""
