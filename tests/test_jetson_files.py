"""The files that an installation is made of, judged by the tools that know them; no installation is made here."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT

from dskd.jetson.wheel_closure import lacking
from dskd.jetson.wheels import EXTRAS, ROUNDS, TARGETS, pip_words, platforms
from dskd.runtime.station import __name__ as station
from dskd.runtime.station.camera_daemon import FILE

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

JETSON = ROOT / "jetson"
UNITS = sorted(path.name for path in (JETSON / "systemd").glob("dskd-*"))
MOST_EXPOSED = {
    "dskd-station.service": 2.5, "dskd-agent.service": 2.5, "dskd-switch.service": 2.0, "dskd-argus.service": 2.0,
}  # fmt: skip  # of 10
OF_A_BUILD = {"DSKD_WHEELS", "DSKD_DOCKERFILE"}


def tool(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(w) for w in words], capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.parametrize("script", ["jetson/install.sh", "jetson/compose-env.sh", ".ci/run"])
def test_shellcheck_finds_nothing(script: str) -> None:
    done = run(tool("shellcheck"), ROOT / script)
    assert done.returncode == 0, done.stdout


def test_hadolint_finds_nothing_in_the_container() -> None:
    done = run(tool("hadolint"), JETSON / "Dockerfile")
    assert (done.returncode, done.stdout) == (0, "")


def test_compose_gives_no_rights_and_bounds_its_logs() -> None:
    services = yaml.safe_load((JETSON / "compose.yaml").read_text())["services"]
    for service in services.values():
        assert service["user"] == re.search(r"USER (\d+)", (JETSON / "Dockerfile").read_text())[1]  # type: ignore[index]
        assert service["user"] != "0"
        assert service["cap_drop"] == ["ALL"]
        assert set(service["logging"]["options"]) == {"max-size", "max-file"}
    option = yaml.safe_load((JETSON / "compose_read_only.yaml").read_text())["services"]
    assert option == {name: {"read_only": True} for name in services}


def test_nothing_that_a_device_may_lack_stops_the_container() -> None:
    """Named groups would be the image's, and a device that is absent or a mount that Docker makes as a folder stops it."""
    for name, service in yaml.safe_load((JETSON / "compose.yaml").read_text())["services"].items():
        assert all(re.fullmatch(r"\$\{DSKD_[A-Z]+:-\d+\}", group) for group in service["group_add"])
        assert "${DSKD_RENDER:-44}" in service["group_add"]
        assert all(re.match(r"\$\{DSKD_\w+:-/dev/null\}:", device) for device in service["devices"])
        assert len(service["profiles"]) == 1
        assert ("/tmp:/tmp" in service["volumes"]) == (name == "station-csi") == ("tmpfs" not in service)
        assert not any("argus_socket" in str(volume) for volume in service["volumes"])
        bound = [volume for volume in service["volumes"] if isinstance(volume, dict)]
        assert all(volume["bind"] == {"create_host_path": False} for volume in bound)


def test_the_containers_settings_are_those_of_the_device(tmp_path: Path) -> None:
    def told() -> dict[str, str]:
        done = subprocess.run(
            ["sh", JETSON / "compose-env.sh"], env={"ROOT": str(tmp_path), "PATH": os.environ["PATH"]},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return dict(line.split("=") for line in done.stdout.splitlines())

    assert told() == {"COMPOSE_PROFILES": "plain"}
    for name in ("dev/nvmap", "dev/dri/renderD128", "dev/gpiochip1", "dev/video0", "etc/nv_tegra_release"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "etc/nv_tegra_release").write_text("# R39 (release), REVISION: 2.0\n")
    group = str((tmp_path / "dev/nvmap").stat().st_gid)
    assert told() == {
        "COMPOSE_PROFILES": "plain", "DSKD_VIDEO": group, "DSKD_RENDER": group, "DSKD_GPIO": group,
        "DSKD_GPIOCHIP": "/dev/gpiochip1", "DSKD_CAMERA": "/dev/video0", "DSKD_GENERATION": "jp7",
    }  # fmt: skip
    # two CSI sensors, and two USB cameras with a second node each for what is no picture
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp/argus_socket").touch()
    classes = tmp_path / "sys/class/video4linux"
    classes.mkdir(parents=True)
    usb, csi = "3610000.usb/usb1/1-2/1-2:1.0", "tegra-capture-vi"
    nodes = ((0, csi, 0), (1, csi, 0), (2, usb, 0), (3, usb, 1), (10, usb, 0), (11, usb, 1))
    for number, bus, index in nodes:
        about = tmp_path / f"sys/devices/platform/{bus}/video4linux/video{number}"
        about.mkdir(parents=True)
        (about / "index").write_text(f"{index}\n")
        (classes / about.name).symlink_to(about)
        (tmp_path / "dev" / about.name).touch()
    found = told()
    assert found["COMPOSE_PROFILES"] == "csi"
    assert {name: node for name, node in found.items() if "CAMERA" in name} == {
        "DSKD_CAMERA": "/dev/video2", "DSKD_CAMERA_2": "/dev/video10",
        "DSKD_CAMERA_3": "/dev/video0", "DSKD_CAMERA_4": "/dev/video1",
    }  # fmt: skip
    used = set(re.findall(r"\$\{(DSKD_\w+)", (JETSON / "compose.yaml").read_text()))
    assert {name for name in found if name.startswith("DSKD")} == used - OF_A_BUILD


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_accepts_the_unit(unit: str, tmp_path: Path) -> None:
    """As it stands, but for the Python of the installation, which is not here."""
    for name in UNITS:
        text = (JETSON / "systemd" / name).read_text().replace("/opt/dskd/venv/bin/python", "/bin/true")
        (tmp_path / name).write_text(text)
    done = run(tool("systemd-analyze"), "verify", "--man=no", "--recursive-errors=no", tmp_path / unit)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("unit", MOST_EXPOSED)
def test_the_unit_is_hardened(unit: str) -> None:
    done = run(tool("systemd-analyze"), "security", "--offline=yes", "--no-pager", JETSON / "systemd" / unit)
    score = re.search(r"exposure level for \S+: ([\d.]+)", done.stdout)
    assert score, done.stderr
    assert float(score[1]) <= MOST_EXPOSED[unit]


def test_the_station_is_watched_and_never_given_up() -> None:
    text = (JETSON / "systemd/dskd-station.service").read_text()
    for line in ("Type=notify", "WatchdogSec=30", "Restart=always", "StartLimitIntervalSec=0", "User=dskd"):
        assert f"\n{line}\n" in text
    assert station == "dskd.runtime.station"


def test_what_stays_away_is_restarted_by_systemd_alone_and_not_too_often() -> None:
    """A unit that hits its limit of starts takes its path unit along, so the limit is how long one start takes."""
    units = {path.name: path.read_text() for path in (JETSON / "systemd").glob("dskd-*")}
    watched = re.search(r"^PathChanged=(.+)$", units["dskd-argus.path"], re.MULTILINE)
    assert watched
    assert f"\nEnvironment={FILE}={watched[1]}\n" in units["dskd-station.service"]
    restart, pause = re.findall(r"^ExecStart=(.+)$", units["dskd-argus.service"], re.MULTILINE)
    assert restart == "/usr/bin/systemctl try-restart nvargus-daemon.service"
    assert pause == "/usr/bin/sleep 600"
    assert "\nType=oneshot\n" in units["dskd-argus.service"]
    assert "StartLimit" not in units["dskd-argus.service"]
    script = (JETSON / "install.sh").read_text()
    assert "for unit in dskd-switch.path dskd-argus.path; do" in script


def test_logs_are_rotated(tmp_path: Path) -> None:
    """The real logrotate, forced, on a folder of ours."""
    rotate = shutil.which("logrotate") or shutil.which("logrotate", path="/usr/sbin")
    if rotate is None:
        pytest.skip("logrotate is not installed")
    logs = tmp_path / "logs"
    logs.mkdir(mode=0o755)
    (logs / "line.jsonl").write_text("{}\n")
    text = (JETSON / "systemd/logrotate").read_text().replace("/var/log/dskd", str(logs)).replace("su dskd dskd", "su")
    settings = tmp_path / "settings"
    settings.write_text(text.replace("    su\n", ""))
    settings.chmod(0o644)
    done = run(rotate, "--force", "--state", tmp_path / "state", settings)
    assert done.returncode == 0, done.stderr
    assert (logs / "line.jsonl").read_text() == ""
    assert (logs / "line.jsonl.1").read_text() == "{}\n"


def test_the_wheel_holds_what_the_installer_takes_from_it() -> None:
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["dskd.jetson"]
    kept = {path.relative_to(JETSON).as_posix() for pattern in data for path in JETSON.glob(pattern)}
    script = (JETSON / "install.sh").read_text()
    units = re.search(r"UNIT_FILES=\((.*)\)", script)
    assert units
    assert {
        f"systemd/{name}" for name in [*units[1].split(), "journald@dskd.conf", "logrotate", "99-dskd-gpio.rules"]
    } <= kept
    assert {"constraints-jp6.txt", "constraints-jp7.txt", "install.sh"} <= kept
    assert f"EXTRAS={EXTRAS}\n" in script


def requirements() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [r for extra in EXTRAS.split(",") for r in project["optional-dependencies"][extra]]
    return [*project["dependencies"], *extras]


NO_REGISTRY = re.compile(r"NewConnectionError|NameResolutionError|ConnectTimeout|ProxyError|Could not fetch URL")


@pytest.fixture(scope="module", params=TARGETS)
def resolved(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, list[dict[str, Any]]]:
    """A JetPack, and what pip's resolver chooses for it: aarch64, its Python and glibc, wheels only, its constraints."""
    target, folder, wanted = request.param, tmp_path_factory.mktemp("resolved"), requirements()
    python, glibc = TARGETS[target]
    for _ in range(ROUNDS):
        done = run(
            sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--disable-pip-version-check", "--retries", "1",
            "--target", folder, "--ignore-installed", "--report", folder / "report.json",
            "--constraint", JETSON / f"constraints-{target}.txt", *pip_words(python, glibc), *wanted,
        )  # fmt: skip
        if done.returncode and NO_REGISTRY.search(done.stderr):
            pytest.skip("no package registry answers")
        assert done.returncode == 0, done.stderr
        packages = json.loads((folder / "report.json").read_text())["install"]
        requires = {p["metadata"]["name"]: p["metadata"].get("requires_dist", []) for p in packages}
        missing = lacking(requires, wanted, python)
        if not missing:
            return target, packages
        wanted += missing
    raise AssertionError(f"still lacks {missing}")


@pytest.mark.thorough
@pytest.mark.slow
def test_every_requirement_has_a_wheel_for_the_device(resolved: tuple[str, list[dict[str, Any]]]) -> None:
    target, packages = resolved
    files = {
        package["metadata"]["name"].lower().replace("_", "-"): package["download_info"]["url"].rpartition("/")[2]
        for package in packages
    }
    assert {re.split(r"[<>=;\[ ]", wanted)[0].lower() for wanted in requirements()} <= set(files)
    assert [file for file in files.values() if not re.search(r"(aarch64|-none-any)\.whl", file)] == []
    own = f"cp{TARGETS[target][0].replace('.', '')}"
    compiled = [file for file in files.values() if "aarch64" in file]
    assert [file for file in compiled if own not in file and "abi3" not in file and "-py3-" not in file] == []
    if target == "jp6":
        assert files["numpy"].startswith("numpy-1.")
        assert files["cuda-bindings"].startswith("cuda_bindings-12.")
        assert "exceptiongroup" in files, "anyio needs it on Python 3.10, whatever Python this is"


@pytest.mark.thorough
@pytest.mark.slow
def test_no_requirement_of_the_device_has_a_known_weakness(
    resolved: tuple[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    pins = tmp_path / "pins.txt"
    pins.write_text("".join(f"{p['metadata']['name']}=={p['metadata']['version']}\n" for p in resolved[1]))
    audit = tool("pip-audit")
    for service in ("osv", "pypi"):  # strict: a package that could not be looked up is no clean one
        done = run(audit, "--strict", "--requirement", pins, "--no-deps", "--disable-pip",
                   "--vulnerability-service", service, "--progress-spinner", "off", "--timeout", "15")  # fmt: skip
        assert "Fix Versions" not in done.stdout, done.stdout
        if done.returncode == 0:
            return
    pytest.skip(f"no service with known weaknesses answers: {done.stderr.strip()[-150:]}")


def test_platform_tags_reach_from_the_device_down() -> None:
    assert platforms(18) == ["manylinux_2_18_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64"]


def test_what_is_lacking_is_judged_by_the_device_and_not_by_this_machine() -> None:
    packages = {
        "App": ["lib>=2; extra == 'line'", "other; extra == 'fleet'", "Dotted.Name"],
        "lib": ["backport>=1.1; python_version < '3.11'", "arm-only; platform_machine == 'aarch64'",
                "intel; platform_machine == 'x86_64'", "app[line]"],
        "dotted-name": [],
    }  # fmt: skip
    assert lacking(packages, ["app[line]"], "3.10") == ["arm-only", "backport>=1.1"]
    assert lacking(packages, ["app[line]"], "3.12") == ["arm-only"]
    assert lacking(packages, ["app"], "3.12") == []
    assert lacking(packages, ["app[line,fleet] @ file:///app.whl", "absent"], "3.12") == ["absent", "arm-only", "other"]
