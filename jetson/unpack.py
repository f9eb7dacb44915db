"""``dskd unpack``: a file that ``dskd pack`` wrote becomes a bundle folder again, checked to the last byte."""

from __future__ import annotations

import argparse
import base64
import binascii
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dskd.jetson.bundle_archive import extract
from dskd.jetson.disk import Disk
from dskd.jetson.pack import CONTEXT, statement_of
from dskd.jetson.signing import Envelope, Refused, load_trusted
from dskd.runtime.bundle.loading import Bundle, load_bundle
from dskd.runtime.errors import CallError, DskdError, Parser, exit_with_code

MOST_FILES = 10_000
MOST_MB = 4096
EXAMPLES = """examples:
  dskd unpack part.dskd --out bundle
  dskd unpack part.dskd --out bundle --trust /etc/dskd/keys     signed by one of these keys, or refused

Then: dskd runtime --bundle bundle, or bundle: in a station file."""


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    options = Parser(
        prog="dskd unpack", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawTextHelpFormatter
    )
    options.add_argument("file", type=Path, help="what dskd pack wrote")
    options.add_argument("--out", type=Path, default=Path("bundle"), help="folder to make (default: %(default)s)")
    options.add_argument(
        "--trust",
        type=Path,
        help="folder of public keys (*.pub), one of which must have signed it (default: the file is only checked)",
    )
    options.add_argument("--max-mb", type=int, default=MOST_MB, help="refuse more than this (default: %(default)s)")
    return options


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    options = parser().parse_args(arguments)
    if options.max_mb < 1:
        raise CallError("--max-mb: 1 or more is needed")
    if not options.file.is_file():
        raise CallError(f"{options.file}: is no file; name one that dskd pack wrote")
    if options.out.is_symlink() or options.out.exists():
        raise CallError(f"--out {options.out}: is there already; remove it or name another folder")
    trusted = None if options.trust is None else load_trusted(options.trust)
    bundle, signers = unpack(options.file, options.out, trusted, options.max_mb << 20)
    told = "signed by " + ", ".join(signers) if signers else "not signed"
    doubt = ", which nobody checked (--trust)" if signers and trusted is None else ""
    print(f"{options.out}: bundle {bundle.id}, {told}{doubt}")
    return 0


def unpack(file: Path, out: Path, trusted: dict[str, Any] | None, most_bytes: int) -> tuple[Bundle, list[str]]:
    """Unpacks beside ``out``, checks everything, and gives it that name in one step. Returns the signers too.

    Raises DskdError where the file holds anything but a whole bundle, or no key of ``trusted`` signed it.
    """
    folder = out.with_name(f".{out.name}.unpacking")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True)
        envelope = extract(file, folder, Disk(), MOST_FILES, most_bytes)
        signers = _signers(envelope, folder, trusted)
        bundle = load_bundle(folder)
        folder.rename(out)
    except Refused as error:
        raise DskdError(f"{file}: {error}") from error
    except OSError as error:
        raise DskdError(f"{file}: cannot be unpacked into {out} ({error.strerror}); check the disk") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return replace(bundle, path=out), signers


def _signers(raw: bytes | None, folder: Path, trusted: dict[str, Any] | None) -> list[str]:
    """Ids of those who signed; of trusted ones alone where somebody is trusted. Raises Refused."""
    if raw is None:
        if trusted is not None:
            raise Refused("it is not signed; pack it with --key")
        return []
    try:
        envelope = Envelope.model_validate_json(raw)
        names_it = envelope.statement == statement_of(folder)
    except (ValidationError, OSError) as error:
        raise Refused("its signature cannot be read; pack it again") from error
    if not names_it:
        raise Refused("what was signed is another bundle; pack it again")
    if trusted is None:
        return sorted(envelope.signatures)
    from cryptography.exceptions import InvalidSignature

    known = sorted(envelope.signatures.keys() & trusted.keys())
    for identity in known:
        try:
            signature = base64.b64decode(envelope.signatures[identity], validate=True)
            trusted[identity].verify(signature, CONTEXT + envelope.statement.encode())
        except (InvalidSignature, binascii.Error, ValueError) as error:
            raise Refused(f"the signature by {identity} does not fit: it was altered on its way") from error
    if not known:
        raise Refused(f"it is signed by {', '.join(sorted(envelope.signatures)) or 'nobody'}, whom nobody here trusts")
    return known


if __name__ == "__main__":
    exit_with_code(main)
