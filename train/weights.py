"""Finding the teacher's ImageNet weights."""

from __future__ import annotations

import logging
import os
import socket
from http.client import HTTPException
from pathlib import Path

import torch
from torch import Tensor

from dskd.runtime.bundle.loading import file_sha256
from dskd.runtime.errors import CallError, DskdError, MissingPart
from dskd.train.networks.resnet import Backbone, Encoder

log = logging.getLogger(__name__)
RANDOM = "random"
DOWNLOAD_FROM = "https://download.pytorch.org/models/"
_ENDS = ("num_batches_tracked",)


def load_teacher(backbone: Backbone, source: str | None = None) -> tuple[Encoder, str, str]:
    """The frozen teacher, a name for where its weights come from, and their sha256.

    ``source`` is a file or "random"; None asks ``DSKD_TEACHER_WEIGHTS``, torch's hub cache, and a checked download,
    in this order. Raises MissingPart where none of them has the weights.
    """
    teacher = Encoder(backbone)
    source = source or os.environ.get("DSKD_TEACHER_WEIGHTS")
    if source == RANDOM:
        log.warning("the teacher has random weights: fine to try the commands, useless for accuracy")
        name, digest = RANDOM, "0" * 64
    else:
        file = _locate(backbone, source)
        _load_state(teacher, file)
        name, digest = file.name, file_sha256(file)
    return teacher.eval().requires_grad_(False), name, digest


def _locate(backbone: Backbone, source: str | None) -> Path:
    if source:
        if not Path(source).is_file():
            raise CallError(f"teacher weights {source}: there is no such file; download {backbone.weights_file} to it")
        return Path(source)
    cached = Path(torch.hub.get_dir()) / "checkpoints" / backbone.weights_file
    if not cached.is_file():
        _download(backbone, cached)
    return cached


def _download(backbone: Backbone, target: Path) -> None:
    url = DOWNLOAD_FROM + backbone.weights_file
    prefix = backbone.weights_file.rsplit("-", 1)[1].removesuffix(".pth")
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(20)  # seconds: a firewall that swallows packets would hold for minutes
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(target), hash_prefix=prefix)
    except (OSError, RuntimeError, HTTPException) as error:
        raise MissingPart(
            f"teacher weights: {backbone.weights_file} is neither given nor cached and cannot be downloaded "
            f"({error}); name a file with --teacher-weights or DSKD_TEACHER_WEIGHTS, or try with --teacher-weights random"
        ) from error
    finally:
        socket.setdefaulttimeout(patience)


def _load_state(teacher: Encoder, file: Path) -> None:
    """Takes stem to layer3 from a torchvision state dict; a file without layer4 and classifier is fine."""
    try:
        state: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
        wanted = teacher.state_dict()
        found = {name: state[name] for name in wanted if name in state}
        missing = [name for name in wanted if name not in found and not name.endswith(_ENDS)]
        wrong = [name for name, tensor in found.items() if tensor.shape != wanted[name].shape]
    except Exception as error:  # torch.load raises whatever its parts raise on a damaged file
        raise DskdError(
            f"teacher weights {file}: cannot be read ({type(error).__name__}); download them again"
        ) from error
    if missing or wrong:
        raise DskdError(
            f"teacher weights {file}: {(missing + wrong)[0]} is missing or of another shape; wrong backbone?"
        )
    teacher.load_state_dict(found, strict=False)
