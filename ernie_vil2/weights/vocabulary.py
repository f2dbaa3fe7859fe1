"""Whether a tokenizer's ids are those that a text tower's rows were trained for."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from ernie_vil2.errors import UserError
from ernie_vil2.models.dual_encoder import DualEncoder
from ernie_vil2.weights.sources import resolve

log = logging.getLogger("ernie_vil2")

_ENOUGH = 0.99  # released tables have rows to spare: ERNIE 3.0's 20 of 40,000


def own_vocabulary(weights: str | os.PathLike) -> dict[str, str]:
    """`{"vocab_file": path}` of the vocabulary that lies beside weights in a folder, else `{}`."""
    path = resolve(weights) / "vocab.txt"
    return {"vocab_file": str(path)} if path.is_file() else {}


def check_vocabulary(model: DualEncoder, tokenizer, trained: bool) -> None:
    """Refuse a tokenizer with more tokens than the text tower has rows.

    Args:
        trained: the model's weights know a vocabulary already, so that a smaller one is likely
            another one; then a warning says so.

    Raises:
        UserError: naming both numbers, and the remedy.
    """
    tokens, rows = tokenizer.vocab_size, model.text_tower.vocab_size
    if tokens > rows:
        raise UserError(
            f"{tokenizer.vocab_file} has {tokens} tokens, the text tower {rows}: set "
            f"Arch.Text.vocab_size={tokens}, or Tokenizer.vocab_file to the model's own vocabulary"
        )
    if trained and tokens < _ENOUGH * rows:
        log.warning(
            "%s has %d tokens, the text tower %d: set Tokenizer.vocab_file to the vocabulary that "
            "the weights were trained with, unless this is it",
            tokenizer.vocab_file,
            tokens,
            rows,
        )


def check_max_len(model: DualEncoder, tokenizer) -> None:
    """Refuse a tokenizer whose texts may be longer than the text tower takes.

    Raises:
        UserError: naming both lengths, and the remedy.
    """
    if tokenizer.max_len > model.text_tower.max_len:
        raise UserError(
            f"Tokenizer.max_len is {tokenizer.max_len}, but the text tower takes "
            f"{model.text_tower.max_len} tokens: lower it, or raise "
            "Arch.Text.max_position_embeddings"
        )


def check_pretrained_vocabulary(weights: str | os.PathLike, tokenizer) -> None:
    """Refuse a tokenizer under which rows of trained weights would stand for other tokens.

    A vocabulary that lacks tokens, or has new ones in rows that were spare, passes. So does any
    where no vocabulary lies beside the weights.

    Raises:
        UserError: naming the first row that differs, and the remedy.
    """
    own = own_vocabulary(weights).get("vocab_file")
    if own is None:
        return
    here, there = _by_id(tokenizer.vocab), _by_id(type(tokenizer)(own).vocab)
    rows = sorted(row for row in here.keys() & there.keys() if here[row] != there[row])
    if rows:
        raise UserError(
            f"{tokenizer.vocab_file} is not the vocabulary of {weights}: row {rows[0]} is "
            f'"{here[rows[0]]}" here and "{there[rows[0]]}" there, {len(rows)} rows differ; set '
            f"Tokenizer.vocab_file={own}, or Global.pretrained_other_vocab=true to start with "
            "weights of other tokens"
        )


def check_resumed_vocabulary(checkpoint: Path, tokenizer) -> None:
    """Refuse a tokenizer that gives a token another id than it had when a run was saved.

    Raises:
        UserError: naming the first token that differs, and the remedy.
    """
    own = Path(checkpoint) / "vocab.txt"
    here, there = tokenizer.vocab, type(tokenizer)(own).vocab
    tokens = [t for t in {**there, **here} if here.get(t) != there.get(t)]
    if tokens:
        token = tokens[0]
        raise UserError(
            f"{tokenizer.vocab_file} is not the vocabulary that {checkpoint} was trained with: "
            f'"{token}" is {_row(here, token)} here, {_row(there, token)} there, {len(tokens)} '
            f"tokens differ; set Tokenizer.vocab_file={own} to go on, or start anew with "
            "Global.pretrained"
        )


def _by_id(vocab: dict[str, int]) -> dict[int, str]:
    return {row: token for token, row in vocab.items()}


def _row(vocab: dict[str, int], token: str) -> str:
    return f"row {vocab[token]}" if token in vocab else "missing"
