"""int8 programs compute in int8 and keep the embeddings; scales are each channel's own."""

import numpy as np
import paddle
import pytest
from paddle import inference, static

from ernie_vil2.errors import UserError
from ernie_vil2.export import quantize as export_quantize
from ernie_vil2.export.quantize import quantize

on_paddle2 = pytest.mark.skipif(paddle.__version__ >= "3", reason="Paddle 3 has no int8 programs")


def batches(tower, seed, count=4):
    rng = np.random.default_rng(seed)
    for length in (8, 3, 5, 1)[:count]:
        if tower == "image":
            yield rng.normal(size=[6, 3, 16, 16]).astype("float32")
        else:
            yield rng.integers(1, 15, [6, length])


def run(stem, *arrays):
    config = inference.Config(f"{stem}.pdmodel", f"{stem}.pdiparams")
    config.disable_glog_info()
    config.disable_gpu()
    config.enable_mkldnn()
    config.switch_ir_optim(False)
    predictor = inference.create_predictor(config)
    outputs = []
    for array in arrays:
        predictor.get_input_handle(predictor.get_input_names()[0]).copy_from_cpu(array)
        predictor.run()
        outputs.append(predictor.get_output_handle(predictor.get_output_names()[0]).copy_to_cpu())
    return outputs


def operators(stem):
    paddle.enable_static()
    try:
        program = static.Program.parse_from_string(stem.with_suffix(".pdmodel").read_bytes())
        return program.global_block().ops
    finally:
        paddle.disable_static()


@on_paddle2
@pytest.mark.parametrize("tower", ["image", "text"])
def test_embeddings_are_kept_for_every_shape(tiny_model, tiny_artefact, tmp_path, tower):
    layers = quantize(tiny_artefact / "fp32", tmp_path, tower, batches(tower, seed=0))
    fc = [op for op in operators(tmp_path / tower) if op.type == "fc"]
    assert len(fc) == layers >= 4
    assert {op.attr("mkldnn_data_type") for op in fc} == {"int8"}
    assert paddle.in_dynamic_mode()
    encode = tiny_model.encode_image if tower == "image" else tiny_model.encode_text
    others = [batch[:rows] for batch, rows in zip(batches(tower, seed=1), (6, 2, 1, 6))]
    for batch, embeds in zip(others, run(tmp_path / tower, *others)):
        expected = encode(paddle.to_tensor(batch)).numpy()
        assert np.sum(embeds * expected, axis=1).min() > 0.995
        assert np.abs(embeds - expected).max() > 1e-5  # it is not float32 that ran


@on_paddle2
def test_each_channel_of_a_weight_has_its_own_scale(tmp_path):
    """Channels a thousand times apart, in a weight that is not square."""
    paddle.seed(0)
    linear = paddle.nn.Linear(24, 7)
    linear.weight.set_value(
        linear.weight * paddle.to_tensor(np.logspace(-2, 1, 7, dtype="float32"))
    )
    linear.eval()
    paddle.jit.save(linear, str(tmp_path / "image"), [static.InputSpec([None, 24], "float32", "x")])
    rng = np.random.default_rng(0)
    x = rng.normal(size=[64, 24]).astype("float32")
    assert quantize(tmp_path, tmp_path / "int8", "image", [x]) == 1
    (found,) = run(tmp_path / "int8" / "image", x)
    expected = linear(paddle.to_tensor(x)).numpy()
    error = np.abs(found - expected).max(axis=0) / np.abs(expected).max(axis=0)
    assert error.max() < 0.03


def test_threshold_leaves_out_a_lone_outlier_only_where_that_is_better():
    rng = np.random.default_rng(0)
    many = np.abs(rng.normal(size=10_000))
    assert export_quantize._threshold(many) > 0.8 * many.max()
    # rounding 10,000 values to steps of 300 / 127 costs more than cutting one of them
    assert export_quantize._threshold(np.append(many * 30, 300.0)) < 300.0
    assert export_quantize._threshold(np.zeros(5)) == 1.0


@on_paddle2
def test_no_calibration_data(tiny_artefact, tmp_path):
    with pytest.raises(UserError, match=r"no calibration data for the int8 program of .*image"):
        quantize(tiny_artefact / "fp32", tmp_path, "image", [])
    assert paddle.in_dynamic_mode()


def test_programs_of_paddle_3(tmp_path):
    (tmp_path / "image.json").touch()
    with pytest.raises(UserError, match=r"int8 of .*image with Paddle .*; export with Paddle 2\.6"):
        quantize(tmp_path, tmp_path / "int8", "image", [])
