"""Who may look and who may change: token, sessions, other sites, addresses."""

from __future__ import annotations

import errno
import os
import stat
import time
from pathlib import Path

import httpx
import pytest

from dskd.runtime.atomic import write_new
from dskd.runtime.errors import DskdError
from dskd.runtime.web.archive import Archive
from dskd.runtime.web.auth import (
    MOST_ADDRESSES,
    MOST_SESSIONS,
    ONE_TIME_SECONDS,
    Authenticator,
    Guesses,
    TooManyGuesses,
    clean_name,
)
from dskd.runtime.web.server import WebOptions, WebServer
from dskd.runtime.web.token import Token, load_token

from .conftest import Served

BODIES = {
    "thresholds": {"review": 1.0, "reject": 2.0},
    "recipe": {"recipe": "standard"},
    "trigger": {},
    "label": {"found": "good"},
    "rejudge": {},
    "clock": {},
    "sign-in-link": {},
}


def filled(path: str, served: Served) -> str:
    return path.replace("{camera}", "top").replace("{id}", str(served.rejected)).replace("{name}", "app.js")


def changing(served: Served) -> list[tuple[str, dict]]:
    routes = [e for e in served.server.endpoints if e.changes]
    assert {e.path.rsplit("/", 1)[-1] for e in routes} == set(BODIES)
    return [(filled(e.path, served), BODIES[e.path.rsplit("/", 1)[-1]]) for e in routes]


def test_nothing_changes_without_the_token(served: Served) -> None:
    before = served.station.inspectors["top"].settings, served.station.store.newest()
    addresses = iter(f"127.0.0.{k}" for k in range(2, 200))
    for path, body in changing(served):
        wrong = [
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": f"Basic {served.token}"},
            {"authorization": f"Bearer {served.token[:-1]}"},
            {"authorization": "Bearer x y"},
            {"cookie": f"{served.server._state.cookie}=made-up"},
        ]
        for headers in wrong:
            transport = httpx.HTTPTransport(local_address=next(addresses))
            with httpx.Client(base_url=served.url, transport=transport, timeout=20) as other:
                answer = other.post(path, json=body, headers=headers)
            assert answer.status_code == 401, (path, headers, answer.text)
    assert (served.station.inspectors["top"].settings, served.station.store.newest()) == before


def test_every_changing_route_works_with_the_token(served: Served, client: httpx.Client) -> None:
    kept = served.station.inspectors["top"].settings
    for path, body in changing(served):
        answer = client.post(path, json=body, headers=served.bearer)
        assert answer.status_code in (200, 202), answer.text
    assert served.station.inspectors["top"].settings.reject == 2.0
    actions = [entry["action"] for entry in client.get("/api/audit").json()["entries"]]
    assert {"thresholds", "recipe", "label"} <= set(actions)
    assert client.get("/api/audit").json()["entries"][0]["who"].startswith("Ada (127.0.0.1)")
    served.station.inspectors["top"].settings = kept


def test_a_label_means_what_the_verdict_was(served: Served, client: httpx.Client) -> None:
    expected = {
        (served.rejected, "good"): "false alarm",
        (served.rejected, "defect"): "confirmed defect",
        (served.passed, "good"): "confirmed good",
        (served.passed, "defect"): "missed defect",
    }
    for (record, found), label in expected.items():
        answer = client.post(f"/api/inspections/{record}/label", json={"found": found}, headers=served.bearer)
        assert answer.json() == {"label": label}
        assert client.get(f"/api/inspections/{record}").json()["label"] == label


def test_judging_again_stores_nothing(served: Served, client: httpx.Client) -> None:
    before = served.station.store.newest()
    path = f"/api/inspections/{served.rejected}"
    again = client.post(f"{path}/rejudge", json={}, headers=served.bearer).json()
    assert again["inspection"]["score"] == pytest.approx(client.get(path).json()["score"], abs=1e-4)
    assert again["heat"].startswith("data:image/png")
    assert served.station.store.newest() == before


def test_a_session_looks_changes_and_ends(served: Served) -> None:
    with served.client() as browser:
        answer = browser.post("/api/sign-in", json={"token": served.token, "name": "Grace\n\tHopper <b>"})
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert served.token not in answer.text + cookie
        assert browser.get("/api/state").json()["person"] == "Grace Hopper <b>"
        assert browser.post("/api/cameras/top/trigger", json={}).status_code == 202
        browser.post("/api/sign-out", json={})
        assert browser.get("/api/state").json()["person"] is None
        assert browser.post("/api/cameras/top/trigger", json={}).status_code == 401


def test_other_sites_can_neither_read_nor_change(served: Served, client: httpx.Client) -> None:
    path, body = "/api/cameras/top/trigger", {}
    evil = {**served.bearer, "origin": "http://evil.example"}
    assert client.post(path, json=body, headers=evil).status_code == 403
    other_port = {**served.bearer, "origin": "http://127.0.0.1:9"}  # the same site to a cookie
    assert client.post(path, json=body, headers=other_port).status_code == 403
    own = {**served.bearer, "origin": served.url}
    assert client.post(path, json=body, headers=own).status_code == 202
    form = client.post(path, data={"part": "x"}, headers=served.bearer)
    assert form.status_code == 415
    plain = client.post(path, content="{}", headers={**served.bearer, "content-type": "text/plain"})
    assert plain.status_code == 415
    assert (
        "access-control-allow-origin" not in client.get("/api/state", headers={"origin": "http://evil.example"}).headers
    )
    assert client.get("/api/state", headers={"host": "rebound.example"}).status_code == 421
    assert client.get("/api/state", headers={"host": "localhost:99"}).status_code == 200


def test_guessing_is_slowed_and_does_not_lock_others_out(served: Served) -> None:
    transport = httpx.HTTPTransport(local_address="127.0.0.250")
    with httpx.Client(base_url=served.url, transport=transport, timeout=20) as guesser, served.client() as operator:
        codes = [guesser.post("/api/sign-in", json={"token": f"guess {k}", "name": "x"}).status_code for k in range(7)]
        assert codes == [401] * 5 + [429] * 2
        assert guesser.post("/api/cameras/top/trigger", json={}, headers=served.bearer).status_code == 429
        assert int(guesser.post("/api/sign-in", json={"token": served.token, "name": "x"}).headers["retry-after"]) > 1
        assert guesser.get("/api/state").status_code == 200
        assert operator.post("/api/cameras/top/trigger", json={}, headers=served.bearer).status_code == 202


def test_the_token_file_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "data" / "token"
    load_token(file)
    word = file.read_text().strip()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(word.replace("-", "")) == 20
    assert load_token(file).matches(word)
    assert not load_token(file).matches(word.upper())


def test_the_token_files_name_appears_with_the_word_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "token"

    def power_cut(handle: int) -> None:
        assert not file.exists()
        raise OSError(errno.EIO, "no power")

    monkeypatch.setattr(os, "fsync", power_cut)
    with pytest.raises(DskdError, match="no power"):
        load_token(file)
    assert list(tmp_path.iterdir()) == []


def test_a_token_is_made_where_there_are_no_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(source: object, target: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    file = tmp_path / "token"
    word = load_token(file)
    assert word.matches(file.read_text().strip())
    assert [path.name for path in tmp_path.iterdir()] == ["token"]
    with pytest.raises(FileExistsError):
        write_new(file, b"another", 0o600)
    assert word.matches(file.read_text().strip())
    assert [path.name for path in tmp_path.iterdir()] == ["token"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_token_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "token"
    load_token(file)
    file.chmod(mode)
    with pytest.raises(DskdError, match="chmod 600"):
        load_token(file)


def test_bad_token_files(tmp_path: Path) -> None:
    short = tmp_path / "short"
    short.touch(0o600)
    with pytest.raises(DskdError, match="too short"):
        load_token(short)
    (tmp_path / "folder").mkdir(0o700)
    with pytest.raises(DskdError, match="token file"):
        load_token(tmp_path / "folder")
    target = tmp_path / "target"
    load_token(target)
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(DskdError, match="token file"):
        load_token(tmp_path / "link")
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(DskdError, match="regular"):
        load_token(tmp_path / "pipe")


def test_beyond_loopback_looking_needs_the_token_too(served: Served, tmp_path: Path) -> None:
    archive = Archive(served.station.archive)
    server = WebServer(WebOptions("0.0.0.0:0", tmp_path / "token"), served.station, served.station.store, archive)
    server.start()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{server.address[1]}", timeout=20) as client:
            for endpoint in server.endpoints:
                if endpoint.method == "GET":
                    code = client.get(filled(endpoint.path, served)).status_code
                    assert (code == 401) == (not endpoint.open), endpoint.path
            token = (tmp_path / "token").read_text().strip()
            assert client.get("/api/state", headers={"authorization": f"Bearer {token}"}).status_code == 200
            assert client.get("/healthz", headers={"host": "station-7.plant.example"}).status_code == 200
    finally:
        server.stop()


def test_without_a_usable_token_nothing_listens(served: Served, tmp_path: Path) -> None:
    file = tmp_path / "token"
    load_token(file)
    file.chmod(0o644)
    with pytest.raises(DskdError, match="chmod 600"):
        WebServer(WebOptions("0.0.0.0:0", file), served.station, served.station.store, None)


@pytest.mark.parametrize("listen", ["localhost:8080", "127.0.0.1", "127.0.0.1:70000", "127.0.0.1:x", ":80", "[::1:80"])
def test_addresses_that_are_none(served: Served, tmp_path: Path, listen: str) -> None:
    with pytest.raises(DskdError, match=r"web\.listen"):
        WebServer(WebOptions(listen, tmp_path / "token"), served.station, served.station.store, None)


def test_an_address_that_is_taken(served: Served, tmp_path: Path) -> None:
    taken = "{}:{}".format(*served.server.address)
    with pytest.raises(DskdError, match="cannot listen"):
        WebServer(WebOptions(taken, tmp_path / "token"), served.station, served.station.store, None)


def test_memory_for_sessions_and_guesses_is_bounded() -> None:
    door = Authenticator(Token("a long enough token"), viewing_is_free=True)
    sessions = [door.sign_in("a long enough token", "x", "address") for _ in range(MOST_SESSIONS + 5)]
    assert door.person(None, sessions[0], "", "") is None
    assert door.person(None, sessions[-1], "", "") is not None
    guesses = Guesses()
    for k in range(MOST_ADDRESSES + 50):
        guesses.wrong(f"address {k}")
    assert len(guesses._wrong) == MOST_ADDRESSES
    for _ in range(5):
        guesses.wrong("one")
    with pytest.raises(TooManyGuesses):
        guesses.check("one")
    guesses.check("another")


def test_a_one_time_code_signs_in_once_and_is_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    door = Authenticator(Token("a long enough token"), viewing_is_free=True)
    code = door.one_time_code()
    assert door.person(code, None, "", "address") is None  # no bearer token
    assert door.sign_in(code + "x", "x", "address") is None
    assert door.sign_in(code, "Ada", "address")
    assert door.sign_in(code, "Ada", "address") is None
    older, newer = door.one_time_code(), door.one_time_code()
    assert door.sign_in(older, "x", "another") is None
    late = time.monotonic() + ONE_TIME_SECONDS + 1
    monkeypatch.setattr(time, "monotonic", lambda: late)
    assert door.sign_in(newer, "x", "another") is None


def test_the_link_holds_a_code_that_signs_in(served: Served) -> None:
    address, _, code = served.server.sign_in_link().partition("#sign-in=")
    assert address == served.url.rstrip("/") + "/"
    with httpx.Client(base_url=served.url, headers={"origin": served.url.rstrip("/")}) as client:
        answer = client.post("/api/sign-in", json={"token": code, "name": "Ada"})
        assert answer.status_code == 200, answer.text
        assert client.post("/api/sign-in", json={"token": code, "name": "Ada"}).status_code == 401


def test_names_are_made_fit_for_the_log() -> None:
    assert clean_name("  Ada \x1b[31m\n Lovelace\u202e ") == "Ada [31m Lovelace"
    assert len(clean_name("x" * 500)) == 40
    assert clean_name("\n\t") == "somebody"
