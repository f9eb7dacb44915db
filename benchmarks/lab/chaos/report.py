"""What a chaos run collected, as figures for a JSON file and as a short page."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from dskd.benchmarks.lab.chaos.account import Account
from dskd.benchmarks.lab.chaos.line import Ended
from dskd.benchmarks.lab.chaos.truth import Lie, Sample, Span
from dskd.benchmarks.lab.station.figures import row

RECENT = 60.0  # seconds back for faults that may have to do with an untrue answer
CALM = 150.0  # seconds after which health must be ok again, whatever the faults were


@dataclass
class Round:
    """What went wrong together, and seconds until health was ok again; None where it was not in time."""

    faults: list[str]
    recovered: float | None
    left: str = ""


@dataclass
class Run:
    """What a run collects."""

    spans: list[Span] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    rounds: list[Round] = field(default_factory=list)


def strange_ends(ends: Sequence[Ended], spans: Sequence[Span]) -> list[dict[str, object]]:
    """Ends of the station that nobody meant, but for starts without a bundle to load, or a store to write."""
    gone = [
        span
        for span in spans
        if span.kind.name in ("bundle gone", "descriptors exhausted", "disk full", "store locked")
    ]
    return [
        {"code": end.code}
        for end in ends
        if not end.meant and not any(span.begin <= end.at <= span.end + 30 for span in gone)
    ]


def figures(run: Run, found: Account, told_lies: list[Lie], more: dict[str, Any], begun: float) -> dict[str, Any]:
    """All for the JSON."""
    recovered = [each.recovered for each in run.rounds if each.recovered is not None]
    return {
        "rounds": len(run.rounds),
        "faults": dict(Counter(span.kind.name for span in run.spans).most_common()),
        "not recovered": [asdict(each) for each in run.rounds if each.recovered is None],
        "recovery": row("until health is ok", "s", [float(each) for each in recovered or [0.0]]),
        "by fault": by_fault(run),
        "slowest": [asdict(each) for each in sorted(run.rounds, key=lambda each: -(each.recovered or 1e9))[:5]],
        "looks at health": len(run.samples),
        "lies": [
            {**asdict(lie), "at": round(lie.at - begun, 1), "recent": recent(run.spans, lie.at)} for lie in told_lies
        ],
        "account": found.as_dict(),
        **more,
    }


def recent(spans: Sequence[Span], at: float) -> list[str]:
    """Faults of the minute before, each with the seconds from its begin and from its end; negative: it went on."""
    return [
        f"{span.kind.name} {at - span.begin:.0f}, {at - span.end:.0f}"
        for span in spans
        if span.begin <= at <= span.end + RECENT
    ]


def by_fault(run: Run) -> dict[str, dict[str, float | None]]:
    """Of each fault that must be seen: the longest time until health said so, and until it was ok after the mend.

    Only of those that were seen before they were mended, in a station that ran all the while.
    """
    found = dict[str, dict[str, float | None]]()
    for span in run.spans:
        if not span.kind.shows:
            continue
        seen = next((s.at for s in run.samples if span.begin <= s.at <= span.end and _shows(s, span)), None)
        mended = next(
            (s.at for s in run.samples if s.at > span.end and s.parts is not None and not _shows(s, span)), None
        )
        old = found.setdefault(span.kind.name, {"detected": None, "recovered": None})
        for name, value in (
            ("detected", None if seen is None else seen - span.begin),
            ("recovered", None if seen is None or mended is None else mended - span.end),
        ):
            if value is not None:
                old[name] = round(max(value, old[name] or 0.0), 1)
    return found


def _shows(sample: Sample, span: Span) -> bool:
    return sample.parts is not None and any(sample.parts.get(part, "ok") != "ok" for part in span.kind.shows)


def failed(fields: dict[str, Any], found: Account) -> bool:
    """Whether anything is not as it must be."""
    return bool(
        found.wrong()
        or fields["lies"]
        or fields["not recovered"]
        or fields["strange ends"]
        or not fields["last update confirmed"]
        or fields["last exit code"] != 0
        or not all(found.acknowledged.values())
    )


def told(each: Round, begun: float) -> str:
    """A round for people."""
    end = f"ok after {each.recovered:.1f} s" if each.recovered is not None else f"NOT ok: {each.left}"
    return f"{time.monotonic() - begun:7.0f} s  {' + '.join(each.faults)}: {end}"


def page(fields: dict[str, Any]) -> str:
    """The figures for people."""
    found, recovery = fields["account"], fields["recovery"]
    total = sum(found["acknowledged"].values())
    lines = [
        f"seed {fields['seed']}, {fields['minutes']} minutes, {fields['rounds']} rounds, "
        f"{sum(fields['faults'].values())} faults of {len(fields['faults'])} kinds, proxy: {fields['proxy']}",
        ", ".join(f"{name} {number}" for name, number in fields["faults"].items()),
        f"acknowledged {total} ({', '.join(f'{way} {n}' for way, n in found['acknowledged'].items())}) = "
        f"inspected {found['inspected']} + fail-safe {found['fail_safe']} + listed as not inspected {found['listed']} + "
        f"in stores that were taken away or damaged {found['in_taken_stores']} + killed while the store refused "
        f"{found['killed_while_refusing']} + named in the log as not stored {found['not_stored']} + missing {len(found['missing'])}",
        f"passed without inspection {found['passed_uninspected']}; told to the PLC {found['told']}, of them not stored "
        f"{found['told_and_not_stored']}; gaps at sinks: "
        + ", ".join(f"{sink} {len(ids)}" for sink, ids in found["gaps"].items()),
        f"health: {fields['looks at health']} looks, {len(fields['lies'])} lies; ok again after {recovery['median']} s "
        f"(p10 {recovery['p10']}, p90 {recovery['p90']}), not in {CALM:g} s: {len(fields['not recovered'])}",
        "longest until seen / until ok after the mend, s: "
        + "; ".join(f"{name} {each['detected']} / {each['recovered']}" for name, each in fields["by fault"].items()),
        *(
            f"  lie at {lie['at']} s: {lie['what']}: {lie['detail']} ({'; '.join(lie['recent'])})"
            for lie in fields["lies"][:20]
        ),
        f"station starts {fields['station starts']}, strange ends {fields['strange ends']}, last exit code "
        f"{fields['last exit code']}, last update confirmed: {fields['last update confirmed']}",
    ]
    return "\n".join(lines)
