"""What a calibration did to the answers: ``report.json`` for programs, ``report.md`` and ``report.html`` for people."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

LABELLED = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "pro": "PRO"}
SHOWN_LAYERS = 15


@dataclass(frozen=True)
class Row:
    """One graph against the float32 graph. Labelled figures are missing where there are no labelled images."""

    graph: str
    precision: str
    megabytes: float
    macs: int
    macs_in_eight_bits: int
    score_shift: float
    score_shift_largest: float
    map_correlation: float
    reject_threshold: float
    review_threshold: float
    flips: int
    judged: int
    labelled: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Report:
    """Everything a calibration found."""

    facts: Mapping[str, object]
    rows: Sequence[Row]
    sensitivity: Mapping[str, float]
    excluded: Mapping[str, Sequence[str]]

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            **self.facts,
            "rows": [row.as_dict() for row in self.rows],
            "sensitivity": dict(self.sensitivity),
            "excluded": {graph: list(names) for graph, names in self.excluded.items()},
        }

    def write(self, folder: Path) -> None:
        """Writes the three files."""
        (folder / "report.json").write_text(json.dumps(self.as_dict(), indent=1))
        (folder / "report.md").write_text(self.markdown())
        (folder / "report.html").write_text(self.page())

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Headings and cells, one row for each graph."""
        labelled = [key for key in LABELLED if any(key in row.labelled for row in self.rows)]
        head = [
            "graph",
            "MB",
            "GMAC",
            "in 8 bits",
            *(LABELLED[key] for key in labelled),
            "score shift",
            "largest",
            "map correlation",
        ]
        head += ["reject over", "verdict flips"]
        cells = [
            [
                row.graph, f"{row.megabytes:.1f}", f"{row.macs / 1e9:.2f}", f"{row.macs_in_eight_bits / row.macs:.0%}",
                *(f"{row.labelled[key]:.4f}" for key in labelled),
                f"{row.score_shift:.4f}", f"{row.score_shift_largest:.4f}", f"{row.map_correlation:.5f}",
                f"{row.reject_threshold:.4f}", f"{row.flips} of {row.judged}",
            ]
            for row in self.rows
        ]  # fmt: skip
        return head, cells

    def left_in_float(self) -> list[str]:
        """A line for each graph that leaves layers in float."""
        return [f"{graph} leaves in float {', '.join(names)}" for graph, names in self.excluded.items() if names]

    def markdown(self) -> str:
        """The report as Markdown."""
        head, cells = self.table()
        lines = ["# Calibration", ""]
        lines += [f"* {key}: {value}" for key, value in self.facts.items()]
        lines += ["", f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
        lines += [f"| {' | '.join(row)} |" for row in cells]
        lines += ["", "Score shift: mean absolute difference from float32 on good images. Flips: pictures judged"]
        lines += ["otherwise than by float32, each graph with its own thresholds for the same false-reject rates."]
        if self.sensitivity:
            lines += ["", "| layer, rounded alone | mean change of the score |", "|---|---|"]
            lines += [f"| {name} | {value:.5f} |" for name, value in list(self.sensitivity.items())[:SHOWN_LAYERS]]
        lines += [f"\n{line}." for line in self.left_in_float()]
        return "\n".join(lines) + "\n"

    def page(self) -> str:
        """The report as one HTML page that needs nothing else."""
        head, cells = self.table()
        facts = "".join(f"<li>{html.escape(key)}: {html.escape(str(value))}</li>" for key, value in self.facts.items())
        left = "".join(f"<p>{html.escape(line)}.</p>" for line in self.left_in_float())
        most = max(self.sensitivity.values(), default=0) or 1
        bars = "".join(
            f"<tr><td>{html.escape(name)}</td><td>{value:.5f}</td>"
            f'<td><div style="background:#c60;height:.8em;width:{300 * value / most:.0f}px"></div></td></tr>'
            for name, value in self.sensitivity.items()
        )
        return (
            "<!doctype html><html lang=en><meta charset=utf-8><title>Calibration</title>"
            "<style>body{font:15px sans-serif;margin:2em;max-width:70em}td,th{padding:.2em .7em;text-align:left}"
            "table{border-collapse:collapse}tr{border-bottom:1px solid #ccc}</style>"
            f"<h1>Calibration</h1><ul>{facts}</ul><table>{_row('th', head)}{''.join(_row('td', c) for c in cells)}</table>"
            f"<h2>What each layer's rounding alone does to the score</h2><table>{bars}</table>{left}</html>"
        )


def _row(tag: str, values: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(value)}</{tag}>' for value in values)}</tr>"
