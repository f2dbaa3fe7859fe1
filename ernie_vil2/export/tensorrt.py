"""The shapes that TensorRT builds its engines for, collected at export.

An engine is for a range of shapes of each of its inputs, and which tensors these are Paddle knows
only when it has cut the program into what TensorRT can run and what it cannot. So it wants the
shapes of all tensors: it runs the program, on a CPU too, and writes the least, the largest and the
most frequent one of each. Each tower has a file of its own; shapes of another program would be
refused, or used where a name happens to be the same.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ernie_vil2.artefact.description import SHAPES
from ernie_vil2.artefact.folder import TOWERS, Artefact
from ernie_vil2.errors import UserError


def collect_shapes(artefact: Artefact, max_batch: int) -> None:
    """Write `tensorrt/image.pbtxt` and `tensorrt/text.pbtxt`, and say so in the artefact.

    They cover 1 to `max_batch` images or texts, the latter of 1 to `artefact.max_len` tokens. The
    engines are tuned for the largest, which cost most.

    Raises:
        UserError: programs of Paddle 3, which has another way to TensorRT.
    """
    size, longest = artefact.image_size, artefact.max_len
    for tower in TOWERS:
        program, weights = artefact.program(tower)
        if program.suffix != ".pdmodel":
            raise UserError(
                f"--tensorrt: {program.name} is a program of Paddle 3, for which Paddle Inference "
                "collects no shapes: export with Paddle 2.6, or leave out --tensorrt"
            )
        if tower == "text":
            least, largest, kind = [1, 1], [max_batch, longest], "int64"
        elif artefact.preprocess:
            least, largest, kind = [1, size, size, 3], [max_batch, size, size, 3], "uint8"
        else:
            least, largest, kind = [1, 3, size, size], [max_batch, 3, size, size], "float32"
        target = artefact.folder / SHAPES / f"{tower}.pbtxt"
        target.parent.mkdir(exist_ok=True)
        _collect(program, weights, target, [np.ones(shape, kind) for shape in (least, largest)])
    artefact.tensorrt.update(max_batch=max_batch, max_len=longest)


def _collect(program: Path, weights: Path, target: Path, ends: list[np.ndarray]) -> None:
    """Run a program on the least and, twice, on the largest input."""
    from paddle import inference

    config = inference.Config(str(program), str(weights))
    config.disable_gpu()
    config.disable_glog_info()
    # the same shapes, without every tensor of the largest input in memory at a time
    config.enable_memory_optim()
    config.collect_shape_range_info(str(target))
    predictor = inference.create_predictor(config)
    handle = predictor.get_input_handle(predictor.get_input_names()[0])
    least, largest = ends
    for array in (least, largest, largest):  # of equally frequent ones any would be "opt"
        handle.copy_from_cpu(array)
        predictor.run()
    del handle, predictor  # its end writes the file
    if not target.is_file():
        raise UserError(f"Paddle wrote no {target}: leave out --tensorrt")
