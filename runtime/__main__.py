"""``dskd runtime``: inspect what a source captures and say PASS, REVIEW or REJECT."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import quote

# Before numpy: nothing here multiplies matrices, and threads for it would cost each start half of numpy's import.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from dskd.runtime.bundle.loading import default_bundle, load_bundle
from dskd.runtime.bundle.manifest import PRECISIONS, Thresholds
from dskd.runtime.capture.image_files import BadImage, read_mask
from dskd.runtime.capture.pixel_limit import MOST_MEGAPIXELS, limit_megapixels
from dskd.runtime.capture.sources import forms as source_forms
from dskd.runtime.capture.sources import open_source
from dskd.runtime.errors import CallError, Parser, exit_with_code, one_line
from dskd.runtime.inspection.backends import BACKENDS
from dskd.runtime.inspection.decision import Settings
from dskd.runtime.inspection.inspector import Inspector
from dskd.runtime.inspection.proved import open_proved
from dskd.runtime.pipeline import Tally, comes_when_it_comes, run
from dskd.runtime.reason import Reason
from dskd.runtime.result import Dropped, Inspection
from dskd.runtime.verbosity import add_verbosity, apply_verbosity

if TYPE_CHECKING:
    from dskd.runtime.sinks import Sink

MOST_THREADS = 1024  # more than any machine has cores
EXAMPLES = """examples:
  dskd runtime                                         inspect the bundle's own golden frames
  dskd runtime --source parts/ --sink images://out     a folder, with overlay pictures
  dskd runtime --source part.png --json                one image, one JSON object
  dskd runtime --source v4l2:///dev/video0 --sink sqlite://line.db --sink jsonl://-
  dskd runtime --source watch://incoming --sink sqlite://line.db --sink 'mqtt://10.0.0.2/line-3?on=REJECT'
  dskd runtime --source rtsp://USER:PASSWORD@10.0.0.5/stream --sink images://out
  dskd runtime --source 'csi://0?width=1920&height=1080&exposure=1000&gain=1'

A score over the reject threshold is REJECT, over the review threshold REVIEW, else PASS. It is told as a multiple of
the reject threshold, over 1 is REJECT, and as it is in brackets. Exit code 0: every frame was inspected (or, of a live
camera, overtaken by a newer one); 1: some were dropped or the work failed; 2: the call was wrong; 3: a camera or
library is missing."""


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    options = Parser(
        prog="dskd runtime", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawTextHelpFormatter
    )
    options.add_argument("--bundle", type=Path, help="bundle folder (default: $DSKD_BUNDLE, else runs/latest/bundle)")
    options.add_later("--source", text=_source_help)
    options.add_later("--sink", action="append", default=[], text=_sink_help)
    options.add_argument(
        "--backend",
        default="auto",
        choices=BACKENDS,  # asked whether it holds a name; all names are looked up for the help alone
        metavar="NAME",
        help="what runs the graph: %(choices)s (default: tensorrt where the bundle has an engine for this\n"
        "device, onnxruntime where it has CUDA, openvino where installed, else onnxruntime)",
    )
    options.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="what to compute in (default: with tensorrt the fastest engine, with openvino\n"
        "bf16 where the CPU and the bundle have it, else fp32)",
    )
    options.add_argument("--threads", type=int, default=0, help="CPU threads (default: one for each core it may use)")
    options.add_argument(
        "--reject-threshold", type=float, help="score over which a part is rejected (default: the bundle's)"
    )
    options.add_argument(
        "--review-threshold", type=float, help="score over which a person looks (default: the bundle's)"
    )
    options.add_argument(
        "--min-area", type=int, default=0, help="regions of fewer frame pixels do not count (default: 0)"
    )
    options.add_argument(
        "--roi",
        type=Path,
        help="mask image of the frame's size, or of the part as the bundle's fixture\ncuts it out; only its white part counts",
    )
    options.add_argument(
        "--max-megapixels",
        type=int,
        help="larger picture files are refused (default: $DSKD_MAX_MEGAPIXELS, else 64);\n"
        "decoding takes up to 12 MB of memory for each",
    )
    options.add_argument("--json", action="store_true", help="print one JSON object instead of a line per frame")
    add_verbosity(options)
    return options


def settings(thresholds: Thresholds, arguments: argparse.Namespace) -> Settings:
    """The graph's thresholds, changed by options."""
    try:
        roi = None if arguments.roi is None else read_mask(arguments.roi)
    except BadImage as error:
        raise CallError(f"--roi {error}") from error
    return Settings.of(thresholds).changed(
        arguments.reject_threshold, arguments.review_threshold, arguments.min_area, roi
    )


def _open_sinks(uris: list[str]) -> list[Sink]:
    if not uris:  # a store and threads that deliver from it are imported where they are asked for
        return []
    from dskd.runtime.sinks.by_uri import open_sinks

    return open_sinks(uris)


def _source_help() -> str:
    return "\n".join([*source_forms(), "(default: the bundle's golden frames)"])


def _sink_help() -> str:
    from dskd.runtime.sinks.by_uri import forms

    return "may be given again: " + "\n".join(forms())


def _apply_limits(options: argparse.Namespace) -> None:
    if not 0 <= options.threads <= MOST_THREADS:
        raise CallError(f"--threads {options.threads} must lie between 0 (the backend's choice) and {MOST_THREADS}")
    megapixels = options.max_megapixels
    if megapixels is None:
        return
    if not 1 <= megapixels <= MOST_MEGAPIXELS:
        raise CallError(f"--max-megapixels {megapixels} must lie between 1 and {MOST_MEGAPIXELS}")
    limit_megapixels(megapixels)


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    options = parser().parse_args(arguments)
    apply_verbosity(options)
    _apply_limits(options)
    bundle = load_bundle(options.bundle or default_bundle(), later=True)
    golden = f"folder://{quote(str((bundle.path / 'golden').resolve()))}"
    source = open_source(golden if options.source is None else options.source)
    if options.json and comes_when_it_comes(source):
        raise CallError("--json prints when the source ends, and this one does not; use --sink jsonl://-")
    backend, check = open_proved(bundle, options.backend, options.threads, options.precision, quick=True)
    decision_settings = settings(bundle.manifest.graphs[backend.graph].thresholds, options)
    sinks = _open_sinks(options.sink)
    inspector = Inspector(bundle, backend, decision_settings, keep_maps=any(sink.needs_map for sink in sinks))
    piped = options.json or any(sink.to_stdout for sink in sinks)  # another program reads standard output
    each = not (piped or options.quiet)
    if each:
        frames = f"{check.images} frame{'s' * (check.images != 1)}"
        print(f"bundle {bundle.id} on {backend.name}: golden check of {frames} within {check.score:.1e}")
    tally = Tally()
    inspections = []
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        for result in run(source, inspector, sinks, tally):
            if isinstance(result, Dropped):
                # A camera may give hundreds of these a minute: the counts tell them.
                if result.reason is not Reason.REPLACED:
                    print(f"dropped: {one_line(why(result))}", file=sys.stderr)
            elif options.json:
                inspections.append(result[1].as_dict())
            elif each:
                print(
                    line(result[1], options.verbose) + "\n", end="", flush=True
                )  # at once: Ctrl-C must not part a line from its end
    finally:  # what was inspected is told, also when the source or a sink fails half-way
        signal.signal(signal.SIGTERM, before)
        backend.close()
        if options.json:
            single = len(inspections) == 1 and tally.captured == 1
            print(json.dumps(inspections[0] if single else {"inspections": inspections, "counts": tally.as_dict()}))
        elif not piped:
            print(" ".join(f"{name} {count}" for name, count in tally.as_dict().items()))
    return 1 if tally.dropped > tally.replaced else 0


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    """SIGTERM, which a service manager sends, ends the run as Ctrl-C does: sinks are closed on the way out."""
    signal.signal(number, signal.SIG_DFL)  # who asks twice is not made to wait
    raise SystemExit(128 + number)


def why(dropped: Dropped) -> str:
    """Which frame was dropped and why; what is said of a file names it already."""
    told = dropped.explanation
    return told if dropped.id in told else f"{dropped.id}: {told}"


def line(inspection: Inspection, steps: bool = False) -> str:
    """One inspection for a terminal; with the time of each of its ``steps`` where that is asked for."""
    milliseconds = sum(inspection.timings_ms.values())
    found = f"  {len(inspection.regions)} region(s)" if inspection.regions else ""
    times = "     -" if inspection.ratio is None else f"{inspection.ratio:5.2f}x"
    score = f"{times} ({inspection.score:.4f})"
    told = f"{inspection.verdict.value:6}  {score:16}  {inspection.frame}  {milliseconds:.1f} ms{found}"
    if not steps:
        return told
    return told + "  (" + ", ".join(f"{step} {took:.1f}" for step, took in inspection.timings_ms.items()) + ")"


if __name__ == "__main__":
    exit_with_code(main)
