"""Both paths of the loss against float64, one another and simulated ranks."""

import itertools

import numpy as np
import paddle
import pytest

from ernie_vil2.losses.chunked import chunked_losses
from ernie_vil2.losses.multiview import MultiViewContrastive
from ernie_vil2.losses.pairs import Pair, Term
from ernie_vil2.losses.plain import plain_losses
from ernie_vil2.losses.targets import Targets
from tests.support import reference
from tests.support.reference import relative_error, unit_rows

SIX = ("image1", "image2", "caption1", "caption2", "tags1", "tags2")
OTHERS = (("text1", "text2"), ("image2", "text1"), ("text2", "tags1"))
CHUNKS = (None, 1, 4, 13, 100)
ROWS = 13
VALID = np.ones(ROWS, dtype=bool)
VALID[[5, 11]] = False  # could not be read


def numbers(*groups):
    """int64 [ROWS]: the rows of a group are equal, all others differ."""
    result = 100 + np.arange(ROWS)
    for number, group in enumerate(groups):
        result[list(group)] = number
    return result


IDS = {  # equal images with other texts, equal texts of other images, and both at once
    "image": numbers((0, 3, 12), (6, 11)),
    "text": numbers((0, 1, 2), (3, 12), (5, 6)),
    "caption": numbers((0, 3), (1, 8, 9)),
    "tags": numbers((3, 4, 8), (6, 7)),
}


def tensors_of(ids, rows=slice(None)):
    return {source: paddle.to_tensor(values[rows]) for source, values in ids.items()}


def leaves(arrays, dtype="float32"):
    return {
        name: paddle.to_tensor(x.astype("float32")).astype(dtype).detach()
        for name, x in arrays.items()
    }


def learn(tensors):
    for x in tensors.values():
        x.stop_gradient = False
    return tensors


def run(pairs, arrays, chunk, logit_scale=9.0, factor=1.0):
    """Results of one backward: losses, and gradients as `reference.multi_view` names them."""
    embeds, scale = learn(leaves(arrays)), paddle.to_tensor([logit_scale], stop_gradient=False)
    loss = MultiViewContrastive(pairs, chunk=chunk)
    losses = loss(embeds, scale, tensors_of(IDS), paddle.to_tensor(VALID))
    (factor * losses["loss"]).backward()
    result = {name: float(value) for name, value in losses.items()}
    result["embeds"] = {view: x.grad.numpy() for view, x in embeds.items()}
    own = {name: float(p.grad) for name, p in loss.named_parameters()}
    return result, own, None if scale.grad is None else float(scale.grad)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
@pytest.mark.parametrize("a,b", [*itertools.combinations(SIX, 2), *OTHERS])
def test_each_kind_of_pair_against_float64(a, b, kind):
    """Loss, and gradients of both towers' rows, of a temperature and of a bias."""
    arrays = {a: unit_rows(ROWS, 6, 1), b: unit_rows(ROWS, 6, 2)}
    bias = {"sigmoid": -2.0, "softmax": None}[kind]
    pair = {"views": [a, b], "weight": 0.5, "temperature": 0.125, "learnable": True, "loss": kind}
    expected = reference.multi_view(arrays, [(a, b, 0.5, 8.0, bias)], IDS, VALID)
    for chunk in CHUNKS:
        result, own, _ = run([{**pair, "bias": bias}], arrays, chunk)
        for name in ("loss", f"{a}-{b}", f"{a}-{b}/accuracy"):
            assert result[name] == pytest.approx(expected[name], rel=1e-5)
        for view in arrays:
            assert relative_error(result["embeds"][view], expected["embeds"][view]) < 1e-5
        log_scale = expected[f"{a}-{b}/scale"] * 8.0  # the parameter is the logarithm
        assert own[f"temperature_{a}_{b}"] == pytest.approx(log_scale, rel=1e-5)
        if bias is not None:
            assert own[f"bias_{a}_{b}"] == pytest.approx(expected[f"{a}-{b}/bias"], rel=1e-5)


MIXED = (  # two share the logit scale
    {"views": ["image1", "image2"], "temperature": 0.1, "learnable": True},
    {"views": ["text1", "text2"], "weight": 2.0, "temperature": 0.2},
    {"views": ["image1", "text1"], "weight": 0.5},
    {"views": ["image2", "text2"], "loss": "sigmoid"},
)


@pytest.mark.parametrize("chunk", CHUNKS)
def test_several_pairs_and_the_shared_scale_against_float64(chunk):
    views = ("image1", "image2", "text1", "text2")
    arrays = {view: unit_rows(ROWS, 6, seed) for seed, view in enumerate(views)}
    pairs = [
        ("image1", "image2", 1.0, 10.0, None),
        ("text1", "text2", 2.0, 5.0, None),
        ("image1", "text1", 0.5, 9.0, None),
        ("image2", "text2", 1.0, 9.0, -10.0),
    ]
    expected = reference.multi_view(arrays, pairs, IDS, VALID)
    result, own, scale = run(MIXED, arrays, chunk)
    assert result["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    for view in views:
        assert relative_error(result["embeds"][view], expected["embeds"][view]) < 1e-5
    shared = expected["image1-text1/scale"] + expected["image2-text2/scale"]
    assert scale == pytest.approx(shared, rel=1e-5)
    assert set(own) == {"temperature_image1_image2", "bias_image2_text2"}
    assert own["bias_image2_text2"] == pytest.approx(expected["image2-text2/bias"], rel=1e-5)


def test_reference_gradients_by_finite_differences():
    arrays = {"a": unit_rows(7, 3, 1), "b": unit_rows(7, 3, 2)}
    views = ("text1", "text2")
    arrays = dict(zip(views, arrays.values()))
    ids, valid, step = {s: v[:7] for s, v in IDS.items()}, VALID[:7], 1e-6
    for bias in (None, -1.0):
        exact = reference.multi_view(arrays, [(*views, 1.0, 7.0, bias)], ids, valid)

        def slope(view=None, where=None, scale=0.0, shift=0.0, bias=bias):
            ends = []
            for sign in (step, -step):
                moved = {v: x.copy() for v, x in arrays.items()}
                if view:
                    moved[view][where] += sign
                start = None if bias is None else bias + sign * shift
                pair = (*views, 1.0, 7.0 + sign * scale, start)
                ends.append(reference.multi_view(moved, [pair], ids, valid)["loss"])
            return (ends[0] - ends[1]) / (2 * step)

        for view, i, j in itertools.product(views, range(7), range(3)):
            assert exact["embeds"][view][i, j] == pytest.approx(slope(view, (i, j)), abs=1e-8)
        assert exact["text1-text2/scale"] == pytest.approx(slope(scale=1.0), abs=1e-8)
        assert exact["text1-text2/bias"] == pytest.approx(slope(shift=1.0), abs=1e-8)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("a,b", [("image1", "text1"), ("image1", "image2"), ("text1", "text2")])
def test_ranks_add_up_to_one_process(world, kind, a, b):
    """Local rows against all columns: the mean over ranks, of losses and of gradients."""
    batch, bias = 12, -3.0
    term = Term.of(Pair(a, b, loss=kind), [a, b])
    arrays = {a: unit_rows(batch, 6, 1), b: unit_rows(batch, 6, 2)}
    pair = (a, b, 1.0, 9.0, bias if term.sigmoid else None)
    first = {source: values[:batch] for source, values in IDS.items()}
    expected = reference.multi_view(arrays, [pair], first, VALID[:batch])
    both = paddle.to_tensor(np.stack(list(arrays.values()), 1).astype("float32"))
    valid = paddle.to_tensor(VALID[:batch])
    for chunk in (None, 5):
        columns = both.clone().detach()
        scale, shift = (paddle.to_tensor([x]) for x in (9.0, bias))
        local = dict(enumerate(both.chunk(world)))
        learn({**local, "columns": columns, "scale": scale, "shift": shift})
        total = 0.0
        for rank, rows in local.items():
            mine = slice(rank * len(rows), (rank + 1) * len(rows))
            own, ids = tensors_of(first, mine), tensors_of(first)
            targets = Targets(own, valid[mine], ids, valid, mine.start)
            arguments = (rows, columns, scale, shift, targets, [term])
            losses, *_ = chunked_losses(*arguments, chunk) if chunk else plain_losses(*arguments)
            (losses.sum() / world).backward()
            total += float(losses.sum()) / world
        assert total == pytest.approx(expected["loss"], rel=1e-5)
        gradient = columns.grad + paddle.concat([rows.grad for rows in local.values()])
        for view, name in enumerate((a, b)):
            assert relative_error(gradient[:, view].numpy(), expected["embeds"][name]) < 1e-5
        assert float(scale.grad) == pytest.approx(expected[f"{a}-{b}/scale"], rel=1e-5)
        if term.sigmoid:
            assert float(shift.grad) == pytest.approx(expected[f"{a}-{b}/bias"], rel=1e-5)


@pytest.mark.parametrize("chunk", [1, 4, 13, 100])
def test_chunked_is_plain_to_the_last_bits(chunk):
    views = ("image1", "image2", "text1", "text2")
    arrays = {view: unit_rows(ROWS, 32, seed) for seed, view in enumerate(views)}
    (plain, plain_own, plain_scale), (blocks, own, scale) = (
        run(MIXED, arrays, c, factor=3.0) for c in (None, chunk)
    )
    ulps = 4 * np.finfo("float32").eps
    for name, value in plain.items():
        if name != "embeds":
            assert blocks[name] == pytest.approx(value, rel=ulps)
    for view in views:
        assert relative_error(blocks["embeds"][view], plain["embeds"][view]) < 2 * ulps
    assert scale == pytest.approx(plain_scale, rel=8 * ulps)  # a sum whose parts cancel
    for name, value in plain_own.items():
        assert own[name] == pytest.approx(value, rel=8 * ulps)


@pytest.mark.parametrize("chunk", [None, 4])
@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_large_logits_stay_finite(kind, chunk):
    """The largest scale, with all rows equal, and with positives opposite and negatives equal."""
    views, scale = ("image1", "text1"), 100.0
    equal = np.tile(unit_rows(1, 8, 0), (8, 1))
    opposite = equal * np.where(np.arange(8) % 2, 1.0, -1.0)[:, None]
    pairs = [{"views": views, "loss": kind}]
    for b in (equal, opposite):
        embeds = learn(leaves({"image1": equal, "text1": b}))
        value = MultiViewContrastive(pairs, chunk=chunk)(embeds, scale)["loss"]
        value.backward()
        bias = -10.0 if kind == "sigmoid" else None
        expected = reference.multi_view(
            {"image1": equal, "text1": b}, [("image1", "text1", 1.0, scale, bias)]
        )
        assert float(value) == pytest.approx(expected["loss"], rel=1e-5)
        for view in views:
            assert np.isfinite(embeds[view].grad.numpy()).all()


@pytest.mark.parametrize("chunk", [None, 4])
def test_the_sigmoid_sees_small_probabilities(chunk):
    """Every term is log(1 + exp(-14)), where 1 + exp(-14) rounds by 7 % of what it adds."""
    arrays = {"image1": np.eye(16), "text1": np.eye(16)}
    pair = {"views": list(arrays), "loss": "sigmoid", "bias": -14.0}
    value = MultiViewContrastive([pair], chunk=chunk)(leaves(arrays), 28.0)["loss"]
    assert float(value) == pytest.approx(16 * np.log1p(np.exp(-14.0)), rel=1e-5)


def test_gradient_of_a_scaled_loss():
    """What AMP's loss scaling and a mean over micro-batches bring."""
    arrays = {view: unit_rows(ROWS, 6, seed) for seed, view in enumerate(("image1", "text1"))}
    pairs = [{"views": list(arrays), "loss": "sigmoid", "temperature": 0.1, "learnable": True}]
    once, own, _ = run(pairs, arrays, 4)
    scaled, scaled_own, _ = run(pairs, arrays, 4, factor=2.0**16)
    for view in arrays:
        np.testing.assert_allclose(
            scaled["embeds"][view], 2.0**16 * once["embeds"][view], rtol=1e-6
        )
    assert scaled_own == pytest.approx({n: 2.0**16 * g for n, g in own.items()}, rel=1e-6)


def test_frozen_inputs():
    """A locked tower, a logit scale that is fixed, and no gradients at all."""
    arrays = {view: unit_rows(ROWS, 6, seed) for seed, view in enumerate(("image1", "text1"))}
    loss, free = MultiViewContrastive(["image1-text1"], chunk=4), learn(leaves(arrays))
    value = loss(free, 9.0)["loss"]
    value.backward()

    embeds = leaves(arrays)
    embeds["text1"].stop_gradient = False
    locked = loss(embeds, paddle.to_tensor([9.0]))["loss"]
    locked.backward()
    assert float(locked) == float(value)
    assert embeds["image1"].grad is None
    np.testing.assert_array_equal(embeds["text1"].grad.numpy(), free["text1"].grad.numpy())

    scale = paddle.to_tensor([9.0], stop_gradient=False)
    loss(leaves(arrays), scale)["loss"].backward()  # both towers locked
    assert float(scale.grad) != 0
    with paddle.no_grad():
        assert float(loss(embeds, 9.0)["loss"]) == float(value)


def test_half_precision_embeddings_get_their_own_gradients():
    arrays = {view: unit_rows(ROWS, 16, seed) for seed, view in enumerate(("image1", "text1"))}
    gradients = []
    for chunk in (None, 4):
        embeds = learn(leaves(arrays, "bfloat16"))
        with paddle.amp.auto_cast(level="O1", dtype="bfloat16"):
            loss = MultiViewContrastive(["image1-text1"], chunk=chunk)(embeds, 20.0)["loss"]
            loss.backward()
        assert embeds["text1"].grad.dtype == paddle.bfloat16
        gradients.append(embeds["text1"].grad.astype("float32").numpy())
    assert relative_error(gradients[1], gradients[0]) < 2**-8  # one bfloat16 ulp


def test_a_batch_without_valid_rows():
    embeds = learn(leaves({"image1": unit_rows(4, 3, 0), "text1": unit_rows(4, 3, 1)}))
    for kind in ("softmax", "sigmoid"):
        loss = MultiViewContrastive([{"views": list(embeds), "loss": kind}], chunk=3)
        value = loss(embeds, 9.0, valid=paddle.zeros([4], dtype="bool"))["loss"]
        value.backward()
        assert float(value) == 0
        assert float(embeds["text1"].grad.abs().max()) == 0
