"""Where a run begins: anew, from weights, or from a checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from ernie_vil2 import distributed
from ernie_vil2.checkpoints import store
from ernie_vil2.config.load import Config
from ernie_vil2.data.tokenize import Tokenizer
from ernie_vil2.errors import UserError
from ernie_vil2.evaluation.evaluator import Evaluator
from ernie_vil2.models.dual_encoder import DualEncoder
from ernie_vil2.models.lora import adapted
from ernie_vil2.preprocessing import preprocessing_of
from ernie_vil2.training import earlier_run, resume_changes
from ernie_vil2.weights.base import add_base, elsewhere, read_note
from ernie_vil2.weights.load import fill, load_weights
from ernie_vil2.weights.preprocessing import warn_of_another
from ernie_vil2.weights.sources import read
from ernie_vil2.weights.vocabulary import (
    check_pretrained_vocabulary,
    check_resumed_vocabulary,
    check_vocabulary,
)

log = logging.getLogger("ernie_vil2")


def start_anew(
    config: Config, model: DualEncoder, tokenizer: Tokenizer, evaluator: Evaluator | None
) -> None:
    """Load the weights to start from, if any, and make room in output_dir."""
    if evaluator and config.Global.eval_interval:
        evaluator.check()  # now, and not when hours of training hang on it
    weights = config.Global.pretrained
    if weights:
        check_vocabulary(model, tokenizer, trained=True)
        if not config.Global.pretrained_other_vocab:
            check_pretrained_vocabulary(weights, tokenizer)
        warn_of_another(weights, preprocessing_of(config.Transform))
        load_weights(model, weights, config.Global.pretrained_partial)
        log.info("start from the weights of %s", weights)
    output = Path(config.Global.output_dir)
    if distributed.is_main() and (aside := earlier_run.put_aside(output)):
        kept = ", ".join(path.name for path in aside)
        log.warning("what an earlier run left is kept in %s: %s", output, kept)


def load_base(checkpoint: Path, config: Config, model: DualEncoder) -> None:
    """Load what lies below adapters, which a checkpoint leaves out; `restore` brings the rest."""
    if not adapted(model):
        return
    if read_note(checkpoint) is None:
        raise UserError(
            f"{checkpoint} is of a run without adapters: to begin them on its weights name it in "
            "Global.pretrained, without --resume"
        )
    other = elsewhere(checkpoint, config)
    fill(model, checkpoint, add_base(model, checkpoint, read(checkpoint), other), partial=False)


def find_checkpoint(checkpoints: Path, resume: str | None) -> Path | None:
    """The checkpoint that a run goes on from; None: it starts anew.

    Args:
        checkpoints: the run's folder of them.
        resume: as `Trainer` takes it.
    """
    if resume is None:
        return None
    if distributed.is_main():
        store.restore_links(checkpoints)
    if resume != "auto":
        if distributed.is_main():
            store.check(Path(resume))
        return Path(resume)
    found = newest_checkpoint(checkpoints)
    if found is None:
        log.info("nothing to resume in %s: start anew", checkpoints)
    return found


def newest_checkpoint(checkpoints: Path) -> Path | None:
    """The newest whole one, the same on every process."""
    # one rank looks, so that all go on from the same
    newest = store.find_latest(checkpoints) if distributed.is_main() else None
    return distributed.all_gather_objects(newest)[0]


def check_resume(folder: Path, config: Config, tokenizer: Tokenizer) -> None:
    """Refuse another vocabulary than the checkpoint's; warn of keys that were another."""
    check_resumed_vocabulary(folder, tokenizer)
    for change in resume_changes.changes(folder, config) if distributed.is_main() else ():
        log.warning("not as in %s: %s", folder.name, change)


def check_same_batches(state: Mapping, batches: list[int], folder: Path) -> None:
    """Refuse a checkpoint whose place in the data means nothing to this run.

    Args:
        state: the checkpoint's.
        batches: this run's records in a global batch, and batches in a step.
    """
    was = state.get("batches", batches)
    if was != batches:
        raise UserError(
            f"{folder} was trained with {was[0]} pairs a global batch and gradient_merge "
            f"{was[1]}, this run has {batches[0]} and {batches[1]}: to go on in the same data set "
            f"DataLoader.Train.global_batch_size={was[0]} Distributed.gradient_merge={was[1]}"
        )


def put_later_ones_aside(checkpoints: Path, step: int) -> None:
    """Move checkpoints of later steps than this one out of the way."""
    if distributed.is_main() and (aside := store.put_aside(checkpoints, after=step)):
        log.warning("checkpoints of later steps are kept in %s", aside)
