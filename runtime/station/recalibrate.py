"""``dskd recalibrate``: thresholds from what a camera scored on the line, with the rate they support."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

import numpy as np

from dskd.runtime.bundle.loading import is_bundle, load_bundle
from dskd.runtime.bundle.manifest import Thresholds
from dskd.runtime.errors import CallError, DskdError, Parser, exit_with_code
from dskd.runtime.inspection.threshold import conformal_thresholds, describe
from dskd.runtime.result import Verdict
from dskd.runtime.station.load import read_station
from dskd.runtime.station.recipe import OperatorOverrides, SavedThresholds
from dskd.runtime.store import Scored, StoreReader
from dskd.runtime.store.search import Label

MOST = 100_000  # scores looked at
Basis = Literal["confirmed good", "passes"]
EXAMPLES = """examples:
  dskd recalibrate --store /var/lib/dskd/store.db --camera top
  dskd recalibrate --store line.db --camera top --from passes --last 2000 --reject-rate 0.002
  dskd recalibrate --store line.db --camera top --apply station.yaml

Without --apply nothing changes. With it the two thresholds of the camera's recipe are kept in the station's data folder,
where those lie that are set on its page; the file itself stays as it is. They hold from the station's next start, for
this bundle and backend, until others are set."""


@dataclass(frozen=True)
class Proposal:
    """New thresholds of a camera, what they rest on, and what they would have done to its last inspections.

    ``flagged_share``: how many of those inspections were over the present review threshold and no person called a
    defect. ``before`` and ``after`` count verdicts, after by score alone. Times are seconds since the epoch.
    """

    camera: str
    bundle: str
    backend: str
    basis: Basis
    thresholds: Thresholds
    present_reject: float
    since: float
    until: float
    flagged_share: float
    before: dict[str, int]
    after: dict[str, int]

    def caution(self) -> str:
        """What the basis cannot know, for people."""
        if self.basis == "confirmed good":
            return "rests on parts that somebody looked at; the rates hold for parts like those"
        worst = self.flagged_share + (1 - self.flagged_share) * self.thresholds.reject.supported_rate
        return (
            f"rests on passes alone: {self.flagged_share:.2%} of parts were over the present review threshold, and if all "
            f"of them were good, up to {worst:.2%} of good parts would be rejected; confirm parts for a better figure"
        )

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "camera": self.camera, "bundle": self.bundle, "backend": self.backend, "basis": self.basis,
            "review": self.thresholds.review.model_dump(), "reject": self.thresholds.reject.model_dump(),
            "present_reject": self.present_reject, "since": self.since, "until": self.until,
            "before": self.before, "after": self.after, "caution": self.caution(),
        }  # fmt: skip


def propose(
    store: StoreReader, camera: str, basis: Basis, last: int, review_rate: float, reject_rate: float
) -> Proposal:
    """Thresholds from the last ``last`` good scores that the camera's present bundle and backend gave.

    Raises CallError where the camera has no inspections, DskdError where none of them is of the basis.
    """
    if not 1 <= last <= MOST:
        raise CallError(f"last {last} must lie between 1 and {MOST}")
    newest = store.scores(camera, 1)
    if not newest:
        known = ", ".join(store.sources()) or "none"
        raise CallError(f"camera {camera}: the store holds no inspection of it; it holds: {known}")
    model = newest[0].bundle, newest[0].backend
    good = [row for row in store.scores(camera, last, basis) if (row.bundle, row.backend) == model]
    if not good:
        mend = "confirm good parts on the page, or use passes" if basis == "confirmed good" else "let it run"
        raise DskdError(f"camera {camera}: no {basis} of bundle {model[0]} in the store; {mend}")
    thresholds = conformal_thresholds(np.array([row.score for row in good]), review_rate, reject_rate)
    recent = [row for row in store.scores(camera, last) if (row.bundle, row.backend) == model]
    flagged = [row for row in recent if row.verdict is not Verdict.PASS and row.label not in _DEFECTS]
    return Proposal(
        camera, model[0], model[1], basis, thresholds, newest[0].threshold,
        since=good[-1].captured, until=good[0].captured, flagged_share=len(flagged) / len(recent),
        before={verdict.value: sum(row.verdict is verdict for row in recent) for verdict in Verdict},
        after=_judged_again(recent, thresholds),
    )  # fmt: skip


_DEFECTS = (Label.DEFECT.value, Label.MISSED.value)


def _judged_again(rows: list[Scored], thresholds: Thresholds) -> dict[str, int]:
    rejected = sum(row.score > thresholds.reject.score for row in rows)
    looked_at = sum(thresholds.review.score < row.score <= thresholds.reject.score for row in rows)
    return {"PASS": len(rows) - rejected - looked_at, "REVIEW": looked_at, "REJECT": rejected}


def apply(proposal: Proposal, file: Path, recipe: str | None) -> tuple[str, Path]:
    """Keeps the thresholds beside what operators set in the station's data folder; returns the recipe and that file.

    Raises CallError where there is no such recipe, or where its bundle is here and is another one than gave the scores.
    """
    config, faults = read_station(file)
    if config is None:
        raise CallError(f"{faults[0]}")
    camera = config.cameras.get(proposal.camera)
    if recipe is None and camera is None:
        raise CallError(f"{file}: there is no camera {proposal.camera}; name the recipe with --recipe")
    name = recipe or camera.recipe  # type: ignore[union-attr]
    if name not in config.recipes:
        raise CallError(f"{file}: there is no recipe {name}; one of: {', '.join(config.recipes)}")
    wanted = config.recipes[name]
    present = load_bundle(wanted.bundle, later=True).id if is_bundle(wanted.bundle) else proposal.bundle
    if present != proposal.bundle:
        raise CallError(
            f"{file}: recipe {name} runs bundle {present}, and these scores are of {proposal.bundle}; name the recipe "
            "that the camera ran with --recipe, or let the new bundle run first"
        )
    found = proposal.thresholds
    saved = SavedThresholds(
        review=found.review.score, reject=found.reject.score, bundle=proposal.bundle, backend=proposal.backend,
        configured=(wanted.review, wanted.reject),
    )  # fmt: skip
    return name, OperatorOverrides(config.data).save(name, saved)


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    options = Parser(
        prog="dskd recalibrate",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    options.add_argument(
        "--store", type=Path, required=True, help="the station's store.db, or what --sink sqlite:// wrote"
    )
    options.add_argument("--camera", required=True, help="camera, or source, whose scores are taken")
    options.add_argument(
        "--from", dest="basis", choices=["confirmed", "passes"], default="confirmed",
        help="parts that a person confirmed as good or called a false alarm (default),\nor all that passed",
    )  # fmt: skip
    options.add_argument("--last", type=int, default=1000, help="how many of them at most (default: 1000)")
    options.add_argument("--review-rate", type=float, default=0.05, help="good parts over review (default: 0.05)")
    options.add_argument("--reject-rate", type=float, default=0.01, help="good parts over reject (default: 0.01)")
    options.add_argument("--apply", type=Path, metavar="FILE", help="file of the station that is to use the thresholds")
    options.add_argument("--recipe", help="recipe to set them of (default: the camera's in the file)")
    options.add_argument("--json", action="store_true", help="print one JSON object")
    return options


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    options = parser().parse_args(arguments)
    if not options.store.is_file():
        raise CallError(f"--store {options.store}: is no file; name the store that the station writes")
    basis: Basis = "confirmed good" if options.basis == "confirmed" else "passes"
    store = StoreReader(options.store)
    try:
        found = propose(store, options.camera, basis, options.last, options.review_rate, options.reject_rate)
    finally:
        store.close()
    applied, place = (None, None) if options.apply is None else apply(found, options.apply, options.recipe)
    if options.json:
        print(json.dumps({**found.as_dict(), "applied_to": applied}))
        return 0
    print(f"camera {found.camera}, bundle {found.bundle} on {found.backend}")
    print(f"{found.thresholds.reject.images} {found.basis} from {_day(found.since)} to {_day(found.until)}")
    print(f"REJECT: a score over {describe(found.thresholds.reject)}; now {found.present_reject:.4f}")
    print(f"REVIEW: a score over {describe(found.thresholds.review)}")
    print(f"caution: {found.caution()}")
    changes = [f"{name} {found.before[name]} -> {found.after[name]}" for name in found.before]
    print(f"the last {sum(found.before.values())} inspections by score: {', '.join(changes)}")
    if applied:
        print(f"set in {place}, recipe {applied}: they hold from the station's next start")
    else:
        print("nothing was changed; --apply FILE sets them")
    return 0


def _day(moment: float) -> str:
    return datetime.fromtimestamp(moment, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


if __name__ == "__main__":
    exit_with_code(main)
