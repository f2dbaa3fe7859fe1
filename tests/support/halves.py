"""bfloat16 products on a CPU, where Paddle has none."""

from unittest import mock

import paddle
from paddle.base.framework import _dygraph_tracer

from ernie_vil2.config.load import load_config
from ernie_vil2.training.trainer import Trainer


def round_products(layer: paddle.nn.Layer) -> None:
    """Let linear layers and convolutions give bfloat16 where mixed precision casts, as a GPU's do.

    Their products are added up in float32, as there. Without AMP nothing changes.
    """

    def rounded(layer, inputs, output):
        casts = str(_dygraph_tracer()._amp_level) != "AmpLevel.O0"
        if not casts:
            return output
        if isinstance(output, tuple):  # of a last block: queries, keys and values
            return tuple(part.astype("bfloat16") for part in output)
        return output.astype("bfloat16")

    for sublayer in layer.sublayers():
        if isinstance(sublayer, (paddle.nn.Linear, paddle.nn.Conv2D)):
            sublayer.register_forward_post_hook(rounded)


def half_trainer(config, *overrides, resume=None) -> Trainer:
    """A trainer whose products are rounded as a GPU's would be."""
    trainer = Trainer(load_config(config, overrides), resume)
    round_products(trainer.objective)
    return trainer


def scaler_on_cpu(scale: float) -> paddle.amp.GradScaler:
    """A loss scaler that works on a CPU, until this process ends.

    Paddle asks for the place when it makes one, and turns it off where the last auto_cast was to
    bfloat16.
    """

    class OnGpu:
        class _expected_place:
            is_gpu_place = staticmethod(lambda: True)

    with mock.patch("paddle.amp.grad_scaler._dygraph_tracer", lambda: OnGpu):
        made = paddle.amp.GradScaler(init_loss_scaling=scale)
    state = type("", (), {"amp_dtype": "float16"})
    mock.patch("paddle.amp.grad_scaler.amp_global_state", lambda: state).start()
    return made
