"""`fastlt encode --ray`: images are read and stored anew by tasks on a Ray cluster, and written here.

The tasks are those of the processes of one machine, and so is what writes: the journal says what is done.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from functools import partial
from typing import Any

from fastlt.data_prep.ray_cluster import ray_cluster, require_shared, unseen, with_whole_paths
from fastlt.dataset.images import ImageName
from fastlt.messages import one_line

_TRIES = 5  # of a task whose process or machine ended


@contextmanager
def pool_on_ray(address: str) -> Iterator[PoolOnRay]:
    """Raises ValueError where there is no cluster."""
    with ray_cluster(address) as ray:
        yield PoolOnRay(ray)


class PoolOnRay(Executor):
    """Has functions of images run on a cluster.

    Attributes:
        cores: of all machines.
    """

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self.cores = max(1, sum(int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]))
        self._task = ray.remote(num_cpus=1, max_retries=_TRIES, scheduling_strategy="SPREAD")(_run)

    def submit(self, function: Callable[..., Any], /, *args: Any, **options: Any) -> Future:
        """As of every `Executor`; the first argument of the function is a list of images."""
        images, *others = args
        return _Promised(self._ray, self._task.remote(partial(function, **options), with_whole_paths(images), *others))


class _Promised(Future):
    """What a task will have returned."""

    def __init__(self, ray: Any, task: Any) -> None:
        super().__init__()
        self._ray, self._task = ray, task

    def result(self, timeout: float | None = None) -> Any:
        """Raises ValueError where a machine sees other files than this one, or where no machine could do it."""
        try:
            found, host, lacking = self._ray.get(self._task, timeout=timeout)
        except self._ray.exceptions.RayError as error:
            raise ValueError(
                f"a task on the cluster failed {_TRIES + 1} times, or for a reason of its own: {one_line(error, 300)}. "
                "The same command continues from what is written."
            ) from None
        require_shared(host, lacking)
        return found

    def cancel(self) -> bool:
        """Leaves the task to end with the cluster's client: Ray crashes when it cancels one that is just done.

        `Executor.map` cancels each task after its result.
        """
        return False


def _run(function: Callable[..., list[Any]], images: Sequence[ImageName], *others: Any) -> tuple[Any, str, list[Any]]:
    """What the function returns, on which machine, and which images are not there; on a worker."""
    found = function(images, *others)
    broken = any(isinstance(one, str) for one in found)
    return found, socket.gethostname(), unseen(images) if broken else []
