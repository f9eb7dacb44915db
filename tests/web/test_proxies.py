"""The page behind a proxy: nginx and Caddy with TLS where they are installed, and what any proxy or stranger may say."""

from __future__ import annotations

import logging
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from certificates import Authority
from hypothesis import given
from hypothesis import strategies as st
from station_files import wait_for

from dskd.benchmarks.lab.station.drill import free_port
from dskd.runtime.web.archive import Archive
from dskd.runtime.web.server import WebOptions, WebServer
from dskd.runtime.web.visitor import Entrance, network_of, origin_of
from tests.web.conftest import Served

PROXY = "127.0.0.1"


@contextmanager
def page(served: Served, folder: Path, public_url: str | None, trusted: tuple[str, ...] = ()) -> Iterator[WebServer]:
    options = WebOptions("127.0.0.1:0", folder / "token", (), public_url, trusted)
    server = WebServer(options, served.station, served.station.store, Archive(served.station.archive))
    server.start()
    try:
        yield server
    finally:
        server.stop()


def token(folder: Path) -> str:
    return (folder / "token").read_text().strip()


# -------------------------------------------------------------------------------------------------------- real proxies

NGINX = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
  access_log off; client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  server {{
    listen 127.0.0.1:{tls} ssl; ssl_certificate {certificate}; ssl_certificate_key {key};
    set_real_ip_from 127.0.0.1; real_ip_header X-Test-Client;
    location / {{ proxy_pass http://127.0.0.1:{port}; {headers} }}
  }}
}}
"""
NGINX_HEADERS = {
    "as documented": "proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr; "
    "proxy_set_header X-Forwarded-Proto $scheme;",
    "host kept": "proxy_set_header Host $http_host; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; "
    "proxy_set_header X-Forwarded-Proto $scheme;",
    "host rewritten": "proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme;",
}
CADDY = """
{{
  admin off
  auto_https off
  storage file_system {folder}/caddy
}}
https://127.0.0.1:{tls} {{
  tls {certificate} {key}
  reverse_proxy 127.0.0.1:{port} {{
    header_up X-Forwarded-For {{header.X-Test-Client}}
  }}
}}
"""


@contextmanager
def proxy(kind: str, folder: Path, port: int, headers: str = "") -> Iterator[Callable[..., httpx.Client]]:
    """A proxy with TLS before ``port``; gives a maker of clients. The address of a client is the test's to choose."""
    program = shutil.which(kind)
    if program is None:
        pytest.skip(f"{kind} is not installed")
    authority = Authority(folder, "authority")
    certificate, key = authority.issue(PROXY)
    tls = free_port()
    text = (NGINX if kind == "nginx" else CADDY).format(
        folder=folder, tls=tls, port=port, certificate=certificate, key=key, headers=headers
    )
    file = folder / ("nginx.conf" if kind == "nginx" else "Caddyfile")
    file.write_text(text)
    words = (
        ["-c", str(file), "-p", str(folder)]
        if kind == "nginx"
        else ["run", "--adapter", "caddyfile", "--config", str(file)]
    )
    with subprocess.Popen([program, *words], stdout=subprocess.DEVNULL, stderr=(folder / "said").open("wb")) as process:
        try:
            wait_for(lambda: _listens(tls) or process.poll() is not None)
            assert process.poll() is None, (folder / "said").read_text()
            trust = ssl.create_default_context(cafile=str(authority.file))

            def client(address: str = "192.0.2.1", **more: object) -> httpx.Client:
                origin = f"https://{PROXY}:{tls}"
                return httpx.Client(
                    base_url=origin, verify=trust, timeout=20,
                    headers={"X-Test-Client": address, "Origin": origin, **more},  # type: ignore[dict-item]
                )  # fmt: skip

            yield client
        finally:
            process.terminate()
            process.wait(10)


def _listens(port: int) -> bool:
    with socket.socket() as link:
        return link.connect_ex((PROXY, port)) == 0


@contextmanager
def behind(kind: str, served: Served, folder: Path, headers: str = "") -> Iterator[Callable[..., httpx.Client]]:
    """A page whose file names its proxy, and the proxy. The public port is known only once the proxy runs."""
    with page(served, folder, None) as first:
        port = first.address[1]
    options = WebOptions(f"127.0.0.1:{port}", folder / "token", (), None, (PROXY,))
    with proxy(kind, folder, port, headers) as client:
        url = str(client().base_url)
        options = WebOptions(f"127.0.0.1:{port}", folder / "token", (), url, (PROXY,))
        server = WebServer(options, served.station, served.station.store, Archive(served.station.archive))
        server.start()
        try:
            yield client
        finally:
            server.stop()


@pytest.mark.parametrize(("kind", "headers"), [("caddy", ""), *(("nginx", text) for text in NGINX_HEADERS.values())])
def test_a_real_proxy_with_tls(kind: str, headers: str, served: Served, tmp_path: Path) -> None:
    """Sign-in, a change, a live picture, and a lock-out that hits one client alone."""
    with behind(kind, served, tmp_path, headers) as client, client("192.0.2.1") as ada, client("192.0.2.2") as eve:
        assert ada.get("/").status_code == 200
        assert ada.get("/api/state").status_code == 401, "looking through a proxy is not free"
        assert ada.get("/healthz").status_code == 200
        signed = ada.post("/api/sign-in", json={"token": token(tmp_path), "name": "Ada"})
        assert signed.status_code == 200
        assert "Secure" in signed.headers["set-cookie"]
        assert ada.get("/api/state").json()["person"] == "Ada"
        assert ada.get("/api/cameras/top/live").status_code == 200
        set_ = ada.post("/api/cameras/top/thresholds", json={"review": 0.3, "reject": 0.4, "confirm": True})
        assert set_.status_code == 200, set_.text
        assert ada.get("/api/audit").json()["entries"][0]["who"] == "Ada (192.0.2.1)"
        foreign = ada.post("/api/sign-out", json={}, headers={"Origin": "https://evil.example"})
        assert foreign.status_code == 403
        for _ in range(6):
            last = eve.post("/api/sign-in", json={"token": "wrong", "name": "Eve"})
        assert last.status_code == 429
        assert eve.post("/api/sign-in", json={"token": token(tmp_path), "name": "Eve"}).status_code == 429
        assert ada.post("/api/sign-in", json={"token": token(tmp_path), "name": "Ada"}).status_code == 200


def test_a_plain_nginx_that_the_file_does_not_know_gives_nothing_away(served: Served, tmp_path: Path) -> None:
    with (
        page(served, tmp_path, None) as server,
        proxy("nginx", tmp_path, server.address[1]) as client,
        client() as some,
    ):
        assert some.get("/api/state").status_code == 401
        refused = some.post("/api/sign-in", json={"token": "x", "name": "y"})
        assert refused.status_code == 403
        assert "web.public_url" in refused.json()["error"]


# ------------------------------------------------------------------------------------------------ what headers can say


@pytest.mark.parametrize(
    "header", ["X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Real-IP", "Forwarded", "Via"]
)
def test_looking_is_free_on_this_machine_alone(header: str, served: Served, tmp_path: Path) -> None:
    with page(served, tmp_path, None) as server, httpx.Client(base_url=server.url) as client:
        assert client.get("/api/state").status_code == 200
        assert client.get("/api/state", headers={header: "192.0.2.1"}).status_code == 401
    with page(served, tmp_path, "https://station.example/") as server, httpx.Client(base_url=server.url) as client:
        assert client.get("/api/state").status_code == 401


def test_strangers_choose_no_address_and_no_scheme(served: Served, tmp_path: Path) -> None:
    with (
        page(served, tmp_path, "http://station.example", ("10.0.0.0/8",)) as server,
        httpx.Client(base_url=server.url, headers={"X-Forwarded-Proto": "https"}) as client,
    ):
        for k in range(5):
            headers = {"X-Forwarded-For": f"192.0.2.{k}"}
            answer = client.post("/api/sign-in", json={"token": "wrong", "name": "x"}, headers=headers)
            assert answer.status_code == 401
        headers = {"X-Forwarded-For": "192.0.2.99"}
        assert client.post("/api/sign-in", json={"token": "x", "name": "x"}, headers=headers).status_code == 429


def test_a_wrong_token_is_logged_with_its_address(
    served: Served, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with page(served, tmp_path, None) as server, httpx.Client(base_url=server.url) as client:
        client.post("/api/sign-in", json={"token": "secret guess", "name": "x"})
        client.get("/api/state", headers={"authorization": "Bearer other guess"})
    told = [record.getMessage() for record in caplog.records if "wrong token" in record.getMessage()]
    assert told == ["web page: a wrong token from 127.0.0.1"] * 2
    assert "guess" not in caplog.text


def scope(peer: str, **headers: str) -> dict[str, object]:
    raw = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
    return {"type": "http", "client": (peer, 1), "http_version": "1.1", "headers": raw}


CHAINS = {
    "203.0.113.9": "203.0.113.9",
    "10.9.9.9, 203.0.113.9": "203.0.113.9",
    "1.1.1.1, 203.0.113.9, 10.0.0.2": "203.0.113.9",
    "203.0.113.9:4711": "203.0.113.9",
    "[2001:db8::1]:4711": "2001:db8::1",
    "2001:db8::1": "2001:db8::1",
    "nonsense": "10.0.0.1",
    "nonsense, 203.0.113.9": "203.0.113.9",
    "203.0.113.9, nonsense": "10.0.0.1",
    "": "10.0.0.1",
    ", ,": "10.0.0.1",
    "10.0.0.3": "10.0.0.3",
}


@pytest.mark.parametrize("chain", CHAINS)
def test_the_client_is_the_first_stranger_from_the_right(chain: str) -> None:
    entrance = Entrance(None, "https://x", (network_of("10.0.0.0/8"),))
    assert entrance.visitor(scope("10.0.0.1", x_forwarded_for=chain)).address == CHAINS[chain]  # type: ignore[arg-type]


@given(st.text(st.characters(max_codepoint=255)), st.text(st.characters(max_codepoint=255)))
def test_no_header_is_too_odd(chain: str, other: str) -> None:
    entrance = Entrance(("localhost",), "https://x", (network_of("10.0.0.0/8"),))
    visitor = entrance.visitor(scope("10.0.0.1", x_forwarded_for=chain, x_forwarded_proto=other))  # type: ignore[arg-type]
    assert not visitor.near
    entrance.answers_to(chain)
    entrance.is_own(other, chain)


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://a.example/", "https://a.example"),
        ("https://A.example:443/prefix/", "https://a.example"),
        ("http://a.example:8443", "http://a.example:8443"),
        ("https://[2001:db8::1]:8443/", "https://[2001:db8::1]:8443"),
    ],
)
def test_an_origin_is_written_as_browsers_do(url: str, origin: str) -> None:
    assert origin_of(url) == origin


def test_the_page_asks_for_everything_beside_itself() -> None:
    """So that it works below a path that a proxy takes away."""
    from dskd.runtime.web import static_files

    for file in Path(static_files.__file__).with_name("static").iterdir():
        text = file.read_text()
        for absolute in ('"/api', "`/api", '"/static', 'href="/', 'src="/'):
            assert absolute not in text, (file.name, absolute)
