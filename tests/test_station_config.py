"""A station file: every fault is one clear line, and what is right is read as it stands."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from budget import cases
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from station_files import write_station

from dskd.runtime.errors import CallError, DskdError
from dskd.runtime.station.config import StationConfig
from dskd.runtime.station.load import load_station, read_station

GOOD = """name: line-3
data: /var/lib/dskd
cameras:
  top:
    source: rtsp://${CAMERA_USER}:${CAMERA_PASSWORD}@10.0.0.5/stream
    recipe: bracket-a
    trigger: {kind: software, deadline_ms: 100}
  side: {source: pictures, recipe: bracket-a, trigger: {kind: free, debounce: 2, window: 3}}
recipes:
  bracket-a: {bundle: bundles/bracket-a, job: 7, roi: mask.png}
outputs:
  gate: {kind: gpio, line: 17, on: [REJECT], delay_ms: 120, cameras: [top]}
  plc: {kind: modbus, listen: 127.0.0.1:1502, camera: top}
sinks:
  archive: {kind: archive, keep: rejects and 1 in 100 passes}
  mes: {kind: mqtt, broker: "mqtt://127.0.0.1:1883", topic: dskd/line-3, user: "${MQTT_USER}", password: "${MQTT_PASSWORD}"}
  hook: {kind: webhook, url: "http://127.0.0.1:9/x", on: [REJECT], header_token: "${HOOK}"}
  csv: {kind: csv, path: out.csv}
web: {listen: 127.0.0.1:8080}
metrics: {listen: 127.0.0.1:9464}
"""
SECRETS = ("CAMERA_USER", "CAMERA_PASSWORD", "MQTT_USER", "MQTT_PASSWORD", "HOOK")


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SECRETS:
        monkeypatch.setenv(name, "p@ss word")


def faults(folder: Path, text: str) -> list[str]:
    file = folder / "station.yaml"
    file.write_text(text)
    return [str(fault).removeprefix(f"{file}:") for fault in read_station(file)[1]]


def test_the_whole_file(tmp_path: Path, secrets: None) -> None:
    (tmp_path / "station.yaml").write_text(GOOD)
    config = load_station(tmp_path / "station.yaml")
    assert config.cameras["side"].source == str(tmp_path / "pictures")
    assert config.recipes["bracket-a"].bundle == tmp_path / "bundles/bracket-a"
    assert "p@ss" not in repr(config)
    assert "p@ss" not in config.model_dump_json()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("trigger: {kind: software, d", "triger: {kind: software, d", "7: cameras.top.triger: unknown key; did you mean trigger?"),
        ("deadline_ms: 100", "deadlin_ms: 100", "7: cameras.top.trigger.deadlin_ms: unknown key; did you mean deadline_ms?"),
        ("kind: software", "kind: sofware", "7: cameras.top.trigger: there is no kind 'sofware'; did you mean software?"),
        ("trigger: {kind: software, deadline_ms: 100}", "trigger: {}", "7: cameras.top.trigger: needs a kind"),
        ("recipe: bracket-a\n", "recipe: bracket-b\n", "6: cameras.top.recipe: there is no recipe 'bracket-b'; did you mean bracket-a?"),
        ("camera: top}", "camera: tip}", "13: outputs.plc.camera: there is no camera 'tip'; did you mean top?"),
        ("cameras: [top]", "cameras: [top, tip]", "12: outputs.gate.cameras.1: there is no camera 'tip'; did you mean top?"),
        ("debounce: 2, window: 3", "debounce: 4, window: 3", "8: cameras.side.trigger: window 3 must not be under debounce 4"),
        ("127.0.0.1:1502", "0.0.0.0:1502", "13: outputs.plc: 0.0.0.0:1502 is open to the network, and Modbus knows no password; name the clients in allow"),
        ("127.0.0.1:1502", "localhost:1502", "13: outputs.plc.listen: 'localhost:1502' is no ADDRESS:PORT such as 127.0.0.1:8080"),
        ("127.0.0.1:8080", "127.0.0.1:1502", "19: web.listen: is taken by outputs.plc.listen"),
        ("${CAMERA_USER}:${CAMERA_PASSWORD}@", "admin:secret@", "5: cameras.top.source: user and password do not belong in the file; write ${NAME}:${NAME}@ and set the variables"),
        ("${HOOK}", "${UNSET_HOOK}", "17: sinks.hook.header_token: environment variable UNSET_HOOK is not set, and a secret is read from it"),
        ("source: rtsp://", "source: rstp://", "5: cameras.top.source: there is no kind of source 'rstp'; did you mean rtsp?"),
        ("kind: webhook", "kind: webhok", "17: sinks.hook: there is no kind 'webhok'; did you mean webhook?"),
        ("header_token: ", "header_tokn: ", "17: sinks.hook.header_tokn: unknown key; did you mean header_token?"),
        ("name: line-3", "name: line 3", "1: name: String should match pattern '^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$'"),
        ("line: 17", "line: true", "12: outputs.gate.line: a number is needed, not true"),
        ("path: out.csv", "path: '${HOME}/out.csv'", "18: sinks.csv.path: ${NAME} is for secrets and camera addresses only; write it out"),
        ("deadline_ms: 100", "deadline_ms: 500", "12: outputs.gate.delay_ms: a part reaches the gate 120 ms after its trigger, and camera top may answer after 500 ms; make deadline_ms smaller"),
        ("web:", "name: x\nweb:", "1: is not plain YAML: the key name twice"),
        ("name: line-3", "name: &x line-3", ""),
    ],
)  # fmt: skip
def test_a_fault_has_its_line_and_a_way_out(tmp_path: Path, secrets: None, old: str, new: str, said: str) -> None:
    assert old in GOOD
    assert faults(tmp_path, GOOD.replace(old, new, 1)) == ([said] if said else [])


def test_every_fault_is_found_at_once(tmp_path: Path, secrets: None) -> None:
    text = (
        GOOD.replace("name: line-3", "nam: line-3").replace("line: 17", "lin: 17").replace("debounce: 2", "debounce: 0")
    )
    found = faults(tmp_path, text)
    assert len(found) == 5  # two keys unknown, two missing, one number
    assert found == sorted(found, key=lambda fault: int(fault.split(":")[0]) if fault[0].isdigit() else 0)
    with pytest.raises(CallError, match="and 4 more; --check-config shows all"):
        load_station(tmp_path / "station.yaml")


def test_a_file_that_is_none(tmp_path: Path) -> None:
    for make in (
        lambda p: None,
        lambda p: p.mkdir(),
        lambda p: p.write_bytes(b"\xff"),
        lambda p: p.write_bytes(b" " * (1 << 21)),
    ):
        file = tmp_path / f"x{len(list(tmp_path.iterdir()))}"
        make(file)
        with pytest.raises(CallError, match="cannot be read"):
            load_station(file)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["gpio", "top", "${X}", "free"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(max_size=8)
            | st.sampled_from(["kind", "name", *StationConfig.model_fields, "source", "recipe", "trigger", "bundle"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@hypothesis_settings(max_examples=cases(300), suppress_health_check=list(HealthCheck))
@given(values)
def test_any_yaml_gives_one_line_per_fault(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_text(yaml.safe_dump(value, allow_unicode=True))
    with pytest.raises(DskdError) as raised:
        load_station(file)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 2000


@hypothesis_settings(max_examples=cases(200), suppress_health_check=list(HealthCheck))
@example(0, "0\t", 0)  # libyaml takes the tab
@given(st.integers(0, len(GOOD) - 1), st.text(max_size=3), st.integers(0, 5))
def test_a_good_file_with_a_slip_of_the_pen(
    tmp_path_factory: pytest.TempPathFactory, at: int, put: str, cut: int
) -> None:
    file = tmp_path_factory.getbasetemp() / "slip.yaml"
    file.write_text(GOOD[:at] + put + GOOD[at + cut :], errors="backslashreplace")
    try:
        said = [str(fault) for fault in read_station(file)[1]]
    except CallError as error:
        said = [str(error)]
    assert not any("\n" in line for line in said)


def test_check_config_prints_what_would_run(tmp_path: Path, command) -> None:  # type: ignore[no-untyped-def]
    done = command("runtime.station", write_station(tmp_path), "--check-config")
    assert done.returncode == 0, done.stderr
    assert "camera top: test://pattern" in done.stdout
    assert "recipe good: bundle tiny-" in done.stdout
    assert not (tmp_path / "data").exists()
    (tmp_path / "tiny" / "model.onnx").write_bytes(b"")
    done = command("runtime.station", tmp_path / "station.yaml", "--check-config")
    assert done.returncode == 2
    assert "sha256" in done.stdout
    wrong = write_station(tmp_path, web={"listn": 3}, recipes={})
    done = command("runtime.station", wrong, "--check-config")
    assert done.returncode == 2
    assert len(done.stdout.splitlines()) == 2
    assert "did you mean listen?" in done.stdout
