"""What follows training, tried on a few pictures before it: a run that cannot be finished fails in seconds, not in hours."""

from __future__ import annotations

import time

import torch

from dskd.runtime.errors import CallError
from dskd.runtime.result import Image
from dskd.train.config import TrainConfig
from dskd.train.local_statistics import fit_map
from dskd.train.methods.base import Method
from dskd.train.trained_run import build_maps, graph_of

FEW = 2  # pictures


def rehearse(config: TrainConfig, method: Method, inputs: Image, device: torch.device) -> float:
    """Fits each inference path's map to a few of ``inputs`` [N, H, W, 3] and scores them; ``method`` stays as it is.

    Returns the seconds that a look at one picture takes. Raises CallError that names the path and what is wrong with it.
    """
    seconds = 0.0
    few, training, random = inputs[:FEW], method.training, torch.random.get_rng_state()
    maps = build_maps(config, method)
    try:
        for reading in method.readings():
            try:
                graph = graph_of(method, maps, reading)
                fit_map(graph, few, few, config.map.ridge, device)
                begun = time.monotonic()
                with torch.no_grad():
                    score, anomaly_map = graph.eval().to(device)(torch.from_numpy(few.copy()).to(device))
                score.cpu()  # waits for a GPU
                seconds = (time.monotonic() - begun) / len(few)
            except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
                raise CallError(
                    f"method {config.method}: its inference path {reading!r} gives no map with these settings "
                    f"({type(error).__name__}: {error}); change them or the method before hours are spent"
                ) from error
            sizes = (tuple(score.shape), tuple(anomaly_map.shape))
            wanted = ((len(few),), (len(few), config.input.height, config.input.width))
            if sizes != wanted:
                raise CallError(
                    f"method {config.method}: its inference path {reading!r} gives score and map of {sizes}, not {wanted}"
                )
    finally:
        method.train(training)
        torch.random.set_rng_state(random)
    return seconds
