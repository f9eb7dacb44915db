"""What an update says of itself, signed with ed25519, and who is believed.

The statement names the manifest by its sha256, and the manifest names every other file by its own: one signature holds
the whole bundle. It is signed as the bytes that travel, so there is no second way to write it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from dskd.runtime.atomic import write_new
from dskd.runtime.bundle.manifest import Positive, Sha256
from dskd.runtime.configuration.fields import Name
from dskd.runtime.configuration.strict_yaml import Strict, first_fault
from dskd.runtime.errors import CallError, DskdError, MissingPart

CONTEXT = b"dskd-edge update 1\n"  # a signature made for this is good for nothing else
LARGEST_ENVELOPE = 1 << 16  # bytes
MOST_KEYS = 16
Version = Annotated[int, Field(ge=1, lt=1 << 53)]
Moment = Annotated[float, Field(ge=0, le=4e9)]  # seconds since the epoch
Floor = Annotated[int, Field(ge=0, lt=1 << 53)]


class Refused(DskdError):
    """An update that must not be installed, and why. Trying it again changes nothing."""


class Statement(Strict):
    """What is signed."""

    schema_version: Literal[1] = 1
    product: Name = Field(description="for which product's stations it is")
    version: Version = Field(description="rises with every update of the product")
    floor: Floor = Field(0, description="once this one is confirmed, no older version than that is taken any more")
    bundle: str = Field(description="id of the bundle", max_length=200)
    manifest_sha256: Sha256
    archive: str = Field(description="file name of the archive beside the statement", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$")  # fmt: skip
    archive_bytes: Positive
    archive_sha256: Sha256
    unpacked_bytes: Positive
    files: Annotated[int, Field(gt=0, le=10_000)]
    signed: Moment | None = Field(None, description="when: a device that saw this one takes none that is older")
    expires: Moment | None = Field(None, description="until when it is valid; then it must be signed again")


class Envelope(Strict):
    """What travels: the statement as text, and signatures over exactly that text."""

    statement: str
    signatures: dict[str, str] = Field(description="base64 by key id", max_length=MOST_KEYS)


def _ed25519() -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise MissingPart("cryptography is not installed; pip install 'dskd-edge[fleet]'") from error
    return ed25519


def make_key(folder: Path, name: str) -> tuple[Path, Path]:
    """A new pair: ``NAME.pem`` (private, for those who publish) and ``NAME.pub`` (for devices). Never overwrites."""
    from cryptography.hazmat.primitives import serialization as form

    key = _ed25519().Ed25519PrivateKey.generate()
    private = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    public = key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / f"{name}.pem", folder / f"{name}.pub"
    for path in paths:  # both before the first is written: half a pair is of no use
        if os.path.lexists(path):
            raise CallError(f"{path} exists; a key is not overwritten, name another")
    for path, data, mode in zip(paths, (private, public), (0o600, 0o644), strict=True):
        write_new(path, data, mode)
    return paths


def key_id(public: Any) -> str:
    """16 digits of the sha256 of the raw public key."""
    return hashlib.sha256(public.public_bytes_raw()).hexdigest()[:16]


def load_private(file: Path) -> Any:
    """The key that signs. Raises CallError where the file holds none."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    ed25519 = _ed25519()
    try:
        key = load_pem_private_key(file.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise CallError(f"{file}: is no private key ({error}); make one with: dskd jetson keys") from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise CallError(f"{file}: is no ed25519 key; make one with: dskd jetson keys")
    return key


def load_trusted(folder: Path) -> dict[str, Any]:
    """Public keys of a folder by id. Raises CallError where there are none or one is no key."""
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    ed25519, keys = _ed25519(), {}
    files = sorted(folder.glob("*.pub"))
    if len(files) > MOST_KEYS:
        raise CallError(f"{folder}: holds {len(files)} *.pub, more than {MOST_KEYS}; remove those that sign no more")
    if not files:
        raise CallError(f"{folder}: holds no *.pub; copy the public key of those who publish there")
    for file in files:
        _require_own(file)
        try:
            key = load_pem_public_key(file.read_bytes())
        except (OSError, ValueError) as error:
            raise CallError(f"{file}: is no public key ({error}); copy it again") from error
        if not isinstance(key, ed25519.Ed25519PublicKey):
            raise CallError(f"{file}: is no ed25519 key; make one with: dskd jetson keys")
        keys[key_id(key)] = key
    return keys


def _require_own(file: Path) -> None:
    """Raises CallError for a public key that anybody may exchange."""
    with suppress(OSError):
        if file.stat().st_mode & stat.S_IWOTH:
            raise CallError(f"{file}: everybody may write it, and so say who publishes; sudo chmod 644 {file}")


def sign(statement: Statement, *keys: Any) -> bytes:
    """The envelope, signed by each of ``keys``."""
    text = statement.model_dump_json(exclude_none=True)  # devices of before know no signed and expires
    signatures = {
        key_id(key.public_key()): base64.b64encode(key.sign(CONTEXT + text.encode())).decode() for key in keys
    }
    return json.dumps({"statement": text, "signatures": signatures}, indent=1).encode()


class UnknownSigner(Refused):
    """Signed, but by nobody whom this device trusts, or by too few. ``statement`` is what it says; nothing vouches for it."""

    def __init__(self, message: str, statement: Statement) -> None:
        super().__init__(message)
        self.statement = statement


def open_envelope(raw: bytes, trusted: dict[str, Any], product: str, threshold: int = 1) -> Statement:
    """The statement in it. Raises Refused where fewer trusted keys than ``threshold`` signed exactly this, or it is for
    something else.
    """
    from cryptography.exceptions import InvalidSignature

    if len(raw) > LARGEST_ENVELOPE:
        raise Refused(f"the update's statement has {len(raw)} bytes, more than {LARGEST_ENVELOPE}")
    try:
        envelope = Envelope.model_validate_json(raw)
    except ValidationError as error:
        raise Refused(f"the update's statement cannot be read ({first_fault(error)}); publish it again") from error
    if not envelope.signatures:
        raise Refused("the update is not signed; publish it with: dskd jetson publish --key")
    known = envelope.signatures.keys() & trusted.keys()
    for identity in known:
        try:
            signature = base64.b64decode(envelope.signatures[identity], validate=True)
            trusted[identity].verify(signature, CONTEXT + envelope.statement.encode())
        except (InvalidSignature, binascii.Error, ValueError) as error:
            raise Refused(f"the update's signature by {identity} does not fit: it was altered on its way") from error
    try:
        statement = Statement.model_validate_json(envelope.statement)
    except ValidationError as error:
        raise Refused(
            f"the update's statement is not understood ({first_fault(error)}); update the software"
        ) from error
    if statement.product != product:
        raise Refused(f"the update is for {statement.product}, this station inspects {product}")
    if len(known) < threshold:
        signers = ", ".join(sorted(envelope.signatures))
        short = (
            f", of whom {len(known)} of the {threshold} needed are trusted"
            if known
            else ", whom this device does not trust"
        )
        raise UnknownSigner(f"the update is signed by {signers}{short}", statement)
    return statement
