"""A sign-in link for a phone: of a station without a terminal too, at an address that the phone can open."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest
from conftest import ROOT, Command
from station_files import Process, write_station

from dskd.benchmarks.lab.station.drill import free_port
from dskd.runtime.web.addresses import shown_at
from dskd.runtime.web.qr_code import BLOCKS, QUIET, qr_code
from dskd.runtime.web.server import WebOptions, WebServer

from .conftest import Served

LINK = re.compile(r"^(https?://\S+/)#sign-in=([\w-]{40,})$", re.M)
PUBLIC = "https://station-3.plant.example/line/"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Of a station that runs as a service does: no terminal, and a secret that only it has."""
    folder = tmp_path_factory.mktemp("linked")
    hook = {"kind": "webhook", "url": "http://127.0.0.1:9/x", "header_token": "${HOOK_OF_A_SERVICE}"}
    web = {"listen": f"127.0.0.1:{free_port()}"}
    process = Process(write_station(folder, web=web, sinks={"hook": hook}), HOOK_OF_A_SERVICE="secret")
    process.wait_for_log("page on")
    assert "#sign-in=" not in process.text()
    yield folder
    process.end()


def page_of(folder: Path) -> str:
    found = re.search(r"127\.0\.0\.1:\d+", (folder / "station.yaml").read_text().split("web:")[1])
    assert found
    return f"http://{found[0]}/"


def signs_in(page: str, code: str) -> bool:
    body = {"token": code, "name": "Ada"}
    return httpx.post(f"{page}api/sign-in", json=body, timeout=20).status_code == 200


def test_a_command_prints_a_link_that_signs_in_once(folder: Path, command: Command) -> None:
    page = page_of(folder)
    done = command("runtime.station", "sign-in-link", folder / "station.yaml")
    assert done.returncode == 0, done.stderr
    found = LINK.fullmatch(done.stdout.strip())
    assert found
    assert found[1] == page
    assert "works on this machine alone" in done.stderr
    assert signs_in(page, found[2])
    assert not signs_in(page, found[2])
    log = (folder / "log.txt").read_text()
    assert "a sign-in link was made by command line" in log
    assert found[2] not in log


def test_only_the_token_itself_makes_links(folder: Path) -> None:
    page = page_of(folder)
    token = (folder / "data" / "token").read_text().strip()
    with httpx.Client(timeout=20) as browser:
        browser.post(f"{page}api/sign-in", json={"token": token, "name": "Ada"})
        for headers in ({}, {"authorization": "Basic x"}):
            answer = browser.post(f"{page}api/sign-in-link", json={}, headers=headers)
            assert answer.status_code == 403
            assert "link" not in answer.json()


def test_wrong_calls_are_told_in_a_line(folder: Path, tmp_path: Path, command: Command) -> None:
    page, asked = page_of(folder), (folder / "station.yaml").read_text()
    other = tmp_path / "station.yaml"

    def told(code: int, text: str) -> None:
        other.write_text(text)
        done = command("runtime.station", "sign-in-link", other)
        assert done.returncode == code
        lines.append(done.stderr.strip())
        assert len(lines[-1].splitlines()) == 1

    lines: list[str] = []
    told(2, asked.split("web:")[0])
    assert "has no page" in lines[-1]
    told(1, asked)  # the same address, another data folder: not this station's, and it gets no token
    assert f"station test at {page[7:-1]}: does not run; start it" in lines[-1]
    data = asked.replace("data: data", f"data: {folder / 'data'}")
    told(1, data.replace("web:", f"web:\n  token_file: {tmp_path / 'none'}"))
    assert f"token file {tmp_path / 'none'}: No such file or directory" in lines[-1]
    (tmp_path / "wrong").write_text("wrong-wrong-wrong-wrong")
    (tmp_path / "wrong").chmod(0o600)
    told(1, data.replace("web:", f"web:\n  token_file: {tmp_path / 'wrong'}"))
    assert f"the token in {tmp_path / 'wrong'} is another station's" in lines[-1]


def test_the_link_leads_where_browsers_find_the_page(served: Served, tmp_path: Path) -> None:
    for public, expected in ((PUBLIC, PUBLIC), (PUBLIC[:-1], PUBLIC)):
        options = WebOptions("127.0.0.1:0", tmp_path / "token", public_url=public)
        server = WebServer(options, served.station, served.station.store)
        address = server.sign_in_link().partition("#")[0]
        server.stop()
        assert address == expected


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_a_page_at_all_addresses_is_shown_with_one_that_others_reach(host: str) -> None:
    found = re.fullmatch(r"http://(.+):8080/", shown_at(host, 8080, None))
    assert found
    assert found[1] not in ("0.0.0.0", "[::]", "127.0.0.1", "[::1]", "")


def test_without_a_network_it_is_the_machines_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_route(*_: object) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr("dskd.runtime.web.addresses.socket.socket", no_route)
    monkeypatch.setattr("dskd.runtime.web.addresses.socket.gethostname", lambda: "orin-7")
    assert shown_at("0.0.0.0", 8080, None) == "http://orin-7:8080/"
    assert shown_at("::1", 8080, None) == "http://[::1]:8080/"


def read_code(printed: str) -> str:
    """What a phone reads off the terminal, black on white."""
    rows = [re.sub(r"\x1b\[[\d;]*m", "", line) for line in printed.splitlines()]
    rows = [row for row in rows if row and set(row) <= set(BLOCKS)]
    pairs = np.array([[BLOCKS.index(sign) for sign in row] for row in rows])
    dark = np.stack([pairs >> 1, pairs & 1], 1).reshape(-1, pairs.shape[1])
    assert not dark[:QUIET].any()
    assert not dark[:, :QUIET].any()
    image = np.repeat(np.repeat(255 * (1 - dark).astype(np.uint8), 8, 0), 8, 1)
    return str(cv2.QRCodeDetector().detectAndDecode(image)[0])


@pytest.mark.skipif(not hasattr(cv2, "QRCodeEncoder"), reason="this OpenCV makes no QR codes")
def test_a_code_is_read_back() -> None:
    for text in ("http://10.0.0.5:8080/#sign-in=" + 43 * "x", PUBLIC + "#sign-in=" + 4 * "aB-_9zQ7k4Y", "x"):
        assert read_code(qr_code(text)) == text


@pytest.mark.skipif(not hasattr(cv2, "QRCodeEncoder"), reason="this OpenCV makes no QR codes")
def test_at_a_terminal_there_is_a_code_for_the_phone(tmp_path: Path) -> None:
    web = {"listen": f"127.0.0.1:{free_port()}", "public_url": PUBLIC, "trusted_proxies": ["127.0.0.1"]}
    file = write_station(tmp_path, web=web)
    process = Process(file)
    try:
        process.wait_for_log("page on")
        mine, theirs = pty.openpty()
        asked = [sys.executable, "-m", "dskd.runtime.station", "sign-in-link", str(file)]
        environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
        subprocess.run(asked, stdout=theirs, stderr=subprocess.DEVNULL, check=True, cwd=ROOT, env=environment)
        os.close(theirs)
        printed = bytearray()
        while True:
            try:
                piece = os.read(mine, 1 << 16)
            except OSError:  # as a terminal ends
                break
            if not piece:
                break
            printed += piece
        os.close(mine)
        text = printed.decode().replace("\r", "")
        found = LINK.search(text)
        assert found
        assert found[1] == PUBLIC
        assert qr_code(found[0]) in text  # OpenCV makes codes well and reads one in fifty of its own not
    finally:
        process.end()
