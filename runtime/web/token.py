"""The station's token: made at the first start, kept in a file that only its owner can read."""

from __future__ import annotations

import hmac
import os
import secrets
import stat
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from dskd.runtime.atomic import write_new
from dskd.runtime.errors import DskdError

ALPHABET = "23456789abcdefghjkmnpqrstuvwxyz"  # 31 signs that nobody mistakes for each other when typing them
GROUPS, GROUP = 4, 5  # 31^20: 99 bits
SHORTEST = 16
LONGEST_FILE = 1024


class Token:
    """Knows whether a word is the token; keeps only its hash."""

    def __init__(self, word: str) -> None:
        if len(word) < SHORTEST:
            raise DskdError(f"token of {len(word)} signs is too short; use {SHORTEST} or more")
        self._hash = sha256(word.encode()).digest()

    def matches(self, word: str) -> bool:
        """Compares in a time that tells nothing of the token."""
        return hmac.compare_digest(sha256(word.encode(errors="replace")).digest(), self._hash)


def load_token(path: Path) -> Token:
    """Reads the token file, makes it first where there is none. Raises DskdError where others could read it."""
    try:
        if not path.exists():
            _make(path)
    except OSError as error:
        raise _unusable(path, error) from error
    word = read_token(path)
    try:
        return Token(word)
    except DskdError as error:
        raise DskdError(f"token file {path}: {error}, or delete the file to have one made") from error


def read_token(path: Path) -> str:
    """The word itself, a secret. Raises DskdError where the file cannot be read, or others could read it."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(handle, "rb") as file:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise DskdError(f"token file {path}: is not a regular file; name another")
            if status.st_mode & 0o077:
                raise DskdError(f"token file {path}: others may read it; run: chmod 600 {path}")
            return file.read(LONGEST_FILE).decode(errors="replace").strip()
    except OSError as error:
        raise _unusable(path, error) from error


def _unusable(path: Path, error: OSError) -> DskdError:
    return DskdError(f"token file {path}: {error.strerror}; check the path and its rights")


def _make(path: Path) -> None:
    groups = ("".join(secrets.choice(ALPHABET) for _ in range(GROUP)) for _ in range(GROUPS))
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):  # another process was first: its token counts
        write_new(path, f"{'-'.join(groups)}\n".encode(), 0o600)
