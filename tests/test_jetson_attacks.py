"""Updates under attack: whoever can publish, serve slowly, hold back, steal a key or plant a link."""

from __future__ import annotations

import io
import os
import socket
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tiny_bundle import tiny_bundle

from dskd.jetson import agent as agent_module
from dskd.jetson import transfer
from dskd.jetson.agent import Agent
from dskd.jetson.download import Fetcher, NotFetched
from dskd.jetson.engine_builder import NotNow
from dskd.jetson.fleet_config import load_fleet_config
from dskd.jetson.publish import publish, refresh
from dskd.jetson.signing import Refused, load_private, load_trusted, make_key, open_envelope, sign
from dskd.jetson.slots import Slots
from dskd.jetson.update import Updater
from dskd.runtime.bundle.loading import Bundle, file_sha256
from dskd.runtime.errors import CallError, DskdError, NotExact
from dskd.runtime.result import Inspection, Verdict
from dskd.runtime.store import Store

PRODUCT = "bracket"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Bundle]:
    folder = tmp_path_factory.mktemp("bundles")
    return [tiny_bundle(folder / f"{k}", shift=k / 100) for k in range(3)]


class Plant:
    """Two publishers, a served folder, and a device that believes the first."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.host, self.device = folder, folder / "host", folder / "device"
        self.keys = {}
        for name in ("old", "new"):
            make_key(folder / name, name)
            self.keys[name] = load_private(folder / name / f"{name}.pem")
        self.trusted = load_trusted(folder / "old")
        self.proof: Callable[[Bundle], None] = lambda bundle: None

    def publish(self, bundle: Bundle, version: int, *by: str, floor: int = 0, **more: Any) -> bytes:
        publish(bundle, PRODUCT, version, floor, self.host, *[self.keys[name] for name in by or ("old",)], **more)
        return (self.host / f"{PRODUCT}.update").read_bytes()

    def slots(self, **more: Any) -> Slots:
        return Slots(self.device, PRODUCT, self.trusted, proof=lambda bundle: self.proof(bundle), **more)

    def update(self, raw: bytes | None = None, **more: Any) -> str:
        slots = self.slots(**more)
        return Updater(slots, Fetcher(self.host.as_uri(), pause=lambda _: None)).run(raw).action


@pytest.fixture
def plant(tmp_path: Path, bundles: list[Bundle]) -> Plant:
    """Version 1 is confirmed."""
    made = Plant(tmp_path)
    made.publish(bundles[0], 1)
    made.update()
    made.slots().confirm()
    return made


# ------------------------------------------------------------------------------------------------------- announcements


class Broker:
    """Anybody's announcements."""

    def __init__(self) -> None:
        self.raw: bytes | None = None
        self.said: list[str] = []

    def tell(self, what: str, fields: dict[str, object]) -> None:
        self.said.append(f"{fields.get('event')}: {fields.get('detail')}")

    def announced(self) -> bytes | None:
        raw, self.raw = self.raw, None
        return raw


def agent_of(plant: Plant, broker: Broker, store: Path | None = None) -> Agent:
    file = plant.folder / "fleet.yaml"
    lines = [f"product: {PRODUCT}", f"source: {plant.host.as_uri()}", "keys: old", "slots: slots", "every_s: 900"]
    lines += [f"switched: {plant.folder}/switched"] + ([f"store: {store}"] if store else [])
    file.write_text("\n".join(lines))
    return Agent(load_fleet_config(file), plant.slots(), broker, lambda text: None)


@pytest.mark.parametrize("what", ["garbage", "an old statement", "unsigned"])
def test_announcements_never_move_the_next_look_at_the_source(what: str, plant: Plant, bundles: list[Bundle]) -> None:
    old = (plant.host / f"{PRODUCT}.update").read_bytes()
    broker = Broker()
    agent = agent_of(plant, broker)
    agent.step(0.0)
    plant.publish(bundles[1], 2)
    for minute in range(1, 16):
        broker.raw = {"garbage": b"\x00garbage", "an old statement": old, "unsigned": b'{"statement": "{}"}'}[what]
        agent.step(60.0 * minute)
    assert plant.slots().read().trial is not None


def test_a_true_announcement_is_taken_at_once(plant: Plant, bundles: list[Bundle]) -> None:
    broker = Broker()
    agent = agent_of(plant, broker)
    agent.step(0.0)
    broker.raw = plant.publish(bundles[1], 2)
    agent.step(1.0)
    assert plant.slots().read().trial is not None


# -------------------------------------------------------------------------------------------------------- what is final


def failing(error: Exception) -> Callable[[Bundle], None]:
    def proof(bundle: Bundle) -> None:
        raise error

    return proof


@pytest.mark.parametrize(
    "error", [DskdError("onnxruntime cannot load it (std::bad_alloc)"), MemoryError(), DskdError("busy")]
)
def test_a_shortage_refuses_no_version(error: Exception, plant: Plant, bundles: list[Bundle]) -> None:
    plant.publish(bundles[1], 2)
    plant.proof = failing(error)
    with pytest.raises(NotNow):
        plant.update()
    plant.proof = lambda bundle: None
    assert plant.update() == "switched"


def test_a_measured_disagreement_refuses_a_version_until_a_person_allows_it(
    plant: Plant, bundles: list[Bundle]
) -> None:
    plant.publish(bundles[1], 2)
    plant.proof = failing(NotExact("a score is off"))
    with pytest.raises(Refused, match="golden check"):
        plant.update()
    plant.proof = lambda bundle: None
    with pytest.raises(Refused, match="before"):
        plant.update()
    plant.slots().allow(2)
    assert plant.update() == "switched"


def test_a_shortage_at_a_start_ends_no_trial(plant: Plant, bundles: list[Bundle]) -> None:
    plant.publish(bundles[1], 2)
    plant.update()
    for _ in range(5):
        calls = [DskdError("no memory"), None]

        def proof(bundle: Bundle, calls: list[DskdError | None] = calls) -> None:
            if (error := calls.pop(0)) is not None:
                raise error

        plant.proof = proof
        start = plant.slots().boot()
        assert (start.version, start.on_trial) == (1, False)
    plant.proof = lambda bundle: None
    assert plant.slots().boot().version == 2


def test_a_line_of_few_parts_a_day_confirms_a_version(plant: Plant, bundles: list[Bundle]) -> None:
    file = plant.folder / "store.db"
    store = Store(file)
    plant.publish(bundles[1], 2)
    plant.update()
    for day in range(1, 8):
        assert plant.slots().boot().version == 2, day
        agent = agent_of(plant, Broker(), file)
        agent.step(0.0)
        found = Inspection("top", "f", time.time(), Verdict.PASS, 0.1, 1.0, (), {}, bundles[1].id, "x")
        store.add([found] * 10)
        agent.step(60.0)
        if plant.slots().read().trial is None:
            break
    store.close()
    assert plant.slots().read().version == 2


def test_a_version_that_inspects_nothing_is_rolled_back_after_three_starts(plant: Plant, bundles: list[Bundle]) -> None:
    Store(plant.folder / "store.db").close()
    plant.publish(bundles[1], 2)
    plant.update()
    for _ in range(3):
        assert plant.slots().boot().version == 2
        agent_of(plant, Broker(), plant.folder / "store.db").step(0.0)
    assert plant.slots().boot().version == 1


# -------------------------------------------------------------------------------------------------------- slow servers


@contextmanager
def serving(say: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server that does ``say`` with each connection."""
    listener = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            try:
                link, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=attempt, args=(link,), daemon=True).start()

    def attempt(link: socket.socket) -> None:
        with link:
            try:
                link.recv(4096)
                say(link)
                stop.wait(30)
            except OSError:
                pass

    threading.Thread(target=run, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        stop.set()
        listener.close()


def drip(link: socket.socket, text: bytes, pause: float = 0.005) -> None:
    for k in range(len(text)):
        link.sendall(text[k : k + 1])
        time.sleep(pause)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"
SLOW: dict[str, Callable[[socket.socket], None]] = {
    "says nothing": lambda link: None,
    "head by bytes": lambda link: drip(link, b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 10_000),
    "body by bytes": lambda link: (link.sendall(HEAD), drip(link, b"x" * 100_000))[0],
    "body stops": lambda link: link.sendall(HEAD + b"x" * 100),
}


@pytest.mark.parametrize("how", SLOW)
@pytest.mark.parametrize("what", ["small", "archive"])
def test_a_slow_server_is_left(how: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "ANSWER", 0.3)
    monkeypatch.setattr(transfer, "WINDOW", 0.3)
    from dskd.jetson.disk import Disk

    with serving(SLOW[how]) as port:
        fetcher = Fetcher(f"http://127.0.0.1:{port}/x/", pause=lambda _: None)
        ask = {
            "small": partial(fetcher.small, "a.update", 1 << 16),
            "archive": partial(fetcher.archive, "a.tar", 1_000_000, "0" * 64, tmp_path / "d", Disk()),
        }[what]
        began = time.monotonic()
        with pytest.raises(NotFetched, match=r"no answer within|under .* KB|silent|timed out"):
            ask()
        assert time.monotonic() - began < 25


@pytest.mark.parametrize("how", SLOW)
def test_a_signal_ends_a_transfer_at_once(how: str, plant: Plant) -> None:
    entered = threading.Event()

    def say(link: socket.socket) -> None:
        entered.set()
        SLOW[how](link)

    with serving(say) as port:
        agent = agent_of(plant, Broker())
        agent.updater.fetcher = Fetcher(f"http://127.0.0.1:{port}/x/", pause=lambda _: None)
        thread = threading.Thread(target=agent.step, args=(0.0,))
        thread.start()
        assert entered.wait(20)
        agent.stop()
        thread.join(10)
        assert not thread.is_alive()


def test_no_proxy_of_the_environment_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = threading.Event()
    with (
        serving(lambda link: asked.set()) as proxy,
        serving(lambda link: link.sendall(b"HTTP/1.1 404 No\r\n\r\n")) as port,
    ):
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy}")
        with pytest.raises(NotFetched, match="404"):
            Fetcher(f"http://127.0.0.1:{port}/x/").small("a", 10)
    assert not asked.is_set()


# ------------------------------------------------------------------------------------------------------- keys and time


def test_after_a_change_of_keys_what_serves_serves_on_and_a_roll_back_works(
    plant: Plant, bundles: list[Bundle]
) -> None:
    plant.slots().boot()
    plant.trusted = load_trusted(plant.folder / "new")  # the old one is gone
    assert plant.slots().boot().version == 1
    with pytest.raises(Refused, match="does not trust"):
        plant.update(plant.publish(bundles[1], 2, "old"))
    plant.publish(bundles[1], 2, "new")
    assert plant.update() == "switched"
    plant.slots().roll_back("by hand")
    assert plant.slots().boot().version == 1


def test_a_bundle_that_nobody_trusted_ever_never_serves(plant: Plant, bundles: list[Bundle]) -> None:
    other = Plant(plant.folder / "elsewhere")
    other.publish(bundles[1], 1)
    other.update()
    (plant.device / "a" / "update.json").write_bytes((other.device / "a" / "update.json").read_bytes())
    with pytest.raises(DskdError, match="does not trust"):
        plant.slots().boot()


def test_one_stolen_key_of_two_signs_nothing(plant: Plant, bundles: list[Bundle]) -> None:
    plant.trusted |= load_trusted(plant.folder / "new")
    with pytest.raises(Refused, match="1 of the 2"):
        plant.update(plant.publish(bundles[1], 2, "old"), threshold=2)
    plant.publish(bundles[1], 2, "old", "new")
    assert plant.update(threshold=2) == "switched"


def test_a_lost_state_brings_no_old_version_back(plant: Plant, bundles: list[Bundle]) -> None:
    first = (plant.host / f"{PRODUCT}.update").read_bytes()
    plant.publish(bundles[1], 3, floor=3)
    plant.update()
    plant.slots().confirm()
    (plant.device / "state.json").unlink()
    with pytest.raises(Refused, match="older"):
        plant.update(first)
    assert plant.slots().boot().version == 3
    (plant.device / "state.json").unlink()
    assert plant.slots().boot().version == 3


def test_a_version_from_far_away_waits_for_a_person(plant: Plant, bundles: list[Bundle]) -> None:
    plant.publish(bundles[1], (1 << 53) - 1, floor=(1 << 53) - 1)
    with pytest.raises(Refused, match="slots allow"):
        plant.update()
    plant.publish(bundles[2], 2)
    assert plant.update() == "switched"
    plant.slots().confirm()
    plant.publish(bundles[1], 202_611_301_200)
    plant.slots().allow(202_611_301_200)
    assert plant.update() == "switched"


def test_a_statement_that_ran_out_is_told_and_signing_it_again_is_enough(plant: Plant, bundles: list[Bundle]) -> None:
    plant.publish(bundles[1], 2, days=1e-9)
    with pytest.raises(Refused, match="was valid until"):
        plant.update()
    refresh(PRODUCT, plant.host, 7.0, plant.keys["old"])
    fresh = (plant.host / f"{PRODUCT}.update").read_bytes()
    assert plant.update() == "switched"
    plant.slots().confirm()
    assert plant.update() == "up to date"
    seen = plant.slots().read().seen
    assert seen is not None
    assert abs(seen - time.time()) < 600
    refresh(PRODUCT, plant.host, 7.0, plant.keys["old"])
    assert plant.update() == "up to date"
    with pytest.raises(Refused, match="older than one"):
        plant.update(fresh)


def test_statements_without_dates_are_as_devices_of_before_know_them(plant: Plant) -> None:
    assert b"expires" not in (plant.host / f"{PRODUCT}.update").read_bytes()


def test_more_keys_than_are_read_and_keys_that_anybody_may_write_are_refused(tmp_path: Path) -> None:
    for number in range(17):
        make_key(tmp_path, f"k{number:02}")
    with pytest.raises(CallError, match="17"):
        load_trusted(tmp_path)
    (tmp_path / "k16.pub").unlink()
    assert len(load_trusted(tmp_path)) == 16
    (tmp_path / "k01.pub").chmod(0o666)
    with pytest.raises(CallError, match="everybody may write"):
        load_trusted(tmp_path)


# ---------------------------------------------------------------------------------------------------------------- links


@pytest.mark.parametrize("name", ["download", "b", "b/bundle", ".state.lock", ".lock"])
def test_no_link_in_the_slots_is_followed(name: str, plant: Plant, bundles: list[Bundle]) -> None:
    precious = plant.folder / "precious"
    (precious / "sub").mkdir(parents=True)
    (precious / "sub" / "shadow").write_text("root's")
    place = plant.device / name
    if name == ".state.lock" or name == ".lock":
        place.unlink(missing_ok=True)
        place.symlink_to(precious / "made")
    else:
        if place.is_dir():
            place.rmdir()
        place.parent.mkdir(exist_ok=True)
        place.symlink_to(precious)
    plant.publish(bundles[1], 2)
    with pytest.raises((DskdError, OSError)):
        plant.update()
    assert sorted(str(path.relative_to(precious)) for path in precious.rglob("*")) == ["sub", "sub/shadow"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be refused")
def test_root_does_not_work_in_another_users_folder(plant: Plant) -> None:
    file = plant.folder / "fleet.yaml"
    file.write_text(f"product: device\nsource: {plant.host.as_uri()}\nkeys: old\nslots: .\n")
    load_fleet_config(file).open_slots()
    os.chown(plant.device, 65534, 65534)
    with pytest.raises(CallError, match="sudo -u"):
        load_fleet_config(file).open_slots()
    assert agent_module.ALIVE > 0


def test_an_archive_with_a_file_and_a_folder_of_one_name_is_refused_for_good(
    plant: Plant, bundles: list[Bundle]
) -> None:
    plant.publish(bundles[1], 2)
    archive = plant.host / f"{PRODUCT}-2.tar"
    with tarfile.open(archive, "w") as tar:
        for name in ("golden", "golden/x.npy"):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO(b""))
    raw = (plant.host / f"{PRODUCT}.update").read_bytes()
    signed = open_envelope(raw, plant.trusted, PRODUCT)
    fields = {"archive_bytes": archive.stat().st_size, "archive_sha256": file_sha256(archive)}
    (plant.host / f"{PRODUCT}.update").write_bytes(sign(signed.model_copy(update=fields), plant.keys["old"]))
    with pytest.raises(Refused, match="both called 'golden'"):
        plant.update()
    with pytest.raises(Refused, match="refused before"):
        plant.update()
