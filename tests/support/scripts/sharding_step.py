"""Three optimizer steps of a small model, plain on one process, sharded on several.

Under paddle.distributed.launch, `sharding_step.py FOLDER DEGREE [CASE ...]` writes losses,
gradients, weights and averages of each case to FOLDER/sharded.npz, and what each rank held in bytes
to FOLDER/held.json. DEGREE processes share one model.
"""

import json
import re
import sys
from collections import Counter
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from ernie_vil2 import runtime
from tests.support.scripts.distributed_step import ARCH, PAIRS, ROWS

STEPS = 3


class Case(NamedTuple):
    stage: int
    optimizer: str
    batches: int = 1  # global batches a step, whose gradients are averaged
    micro_batches: int = 1  # of a batch, accumulated with all negatives
    recompute: bool = False
    frozen: str = "^$"  # names of what does not learn
    bucket: int = 2**25  # bytes that travel together
    engine: str = "ours"


CASES = {
    "1-AdamW": Case(1, "AdamW", batches=2),
    "2-AdamW": Case(2, "AdamW", batches=2),
    "3-AdamW": Case(3, "AdamW", batches=2),
    "2-apart": Case(2, "AdamW", batches=2, bucket=0),  # a collective each
    "3-apart": Case(3, "AdamW", batches=2, bucket=0),
    "1-Lamb": Case(1, "Lamb"),
    "paddle-AdamW": Case(2, "AdamW", batches=2, engine="paddle"),
    "paddle-Lamb": Case(2, "Lamb", frozen="text_tower.ernie.embeddings", engine="paddle"),
    "2-Lamb": Case(2, "Lamb", recompute=True),
    "3-Lamb": Case(3, "Lamb", recompute=True),
    "3-all": Case(3, "AdamW", 1, 2, recompute=True, frozen="text_tower.ernie.embeddings"),
}
GROUPS = [{"match": "norm|bias$", "weight_decay": 0.0, "lr_scale": 0.5}, {"match": ".*"}]
# An epsilon above the rounding noise of gradients, which Adam would else make steps of.
OPTIMIZER = {"beta1": 0.9, "beta2": 0.98, "epsilon": 1e-4, "fused": True}
CLIP_NORM = 0.05


def main(folder: str, degree: str, *names: str) -> None:
    runtime.prepare()
    import numpy as np

    from ernie_vil2 import distributed

    distributed.init("cpu", distributed.strategy(1, None, int(degree)))
    results, held = {}, {}
    for name in names or CASES:
        result, memory = run_case(CASES[name], int(degree))
        results.update({f"{name}/{key}": value for key, value in result.items()})
        held[name] = distributed.all_gather_objects(memory)
    if distributed.is_main():
        np.savez(Path(folder) / "sharded.npz", **results)
        (Path(folder) / "held.json").write_text(json.dumps(held))
    distributed.meet()
    distributed.leave(0)


def run_case(case: Case, degree: int = 1):
    """Results as arrays by name on rank 0, and this rank's memory in bytes at several moments.

    Alone it is the plain step that the sharded one has to equal.
    """
    import numpy as np
    import paddle

    from ernie_vil2 import distributed
    from ernie_vil2.checkpoints.training_state import optimizer_tensors
    from ernie_vil2.distributed.paddle_sharded import PaddleSharded
    from ernie_vil2.distributed.replicated import Replicated
    from ernie_vil2.distributed.sharded import Sharded, assign_owners
    from ernie_vil2.losses.multiview import MultiViewContrastive
    from ernie_vil2.models.dual_encoder import build_model
    from ernie_vil2.training.ema import EMA
    from ernie_vil2.training.objective import Objective, backward
    from ernie_vil2.training.optim import build_optimizer, parameter_groups

    alone = distributed.world_size() == 1
    count = 1 if alone else case.micro_batches
    recompute = case.recompute and not alone
    arch = {
        **ARCH,
        "Image": {**ARCH["Image"], "depth": 3, "recompute": recompute},
        "Text": {**ARCH["Text"], "num_hidden_layers": 2, "recompute": recompute},
    }
    model = build_model(arch)
    objective = Objective(
        model, MultiViewContrastive(PAIRS), ["image1", "image2"], ["text1", "text2"]
    )
    parameters = dict(objective.named_parameters())
    for name, p in parameters.items():
        p.stop_gradient = p.stop_gradient or bool(re.search(case.frozen, name))
    trainable = {n: p for n, p in parameters.items() if not p.stop_gradient}
    sizes = {n: int(p.size) for n, p in trainable.items()}
    owners = assign_owners(sizes, degree)
    for name, p in parameters.items():  # right on one rank only, which has to send it
        source = owners.get(name, 0) if case.engine == "ours" else 0
        right = distributed.rank() == source
        p.set_value(initial(name, p.shape) * right)
    if alone:
        parallel = Replicated(objective, trainable)
    elif case.engine == "paddle":
        with as_on_a_gpu():
            parallel = PaddleSharded(objective, trainable)
    else:
        parallel = Sharded(objective, trainable, case.stage, bucket=case.bucket)

    def add(result, kind, tensors):
        result.update({f"{kind}/{n}": np.asarray(a) for n, a in parallel.gather(tensors).items()})

    owned = parallel.owned
    groups = parameter_groups(owned, GROUPS, 0.1, {})
    optimizer = build_optimizer({**OPTIMIZER, "name": case.optimizer}, groups, owned, 0.01)
    ema = EMA(owned, 0.9)

    memory, training = {"most": {}}, True

    def measure(moment=None, *_):
        if alone:
            return
        now = parallel.memory(optimizer)
        for kind, size in now.items():
            memory["most"][kind] = max(memory["most"].get(kind, 0), size)
        memory[moment] = now

    measure("start")
    if case.batches == 1:  # else gradients of the batch before are there all the time
        for block in [*model.image_tower.backbone.blocks, *model.text_tower.ernie.encoder.layers]:
            block.register_forward_pre_hook(lambda *_: measure("forward") if training else None)
            list(block.parameters())[-1]._register_backward_hook(lambda *_: measure("backward"))

    def scale(loss):
        return loss / case.batches

    result, sent = {}, Counter()
    for step in range(STEPS):
        count_collectives(sent if step == 0 else Counter())
        losses = []
        for number in range(case.batches):
            parts = micro_batches(rows(step * case.batches + number), count)
            last = number == case.batches - 1
            losses.append(backward(parallel, parts, list(range(count)), scale, last))
        total = sum(float(x["loss"]) for x in losses)
        result[f"loss/{step}"] = distributed.mean([total])[0]
        measure("backwards done")
        parallel.reduce_gradients()
        measure("reduction")
        if step == 0:
            add(result, "gradient", {n: p.grad for n, p in owned.items()})
        result[f"norm/{step}"] = float(parallel.clip_gradients(CLIP_NORM))
        optimizer.step()
        optimizer.clear_grad(set_to_zero=False)
        ema.update()
        parallel.publish()
    memory["collectives"] = sent
    add(result, "weight", dict(owned))
    add(result, "average", ema.average)
    add(result, "state", optimizer_tensors(optimizer, objective))  # as in a checkpoint

    training = False
    objective.eval()
    batch = rows(99, share=1)
    for name, values in (("averaged", ema.applied()), ("trained", nullcontext())):
        with values:
            parallel.publish()
            with parallel.whole(), paddle.no_grad():
                for _ in range(1 + distributed.rank()):  # ranks may differ in what they evaluate
                    embeds = objective.embed(batch["pixel_values"], batch["input_ids"])
        parallel.publish()
        result.update({f"{name}/{view}": x.numpy() for view, x in embeds.items()})
    return result, memory


@contextmanager
def as_on_a_gpu():
    """Inside, Paddle's engine, which asks for a GPU as it is made, is made for a CPU."""
    from unittest import mock

    import paddle
    from paddle.base import core
    from paddle.distributed.fleet.meta_parallel.sharding.group_sharded_storage import ParamStorage

    add = ParamStorage.add_rank_params

    def add_here(self, parameters, align):
        return add(self, parameters, align, False)  # else it copies them to a GPU

    with mock.patch.object(core, "is_compiled_with_cuda", lambda: True), \
            mock.patch.object(paddle, "get_device", lambda: "cpu:0"), \
            mock.patch.object(ParamStorage, "add_rank_params", add_here):  # fmt: skip
        yield


def count_collectives(sent):
    """Count what `ranks` begins from now on, by name."""
    from ernie_vil2.distributed import ranks

    for name in ("start_reduce", "start_broadcast"):
        begin = getattr(ranks, name)
        begin = getattr(begin, "uncounted", begin)

        def counted(*arguments, name=name, begin=begin):
            sent[name] += 1
            return begin(*arguments)

        counted.uncounted = begin
        setattr(ranks, name, counted)


def initial(name, shape):
    """The same small weights for a name, however often and wherever."""
    import zlib

    import numpy as np

    rng = np.random.default_rng(zlib.crc32(name.encode()))
    center = 1.0 if "norm" in name and name.endswith("weight") else 0.0
    return (rng.normal(size=shape) * 0.2 + center).astype("float32")


def rows(number, share=None):
    """This rank's share of a global batch, as `Objective` takes it."""
    import numpy as np
    import paddle

    from ernie_vil2 import distributed

    rng = np.random.default_rng(number)
    batch = {
        "pixel_values": rng.normal(size=[2, ROWS, 3, 16, 16]).astype("float32"),
        "input_ids": rng.integers(3, 40, size=[2, ROWS, 8]),
        "image": rng.integers(0, 20, size=[1, ROWS]),
        "text": rng.integers(0, 20, size=[1, ROWS]),
        "valid": np.ones([1, ROWS], bool),
    }
    share = ROWS // (share or distributed.world_size())
    mine = slice(distributed.rank() * share, (distributed.rank() + 1) * share)
    if share == ROWS:
        mine = slice(ROWS)
    batch = {k: paddle.to_tensor(np.concatenate(list(v[:, mine]))) for k, v in batch.items()}
    ids = {source: batch.pop(source) for source in ("image", "text")}
    return {**batch, "ids": ids}


def micro_batches(batch, count):
    """Every `count`-th row each; the two views of a record stay together."""

    def part(value, i):
        if isinstance(value, dict):
            return {key: part(each, i) for key, each in value.items()}
        return value[i::count]

    return [part(batch, i) for i in range(count)]


if __name__ == "__main__":
    main(*sys.argv[1:])
