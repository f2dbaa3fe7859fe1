"""The pieces of a map on a Ray cluster.

Ray sends the work to its machines, and once more where one was lost. What a lost machine had done
is in the output folder, which all machines must share; what it had begun is not there.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from typing import Any

from ernie_vil2.errors import UserError


def on_ray(
    tasks: Sequence[Any], processes: int | None, max_restarts: int
) -> Generator[int, None, None]:
    """Do the tasks; gives the number of each when it is done, in the order in which they end.

    Args:
        tasks: called without arguments, on a machine of the cluster.
        processes: at a time; None: as many as the cluster has cores, and so many more that wait.
        max_restarts: of a task whose process or machine died.
    """
    if not tasks:
        return
    import ray

    _connect()
    remote = ray.remote(max_retries=max_restarts, num_cpus=1, scheduling_strategy="SPREAD")(_done)
    most = processes or 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
    running: dict[Any, int] = {}
    left = iter(enumerate(tasks))
    try:
        while True:
            for number, task in left:
                running[remote.remote(task)] = number
                if len(running) >= most:
                    break
            if not running:
                return
            (ended, *_), _ = ray.wait(list(running))
            yield _result(ray, ended, tasks[running[ended]], running.pop(ended))
    finally:
        for ended in running:
            ray.cancel(ended, force=True)


def _done(task: Any) -> None:
    task()


def _connect() -> None:
    import ray

    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS") or "auto"
    try:
        ray.init(address=address, log_to_driver=False)
    except ConnectionError as error:
        raise UserError(
            f"no Ray cluster at {address}: start one (ray start --head) or set RAY_ADDRESS"
        ) from error


def _result(ray: Any, ended: Any, task: Any, number: int) -> int:
    """`number`, once Ray has the result; what the task raised is raised as it was."""
    try:
        ray.get(ended)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except ray.exceptions.RayError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{task}: its process or machine died again and again: {reason}") from error
    return number
