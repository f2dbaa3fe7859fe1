"""One backward of a small model on this rank's rows of a fixed batch; writes its gradients.

Run alone or under paddle.distributed.launch: `distributed_step.py OUTPUT.npz`.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from ernie_vil2 import runtime

ROWS = 8
ARCH = {
    "embed_dim": 12,
    "Image": {
        "name": "CLIP_vit_base_patch16_224",
        "img_size": 16,
        "patch_size": 8,
        "embed_dim": 16,
        "depth": 1,
        "num_heads": 2,
    },
    "Text": {
        "name": "tiny",
        "vocab_size": 40,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 8,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    },
}
PAIRS = [
    ("image1", "image2", 1.0, 0.2, True),
    ("text1", "text2", 0.5),
    ("image1", "text1", 1.0),
    ("image2", "text2", 2.0),
]


def main(output: str) -> None:
    runtime.prepare()
    import numpy as np
    import paddle

    from ernie_vil2 import distributed
    from ernie_vil2.distributed.clip import clip_gradients
    from ernie_vil2.losses.multiview import MultiViewContrastive
    from ernie_vil2.models.dual_encoder import build_model
    from ernie_vil2.training.objective import Objective

    distributed.init("cpu")
    paddle.seed(0)
    objective = Objective(
        build_model(ARCH), MultiViewContrastive(PAIRS), ["image1", "image2"], ["text1", "text2"]
    )
    rng = np.random.default_rng(1)
    pixels = rng.normal(size=[2, ROWS, 3, 16, 16]).astype("float32")
    tokens = rng.integers(3, 40, size=[2, ROWS, 8])
    # equal images across ranks, equal texts within one, both, and a broken record on the last
    ids = {
        "image": np.array([1, 2, 3, 4, 1, 6, 2, 8]),
        "text": np.array([9, 9, 11, 12, 13, 14, 9, 16]),
    }
    valid = np.array([True] * (ROWS - 1) + [False])

    share = ROWS // distributed.world_size()
    mine = slice(distributed.rank() * share, (distributed.rank() + 1) * share)
    parallel = distributed.wrap(objective)
    losses = parallel(
        paddle.to_tensor(pixels[:, mine].reshape(-1, 3, 16, 16)),
        paddle.to_tensor(tokens[:, mine].reshape(-1, 8)),
        {source: paddle.to_tensor(numbers[mine]) for source, numbers in ids.items()},
        paddle.to_tensor(valid[mine]),
    )
    losses["loss"].backward()
    names = list(losses)
    result = dict(zip(names, distributed.mean([float(losses[name]) for name in names])))
    gradients = {n: p.grad.numpy().copy() for n, p in objective.named_parameters()}
    result["norm"] = float(clip_gradients(objective.parameters(), 0.01))
    assert distributed.any_rank(distributed.rank() == distributed.world_size() - 1)
    assert not distributed.any_rank(False)
    assert [
        x["rank"] for x in distributed.all_gather_objects({"rank": distributed.rank()})
    ] == list(range(distributed.world_size()))
    if distributed.world_size() > 1:
        check_meeting()
    if distributed.is_main():
        np.savez(output, **result, **{f"grad/{n}": g for n, g in gradients.items()})


def check_meeting() -> None:
    """All have come when one goes on, for at most three requests each to the store."""
    import time

    from paddle.base import core

    from ernie_vil2 import distributed

    asked = []

    class Store:
        def __getattr__(self, name):
            asked.append(name)
            return getattr(store, name)

    store, late = core.create_or_get_global_tcp_store(), 0.2 * distributed.rank()
    original, core.create_or_get_global_tcp_store = core.create_or_get_global_tcp_store, Store
    time.sleep(late)
    arrived = time.time()
    distributed.meet()
    left = time.time()
    core.create_or_get_global_tcp_store = original
    assert left >= max(distributed.all_gather_objects(arrived)), "one went on before all had come"
    assert len(asked) <= 3, asked


if __name__ == "__main__":
    main(sys.argv[1])
