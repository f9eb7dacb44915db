"""``dskd jetson publish`` and ``keys``: on the desktop, a bundle becomes a signed update on any static file host."""

from __future__ import annotations

import argparse
import re
import time
from pathlib import Path
from typing import Any

from dskd.jetson.bundle_archive import pack
from dskd.jetson.signing import LARGEST_ENVELOPE, Statement, key_id, load_private, make_key, open_envelope, sign
from dskd.runtime import atomic
from dskd.runtime.bundle.loading import MANIFEST, Bundle, default_bundle, file_sha256, load_bundle, read_regular
from dskd.runtime.errors import CallError, Parser

EXAMPLES = """examples:
  dskd jetson keys --out keys --name plant-7            keep plant-7.pem safe; plant-7.pub goes to /etc/dskd/keys
  dskd jetson publish --product bracket --version 12 --key keys/plant-7.pem --out host/bracket
The folder can be served by any web server, or be carried to the device (file:///media/usb/bracket/)."""


def publish(
    bundle: Bundle, product: str, version: int, floor: int, out: Path, *keys: Any, days: float | None = None
) -> Statement:
    """Writes archive and statement; the statement last, so that nobody is told of what is not there yet.

    ``days``: how long it is valid; then ``refresh`` must have signed it again. Devices of before 2026-12 take it only
    without.
    """
    out.mkdir(parents=True, exist_ok=True)
    archive = out / f"{product}-{version}.tar"
    with atomic.replacing(archive) as temporary:
        files, size = pack(bundle, temporary)
    statement = Statement(
        product=product,
        version=version,
        floor=floor,
        bundle=bundle.id,
        manifest_sha256=file_sha256(bundle.path / MANIFEST),
        archive=archive.name,
        archive_bytes=archive.stat().st_size,
        archive_sha256=file_sha256(archive),
        unpacked_bytes=size,
        files=files,
    )
    return _write(_dated(statement, days), out, *keys)


def refresh(product: str, out: Path, days: float, *keys: Any) -> Statement:
    """Signs the statement in ``out`` again, from now on for ``days``. Raises CallError where none of these keys signed it."""
    file = out / f"{product}.update"
    try:
        raw = read_regular(file, LARGEST_ENVELOPE)
    except OSError as error:
        raise CallError(f"{file}: cannot be read ({error.strerror}); publish first") from error
    known = {key_id(key.public_key()): key.public_key() for key in keys}
    return _write(_dated(open_envelope(raw, known, product), days), out, *keys)


def _dated(statement: Statement, days: float | None) -> Statement:
    now = time.time()
    return statement if days is None else statement.model_copy(update={"signed": now, "expires": now + 86400 * days})


def _write(statement: Statement, out: Path, *keys: Any) -> Statement:
    atomic.write_bytes(out / f"{statement.product}.update", sign(statement, *keys))
    return statement


def main(arguments: list[str]) -> int:
    """``dskd jetson publish``."""
    options = Parser(prog="dskd jetson publish", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawTextHelpFormatter)  # fmt: skip
    options.add_argument("--bundle", type=Path, help="bundle folder (default: $DSKD_BUNDLE, else runs/latest/bundle)")
    options.add_argument("--product", required=True, help="name of the product; stations take updates of theirs only")
    options.add_argument("--version", type=int, help="rises with every update")
    options.add_argument("--valid-days", type=float, help="devices say so where they see nothing newer after that")
    options.add_argument(
        "--refresh", action="store_true", help="sign what is published again for --valid-days; no --version"
    )
    options.add_argument("--floor", type=int, default=0, help="no older version than this may ever come back")
    options.add_argument("--key", type=Path, action="append", required=True, help="private key; may be given again")
    options.add_argument("--out", type=Path, required=True, help="folder that is served")
    chosen = options.parse_args(arguments)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", chosen.product):
        raise CallError(f"--product {chosen.product}: letters, digits, _ . - only, at most 64")
    if chosen.valid_days is not None and not 0 < chosen.valid_days <= 3650:
        raise CallError(f"--valid-days {chosen.valid_days:g}: over 0 and at most 3650")
    if chosen.refresh:
        if chosen.valid_days is None:
            raise CallError("--refresh needs --valid-days")
        again = refresh(chosen.product, chosen.out, chosen.valid_days, *[load_private(file) for file in chosen.key])
        print(f"{chosen.out / chosen.product}.update: version {again.version}, valid for {chosen.valid_days:g} days")
        return 0
    if chosen.version is None:
        raise CallError("--version is needed, or --refresh")
    if not 1 <= chosen.version < 1 << 53 or not 0 <= chosen.floor <= chosen.version:
        raise CallError(f"--version {chosen.version} --floor {chosen.floor}: 0 <= floor <= version, version from 1 on")
    keys = [load_private(file) for file in chosen.key]
    bundle = load_bundle(chosen.bundle or default_bundle())
    made = publish(bundle, chosen.product, chosen.version, chosen.floor, chosen.out, *keys, days=chosen.valid_days)
    signers = ", ".join(key_id(key.public_key()) for key in keys)
    print(f"{chosen.out / made.archive}: {made.archive_bytes / 1e6:.1f} MB, bundle {made.bundle}")
    print(f"{chosen.out / chosen.product}.update: version {made.version}, signed by {signers}")
    return 0


def keys_main(arguments: list[str]) -> int:
    """``dskd jetson keys``."""
    options = Parser(
        prog="dskd jetson keys",
        description="A new pair of ed25519 keys.",
        examples="dskd jetson keys --out ~/keys --name plant-1      publish with plant-1.pem, devices get plant-1.pub",
    )
    options.add_argument("--out", type=Path, required=True, help="folder for NAME.pem (private) and NAME.pub")
    options.add_argument("--name", required=True, help="what to call the pair")
    chosen = options.parse_args(arguments)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", chosen.name):
        raise CallError(f"--name {chosen.name}: letters, digits, _ . - only")
    private, public = make_key(chosen.out, chosen.name)
    print(f"{private}: private, for those who publish; keep it off the devices\n{public}: for /etc/dskd/keys")
    return 0
