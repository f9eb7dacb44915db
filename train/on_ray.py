"""Calls on Ray: workers on this machine, or those of a cluster. Nothing is told to anybody, nothing listens beyond loopback.

Ray's own usage statistics and dashboard stay off. A cluster obeys whoever reaches its ports: keep it in a closed network.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from dskd.runtime.errors import DskdError, MissingPart, one_line

Work = TypeVar("Work")
OBJECTS = 80 * 2**20  # bytes of shared memory, about the least Ray takes: paths and figures are all that goes through
TRIES_AGAIN = 2  # after a node or a worker that died, on another one; work that says that it failed is not repeated
CORES = 4  # for one call where nobody asks for another number


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """The ``ray`` module, connected to ``address`` (``auto``, ``HOST:6379``) or to workers of its own on this machine."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if address is None:  # Ray takes a loopback address that it is given for a mistake; this keeps it, on Linux too
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    try:
        import ray
    except ImportError as error:
        raise MissingPart("ray is not installed; pip install 'dskd-edge[sweep]'") from error
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    folder = tempfile.mkdtemp(prefix="dskd-ray-")  # short: Ray's sockets lie in it
    try:
        try:
            if address is None:
                ray.init(
                    "local", include_dashboard=False, object_store_memory=OBJECTS, _temp_dir=folder,
                    **quiet,
                )  # fmt: skip
            else:
                ray.init(address, **quiet)
        except (ConnectionError, OSError, RuntimeError, ValueError) as error:
            where = f"--address {address}: no Ray cluster answers" if address else "Ray does not start"
            raise MissingPart(f"{where} ({one_line(str(error))[:200]})") from error
        yield ray
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def share(ray: Any, device: str, cpus: int | None, gpus: float | None) -> dict[str, float]:
    """What one call takes of a node: asked for, or a GPU where there are some. Raises MissingPart where no node has it."""
    nodes = [
        (node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0)) for node in ray.nodes() if node["Alive"]
    ]
    if gpus is None:
        gpus = 1.0 if device != "cpu" and (device == "cuda" or any(has for _, has in nodes)) else 0.0
    fitting = [(cores, has) for cores, has in nodes if has >= gpus and cores >= (cpus or 1)]
    if not fitting:
        raise MissingPart(
            f"no node has {cpus or 1} cores and {gpus:g} GPUs for one product; the largest have "
            f"{max(cores for cores, _ in nodes):g} cores, {max(has for _, has in nodes):g} GPUs: see --cpus, --gpus, --device"
        )
    if cpus is None:
        at_once = max(1, min(has // gpus for _, has in fitting)) if gpus else 1
        cpus = int(max(1, min(CORES, *(cores // at_once for cores, _ in fitting))))
    return {"num_cpus": cpus, "num_gpus": gpus}


def as_done(
    ray: Any, function: Callable[[Work], dict[str, Any]], works: Sequence[Work], taken: dict[str, float]
) -> Iterator[tuple[Work, dict[str, Any] | DskdError]]:
    """Calls ``function`` for each of ``works``; yields what it gives as soon as it is there, or why there is nothing."""
    task = ray.remote(function).options(max_retries=TRIES_AGAIN, **taken)
    waiting = {task.remote(work): work for work in works}
    while waiting:
        ready, _ = ray.wait(list(waiting), num_returns=1)
        work = waiting.pop(ready[0])
        try:
            yield work, ray.get(ready[0])
        except ray.exceptions.RayError as error:
            yield work, DskdError(f"its worker failed: {one_line(str(error))[-300:]}")
