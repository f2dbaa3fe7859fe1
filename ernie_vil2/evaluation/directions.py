"""Retrieval within a modality: images for an image, texts for a text.

The loss has pairs of views of one kind (image1-image2, text1-text2); these directions say what they
are worth. The query itself is left out of what it is looked for in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ernie_vil2.errors import UserError
from ernie_vil2.evaluation.checks import check_embeddings, check_ks
from ernie_vil2.evaluation.embeddings import Embeddings
from ernie_vil2.evaluation.retrieval import (
    PROTOCOLS,
    check_protocol,
    rank_of_positives,
    report_of_ranks,
)

ACROSS = ("text_to_image", "image_to_text")
WITHIN = ("image_to_image", "text_to_text")


def evaluate_within(
    embeds: np.ndarray,
    belongs: Sequence[Sequence[int]],
    ks: Sequence[int] = (1, 5, 10),
    bootstrap: int = 1000,
    seed: int = 0,
    block: int = 1024,
    protocol: str = "strict",
) -> dict[str, Any]:
    """One direction of retrieval, each item with a fellow looked for among all others.

    Args:
        embeds: [N, D] numbers, L2-normalised by the model.
        belongs: for each item the numbers of what it belongs to, maybe none; items that share one
            are right for one another. The first one groups queries in the bootstrap.
        ks, bootstrap, seed, block: as in `evaluate_retrieval`.
        protocol: as there. Under "official" each pair of fellows is a query, right for the other
            alone.

    Returns:
        What `evaluate_retrieval` gives of a direction.

    Raises:
        UserError: as there; no item has a fellow.
    """
    ks = check_ks(ks)
    check_protocol(protocol)
    embeds, _ = check_embeddings(embeds=embeds, same=embeds)
    members: dict[int, list[int]] = {}
    for item, owners in enumerate(belongs):
        for owner in owners:
            members.setdefault(owner, []).append(item)
    fellows = {}
    for item, owners in enumerate(belongs):
        found = {other for owner in owners for other in members[owner]} - {item}
        if found:
            fellows[item] = sorted(found)
    if not fellows:
        raise UserError("no two items belong together: there is nothing to score")
    queries = np.array(list(fellows))
    positives: Any = list(fellows.values())
    if protocol == "official":
        queries = np.repeat(queries, list(map(len, positives)))
        positives = np.concatenate(positives)[:, None]
    rank = rank_of_positives(
        embeds[queries], embeds, positives, block, PROTOCOLS[protocol], own=queries
    )
    groups = np.array([belongs[query][0] for query in queries.tolist()])
    sizes = [len(each) for each in positives]
    return report_of_ranks(rank, groups, sizes, len(embeds) - 1, ks, bootstrap, seed)


def score_within(embeddings: Embeddings, direction: str, metric: Mapping[str, Any]) -> dict:
    """`evaluate_within` on a set.

    Images belong together that share a text, or where labels were asked for those of one class.
    Texts belong together that share an image; texts that read alike are one text here, or each
    would find its double.

    Args:
        direction: of `WITHIN`.
        metric: `ks`, `bootstrap`, `seed`, `block`, `protocol`.
    """
    number_of = {text: number for number, text in enumerate(dict.fromkeys(embeddings.texts))}
    images_of_text: list[set[int]] = [set() for _ in number_of]
    texts_of_image: list[set[int]] = [set() for _ in embeddings.image_ids]
    for text, images in zip(embeddings.texts, embeddings.images_of_text):
        images_of_text[number_of[text]].update(images)
        for image in images:
            texts_of_image[image].add(number_of[text])
    if direction == "text_to_text":
        first = {text: row for row, text in reversed(list(enumerate(embeddings.texts)))}
        embeds, belongs = (
            embeddings.text_embeds[[first[text] for text in number_of]],
            images_of_text,
        )
        lacking = "no image of the set has two texts"
    else:
        embeds, belongs = embeddings.image_embeds, texts_of_image
        lacking = "no two images of the set share a text: --label KEY names what they share"
        if any(label is not None for label in embeddings.labels):
            class_of = {label: i for i, label in enumerate(dict.fromkeys(embeddings.labels))}
            belongs = [{class_of[label]} for label in embeddings.labels]
            lacking = "no two images of the set are of one class"
    if max(np.bincount([i for owners in belongs for i in owners], minlength=1)) < 2:
        raise UserError(f"{lacking}: there is nothing to score {direction.replace('_', ' ')}")
    return evaluate_within(embeds, list(map(sorted, belongs)), **metric)
