"""One process that computes its batch as two processes would, to the last bit.

A sum of floating-point numbers depends on its order. Two processes add up the gradients of their
halves of the batch each, and then one sum of the two; here the halves are kept apart until then. A
sum of two is the same both ways round, and a mean over two is exact, so nothing else differs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import paddle

from ernie_vil2.losses.multiview import Everyone
from ernie_vil2.training.objective import embed_all, joined_identities


class Halves:
    """The gradients of the two halves of a step's batches.

    Args:
        holders: name -> what has a parameter's gradient.
    """

    def __init__(self, holders: Mapping[str, paddle.Tensor]):
        self._holders = holders
        self._gradients: list[dict[str, paddle.Tensor]] = [{}, {}]

    @contextmanager
    def of(self, half: int) -> Iterator[None]:
        """Inside, backwards add to the gradients of this half."""
        own = self._gradients[half]
        for name, gradient in own.items():
            self._holders[name].grad = gradient
        yield
        for name, holder in self._holders.items():
            if holder.grad is not None:
                own[name] = holder.grad.clone()  # clearing takes its memory
                holder.clear_gradient(False)

    def join(self) -> None:
        """Give each parameter the sum of its two gradients."""
        first, second = self._gradients
        for name, holder in self._holders.items():
            if name in first:
                holder.grad = first[name] + second[name]
        self._gradients = [{}, {}]


def backward_as_two(parallel, halves: Halves, micro_batches: list, seeds: list, scale) -> dict:
    """`objective.backward` of a batch whose micro-batches make two halves.

    Their gradients are for `halves.join` to bring together.
    """
    objective = parallel.objective
    embeds = embed_all(objective, micro_batches, seeds)
    ids, valid = joined_identities(micro_batches)
    rows = len(valid) // 2
    columns = {view: _leaf(embed) for view, embed in embeds.items()}
    results, gradients = [], []
    for half in range(2):
        part = slice(half * rows, (half + 1) * rows)
        own = {view: _leaf(embed[part]) for view, embed in embeds.items()}
        with halves.of(half):
            result = objective.score(
                own,
                {source: values[part] for source, values in ids.items()},
                valid[part],
                Everyone(columns, ids, valid, part.start),
            )
            scale(result["loss"] / 2).backward()
        results.append(result)
        gradients.append({v: e.grad for v, e in own.items() if e.grad is not None})

    count, row = len(micro_batches) // 2, 0
    for half in range(2):
        with halves.of(half):
            for number in range(half * count, (half + 1) * count):
                batch = micro_batches[number]
                part = slice(row, row + len(batch["valid"]))
                row = part.stop
                own_part = slice(part.start - half * rows, part.stop - half * rows)
                both = {v: g[own_part] + columns[v].grad[part] for v, g in gradients[half].items()}
                paddle.seed(seeds[number])
                parallel(batch["pixel_values"], batch["input_ids"], gradients=both).backward()
    one, two = results
    means = {name: (one[name] + two[name]) / 2 for name in one if name != "by_row"}
    if "by_row" in one:
        means["by_row"] = {
            n: paddle.concat([one["by_row"][n], two["by_row"][n]]) for n in one["by_row"]
        }
    return means


def _leaf(embed: paddle.Tensor) -> paddle.Tensor:
    leaf = embed.clone().detach()
    leaf.stop_gradient = False
    return leaf
