"""Ranks, their start-up, and the collectives the project needs.

The only module that speaks to paddle.distributed.

Every helper works without a launch, as rank 0 of 1.
"""

import warnings

import paddle
import paddle.distributed as dist
from paddle.autograd import PyLayer
from paddle.distributed import fleet
from paddle.distributed.fleet.utils import recompute  # noqa: F401  # for models/recompute.py

from ernie_vil2.errors import UserError


def init(device: str = "auto") -> None:
    """Choose the device and start fleet, on one process or on those of paddle.distributed.launch.

    device: cpu, gpu, or auto for a GPU where there is one. Raises UserError where there is none.
    """
    has_gpu = paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0
    if device == "gpu" and not has_gpu:
        raise UserError(
            "Global.device is gpu, and paddle sees none: install paddlepaddle-gpu "
            "(requirements-gpu.txt) and check nvidia-smi, or set it to auto"
        )
    if device == "cpu" or not has_gpu:
        paddle.set_device("cpu")
    else:
        paddle.set_device(f"gpu:{dist.ParallelEnv().device_id}")
    with warnings.catch_warnings():  # of groups that data parallelism does not use
        warnings.filterwarnings("ignore", message="Current global rank .* is not in group")
        fleet.init(is_collective=True, log_level="WARNING")


def on_gpu() -> bool:
    """Whether this process computes on a GPU."""
    return paddle.get_device().startswith("gpu")


def rank() -> int:
    """This process among all, from 0."""
    return dist.get_rank()


def world_size() -> int:
    """How many processes train together; 1 without a launch."""
    return dist.get_world_size()


def is_main() -> bool:
    """True on the one process that writes logs and checkpoints."""
    return rank() == 0


def wrap(layer):
    """`layer` with its gradients averaged over ranks after each backward."""
    return fleet.distributed_model(layer) if world_size() > 1 else layer


def wrap_optimizer(optimizer):
    """`optimizer` as fleet wants it beside a layer of `wrap`."""
    return fleet.distributed_optimizer(optimizer) if world_size() > 1 else optimizer


def all_gather(x: paddle.Tensor) -> paddle.Tensor:
    """Concatenate every rank's [B, ...] along the first axis, in rank order; no gradient.

    Every rank must bring the same shape and dtype.
    """
    if world_size() == 1:
        return x
    parts = []
    dist.all_gather(parts, x.detach())
    return paddle.concat(parts)  # W x [B, ...] -> [WB, ...]


class _GatherWithGradient(PyLayer):
    @staticmethod
    def forward(ctx, x):
        ctx.rows = x.shape[0]
        return all_gather(x)

    @staticmethod
    def backward(ctx, gradient):
        # Every rank's loss reads these rows, so their gradients are summed over ranks before
        # each takes its own rows back. (Gloo has no reduce-scatter, so all ranks get the sum.)
        gradient = gradient.clone()
        dist.all_reduce(gradient)
        start = rank() * ctx.rows
        return gradient[start : start + ctx.rows]


def all_gather_with_gradient(x: paddle.Tensor) -> paddle.Tensor:
    """`all_gather` whose backward gives each rank the gradients that all ranks have for its rows.

    With a loss that is the mean over a rank's own rows, and gradients of parameters averaged over
    ranks (`wrap`), the result is the gradient of the mean over all rows.
    """
    return x if world_size() == 1 else _GatherWithGradient.apply(x)


def all_gather_objects(value) -> list:
    """Every rank's picklable `value`, in rank order."""
    if world_size() == 1:
        return [value]
    values = []
    dist.all_gather_object(values, value)
    return values


def mean(values: list) -> list:
    """Floats averaged over ranks."""
    if world_size() == 1:
        return values
    total = paddle.to_tensor(values, dtype="float64")
    dist.all_reduce(total)
    return (total / world_size()).tolist()


def any_rank(flag: bool) -> bool:
    """True on every rank as soon as `flag` is true on one."""
    if world_size() == 1:
        return flag
    total = paddle.to_tensor([int(flag)], dtype="int64")
    dist.all_reduce(total)
    return bool(total.item() > 0)
