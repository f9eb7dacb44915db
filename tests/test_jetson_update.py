"""Updates: who is believed, what is unpacked, what a device starts from, whatever happens on the way."""

from __future__ import annotations

import base64
import errno
import hashlib
import http.server
import io
import json
import os
import random
import shutil
import ssl
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from budget import cases
from conftest import Command
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_bundle import tiny_bundle

from dskd.benchmarks.lab.fleet.fleet_host import FileHost
from dskd.benchmarks.lab.fleet.power_drill import PowerDrill, Tally, changed
from dskd.benchmarks.lab.fleet.power_drill import run as run_drill
from dskd.jetson.agent import Agent
from dskd.jetson.bundle_archive import pack, unpack
from dskd.jetson.disk import Disk, Writer
from dskd.jetson.download import Fetcher, NoRoom, NotFetched, check_source
from dskd.jetson.engine_builder import builder
from dskd.jetson.fleet_config import load_fleet_config
from dskd.jetson.live_check import LiveLimits, judge
from dskd.jetson.publish import publish
from dskd.jetson.signing import Refused, Statement, load_private, load_trusted, make_key, open_envelope, sign
from dskd.jetson.slot_state import Trial
from dskd.jetson.slots import Slots
from dskd.jetson.update import Updater
from dskd.runtime.bundle.loading import Bundle, file_sha256
from dskd.runtime.errors import CallError, DskdError
from dskd.runtime.reason import Reason
from dskd.runtime.result import Dropped, Inspection, Verdict
from dskd.runtime.store import Store

PRODUCT = "bracket"


class Plant:
    """A publisher with a key, a folder that is served, and a device that trusts the key."""

    def __init__(self, folder: Path) -> None:
        private, _ = make_key(folder / "keys", "plant")
        self.key = load_private(private)
        self.trusted = load_trusted(folder / "keys")
        self.folder, self.host, self.device = folder, folder / "host", folder / "device"

    def publish(self, bundle: Bundle, version: int, floor: int = 0) -> Statement:
        return publish(bundle, PRODUCT, version, floor, self.host, self.key)

    def slots(self, disk: Disk | None = None, **more: Any) -> Slots:
        return Slots(self.device, PRODUCT, self.trusted, disk, **more)

    def updater(self, disk: Disk | None = None, **more: Any) -> Updater:
        return Updater(self.slots(disk), Fetcher(self.host.as_uri(), pause=lambda _: None), **more)

    def raw(self) -> bytes:
        return (self.host / f"{PRODUCT}.update").read_bytes()

    def replace_archive(self, statement: Statement, make: Callable[[tarfile.TarFile], None]) -> None:
        """An archive that is signed and still wrong, as from a publisher whose machine was taken over."""
        archive = self.host / statement.archive
        with tarfile.open(archive, "w") as tar:
            make(tar)
        fields = {"archive_bytes": archive.stat().st_size, "archive_sha256": file_sha256(archive)}
        changed = statement.model_copy(update=fields)
        (self.host / f"{PRODUCT}.update").write_bytes(sign(changed, self.key))


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Bundle]:
    """Three good bundles, then one that is wrong on its golden frames."""
    folder = tmp_path_factory.mktemp("bundles")
    made = [tiny_bundle(folder / f"{k}", shift=k / 100) for k in range(3)]
    return [*made, tiny_bundle(folder / "wrong", golden_error=1.0)]


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    return Plant(tmp_path)


@pytest.fixture
def serving(plant: Plant, bundles: list[Bundle]) -> Plant:
    """A device on which version 1 is confirmed."""
    plant.publish(bundles[0], 1)
    plant.updater().run()
    plant.slots().confirm()
    return plant


# -------------------------------------------------------------------------------------------------------------- believed


def statement(**more: Any) -> Statement:
    fields = {
        "product": PRODUCT, "version": 3, "bundle": "b", "manifest_sha256": "0" * 64, "archive": "b.tar",
        "archive_bytes": 1, "archive_sha256": "1" * 64, "unpacked_bytes": 1, "files": 1,
    }  # fmt: skip
    return Statement(**{**fields, **more})


def test_what_a_trusted_key_signed_is_believed(plant: Plant) -> None:
    assert open_envelope(sign(statement(), plant.key), plant.trusted, PRODUCT) == statement()


def test_unsigned_strange_and_foreign_statements_are_refused(plant: Plant, tmp_path: Path) -> None:
    other = load_private(make_key(tmp_path / "others", "other")[0])
    unsigned = json.dumps({"statement": statement().model_dump_json(), "signatures": {}}).encode()
    huge = sign(statement(bundle="b" * 200), plant.key) + b" " * (1 << 16)
    for raw, reason in {
        unsigned: "is not signed",
        sign(statement(), other): "does not trust",
        sign(statement(product="other"), plant.key): "is for other",
        b"nonsense": "cannot be read",
        b"{}": "cannot be read",
        huge: "more than",
    }.items():
        with pytest.raises(Refused, match=reason):
            open_envelope(raw, plant.trusted, PRODUCT)


def test_a_signature_for_something_else_is_worth_nothing_here(plant: Plant) -> None:
    text = statement().model_dump_json()
    identity = next(iter(plant.trusted))
    bare = base64.b64encode(plant.key.sign(text.encode())).decode()
    raw = json.dumps({"statement": text, "signatures": {identity: bare}}).encode()
    with pytest.raises(Refused, match="altered"):
        open_envelope(raw, plant.trusted, PRODUCT)


@settings(max_examples=cases(150), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_altered_byte_is_believed(plant: Plant, data: st.DataObject) -> None:
    """Whatever still opens says the same."""
    raw = bytearray(sign(statement(), plant.key))
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with suppress(Refused):
        assert open_envelope(bytes(raw), plant.trusted, PRODUCT) == statement()


def test_either_of_two_keys_is_enough_while_keys_change(plant: Plant, tmp_path: Path) -> None:
    new = load_private(make_key(tmp_path / "new", "new")[0])
    raw = sign(statement(), plant.key, new)
    assert open_envelope(raw, plant.trusted, PRODUCT)
    assert open_envelope(raw, load_trusted(tmp_path / "new"), PRODUCT)


def test_keys_are_private_and_never_overwritten(tmp_path: Path) -> None:
    private, _ = make_key(tmp_path, "k")
    assert private.stat().st_mode & 0o777 == 0o600
    with pytest.raises(CallError, match="exists"):
        make_key(tmp_path, "k")
    (tmp_path / "bad.pub").write_text("nonsense")
    with pytest.raises(CallError, match=r"bad\.pub: is no public key"):
        load_trusted(tmp_path)
    with pytest.raises(CallError, match=r"holds no \*\.pub"):
        load_trusted(tmp_path / "nowhere")


# ------------------------------------------------------------------------------------------------------- a way through


def test_an_update_is_tried_confirmed_and_rolled_back(serving: Plant, bundles: list[Bundle]) -> None:
    slots = serving.slots()
    assert serving.updater().run().action == "up to date"
    serving.publish(bundles[1], 2)
    assert serving.updater().run().action == "switched"
    assert serving.updater().run().action == "on trial"
    start = slots.boot()
    assert (start.version, start.on_trial, start.bundle.id) == (2, True, bundles[1].id)
    assert slots.current.resolve() == slots.bundle_folder(start.slot).resolve()
    slots.roll_back("the line says no")
    start = slots.boot()
    assert (start.version, start.bundle.id) == (1, bundles[0].id)
    with pytest.raises(Refused, match="refused before: the line says no"):
        serving.updater().run()
    serving.publish(bundles[2], 3)
    serving.updater().run()
    slots.confirm()
    assert slots.boot().version == 3
    assert slots.read().refused == {}
    assert not list((serving.device / "download").iterdir()), "archives are not kept"


def test_a_bundle_that_dies_three_times_gives_way(serving: Plant, bundles: list[Bundle]) -> None:
    serving.publish(bundles[1], 2)
    serving.updater().run()
    slots = serving.slots()
    assert [slots.boot().version for _ in range(4)] == [2, 2, 2, 1]
    assert "3 times" in slots.read().refused["2"]


def test_a_bundle_that_is_wrong_here_is_never_started(serving: Plant, bundles: list[Bundle]) -> None:
    serving.publish(bundles[3], 2)
    with pytest.raises(Refused, match="golden"):
        serving.updater().run()
    assert serving.slots().boot().version == 1
    assert "golden" in serving.slots().read().refused["2"]


def test_the_first_bundle_of_a_device_has_nothing_to_go_back_to(plant: Plant, bundles: list[Bundle]) -> None:
    with pytest.raises(CallError, match="no bundle is installed"):
        plant.slots().boot()
    plant.publish(bundles[0], 1)
    plant.updater().run()
    plant.slots().roll_back("no")
    with pytest.raises(CallError, match="no bundle is installed"):
        plant.slots().boot()


def test_replay_downgrade_and_floor(serving: Plant, bundles: list[Bundle]) -> None:
    old = serving.raw()
    serving.publish(bundles[1], 5, floor=4)
    serving.updater().run()
    serving.slots().confirm()
    with pytest.raises(Refused, match="older than the floor 4"):
        serving.updater().run(old)
    serving.publish(bundles[2], 4)
    with pytest.raises(Refused, match="older than 5"):
        serving.updater().run()
    assert serving.slots().boot().version == 5


# --------------------------------------------------------------------------------------------------------- what is unpacked


def add(tar: tarfile.TarFile, name: str, data: bytes = b"x", kind: bytes = tarfile.REGTYPE, link: str = "") -> None:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, link, len(data) if kind == tarfile.REGTYPE else 0
    tar.addfile(member, io.BytesIO(data))


def honest(bundle: Bundle, tar: tarfile.TarFile) -> None:
    for name in ("manifest.yaml", *sorted(bundle.manifest.files)):
        add(tar, name, (bundle.path / name).read_bytes())


EVIL: dict[str, Callable[[tarfile.TarFile], None]] = {
    "up": lambda tar: add(tar, "../evil"),
    "up from below": lambda tar: add(tar, "golden/../../evil"),
    "absolute": lambda tar: add(tar, "/tmp/dskd-evil"),
    "link": lambda tar: add(tar, "golden/link", kind=tarfile.SYMTYPE, link="/etc"),
    "hard link": lambda tar: add(tar, "hard", kind=tarfile.LNKTYPE, link="../../state.json"),
    "device": lambda tar: add(tar, "device", kind=tarfile.CHRTYPE),
    "pipe": lambda tar: add(tar, "pipe", kind=tarfile.FIFOTYPE),
    "engine": lambda tar: add(tar, "engines/model.fp16.plan"),
    "twice": lambda tar: add(tar, "model.onnx"),
    "hidden": lambda tar: add(tar, ".hidden"),
    "not in the manifest": lambda tar: add(tar, "extra"),
    "line break": lambda tar: add(tar, "a\nb"),
    "empty": lambda tar: add(tar, ""),
    "dot": lambda tar: add(tar, "./model2.onnx"),
    "deep": lambda tar: add(tar, "/".join("a" * 20)),
}


@pytest.mark.parametrize("name", EVIL)
@pytest.mark.parametrize("first", [True, False])
def test_an_evil_archive_is_refused_though_it_is_signed(
    serving: Plant, bundles: list[Bundle], name: str, first: bool
) -> None:
    said = serving.publish(bundles[1], 2).model_copy(update={"files": 100, "unpacked_bytes": 1 << 20})

    def make(tar: tarfile.TarFile) -> None:
        if first:
            EVIL[name](tar)
        honest(bundles[1], tar)
        if not first:
            EVIL[name](tar)

    serving.replace_archive(said, make)
    outside = {path: path.stat().st_mtime_ns for path in serving.folder.rglob("*") if "device/b" not in str(path)}
    with pytest.raises(Refused, match=r"the archive|is not in the manifest|not the one"):
        serving.updater().run()
    assert not Path("/tmp/dskd-evil").exists()
    assert not list(serving.folder.rglob("evil"))
    assert serving.slots().boot().version == 1
    grown = {path for path in serving.folder.rglob("*") if "device/b" not in str(path)} - set(outside)
    assert {path.relative_to(serving.device).parts[0] for path in grown} <= {"download", "state.json", ".lock"}


def test_more_than_was_said_is_not_unpacked(serving: Plant, bundles: list[Bundle]) -> None:
    said = serving.publish(bundles[1], 2)
    serving.replace_archive(said.model_copy(update={"unpacked_bytes": 100}), lambda tar: honest(bundles[1], tar))
    with pytest.raises(Refused, match="holds more than"):
        serving.updater().run()
    assert serving.slots().boot().version == 1


@settings(max_examples=cases(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_damaged_archive_gives_a_bundle(
    bundles: list[Bundle], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Below the signature's check, so that the unpacking stands alone."""
    folder = tmp_path_factory.mktemp("damaged")
    pack(bundles[0], folder / "b.tar")
    said = statement(
        bundle=bundles[0].id, manifest_sha256=file_sha256(bundles[0].path / "manifest.yaml"), files=50,
        unpacked_bytes=1 << 20, archive_bytes=1,
    )  # fmt: skip
    raw = bytearray((folder / "b.tar").read_bytes())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    (folder / "b.tar").write_bytes(raw[: data.draw(st.integers(0, len(raw)))])
    (folder / "out").mkdir()
    with suppress(Refused):
        assert unpack(folder / "b.tar", said, folder / "out", Disk()).id == bundles[0].id


def test_packing_gives_the_same_bytes(bundles: list[Bundle], tmp_path: Path) -> None:
    pack(bundles[0], tmp_path / "one")
    time.sleep(0.01)
    pack(bundles[0], tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


# ---------------------------------------------------------------------------------------------------------------- disk


class FullDisk(Disk):
    """A disk that takes so many bytes more."""

    def __init__(self, room: int) -> None:
        self.room = room

    @contextmanager
    def writing(self, path: Path, keep: int = 0) -> Iterator[Writer]:
        with super().writing(path, keep) as writer:
            own, disk = writer.write, self

            def write(data: bytes) -> None:
                disk.room -= len(data)
                if disk.room < 0:
                    own(data[: max(len(data) + disk.room, 0)])
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                own(data)

            writer.write = write  # type: ignore[method-assign]
            yield writer


def test_a_disk_that_fills_up_anywhere_is_told_and_harmless(serving: Plant, bundles: list[Bundle]) -> None:
    said = serving.publish(bundles[1], 2)
    for room in [*range(0, said.unpacked_bytes, said.unpacked_bytes // 11), 1, 512]:
        with pytest.raises(NoRoom, match="No space left"):
            serving.updater(FullDisk(room)).run()
        assert serving.slots().boot().version == 1
        assert serving.slots().read().refused == {}, "a full disk is no fault of the bundle"
        assert not list(serving.device.glob("b/bundle/*")), "and its room is given back to the station"
        assert not list(serving.device.glob("download/*"))
    assert serving.updater().run().action == "switched"


def test_a_real_full_disk_is_refused_before_anything_is_written(bundles: list[Bundle], tmp_path: Path) -> None:
    mount = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=8m none "$1" && shift && exec "$@"', "sh"]
    small = tmp_path / "small"
    small.mkdir()
    if shutil.which("unshare") is None or subprocess.run([*mount, small, "true"], check=False).returncode:
        pytest.skip("no user name spaces here to mount a small disk in")
    plant = Plant(tmp_path)
    plant.publish(bundles[0], 1)
    program = f"""
from pathlib import Path
from dskd.jetson.download import Fetcher
from dskd.jetson.signing import load_trusted
from dskd.jetson.slots import Slots
from dskd.jetson.update import Updater
folder = Path({str(tmp_path)!r})
Updater(Slots(folder / "small/x", "{PRODUCT}", load_trusted(folder / "keys")), Fetcher((folder / "host").as_uri())).run()
"""
    done = subprocess.run(
        [*mount, small, sys.executable, "-c", program], capture_output=True, text=True, check=False,
        cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert "NoRoom: the disk has no room" in done.stderr


# ------------------------------------------------------------------------------------------------------------ download


@pytest.fixture
def host(tmp_path: Path) -> Iterator[FileHost]:
    served = FileHost(tmp_path / "served")
    yield served
    served.close()


def fetch(source: str, folder: Path, data: bytes, **more: Any) -> bytes:
    sha = hashlib.sha256(data).hexdigest()
    fetcher = Fetcher(source, pause=lambda _: None, **more)
    return fetcher.archive("file", len(data), sha, folder, Disk()).read_bytes()


def test_a_download_goes_on_where_it_was_cut(host: FileHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = random.Random(0).randbytes(300_000)
    (host.folder / "file").write_bytes(data)
    asked: list[str] = []
    plain = host.handler.do_GET

    def halves(handler: Any) -> None:
        """Each answer breaks off after 100 kB."""
        asked.append(handler.headers.get("Range", ""))
        sent = 0
        write = handler.wfile.write

        def some(block: bytes) -> int:
            nonlocal sent
            if len(block) > 1000:
                block = block[:100_000]
            sent += len(block)
            return int(write(block))

        handler.wfile.write = some
        plain(handler)
        handler.close_connection = True

    monkeypatch.setattr(host.handler, "do_GET", halves)
    assert fetch(host.address, tmp_path / "d", data) == data
    assert asked == ["", "bytes=100000-", "bytes=200000-"]


def test_garbage_after_the_lasting_part_is_overwritten(host: FileHost, tmp_path: Path) -> None:
    """What a power cut leaves: a longer file whose tail never arrived."""
    data = random.Random(1).randbytes(50_000)
    (host.folder / "file").write_bytes(data)
    folder, sha = tmp_path / "d", hashlib.sha256(data).hexdigest()
    folder.mkdir()
    (folder / sha).write_bytes(data[:20_000] + b"\0" * 20_000)
    (folder / f"{sha}.json").write_text('{"lasting": 20000}')
    (folder / "leftover").write_text("of another update")
    assert fetch(host.address, folder, data) == data
    assert not (folder / "leftover").exists()
    (folder / sha).write_bytes(b"\0" * 50_000)
    (folder / f"{sha}.json").write_text('{"lasting": 50000}')  # a note that lies: the hash tells
    assert fetch(host.address, folder, data) == data
    (folder / f"{sha}.json").write_text("nonsense")
    assert fetch(host.address, folder, data) == data


def test_a_host_without_ranges_and_one_that_is_gone(tmp_path: Path) -> None:
    data = b"x" * 100_000
    served = tmp_path / "s"
    served.mkdir()
    (served / "file").write_bytes(data)
    handler = type(
        "Plain", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None}
    )  # knows no ranges
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0),
        lambda *a: handler(*a, directory=str(served)),  # type: ignore[arg-type]
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    folder, sha = tmp_path / "d", hashlib.sha256(data).hexdigest()
    folder.mkdir()
    (folder / sha).write_bytes(data[:70_000])
    (folder / f"{sha}.json").write_text('{"lasting": 70000}')
    assert fetch(address, folder, data) == data
    with pytest.raises(NotFetched, match="the server says 404"):
        Fetcher(address, pause=lambda _: None).small("nothing", 100)
    with pytest.raises(Refused, match="larger than 100 bytes"):
        Fetcher(address).small("file", 100)
    server.shutdown()
    server.server_close()
    with pytest.raises(NotFetched, match="cannot be reached"):
        fetch(address, tmp_path / "e", data)


def test_a_mirror_that_gives_something_else_is_no_reason_to_refuse_the_version(
    serving: Plant, bundles: list[Bundle]
) -> None:
    said = serving.publish(bundles[1], 2)
    archive = serving.host / said.archive
    right = archive.read_bytes()
    archive.write_bytes(bytes(len(right)))
    with pytest.raises(NotFetched, match="sha256 differs"):
        serving.updater().run()
    archive.write_bytes(right[:-1])
    with pytest.raises(NotFetched, match="ended early"):
        serving.updater().run()
    archive.write_bytes(right)
    assert serving.updater().run().action == "switched"


def test_https_with_a_certificate_that_is_trusted_or_not(tmp_path: Path) -> None:
    certificate = self_signed(tmp_path)
    host = FileHost(tmp_path / "served")
    data = b"secret" * 1000
    (host.folder / "file").write_bytes(data)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    assert host._server
    host._server.socket = context.wrap_socket(host._server.socket, server_side=True)
    source = f"https://localhost:{host.port}/"
    try:
        assert fetch(source, tmp_path / "d", data, ca_file=certificate) == data
        with pytest.raises(NotFetched, match="certificate verify failed"):
            fetch(source, tmp_path / "e", data)
    finally:
        host.close()


def self_signed(folder: Path) -> Path:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(timezone.utc)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file = folder / "certificate.pem"
    file.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return file


@pytest.mark.parametrize(
    "source", ["http://host/x", "ftp://host/x", "https://", "file://x", "nonsense", "https://me:secret@host/x"]
)
def test_sources_that_are_none(source: str) -> None:
    with pytest.raises(CallError) as caught:
        check_source(source)
    assert "secret" not in str(caught.value)


# --------------------------------------------------------------------------------------------------------------- slots


def test_damage_at_rest_is_found_and_the_older_bundle_serves(serving: Plant, bundles: list[Bundle]) -> None:
    serving.publish(bundles[1], 2)
    serving.updater().run()
    slots = serving.slots()
    slots.confirm()
    (slots.bundle_folder("b") / "model.onnx").write_bytes(b"bit rot")
    start = slots.boot()
    assert (start.version, start.on_trial) == (1, False)
    assert "not the one that was signed" in start.rolled_back
    assert slots.boot().version == 1
    assert serving.updater().run().action == "switched", "the newer one is brought again"
    (slots.bundle_folder("a") / "model.onnx").write_bytes(b"bit rot")
    slots.confirm()
    (slots.bundle_folder("b") / "model.onnx").write_bytes(b"bit rot")
    with pytest.raises(DskdError, match="no slot can serve"):
        slots.boot()


def test_a_state_that_is_lost_is_found_again(serving: Plant, bundles: list[Bundle]) -> None:
    serving.publish(bundles[1], 2, floor=1)
    serving.updater().run()
    serving.slots().confirm()
    (serving.device / "state.json").write_text("{")
    state = serving.slots().read()
    assert (state.version, state.floor) == (2, 1)
    assert serving.slots().boot().version == 2


def test_an_unsigned_bundle_in_a_slot_does_not_start(serving: Plant) -> None:
    (serving.device / "a/update.json").unlink()
    with pytest.raises(DskdError, match="no slot can serve"):
        serving.slots().boot()


def test_only_one_updates_at_a_time(serving: Plant, bundles: list[Bundle]) -> None:
    serving.publish(bundles[1], 2)
    inside, go_on = threading.Event(), threading.Event()

    def build(_: Bundle) -> None:
        inside.set()
        go_on.wait(30)

    thread = threading.Thread(target=lambda: serving.updater(build=build).run())
    thread.start()
    assert inside.wait(30)
    with pytest.raises(CallError, match="another process"):
        serving.updater().run()
    assert serving.slots().boot().version == 1, "a station may start in the meantime"
    go_on.set()
    thread.join()
    assert serving.slots().boot().version == 2


def test_an_engine_that_cannot_be_built_is_tried_again(serving: Plant, bundles: list[Bundle]) -> None:
    """The real command, on a machine without a GPU: the old bundle serves on, the new one is not refused."""
    serving.publish(bundles[1], 2)
    with pytest.raises(DskdError, match="engine was not built"):
        serving.updater(build=builder("fp16")).run()
    assert serving.slots().boot().version == 1
    assert serving.slots().read().refused == {}
    archive = serving.host / f"{PRODUCT}-2.tar"
    archive.unlink()  # unpacked already: nothing is fetched again
    assert serving.updater().run().action == "switched"


# ------------------------------------------------------------------------------------------------------------ at the line


def records(bundle: str, verdicts: str) -> list[Inspection | Dropped]:
    """P, J (reject) and D (dropped) in a row."""
    made: list[Inspection | Dropped] = []
    for k, letter in enumerate(verdicts):
        if letter == "D":
            made.append(Dropped("top", str(k), 1.0, Reason.BLANK))
        else:
            verdict = Verdict.PASS if letter == "P" else Verdict.REJECT
            made.append(Inspection("top", str(k), 1.0, verdict, 0.1, 1.0, (), {}, bundle, "onnxruntime"))
    return made


@pytest.mark.parametrize(
    ("old", "new", "verdict"),
    [
        ("PPP", "", "wait"),
        ("PPP", "PPPP", "wait"),
        ("JJJJJJJJJJ", "PPPPPPPPPP", "good"),
        ("P", "JPJPJPJPJP", "good"),
        ("P", "JJJJJJ", "bad"),
        ("P", "PPPPPPPPPD", "good"),
        ("P", "DD", "bad"),
        ("PDDDD", "P", "bad"),
        ("DDDDP", "PPPPPPPPPP", "good"),
    ],
)
def test_the_first_inspections_decide(tmp_path: Path, old: str, new: str, verdict: str) -> None:
    store = Store(tmp_path / "s.db")
    store.add(records("old", old))
    store.add(records("new", new))
    store.close()
    trial = Trial(slot="b", version=2, bundle="new", since=0.0, cursor=0)
    assert judge(tmp_path / "s.db", trial, LiveLimits(inspections=10)).verdict == verdict


class Told:
    """A broker that writes down what it is told."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.news: bytes | None = None

    def tell(self, what: str, fields: dict[str, object]) -> None:
        json.dumps(fields)
        if what == "event":
            self.events.append(str(fields["event"]))

    def announced(self) -> bytes | None:
        news, self.news = self.news, None
        return news


def test_the_agent_from_nothing_to_a_roll_back(plant: Plant, bundles: list[Bundle]) -> None:
    file = plant.folder / "fleet.yaml"
    file.write_text(
        f"device: line-3\nproduct: {PRODUCT}\nsource: {plant.host.as_uri()}/\nkeys: keys\nslots: places\nstore: line.db\n"
        "live: {inspections: 4}\nevery_s: 60\nswitched: switched\n"
    )
    config, told = load_fleet_config(file), Told()
    slots, store = config.open_slots(), Store(plant.folder / "line.db")
    agent = Agent(config, slots, told, say=lambda _: None)
    plant.publish(bundles[0], 1)
    assert agent.step(now=100.0) <= 5.0
    assert (plant.folder / "switched").exists()
    store.add(records(slots.boot().bundle.id, "PPPP"))
    agent.step(now=101.0)
    assert slots.read().version == 1
    (plant.folder / "switched").unlink()
    plant.publish(bundles[1], 2)
    agent.step(now=102.0)
    assert slots.read().trial is None, "not yet due"
    told.news = plant.raw()
    agent.step(now=103.0)
    store.add(records(slots.boot().bundle.id, "JJJ"))
    (plant.folder / "switched").unlink()
    agent.step(now=104.0)
    assert slots.boot().version == 1
    assert (plant.folder / "switched").exists()
    agent.step(now=1000.0)
    assert told.events == ["switched", "confirmed", "switched", "rolled back", "refused"]
    store.close()


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("source: http://host/", "source"),
        ("nonsense: 1", "nonsense"),
        ("engine: best-of-all", "engine"),
        ("broker: {address: mqtt://me:hunter2@host}", "broker.address"),
        ("broker: {address: mqtt://host, password: hunter2}", "broker.password"),
        ("- 1", "YAML"),
    ],
)
def test_settings_that_are_wrong_are_named(tmp_path: Path, line: str, told: str) -> None:
    file = tmp_path / "fleet.yaml"
    base = "" if line.startswith("source") else "source: file:///x/\n"
    file.write_text(f"product: p\n{base}{line}\n")
    with pytest.raises(CallError, match=told) as caught:
        load_fleet_config(file)
    assert "hunter2" not in str(caught.value)


@pytest.mark.slow
def test_the_commands_from_key_to_roll_back(command: Command, bundles: list[Bundle], tmp_path: Path) -> None:
    def call(*words: object) -> str:
        done = command("jetson", *words)
        assert done.returncode == 0, done.stderr
        return str(done.stdout)

    assert "plant.pub" in call("keys", "--out", tmp_path / "keys", "--name", "plant")
    (tmp_path / "fleet.yaml").write_text(f"product: p\nsource: {(tmp_path / 'host').as_uri()}\nkeys: keys\nslots: places\nswitched: s\n")  # fmt: skip
    config = ("--config", tmp_path / "fleet.yaml")
    signed = ("--product", "p", "--key", tmp_path / "keys/plant.pem", "--out", tmp_path / "host")
    call("publish", "--bundle", bundles[0].path, "--version", 1, *signed)
    assert json.loads(call("update", "--json", *config))["action"] == "switched"
    assert "on trial" in call("slots", "boot", *config)
    assert json.loads(call("slots", "confirm", *config))["version"] == 1
    call("publish", "--bundle", bundles[1].path, "--version", 2, *signed)
    call("update", *config)
    assert "by hand" in call("slots", "roll-back", *config)
    assert json.loads(call("inventory", *config))["bundle"]["refused"] == {"2": "by hand"}
    again = command("jetson", "update", *config)
    assert (again.returncode, "refused before: by hand" in again.stderr) == (1, True)
    assert "no fleet" in call("slots", "boot", "--config", tmp_path / "none.yaml")


# --------------------------------------------------------------------------------------------------------------- drills


@pytest.mark.thorough
@pytest.mark.slow
def test_the_power_goes_at_random_points(bundles: list[Bundle], tmp_path: Path) -> None:
    """50 points; DSKD_DRILL_POINTS=200 for as many as the acceptance asks."""
    points = int(os.environ.get("DSKD_DRILL_POINTS", "50"))
    tally = run_drill(bundles[0], tmp_path, points, seed=int(os.environ.get("DSKD_DRILL_SEED", "0")))
    assert tally.failures == []
    assert tally.kills + tally.cuts == points
    assert len(tally.stages) >= 4, "the points lie in all parts of an update"
    assert set(tally.started_from) == {"version 1", "version 2"}


def test_the_drill_finds_what_is_not_synced(bundles: list[Bundle], tmp_path: Path) -> None:
    """The same update without its syncs does not survive: the drill is worth something."""
    drill, tally, chance = PowerDrill(bundles[0], tmp_path), Tally(), random.Random(0)
    before, calls = drill.record()
    for call in calls:
        if not call[0].startswith("sync"):
            before.do(call)
    for _ in range(10):
        drill.cut(before, tally, chance, len(calls))
    assert tally.failures


def test_changed_bundles_differ_and_stay_true(bundles: list[Bundle], tmp_path: Path) -> None:
    other = changed(bundles[0], tmp_path / "c")
    assert other.id != bundles[0].id


@pytest.mark.thorough
@pytest.mark.slow
def test_a_small_fleet_rolls_back_by_itself(command: Command, bundles: list[Bundle]) -> None:
    """Eight devices; ``python -m jetson fleet-sim`` takes 50."""
    if shutil.which("mosquitto") is None and shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin") is None:
        pytest.skip("mosquitto is not installed: no fleet was simulated")
    done = command("jetson", "fleet-sim", "--bundle", bundles[0].path, "--devices", 8, "--json")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert (figures["confirmed"], figures["rolled_back"], figures["inspections_lost"]) == (8, 8, 0)
    assert figures["restarts"] == ["file host", "broker"] * 2
