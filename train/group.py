"""The processes that train together under torchrun: joining, being of one mind, and one of them gone."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from dskd.runtime.errors import CallError, DskdError, MissingPart

# for one that hangs, or whose machine lost its power: one that died is noticed at once
PATIENCE = timedelta(minutes=10)
AGAIN = "mend it and give the same command again: training goes on from the last checkpoint"


@dataclass(frozen=True)
class Process:
    """This process among those that train together."""

    device: torch.device
    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0


def join_processes(device: str) -> Process:
    """Picks the device and, under torchrun, joins the group (nccl on GPUs, gloo on CPUs)."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise MissingPart("--device cuda: torch finds no GPU; use --device cpu, or install a CUDA build of torch")
    if "RANK" not in os.environ:
        return Process(torch.device(device))
    if device == "cuda":
        place, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if place >= gpus:
            raise MissingPart(
                f"torchrun started process {place + 1} here and torch finds {gpus} GPUs; --nproc-per-node {gpus}"
            )
        torch.cuda.set_device(place)
    with lost():
        dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=PATIENCE)
    signal.signal(signal.SIGTERM, _ended)
    return Process(torch.device(device), dist.get_rank(), dist.get_world_size())


def agree(process: Process, facts: dict[str, str]) -> None:
    """Raises CallError in every process where one has other ``facts`` than the first: they would not train one model."""
    if process.world == 1:
        return
    digests = [hashlib.sha256(text.encode()).digest()[:7] for text in facts.values()]
    own = torch.tensor([int.from_bytes(digest, "big") for digest in digests], device=process.device)
    all_of_them = [torch.empty_like(own) for _ in range(process.world)]
    with lost():
        dist.all_gather(all_of_them, own)
    for rank, theirs in enumerate(all_of_them):
        for key, same in zip(facts, (theirs == all_of_them[0]).tolist(), strict=True):
            if not same:
                raise CallError(
                    f"process {rank} has another {key} than process 0; give every machine the same call, pictures and "
                    "weights, and an --out on storage that they share"
                )


@contextmanager
def lost() -> Iterator[None]:
    """A collective that fails because another process is gone raises DskdError in one line."""
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or "gloo" in str(error) or "NCCL" in str(error)):
            raise
        reason = str(error).splitlines()[0].rpartition("] ")[2].partition(". ")[0][:150]
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun's, which follows: this is said already
        raise DskdError(f"another process of this training is gone or silent ({reason}); {AGAIN}") from error


def _ended(*_: object) -> None:
    """Torchrun ends the others when one is gone, often before they notice by themselves."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise DskdError(f"torchrun ended this process: another one of this training is gone, or torchrun itself; {AGAIN}")
