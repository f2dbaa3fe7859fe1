"""The formulas of docs/scaling.md: against built models, autograd, and numbers by hand."""

import re
from dataclasses import replace

import numpy as np
import paddle
import pytest

from ernie_vil2.config.load import load_config
from ernie_vil2.doctor import costs
from ernie_vil2.doctor.costs import Costs
from ernie_vil2.errors import UserError
from ernie_vil2.losses.multiview import MultiViewContrastive
from ernie_vil2.models import layers
from ernie_vil2.models.dual_encoder import build_model
from tests.support.paths import ROOT

BASE = ROOT / "configs/base.yaml"
SMALL = [
    "Arch.Image.embed_dim=64",
    "Arch.Image.depth=2",
    "Arch.Image.num_heads=4",
    "Arch.Image.mlp_ratio=3",
    "Arch.Image.img_size=96",
    "Transform.size=96",
    "Arch.Text.vocab_size=100",
    "Arch.Text.hidden_size=48",
    "Arch.Text.num_hidden_layers=3",
    "Arch.Text.num_attention_heads=4",
    "Arch.Text.intermediate_size=96",
    "Arch.Text.max_position_embeddings=60",
    "Arch.embed_dim=32",
]


def of(path=BASE, *overrides):
    return Costs.of(load_config(path, overrides))


def kept(run, without=()) -> float:
    """Bytes of the tensors that autograd keeps of `run()`, each storage once."""
    own = {p.data_ptr() for p in without}
    sizes, alive = {}, []

    def pack(x):
        alive.append(x)  # or its address would be used again
        if x.data_ptr() not in own:
            sizes[x.data_ptr()] = x.element_size() * int(np.prod(x.shape))
        return x

    with paddle.autograd.saved_tensors_hooks(pack, lambda x: x):
        alive.append(run())
    return sum(sizes.values())


@pytest.fixture(scope="module")
def small():
    config = load_config(BASE, SMALL)
    model = build_model(config.Arch)
    model.train()
    return Costs.of(config), model


def test_tensors_are_those_of_the_built_model(small):
    cost, model = small
    assert sorted(cost.tensors) == sorted(int(np.prod(p.shape)) for p in model.parameters())


def test_activations_of_a_block_are_what_autograd_keeps(small, monkeypatch):
    """By Paddle's own gradients, as on a GPU."""
    monkeypatch.setattr(layers, "takes_own_gradient", lambda x: False)
    cost, model = small
    rows = 4
    blocks = [model.image_tower.backbone.blocks[0], model.text_tower.ernie.encoder.layers[0]]
    for tower, block, mask in zip(cost.towers, blocks, ([], [paddle.zeros([1])])):
        x = paddle.randn([tower.views * rows, tower.tokens, tower.width])
        x.stop_gradient = False
        found = kept(lambda: block(x, *mask), block.parameters())  # noqa: B023
        assert rows * tower.block_activations() == pytest.approx(found, rel=0.05)


@pytest.mark.parametrize("sources", [(), ("image", "text")])
@pytest.mark.parametrize("pairs", [1, 2, 4])
def test_plain_logits_are_what_autograd_keeps(pairs, sources):
    names = ["image1-image2", "text1-text2", "image1-text1", "image2-text2"][:pairs]
    loss = MultiViewContrastive(dict.fromkeys(names, 1.0))
    rows = 256
    embeds = {view: paddle.randn([rows, 8]) for view in loss.views}
    for x in embeds.values():
        x.stop_gradient = False
    ids = {source: paddle.randint(0, 1 << 30, [rows], "int64") for source in sources}
    found = kept(lambda: loss(embeds, paddle.to_tensor([14.0]), ids or None))
    # the rest is no matrix of [rows, rows]
    assert replace(of(), pairs=pairs).plain_logits(rows, rows) == pytest.approx(found, rel=0.1)


def test_moved_by_hand():
    cost = replace(of(), towers=[replace(t, tensors=[]) for t in of().towers])
    cost = replace(cost, other_tensors=[6, 3, 2, 1], embed_dim=10)
    assert cost.parameters == 12
    assert cost.gather(1, 32) == cost.gradients(1) == 0
    assert cost.gather(4, 32) == 3 * 8 * 4 * 10 * 4  # 8 rows of each of 3 others, 4 views
    # 3 hops: 8 rows' embeddings there and back and their gradients, ids of image and text, validity
    assert cost.ring(4, 32) == 3 * 8 * (3 * 4 * 10 * 4 + 2 * (2 + 1) * 8)
    assert cost.ring(1, 32) == 0
    assert of(BASE, "Loss.multi_positive=false").sources == 0
    assert cost.gradients(2) == 12 * 4
    assert [cost.sharded(stage) for stage in (1, 2, 3)] == [2 * 48, 2 * 48, 3 * 48]
    half = replace(cost, level="O2")  # gradients travel in float32 all the same
    assert half.gradients(2) == 12 * 4
    assert [half.sharded(stage) for stage in (1, 2, 3)] == [48 + 24, 48 + 24, 48 + 2 * 24]


def test_moved_between_replicas_by_hand():
    cost = replace(of(), towers=[], other_tensors=[6, 3, 2, 1])
    assert cost.between_replicas(1, 2) == 0
    assert cost.between_replicas(4, 2) == 2 * 3 / 4 * 6 * 4  # of a share of 6 numbers
    assert [row[:2] for row in of().by_nodes([8, 32])] == [["32", "4 x 8"]]


def test_buckets_by_hand():
    million = 10**6  # 4 MB; so a bucket of 32 MiB holds eight
    cost = replace(of(), towers=[], other_tensors=[million] * 20 + [9 * million])
    assert cost.buckets(1) == 4  # 20 in three, and the large one
    assert replace(cost, level="O2").buckets(1) == 2  # 16, and 4 with the large one
    assert cost.buckets(20) == 20  # one an owner
    assert of().buckets(8) < len(of().tensors) / 8


def test_state_by_hand():
    cost = replace(of(), towers=[], other_tensors=[6, 3, 2, 1])  # shares of 2 processes: 6 and 6
    states = [cost.state(2, stage) for stage in (None, 1, 2, 3)]
    assert states == [12 * 16, 12 * 8 + 6 * 8, 12 * 4 + 6 * 12, 6 * 16]
    half = replace(cost, level="O2", ema=True)  # 2 + 4 + 4 (master) + 8 (moments) + 4 (EMA)
    assert half.state(2) == 12 * 22
    assert half.state(2, 3) == 6 * 22
    assert replace(cost, level="O1").state(2) == 12 * (16 + 2)  # and half copies of the weights
    assert half.by_processes([2, 8])[1][2:] == ["-", "-", "0.00 MB", "-", "-", "-"]


def test_recompute_and_chunks_hold_less():
    cost = of(BASE, "Loss.chunk=1024")
    assert cost.chunked_logits(128, 8192) == 2 * 4 * 128 * 1024
    assert cost.chunked_logits(128, 512) == 2 * 4 * 128 * 512  # one block is all
    assert cost.recomputed_activations(1) < cost.activations(1) / 8


def test_dropped_patches_cost_no_activations():
    whole, half = of(), of(BASE, "Arch.Image.patch_dropout=0.5")
    assert (whole.towers[0].tokens, half.towers[0].tokens) == (197, 99)
    assert half.tensors == whole.tensors
    assert half.activations(1) < whole.activations(1)


def test_refuses_what_it_cannot_reckon(capsys):
    with pytest.raises(UserError, match="EfficientNetB5 cannot be reckoned"):
        of(ROOT / "configs/base_cnn.yaml")
    with pytest.raises(UserError, match=r"Arch\.Text\.vocab_size is null"):
        of(BASE, "Arch.Text.vocab_size=null")
    assert costs.cli.run(costs.main, ["-c", str(ROOT / "configs/base_cnn.yaml")]) == 2


def cells(text: str) -> list:
    """Rows of Markdown tables that begin with a number, as lists of cells."""
    rows = re.findall(r"^\| *([\d,]+ *\|.*?) *\|$", text, re.M)
    return [[cell.strip() for cell in row.split("|")] for row in rows]


@pytest.mark.parametrize("page", ["scaling.md", "scaling_zh.md"])
def test_tables_of_the_page(page, capsys):
    costs.main(["-c", str(BASE)])
    base, large = of(), of(ROOT / "configs/large.yaml")
    assert cells(capsys.readouterr().out) == base.by_processes() + base.by_nodes() + base.by_batch()
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    tables = (base.by_processes(), large.by_processes(), base.by_nodes(), base.by_batch())
    assert cells(text) == [row for table in tables for row in table]
    counts = (f"{cost.buckets(8)} / {cost.buckets(64)}" for cost in (base, large))
    assert f"| {' | '.join(counts)} |" in text
    for cost in (base, large):
        levels = [replace(cost, level=level) for level in ("O0", "O1", "O2")]
        assert f"{cost.parameters:,}" in text
        for way in ("activations", "recomputed_activations"):
            sizes = [f"{getattr(level, way)(1) / 1e6:,.0f}" for level in levels]
            assert f"{' / '.join(sizes)} MB" in text
