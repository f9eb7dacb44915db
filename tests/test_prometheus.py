"""Metrics over a real connection: right numbers, few labels, and clients that misbehave."""

from __future__ import annotations

import http.client
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import pytest
from broker import wait_for
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from line_records import dropped, inspection
from prometheus_client.parser import text_string_to_metric_families

from dskd.runtime import metrics_listener
from dskd.runtime.errors import DskdError
from dskd.runtime.metrics import CameraNumbers, Metrics, Snapshot
from dskd.runtime.metrics_listener import MetricsListener
from dskd.runtime.reason import Reason
from dskd.runtime.result import Verdict
from dskd.runtime.sinks.delivery import SinkStatus

SINK = SinkStatus("mes", "mqtt", "warning", "away", 0.0, 7, 1, 12, "away")
SNAPSHOT = Snapshot({"top": CameraNumbers(True, 3, 2, 1)}, [SINK], 5, 1 << 30)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(["top", "side"], lambda: SNAPSHOT)


@pytest.fixture
def listener(metrics: Metrics) -> Iterator[MetricsListener]:
    made = metrics.listen(port=0)
    made.start()
    yield made
    made.stop()


def values(page: bytes) -> dict[tuple[str, ...], float]:
    families = text_string_to_metric_families(page.decode())
    return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}


def test_what_happened_is_what_is_told(metrics: Metrics) -> None:
    metrics.inspected(inspection(1, Verdict.REJECT), 0.04)
    metrics.inspected(inspection(2), 0.2)
    metrics.dropped(dropped(3))
    metrics.dropped(dropped(4, Reason.UNUSABLE, "part.png: cut off"))
    told = values(metrics.page())
    assert told["dskd_parts_total", "top", "REJECT"] == 1
    assert told["dskd_parts_total", "side", "PASS"] == 0
    assert told["dskd_dropped_total", "top", "blank"] == 1
    assert told["dskd_dropped_total", "top", "other"] == 1
    assert told["dskd_stage_seconds_count", "inference"] == 2
    assert told["dskd_stage_seconds_sum", "inference"] == pytest.approx(0.0405)
    assert told["dskd_latency_seconds_bucket", "top", "0.05"] == 1
    assert told["dskd_latency_seconds_count", "top"] == 2
    assert told["dskd_missed_triggers_total", "top"] == 2
    assert told["dskd_reconnects_total", "top"] == 1
    assert (told["dskd_camera_ready", "top"], told["dskd_waiting_frames", "top"]) == (1, 3)
    assert (told["dskd_sink_up", "mes"], told["dskd_sink_behind", "mes"]) == (0, 12)
    assert (told["dskd_sink_delivered_total", "mes"], told["dskd_sink_refused_total", "mes"]) == (7, 1)
    assert (told["dskd_store_spooled",], told["dskd_disk_free_bytes",]) == (5, 1 << 30)
    assert told["process_open_fds",] > 0


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(max_size=40), max_size=60))
def test_labels_stay_few_whatever_cameras_and_reasons_say(metrics: Metrics, texts: list[str]) -> None:
    for text in texts:
        metrics.dropped(dropped(1, detail=text, source=text))
        found = inspection(1, source=text)
        metrics.inspected(replace(found, timings_ms={text: 1.0}))
    for reason in Reason:
        metrics.dropped(dropped(1, reason))
    told = values(metrics.page())
    assert len({key for key in told if key[0] == "dskd_dropped_total"}) <= 2 * len(Reason)
    assert len({key for key in told if key[0] == "dskd_stage_seconds_count"}) <= 7
    assert {key[1] for key in told if key[0] == "dskd_parts_total"} <= {"top", "side", "other"}


def test_the_page_over_http(listener: MetricsListener) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{listener.port}/metrics", timeout=5) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        assert values(answer.read())["dskd_store_spooled",] == 5
    for method, path, status in [("GET", "/", 404), ("GET", "/../etc/passwd", 404), ("POST", "/metrics", 501)]:
        connection = http.client.HTTPConnection("127.0.0.1", listener.port, timeout=5)
        connection.request(method, path)
        assert connection.getresponse().status == status
        connection.close()


def test_it_listens_on_loopback_alone_unless_told(metrics: Metrics, caplog: pytest.LogCaptureFixture) -> None:
    listener = metrics.listen(port=0)
    assert listener.host == "127.0.0.1"
    listener.stop()
    assert not caplog.text
    listener = metrics.listen("0.0.0.0", 0)
    listener.stop()
    assert "can be read by the network" in caplog.text
    listener = metrics.listen("::1", 0)
    listener.stop()


def test_an_address_in_use_is_refused(listener: MetricsListener, metrics: Metrics) -> None:
    with pytest.raises(DskdError, match="cannot listen"):
        metrics.listen(port=listener.port)
    with pytest.raises(DskdError, match="cannot listen"):
        metrics.listen("203.0.113.1", 0)


def test_clients_that_never_ask_or_never_read_are_few_and_cut(
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_listener, "PATIENCE", 1.0)
    before = threading.active_count()
    listener = metrics.listen(port=0)
    listener.start()
    clients = [socket.create_connection(("127.0.0.1", listener.port), 5) for _ in range(40)]
    for client in clients[::2]:
        client.sendall(b"GET /metrics HTTP/1.1\r\nX: ")
    assert threading.active_count() <= before + 1 + metrics_listener.MOST_CLIENTS
    wait_for(lambda: threading.active_count() == before + 1, 10)
    with urllib.request.urlopen(f"http://127.0.0.1:{listener.port}/metrics", timeout=5) as answer:
        assert answer.status == 200
    listener.stop()
    for client in clients:
        client.close()
    wait_for(lambda: threading.active_count() == before)


def test_malformed_requests_do_no_harm(listener: MetricsListener) -> None:
    for data in (b"\x00" * 1000, b"GET\r\n\r\n", b"GET /metrics HTTP/9.9\r\n\r\n", b"A" * 100_000, b"\r\n" * 50,
                 b"GET /metrics HTTP/1.1\r\n" + b"X: y\r\n" * 500 + b"\r\n"):  # fmt: skip
        with socket.create_connection(("127.0.0.1", listener.port), 5) as client:
            with suppress(OSError):  # the listener may have answered and closed already
                client.sendall(data)
                client.shutdown(socket.SHUT_WR)
            with suppress(ConnectionResetError):
                while client.recv(65536):
                    pass
    with urllib.request.urlopen(f"http://127.0.0.1:{listener.port}/metrics", timeout=5) as answer:
        assert answer.status == 200


def test_a_station_that_fails_is_an_error_not_silence(caplog: pytest.LogCaptureFixture) -> None:
    snapshots = iter([SNAPSHOT, SNAPSHOT])
    metrics = Metrics(["top"], lambda: next(snapshots))
    listener = metrics.listen(port=0)
    listener.start()
    url = f"http://127.0.0.1:{listener.port}/metrics"
    for _ in range(2):
        urllib.request.urlopen(url, timeout=5).close()
    with pytest.raises(urllib.error.HTTPError, match="500"):
        urllib.request.urlopen(url, timeout=5)
    assert "cannot be made" in caplog.text
    listener.stop()


def test_a_stop_does_not_wait_for_a_client(metrics: Metrics) -> None:
    listener = metrics.listen(port=0)
    listener.start()
    client = socket.create_connection(("127.0.0.1", listener.port), 5)
    time.sleep(0.1)
    begun = time.monotonic()
    listener.stop()
    assert time.monotonic() - begun < 3
    client.close()
