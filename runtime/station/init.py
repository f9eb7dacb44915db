"""``dskd init``: a station file for what is found here, with every line explained, that runs as it is printed."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

from pydantic import ValidationError

from dskd.runtime.atomic import write_new
from dskd.runtime.bundle.loading import default_bundle, load_bundle
from dskd.runtime.configuration.strict_yaml import first_fault, parse_yaml
from dskd.runtime.errors import CallError, Parser, exit_with_code, one_line
from dskd.runtime.station.config import StationConfig

EXAMPLES = """examples:
  dskd init                                 line.yaml for runs/latest/bundle and the cameras that are found
  dskd init --bundle bundles/bracket        for another bundle
  dskd init line-3.yaml --source rtsp://10.0.0.5/stream

Then: dskd station line.yaml. docs/line-yaml.md explains every key."""
VIDEO = Path("/sys/class/video4linux")


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    options = Parser(
        prog="dskd init", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawTextHelpFormatter
    )
    options.add_argument(
        "file", nargs="?", type=Path, default=Path("line.yaml"), help="file to write (default: %(default)s)"
    )
    options.add_argument("--bundle", type=Path, help="bundle folder (default: $DSKD_BUNDLE, else runs/latest/bundle)")
    options.add_argument(
        "--source", action="append", default=[], help="a camera's URI (default: the cameras found here)"
    )
    return options


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    options = parser().parse_args(arguments)
    path = options.bundle or default_bundle()
    bundle = load_bundle(path)
    sources = options.source or cameras(VIDEO) or [f"folder://{path.resolve()}/golden?loop=1&fps=1"]
    text = station_file(bundle.manifest.name, path.resolve(), sources)
    try:  # a password that was given with --source must not be written
        StationConfig.model_validate(parse_yaml(text), context={"folder": options.file.absolute().parent})
    except ValidationError as error:
        raise CallError(f"{options.file}: not written: {first_fault(error)}") from None
    try:
        write_new(options.file, text.encode(), 0o644)
    except FileExistsError:
        raise CallError(f"{options.file}: is there already; name another file") from None
    except OSError as error:
        raise CallError(f"{options.file}: cannot be written ({error.strerror}); name another place") from error
    print(f"wrote {options.file}: {len(sources)} camera(s), bundle {bundle.id}")
    if not options.source and sources[0].startswith("folder://"):
        print("no camera was found: the bundle's golden frames stand in for one")
    if not has_page():
        print("the page is left out: pip install 'dskd-edge[line]' and take the # from web:")
    print(f"next: dskd station {options.file}")
    return 0


def cameras(folder: Path) -> list[str]:
    """URIs of the USB cameras here: the first device of each, which gives the pictures."""
    found = []
    for device in sorted(folder.glob("video*"), key=lambda d: (len(d.name), d.name)):
        try:
            index = (device / "index").read_text().strip()
        except OSError:
            continue
        if index == "0":
            found.append(f"v4l2:///dev/{device.name}")
    return found


def has_page() -> bool:
    """Whether what the page needs is installed."""
    return all(find_spec(name) is not None for name in ("starlette", "uvicorn"))


def station_file(recipe: str, bundle: Path, sources: list[str]) -> str:
    """The file's text."""
    name = "".join(c if c.isalnum() and c.isascii() else "-" for c in recipe).strip("-").lower()[:40] or "part"
    blocks = [
        f"  camera-{k}:\n    source: {quoted(uri)}\n    recipe: {name}        # which of the recipes below\n"
        "    # trigger: {kind: software, deadline_ms: 100}    # a part per trigger (page, MQTT, Modbus, GPIO)\n"
        for k, uri in enumerate(sources, 1)
    ]
    page = "" if has_page() else "# "
    return f"""# A station for `dskd station`; `dskd station FILE --check-config` names every fault with its line.
# docs/line-yaml.md explains every key. Relative paths start at this file.
name: line-1
data: station-data            # store, archive, token: a folder that stays
cameras:
{"".join(blocks)}recipes:
  {name}:
    bundle: {quoted(str(bundle))}
    job: 1                    # number by which a PLC asks for it
    # reject: 12.5            # a threshold of your own (default: the bundle's)
    # fail_safe: REJECT       # verdict of a part that could not be inspected
sinks:
  archive: {{kind: archive}}    # pictures of what was not PASS, with heat
  # table: {{kind: csv, path: results.csv}}
# outputs:
#   gate: {{kind: gpio, line: 17, on: [REJECT], delay_ms: 120, pulse_ms: 50}}
#   plc: {{kind: modbus, listen: "127.0.0.1:1502", camera: camera-1}}
{page}web: {{listen: "127.0.0.1:8080"}}    # the operator's page
"""


def quoted(text: str) -> str:
    """As YAML takes any text."""
    return "'" + one_line(text).replace("'", "''") + "'"


if __name__ == "__main__":
    exit_with_code(main)
