"""``dskd recalibrate``: thresholds from what a camera scored on the line, with the rate they support."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

import numpy as np
import yaml

from dskd.runtime import atomic
from dskd.runtime.bundle.loading import is_bundle, load_bundle
from dskd.runtime.bundle.manifest import Thresholds
from dskd.runtime.configuration.strict_yaml import LARGEST_YAML, parse_yaml
from dskd.runtime.configuration.yaml_edit import with_numbers
from dskd.runtime.errors import CallError, DskdError, Parser, exit_with_code
from dskd.runtime.inspection.threshold import conformal_thresholds, describe
from dskd.runtime.result import Verdict
from dskd.runtime.store import Scored, StoreReader
from dskd.runtime.store.reader import Label

MOST = 100_000  # scores looked at
Basis = Literal["confirmed good", "passes"]
EXAMPLES = """examples:
  dskd recalibrate --store /var/lib/dskd/store.db --camera top
  dskd recalibrate --store line.db --camera top --from passes --last 2000 --reject-rate 0.002
  dskd recalibrate --store line.db --camera top --apply station.yaml

Without --apply nothing changes. With it the two thresholds of the camera's recipe in the station file are set; they
hold from the station's next start."""


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


def apply(proposal: Proposal, file: Path, recipe: str | None) -> str:
    """Sets the thresholds in a station file; returns the recipe's name.

    Raises CallError where there is none, or where its bundle is here and is another one than gave the scores.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise CallError(f"{file}: cannot be read ({error}); name a station file") from error
    if len(text) > LARGEST_YAML:
        raise CallError(f"{file}: is too large for a station file; name another")
    numbers = {"review": proposal.thresholds.review.score, "reject": proposal.thresholds.reject.score}
    try:
        data = parse_yaml(text)
        name = recipe or _recipe_of(data, proposal.camera)
        present = _bundle_of(data, name, file.parent)
        if present not in (None, proposal.bundle):
            raise CallError(
                f"recipe {name} runs bundle {present}, and these scores are of {proposal.bundle}; name the recipe that "
                "the camera ran with --recipe, or let the new bundle run first"
            )
        changed = with_numbers(text, ("recipes", name), numbers)
    except yaml.YAMLError as error:
        raise CallError(f"{file}: is not plain YAML ({error}); mend it first") from error
    except CallError as error:
        raise CallError(f"{file}: {error}") from error
    atomic.write_text(file, changed)
    return name


def _text_at(data: object, *keys: str) -> str | None:
    for key in keys:
        data = data.get(key) if isinstance(data, dict) else None
    return data if isinstance(data, str) else None


def _bundle_of(data: object, recipe: str, folder: Path) -> str | None:
    """The id of a recipe's bundle, None where it is not on this machine."""
    path = _text_at(data, "recipes", recipe, "bundle")
    if path is None or not is_bundle(folder / path):
        return None
    return load_bundle(folder / path, later=True).id


def _recipe_of(data: object, camera: str) -> str:
    step = _text_at(data, "cameras", camera, "recipe")
    if step is None:
        raise CallError(f"has no camera {camera} with a recipe; name the recipe with --recipe")
    return step


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
    options.add_argument("--apply", type=Path, metavar="FILE", help="station file to set the thresholds in")
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
    applied = None if options.apply is None else apply(found, options.apply, options.recipe)
    if options.json:
        print(json.dumps({**found.as_dict(), "applied_to": applied}))
        return 0
    print(f"camera {found.camera}, bundle {found.bundle} on {found.backend}")
    print(f"{found.thresholds.reject.images} {found.basis} from {_day(found.since)} to {_day(found.until)}")
    print(f"reject over {describe(found.thresholds.reject)}; now {found.present_reject:.4f}")
    print(f"review over {describe(found.thresholds.review)}")
    print(f"caution: {found.caution()}")
    changes = [f"{name} {found.before[name]} -> {found.after[name]}" for name in found.before]
    print(f"the last {sum(found.before.values())} inspections by score: {', '.join(changes)}")
    print(f"set in {options.apply}, recipe {applied}" if applied else "nothing was changed; --apply FILE sets them")
    return 0


def _day(moment: float) -> str:
    return datetime.fromtimestamp(moment, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


if __name__ == "__main__":
    exit_with_code(main)
