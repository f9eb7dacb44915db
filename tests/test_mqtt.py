"""MQTT against a real broker: order, outages, kills, wrong passwords, last will."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from broker import Broker, Listener, needs_mosquitto, wait_for
from conftest import ROOT
from line_records import answer, dropped, inspection
from pydantic import ValidationError

from dskd.runtime.backoff import Backoff
from dskd.runtime.result import Region, Verdict
from dskd.runtime.sinks.delivery import Delivery
from dskd.runtime.sinks.mqtt import MqttConfig, MqttTarget
from dskd.runtime.store import Store

pytestmark = needs_mosquitto

Start = Callable[..., Delivery]


def test_records_arrive_in_order_with_what_receivers_need(broker: Broker, store: Store, start_mqtt: Start) -> None:
    listener = Listener(broker.port)
    delivery = start_mqtt(broker.port)
    found = inspection(1, Verdict.REJECT, part="p1")
    store.add([found, dropped(2), answer(3, found), *(inspection(k) for k in range(4, 300))])
    wait_for(lambda: len(listener.ids()) == 297)
    assert listener.ids() == [1, *range(4, 300)]
    assert json.loads(listener.of("dskd/dropped/top")[0])["dropped"] == "blank: all black"
    assert json.loads(listener.of("dskd/answer/top")[0])["inspection"] == 1
    message = next(message for message in listener.messages if message.topic == "dskd/inspection/top")
    told = json.loads(message.payload)
    assert {key: told[key] for key in found.as_dict()} == found.as_dict()
    assert told["key"] == f"{store.identity}-1"
    assert message.qos == 1
    assert message.properties.MessageExpiryInterval == 7 * 86400
    assert message.properties.ContentType == "application/json"
    wait_for(lambda: delivery.status().behind == 0)
    assert (delivery.status().health, delivery.status().delivered) == ("ok", 299)
    wait_for(lambda: store.cursors() == {"mes": 299})
    listener.close()


def test_a_broker_that_goes_and_comes_back_gets_everything(broker: Broker, store: Store, start_mqtt: Start) -> None:
    listener = Listener(broker.port)
    # later than our listener comes back: a broker keeps nothing for it
    delivery = start_mqtt(broker.port, backoff=Backoff(1.0, 2.0))
    store.add([inspection(1)])
    wait_for(lambda: listener.ids() == [1])
    broker.kill()
    for k in range(2, 402, 50):
        begun = time.monotonic()
        store.add([inspection(number) for number in range(k, k + 50)])
        assert time.monotonic() - begun < 10  # inspection waits for nobody
    wait_for(lambda: delivery.status().health == "warning")
    assert "nothing is lost" in delivery.status().detail
    assert delivery.status().behind == 400
    broker.start()
    wait_for(lambda: len(listener.ids()) == 401)
    assert listener.ids() == list(range(1, 402))  # in order and, but for the crash of one side, once
    wait_for(lambda: delivery.status().behind == 0)
    assert delivery.status().health == "ok"
    listener.close()


def test_a_record_with_more_regions_than_the_broker_takes_is_told_with_fewer(
    tmp_path: Path, store: Store, start_mqtt: Start
) -> None:
    broker = Broker(tmp_path, extra="max_packet_size 20000").start()
    listener = Listener(broker.port)
    delivery = start_mqtt(broker.port)
    many = replace(inspection(1, Verdict.REJECT), regions=(Region((10, 20, 30, 40), 900, 0.5),) * 500)
    store.add([many, *(inspection(k) for k in range(2, 52))])
    wait_for(lambda: listener.ids() == list(range(1, 52)))
    told = json.loads(listener.of("dskd/inspection/top")[0])
    assert len(told["regions"]) + told["regions_left_out"] == 500
    assert len(told["regions"]) > 100
    wait_for(lambda: delivery.status().health == "ok")
    listener.close()
    broker.kill()


def test_a_broker_that_is_absent_at_the_start_is_waited_for(tmp_path: Path, store: Store, start_mqtt: Start) -> None:
    broker = Broker(tmp_path)
    delivery = start_mqtt(broker.port)
    store.add([inspection(1)])
    wait_for(lambda: "cannot be reached" in delivery.status().detail)
    broker.start()
    wait_for(lambda: delivery.status().behind == 0)
    assert delivery.status().delivered == 1
    broker.kill()


def test_a_broker_that_hangs_is_given_up_and_gets_it_again(broker: Broker, store: Store, start_mqtt: Start) -> None:
    """Stopped, not killed: the connection stands and nothing is acknowledged. Repetitions carry the same key."""
    listener = Listener(broker.port)
    delivery = start_mqtt(broker.port, acknowledge_s=0.5)
    store.add([inspection(1)])
    wait_for(lambda: delivery.status().behind == 0)
    broker.process.send_signal(signal.SIGSTOP)
    store.add([inspection(k) for k in range(2, 30)])
    wait_for(lambda: delivery.status().health == "warning")
    broker.process.send_signal(signal.SIGCONT)
    wait_for(lambda: delivery.status().behind == 0)
    wait_for(lambda: set(listener.ids()) == set(range(1, 30)))
    firsts = list(dict.fromkeys(listener.ids()))
    assert firsts == list(range(1, 30))
    keys = {json.loads(payload)["id"]: json.loads(payload)["key"] for payload in listener.of("dskd/inspection/top")}
    assert len(set(keys.values())) == 29
    listener.close()


def test_last_will_and_farewell(broker: Broker, store: Store, start_mqtt: Start, tmp_path: Path) -> None:
    listener = Listener(broker.port, "dskd/status")
    delivery = start_mqtt(broker.port)
    wait_for(lambda: listener.of("dskd/status") == [b"online"])
    late = Listener(broker.port, "dskd/status")
    wait_for(lambda: late.of("dskd/status") == [b"online"])  # retained
    late.close()
    assert delivery.stop()
    wait_for(lambda: listener.of("dskd/status") == [b"online", b"offline"])
    process = run_station(broker.port, tmp_path / "other.db")
    wait_for(lambda: len(listener.messages) == 3)
    process.kill()
    process.communicate()
    wait_for(lambda: listener.of("dskd/status")[2:] == [b"online", b"offline"])
    assert delivery.status().detail == "stopped"
    listener.close()


def test_a_wrong_password_is_a_fault_that_is_named_and_never_shown(
    tmp_path: Path, store: Store, start_mqtt: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broker = Broker(tmp_path, {"line": "right horse"}).start()
    monkeypatch.setenv("MES_USER", "line")
    monkeypatch.setenv("MES_PASSWORD", "wrong battery")
    caplog.set_level("DEBUG")
    delivery = start_mqtt(broker.port, user="${MES_USER}", password="${MES_PASSWORD}")
    store.add([inspection(1)])
    wait_for(lambda: delivery.status().health == "fault")
    assert "check user, password" in delivery.status().detail
    assert "battery" not in caplog.text + delivery.status().detail + repr(delivery.target.__dict__)
    monkeypatch.setenv("MES_PASSWORD", "right horse")
    wait_for(lambda: delivery.status().health == "ok")
    wait_for(lambda: delivery.status().behind == 0)
    broker.kill()


def test_a_topic_without_the_right_to_write_is_a_fault(tmp_path: Path, store: Store, start_mqtt: Start) -> None:
    (tmp_path / "acl").write_text("topic read #\ntopic write dskd/status\n")
    broker = Broker(tmp_path, extra=f"acl_file {tmp_path}/acl").start()
    delivery = start_mqtt(broker.port)
    store.add([inspection(1)])
    wait_for(lambda: delivery.status().health == "fault")
    assert "Not authorized" in delivery.status().detail
    assert delivery.status().behind == 1
    broker.kill()


def test_a_record_too_large_for_one_message_keeps_its_worst_regions(
    broker: Broker, store: Store, start_mqtt: Start
) -> None:
    listener = Listener(broker.port)
    start_mqtt(broker.port)
    store.add([inspection(1, regions=5000), inspection(2)])
    wait_for(lambda: listener.ids() == [1, 2])
    told = json.loads(listener.of("dskd/inspection/top")[0])
    assert len(listener.of("dskd/inspection/top")[0]) <= 65_536
    assert len(told["regions"]) + told["regions_left_out"] == 5000
    assert told["regions"][0]["box"] == [0, 2, 3, 4]
    listener.close()


def test_only_asked_verdicts_are_told_and_the_cursor_passes_the_others(
    broker: Broker, store: Store, start_mqtt: Start
) -> None:
    listener = Listener(broker.port)
    delivery = start_mqtt(broker.port, on=["REJECT"])
    store.add([inspection(k, Verdict.REJECT if k == 150 else Verdict.PASS) for k in range(1, 301)])
    wait_for(lambda: delivery.status().behind == 0)
    wait_for(lambda: listener.ids() == [150])
    wait_for(lambda: store.cursors()["mes"] == 300)
    assert listener.ids() == [150]
    listener.close()


def test_a_stop_while_the_broker_hangs_is_quick(broker: Broker, store: Store, start_mqtt: Start) -> None:
    delivery = start_mqtt(broker.port)
    wait_for(lambda: delivery.status().health == "ok")
    broker.process.send_signal(signal.SIGSTOP)
    store.add([inspection(1)])
    time.sleep(0.2)
    begun = time.monotonic()
    assert delivery.stop()
    assert time.monotonic() - begun < 5
    assert store.cursors()["mes"] == 0
    broker.process.send_signal(signal.SIGCONT)


STATION = """
import sys, time
sys.path.insert(0, "tests")
from pathlib import Path
from line_records import inspection
from dskd.runtime.backoff import Backoff
from dskd.runtime.sinks.delivery import Delivery
from dskd.runtime.sinks.mqtt import MqttConfig, MqttTarget
from dskd.runtime.store import Store
store = Store(Path(sys.argv[2]))
config = MqttConfig(kind="mqtt", broker=f"mqtt://127.0.0.1:{sys.argv[1]}", topic="dskd", keepalive_s=2)
delivery = Delivery("mes", store, MqttTarget(config, store.identity), Backoff(0.05, 0.2))
delivery.start()
number = store.newest()
while True:
    number += 1
    if len(sys.argv) > 3:
        store.add([inspection(number)])
        print(number, flush=True)
        time.sleep(0.001)  # a fast disk would take more than is delivered within the test's patience
    else:
        time.sleep(0.1)
"""


def run_station(port: int, path: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", STATION, str(port), str(path), *options], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_kills_of_the_station_lose_nothing(broker: Broker, tmp_path: Path) -> None:
    """Ten kills of one station: every stored record reaches the receiver, first deliveries in order."""
    listener, rng = Listener(broker.port), random.Random(5)
    path, reported = tmp_path / "killed.db", 0
    for _ in range(10):
        process = run_station(broker.port, path, "inspect")
        assert process.stdout
        # records, and not seconds: how many a disk takes in one is not known
        lines = [process.stdout.readline() for _ in range(rng.randrange(6, 200))]
        process.kill()
        lines += process.communicate()[0].splitlines(keepends=True)
        reported = max([reported, *(int(line) for line in lines if line.endswith("\n"))])
    store = Store(path)
    newest = store.newest()
    assert newest >= reported > 50
    target = MqttTarget(MqttConfig(kind="mqtt", broker=f"mqtt://127.0.0.1:{broker.port}", topic="dskd"), store.identity)
    delivery = Delivery("mes", store, target, Backoff(0.05, 0.2))
    delivery.start()
    wait_for(lambda: delivery.status().behind == 0, 90)
    wait_for(lambda: newest in listener.ids(), 90)
    assert set(listener.ids()) == set(range(1, newest + 1))
    firsts = list(dict.fromkeys(listener.ids()))
    assert firsts == sorted(firsts)
    assert delivery.stop()
    store.close()
    listener.close()


@pytest.mark.parametrize(
    "options",
    [
        {"broker": "127.0.0.1"}, {"broker": "http://x"}, {"broker": "mqtt://"}, {"broker": "mqtt://u:p@x"},
        {"broker": "mqtt://x:99999"}, {"broker": "mqtt://x/path"}, {"topic": "a/#"}, {"topic": "+"}, {"topic": "/a"},
        {"topic": ""}, {"topic": "$SYS"}, {"password": "plain"}, {"user": "plain"}, {"keepalive_s": 0}, {"qos": 2},
    ],
    ids=str,
)  # fmt: skip
def test_a_wrong_configuration_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        MqttConfig.model_validate({"kind": "mqtt", "broker": "mqtt://x", "topic": "dskd", **options})


def test_nothing_is_left_running(broker: Broker, store: Store, start_mqtt: Start) -> None:
    threads, handles = threading.active_count(), len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        delivery = start_mqtt(broker.port)
        wait_for(lambda: delivery.status().health == "ok")  # noqa: B023 (called here)
        assert delivery.stop()
    assert threading.active_count() == threads
    assert len(os.listdir("/proc/self/fd")) <= handles + 2  # the store's idle readers
