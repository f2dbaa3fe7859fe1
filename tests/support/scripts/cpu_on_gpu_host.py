"""Ranks that train on the CPU, of a Paddle that is built for GPUs and a launcher that saw some."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from ernie_vil2 import runtime


def main() -> None:
    runtime.prepare()
    import paddle
    from paddle.base import core

    from ernie_vil2 import distributed

    # as the launcher leaves it where there are GPUs
    os.environ.pop("PADDLE_DISTRI_BACKEND", None)
    os.environ.update(FLAGS_selected_gpus=os.environ["PADDLE_TRAINER_ID"])
    if not paddle.is_compiled_with_cuda():  # as far as init_parallel_env asks
        core.is_compiled_with_cuda = lambda: True
    distributed.init("cpu")
    place = paddle.ones([1]).place
    print("rank", distributed.rank(), place, distributed.all_gather_objects(distributed.rank()))
    distributed.leave(0)


if __name__ == "__main__":
    main()
