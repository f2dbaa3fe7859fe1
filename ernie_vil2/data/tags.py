"""The tag view: an image's tags as one sentence, such as "The picture contains sky, car"."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from ernie_vil2.data.tokenize import CJK, Tokenizer
from ernie_vil2.errors import UserError


def language_of(texts: Iterable[str]) -> str:
    """ "zh" where any of the texts has a CJK ideograph, else "en"."""
    return "zh" if any(CJK.search(text) for text in texts) else "en"


def tag_sentence(
    tags: Sequence[str],
    template: str,
    separator: str,
    tokenizer: Tokenizer,
    rng: np.random.Generator | None = None,
) -> str:
    """`template` with `{}` replaced by as many whole tags as fit into the tokenizer's max_len.

    Args:
        tags: at least one; the first is kept even where it alone is too long.
        rng: shuffles the tags where given, so that each epoch sees others of a long list.
    """
    assert tags, "a record without tags has no tag sentence"
    if "{}" not in template:
        raise UserError(f'tag template "{template}": expected {{}} where the tags go')
    if rng is not None:
        tags = [tags[i] for i in rng.permutation(len(tags))]

    def sentence(count: int) -> str:
        return template.replace("{}", separator.join(tags[:count]))

    room = tokenizer.max_len - 2  # [CLS] and [SEP]
    if tokenizer.count(sentence(len(tags))) <= room:
        return sentence(len(tags))
    count = 1
    while count < len(tags) and tokenizer.count(sentence(count + 1)) <= room:
        count += 1
    return sentence(count)
