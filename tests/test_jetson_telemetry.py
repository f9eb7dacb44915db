"""What a device says of itself, on trees and lines of all modules and JetPacks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Command
from hypothesis import given
from hypothesis import strategies as st
from jetson_trees import BOARDS, RAILS, RELEASES, command, jetson, put

from dskd.jetson.machine import Machine
from dskd.jetson.platform import bandwidth, find_platform, nearest_jetpack
from dskd.jetson.power import apply, largest_mode, plan, read_power
from dskd.jetson.telemetry import prometheus, read_telemetry, throttle_deltas
from dskd.runtime.errors import CallError, DskdError, MissingPart

# ------------------------------------------------------------------------------------------------------------ platform


@pytest.mark.parametrize("board", BOARDS)
@pytest.mark.parametrize("generation", RELEASES)
def test_every_board_on_every_jetpack(tmp_path: Path, board: str, generation: str) -> None:
    found = find_platform(jetson(tmp_path, board, generation))
    assert found.is_jetson
    assert found.jetpack_known
    assert found.generation == generation
    assert found.jetpack == {"jp5": "5.1.2", "jp6": "6.2.1", "jp7": "7.2"}[generation]
    assert found.module is not None
    assert found.module.dla_cores == {"agx": 2, "nx": 2, "nano": 0}[board]
    assert json.dumps(found.as_dict())


def test_a_plain_machine_is_no_jetson(tmp_path: Path) -> None:
    found = find_platform(Machine(tmp_path, path=""))
    assert not found.is_jetson
    assert (found.l4t, found.jetpack, found.generation) == (None, None, None)


@pytest.mark.parametrize(
    ("release", "jetpack", "generation"),
    [
        ("# R36 (release), REVISION: 4.9, GCID: 1, ", "6.2.1", "jp6"),
        ("# R36 (release), REVISION: 9.0, GCID: 1, ", "6.2.2", "jp6"),
        ("# R39 (release), REVISION: 7.3, GCID: 1, ", "7.2.1", "jp7"),
        ("# R39 (release), REVISION: 0.0, GCID: 1, ", "7.1", "jp7"),
        ("# R41 (release), REVISION: 0.0, GCID: 1, ", "7.2.1", "jp7"),
        ("# R32 (release), REVISION: 7.1, GCID: 1, ", "5.1", None),
    ],
)
def test_an_unknown_l4t_is_told_with_the_nearest_jetpack(
    tmp_path: Path, release: str, jetpack: str, generation: str | None
) -> None:
    machine = jetson(tmp_path, "nano", "jp6")
    put(tmp_path, "/etc/nv_tegra_release", release)
    found = find_platform(machine)
    assert (found.jetpack, found.jetpack_known, found.generation) == (jetpack, False, generation)


def test_a_thor_is_known_by_its_module_and_not_by_its_board(tmp_path: Path) -> None:
    put(tmp_path, "/proc/device-tree/compatible", "nvidia,p3971-0089+p3834-0008\0nvidia,p3834-0008\0nvidia,tegra264")
    put(tmp_path, "/etc/nv_tegra_release", "# R38 (release), REVISION: 4.0, GCID: 1, ")
    found = find_platform(Machine(tmp_path, path=""))
    assert (found.part, found.jetpack, found.generation) == ("p3834-0008", "7.1", "jp7")
    assert found.module is not None
    assert found.module.name == "AGX Thor developer kit (T5000)"


def test_dpkg_is_asked_where_the_release_file_is_missing(tmp_path: Path) -> None:
    machine = jetson(tmp_path, "nano", "jp6")
    (tmp_path / "etc/nv_tegra_release").unlink()
    command(tmp_path / "bin", "dpkg-query", "printf 39.2.0-20260601141651")
    assert find_platform(machine).l4t == (39, 2, 0)


@given(st.text())
def test_no_release_text_raises(text: str) -> None:
    class Planted(Machine):
        def text(self, name: object) -> str | None:
            return text

    find_platform(Planted(Path("/nowhere"), path=""))


def test_bandwidth_is_that_of_the_data_sheets() -> None:
    assert bandwidth(3_199_000_000, 256) == pytest.approx(204.7, abs=0.05)
    assert bandwidth(3_199_000_000, 128) == pytest.approx(102.4, abs=0.05)
    assert bandwidth(2_133_000_000, 128) == pytest.approx(68.3, abs=0.05)
    assert nearest_jetpack((1, 0, 0)) == "5.1"


# ----------------------------------------------------------------------------------------------------------- telemetry


@pytest.mark.parametrize("board", BOARDS)
@pytest.mark.parametrize("generation", RELEASES)
def test_sensors_of_every_board_on_every_jetpack(tmp_path: Path, board: str, generation: str) -> None:
    reading = read_telemetry(jetson(tmp_path, board, generation))
    expected = {label: mv * ma // 1000 for sensor in RAILS[board] for label, mv, ma in sensor if label != "NC"}
    assert reading.rails == expected
    assert reading.total_mw == {"agx": 8700, "nx": 7600, "nano": 5700}[board]
    assert reading.temperatures == {"cpu": 46.531, "gpu": 48.218, "cv0": None, "soc0": 46.593, "tj": 48.843}
    assert reading.hottest == 48.843
    assert reading.gpu_load == 0.634
    assert reading.gpu_clock.locked
    assert reading.emc_clock.high == 3_199_000_000
    assert (reading.fan_pwm, reading.fan_rpm) == (102, 1830)
    assert reading.throttle == {"oc1": 0, "oc2": 0, "oc3": 0}
    text = prometheus(reading)
    assert 'dskd_temperature_celsius{zone="tj"} 48.843\n' in text
    assert "cv0" not in text


def test_a_plain_machine_has_no_sensors(tmp_path: Path) -> None:
    reading = read_telemetry(Machine(tmp_path))
    assert (reading.rails, reading.total_mw, reading.gpu_load, reading.hottest) == ({}, None, None, None)
    assert prometheus(reading) == ""


def test_over_current_and_half_a_sensor(tmp_path: Path) -> None:
    machine = jetson(tmp_path, "nano", "jp6")
    put(tmp_path, "/sys/class/hwmon/hwmon1/curr1_crit_alarm", 1)
    put(tmp_path, "/sys/class/hwmon/hwmon1/in2_input", "garbage")
    (tmp_path / "sys/class/hwmon/hwmon1/curr3_input").unlink()
    reading = read_telemetry(machine)
    assert reading.alarms == ("VDD_IN",)
    assert list(reading.rails) == ["VDD_IN"]


def test_throttle_counts_are_differences_also_over_a_reboot() -> None:
    assert throttle_deltas({"oc1": 3, "oc3": 100}, {"oc1": 4, "oc2": 2, "oc3": 40}) == {"oc1": 1, "oc2": 2, "oc3": 40}


# --------------------------------------------------------------------------------------------------------------- power


def test_a_mode_is_found_by_its_name_where_ids_differ(tmp_path: Path) -> None:
    nano = read_power(jetson(tmp_path / "nano", "nano", "jp6", mode="15W"))
    nx = read_power(jetson(tmp_path / "nx", "nx", "jp6", mode="15W"))
    assert plan(nano, "MAXN_SUPER", None) == [["nvpmodel", "-m", "2"]]
    assert plan(nx, "MAXN_SUPER", None) == [["nvpmodel", "-m", "0"]]
    assert (nano.mode, largest_mode(nano.modes)) == ("15W", "MAXN_SUPER")
    assert largest_mode({"15W": 0, "7W": 1}) == "15W"
    assert plan(nano, "15W", None) == []
    assert plan(nano, None, "lock") == []  # locked already
    assert plan(nano, "25W", "lock") == [["nvpmodel", "-m", "1"], ["jetson_clocks"]]
    assert plan(nano, None, "free") == [["jetson_clocks", "--restore"]]


def test_nvpmodel_says_the_mode(tmp_path: Path) -> None:
    machine = jetson(tmp_path, "agx", "jp6")
    command(tmp_path / "bin", "nvpmodel", 'printf "NV Power Mode: MODE_50W\\n3\\n"')
    assert read_power(machine).mode == "MODE_50W"


def test_a_mode_that_is_none_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(CallError, match="did you mean MAXN_SUPER"):
        plan(read_power(jetson(tmp_path, "nano", "jp6")), "maxn", None)
    with pytest.raises(MissingPart, match="no Jetson"):
        plan(read_power(Machine(tmp_path / "pc", path="")), "MAXN", None)


def test_apply_runs_the_commands_and_tells_what_they_said(tmp_path: Path) -> None:
    machine = jetson(tmp_path, "nano", "jp6")
    command(tmp_path / "bin", "nvpmodel", f'echo "$@" >> {tmp_path}/calls')
    apply(machine, [["nvpmodel", "-m", "1"]])
    assert (tmp_path / "calls").read_text() == "-m 1\n"
    command(tmp_path / "bin", "nvpmodel", 'echo "REBOOT required. Do you want to continue?"')
    with pytest.raises(DskdError, match="needs a reboot"):
        apply(machine, [["nvpmodel", "-m", "0"]])
    command(tmp_path / "bin", "nvpmodel", 'echo "cannot open /dev/nvpm" >&2; exit 1')
    with pytest.raises(DskdError, match="cannot open"):
        apply(machine, [["nvpmodel", "-m", "0"]])
    with pytest.raises(MissingPart, match="jetson_clocks is not installed"):
        apply(machine, [["jetson_clocks"]])


def test_the_commands_on_this_machine(command: Command, tmp_path: Path) -> None:
    done = command("jetson", "telemetry", "--json", "--textfile", tmp_path / "t.prom")
    assert done.returncode == 0, done.stderr
    assert "rails" in json.loads(done.stdout)
    assert (tmp_path / "t.prom").exists()
    assert command("jetson", "power", "--json").returncode == 0
    assert command("jetson", "nonsense").returncode == 2
    assert "doctor" in command("jetson").stdout
