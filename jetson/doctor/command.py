"""``dskd jetson doctor``: every check, one line each."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from dskd.jetson.doctor import device, software, storage, surroundings
from dskd.jetson.doctor.base import Context, Finding, fail, find_user
from dskd.runtime.bundle.loading import default_bundle
from dskd.runtime.errors import CallError, Parser, one_line

CHECKS: dict[str, Callable[[Context], Finding]] = {
    "device": device.device,
    "l4t": device.l4t,
    "python": software.python,
    "numpy": software.numpy,
    "opencv": software.opencv,
    "gstreamer": software.gstreamer,
    "onnxruntime": software.onnxruntime,
    "tensorrt": software.tensorrt,
    "cuda": software.cuda,
    "dla": device.dla,
    "cameras": surroundings.cameras,
    "power mode": device.power_mode,
    "clocks": device.clocks,
    "temperatures": device.temperatures,
    "throttling": device.throttling,
    "disk": storage.disk,
    "memory": storage.memory,
    "bundle": storage.bundle,
    "engine": storage.engine,
    "permissions": surroundings.permissions,
    "gpio": surroundings.gpio,
    "clock": surroundings.clock,
    "service": surroundings.service,
}
DATA = Path("/var/lib/dskd")
EPILOG = """examples:
  dskd jetson doctor
  dskd jetson doctor --bundle runs/latest/bundle --json

Exit code 0: nothing failed; 1: something did; 2: the call was wrong."""


def examine(context: Context) -> dict[str, Finding]:
    """Every check by name. A check that itself breaks is a finding, for a doctor must not fall ill."""
    return {name: _look(check, context) for name, check in CHECKS.items()}


def _look(check: Callable[[Context], Finding], context: Context) -> Finding:
    try:
        return check(context)
    except Exception as error:
        return fail(
            f"could not be looked at: {type(error).__name__}: {error}", "report this with the output of doctor --json"
        )


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    options = Parser(prog="dskd jetson doctor", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawTextHelpFormatter)  # fmt: skip
    options.add_argument("--json", action="store_true", help="print one JSON object")
    options.add_argument("--bundle", type=Path, help="bundle folder (default: $DSKD_BUNDLE, else runs/latest/bundle)")
    options.add_argument(
        "--data", type=Path, help=f"where the station writes (default: {DATA} where it exists, else here)"
    )
    options.add_argument("--user", help="whose rights to look at (default: dskd where it exists, else you)")
    options.add_argument("--power-mode", help="the mode the line needs (default: the module's largest)")
    chosen = options.parse_args(arguments)
    try:
        user = find_user(chosen.user)
    except KeyError as error:
        raise CallError(f"--user {chosen.user}: there is no such user") from error
    data = chosen.data or (DATA if DATA.is_dir() else Path.cwd())
    context = Context(bundle=chosen.bundle or default_bundle(), data=data, user=user, power_mode=chosen.power_mode)
    findings = examine(context)
    if chosen.json:
        fields = [
            {"name": name, "status": f.status, "detail": f.detail, "mend": f.mend} for name, f in findings.items()
        ]
        print(json.dumps({"checks": fields}))
    else:
        for name, finding in findings.items():
            print(f"{finding.status:4}  {name:12}  {one_line(finding.detail)}")
            if finding.mend:
                print(f"{'':20}mend: {one_line(finding.mend)}")
    return 1 if any(finding.status == "FAIL" for finding in findings.values()) else 0
