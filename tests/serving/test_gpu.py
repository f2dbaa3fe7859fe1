"""What a GPU can run is told from its compute capability; its settings are those of Paddle's wheel.

No GPU ever ran what is configured here.
"""

import numpy as np
import pytest

from ernie_vil2.artefact.folder import Artefact
from ernie_vil2.artefact.golden import EXACT, TF32, check_golden
from ernie_vil2.errors import UserError
from ernie_vil2.serving import gpu
from ernie_vil2.serving.tower import Tower, TowerOptions, golden_bound
from tests.support.gpu_wheel import run_with_gpu_wheel


@pytest.mark.parametrize(
    "precision,capability,message",
    [
        ("fp32", (6, 1), None),
        ("fp16", (7, 5), None),
        ("bf16", (8, 0), None),
        ("bf16", (9, 0), None),
        ("bf16", (7, 5), "compute capability 7.5, expected 8.0 (Ampere) or above; use fp16"),
        ("int8", (8, 0), "precision int8: expected fp32, fp16, bf16; it is for CPUs"),
    ],
)
def test_what_runs_on_which_gpu(precision, capability, message):
    found = gpu.why_not(precision, capability)
    assert found is None if message is None else message in found


def test_the_settings_of_each_precision():
    code = """
from paddle import inference
from ernie_vil2.serving import gpu
for precision in gpu.PRECISIONS:
    config = inference.Config("a.pdmodel", "a.pdiparams")
    gpu.use(config, precision, 1)
    lines = [line.split("|")[1:3] for line in config.summary().splitlines() if "|" in line]
    table = {name.strip(): value.strip() for name, value in lines}
    names = ("use_gpu", "gpu_device_id", "mixed_precision_mode", "enable_gpu_mixed", "use_tensorrt")
    print(precision, *(table[name] for name in names))
"""
    assert run_with_gpu_wheel(code) == [
        "fp32 true 1 fp32 0 false",
        "fp16 true 1 fp16 1 false",
        "bf16 true 1 bf16 1 false",
    ]


def test_how_near_the_golden_vectors_embeddings_must_be(tiny_artefact):
    artefact = Artefact.open(tiny_artefact)
    artefact.precisions.update(fp16={"min_cosine": 0.999}, bf16={})
    bounds = {
        (precision, device): golden_bound(artefact, TowerOptions(precision, device))
        for precision, device in (
            ("fp32", "cpu"),
            ("fp32", "gpu"),
            ("fp16", "gpu"),
            ("bf16", "gpu"),
        )
    }
    assert bounds["fp32", "cpu"] is EXACT and bounds["fp32", "gpu"] is TF32
    assert bounds["fp16", "gpu"].cosine == 0.999 and bounds["bf16", "gpu"].cosine == 0.99


@pytest.mark.parametrize("damaged", [False, True])
def test_fp32_is_compared_without_tf32_and_with_it(tiny_artefact, tf32_switch, damaged):
    """A CPU's program, off by as much as TF32 while that is on, as it would be on a GPU."""
    tower = Tower(Artefact.open(tiny_artefact), "image", TowerOptions())
    tower.options, program = TowerOptions(device="gpu"), tower.program

    def run(array):
        return program(array) + np.float32(1e-4 if damaged or tf32_switch() else 0)

    tower.program = run
    if damaged:
        with pytest.raises(UserError, match=r"difference 0\.0001, .* at most 1e-05"):
            tower.verify()
    else:
        assert 9e-5 < tower.verify() < 1.1e-4
    assert tf32_switch()


def test_tensorfloat_is_near_enough_and_damage_is_not(tiny_artefact, tiny_model):
    """TF32 as its definition has it: factors rounded to 10 bits of mantissa."""
    expected = Artefact.open(tiny_artefact).golden().image_embeds
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=[3, 768]), rng.normal(size=[768, 12])
    exact = unit(left @ right).astype(np.float32)
    rounded = unit(tf32(left) @ tf32(right)).astype(np.float32)
    difference = check_golden("here", "image", rounded, exact, TF32)
    assert 1e-5 < difference < 1e-3
    with pytest.raises(UserError, match="expected a difference of at most 1e-05"):
        check_golden("here", "image", rounded, exact)
    for wrong in (unit(expected + 3e-3), -expected, expected * np.nan):
        with pytest.raises(UserError, match=r"at most 0.001 and a cosine of at least 0.9999\)"):
            check_golden("here", "image", wrong, expected, TF32)


def tf32(values: np.ndarray) -> np.ndarray:
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x1000) & ~np.uint32(0x1FFF)).view(np.float32)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_warm_runs_have_the_shapes_of_later_ones(tiny_artefact):
    """All widths that texts have, with the least and the largest batch."""
    artefact = Artefact.open(tiny_artefact)
    tower = Tower(artefact, "text", TowerOptions(batch_size=3))
    shapes, program = set(), tower.program

    def run(array):
        shapes.add(array.shape)
        return program(array)

    tower.program = run
    tower.warm_up()
    warm = set(shapes)
    shapes.clear()
    ids = np.zeros([17, artefact.max_len], np.int64)
    for row, length in enumerate([*range(1, 9), *range(1, 9), 3]):
        ids[row, :length] = 5
    tower(ids)
    assert {width for _, width in shapes} == {width for _, width in warm} == {4, 8}
    assert {rows for rows, _ in warm} == {1, 3}
