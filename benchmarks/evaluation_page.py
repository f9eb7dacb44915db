"""An evaluation as a page with pictures, and as a page to print and sign."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from math import log2

import cv2
import jinja2
import numpy as np

from dskd.benchmarks.evaluation import GOOD, Evaluation, Judged
from dskd.runtime.capture.image_files import read_image
from dskd.runtime.errors import DskdError, one_line
from dskd.runtime.model import Model
from dskd.runtime.result import Image, Verdict

SHOWN = 6  # pictures of a kind
WIDEST = 420  # pixels of one picture
SPAN = 2.0  # the plot reaches from a quarter of the reject threshold to four times of it


def report(evaluation: Evaluation, facts: Mapping[str, object], model: Model) -> str:
    """The page; ``model`` judges the few pictures again that are shown."""
    return _PAGE.render(
        evaluation=evaluation, facts=facts, verdicts=list(Verdict), points=_points(evaluation),
        review=_place(float(str(facts["review_over"])) / max(float(str(facts["reject_over"])), 1e-12)),
        galleries={name: [_shown(each, model) for each in chosen] for name, chosen in _galleries(evaluation).items()},
    )  # fmt: skip


def acceptance(evaluation: Evaluation, facts: Mapping[str, object]) -> str:
    """One sheet: what was judged on what, both rates with their bounds, and a line to sign."""
    return _SHEET.render(evaluation=evaluation, facts=facts, verdicts=list(Verdict))


def _galleries(evaluation: Evaluation) -> dict[str, list[Judged]]:
    good = sorted((each for each in evaluation.judged if each.label == GOOD), key=lambda each: -each.score)
    defects = sorted((each for each in evaluation.judged if each.label != GOOD), key=lambda each: each.score)
    missed = [each for each in defects if each.verdict is Verdict.PASS]
    return {
        "Defects that passed" if missed else "No defect passed; the ones nearest to it": (missed or defects)[:SHOWN],
        "Good parts with the highest scores": good[:SHOWN],
        "Defects with the highest scores": defects[::-1][:SHOWN],
        "Good parts in the middle": good[len(good) // 2 :][:SHOWN],
    }


def _shown(each: Judged, model: Model) -> dict[str, str]:
    """The picture, and beside it the same with heat."""
    try:
        pair = [read_image(each.path), model(each.path).plot()]
    except DskdError as error:  # it was there a minute ago
        return {"caption": one_line(str(error)), "data": ""}
    pair = [_narrow(picture) for picture in pair]
    heights = max(picture.shape[0] for picture in pair)
    padded = [cv2.copyMakeBorder(p, heights - p.shape[0], 0, 0, 4, cv2.BORDER_CONSTANT, value=(255,) * 3) for p in pair]
    _, data = cv2.imencode(".jpg", np.concatenate(padded, axis=1), [cv2.IMWRITE_JPEG_QUALITY, 85])
    caption = f"{each.label}: {each.path.name}, {each.verdict.value}, {each.ratio:.2f} of the reject threshold"
    return {"caption": one_line(caption), "data": base64.b64encode(data.tobytes()).decode()}


def _narrow(picture: Image) -> Image:
    share = WIDEST / picture.shape[1]
    if share >= 1:
        return picture
    return np.asarray(cv2.resize(picture, None, fx=share, fy=share, interpolation=cv2.INTER_AREA), np.uint8)


def _points(evaluation: Evaluation) -> list[dict[str, object]]:
    """A row for each class: where its scores lie beside the reject threshold, 0 to 100."""
    rows: list[dict[str, object]] = []
    for label in evaluation.labels:
        chosen = [each for each in evaluation.judged if each.label == label]
        rows.append({"label": label, "at": [(round(_place(each.ratio), 1), each.verdict.value) for each in chosen]})
    return rows


def _place(ratio: float) -> float:
    """By powers of two: 50 is the reject threshold."""
    return 50 + 50 * min(max(log2(max(ratio, 1e-9)) / SPAN, -1.0), 1.0)


_BASE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{% block title %}{% endblock %}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } td, th { padding: .3rem .9rem; border-bottom: 1px solid #ddd; text-align: right }
td:first-child, th:first-child { text-align: left } .big { font-size: 1.6rem }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(24rem, 1fr)); gap: 1rem } img { max-width: 100% }
figure { margin: 0 } figcaption { color: #555; font-size: 13px; overflow-wrap: anywhere }
.PASS { fill: #1a8a5a } .REVIEW { fill: #d98700 } .REJECT { fill: #d33 }
.sign td { border: 0; border-bottom: 1px solid #222; width: 14rem; height: 3.5rem; vertical-align: bottom; text-align: left; color: #555 }
@media print { body { margin: 0; max-width: none } a { color: inherit } }
</style>
{% macro rates() %}
<table>
<tr><th>rate<th>pictures<th>of<th>share<th>true share, 95 % confidence</tr>
{% for name, rate in (("Good parts rejected", evaluation.false_rejects), ("Good parts for review", evaluation.good_in_review),
("Defects that passed", evaluation.misses), ("Defects for review", evaluation.defects_in_review)) if rate.total %}
<tr><td>{{ name }}<td>{{ rate.count }}<td>{{ rate.total }}<td>{{ "%.2f" | format(100 * rate.share) }} %
<td>{{ "%.2f" | format(100 * rate.low) }} % to {{ "%.2f" | format(100 * rate.high) }} %</tr>{% endfor %}
</table>{% endmacro %}
{% macro classes() %}
<table><tr><th>class{% for verdict in verdicts %}<th>{{ verdict }}{% endfor %}<th>image AUROC</tr>
{% for label in evaluation.labels %}<tr><td>{{ label }}{% for verdict in verdicts %}<td>{{ evaluation.count(label, verdict) }}{% endfor %}
<td>{% set f = evaluation.figures(label) %}{% if label != "good" and f %}{{ "%.4f" | format(f.image_auroc) }}{% endif %}</tr>{% endfor %}
</table>{% endmacro %}
{% block body %}{% endblock %}
</html>
"""
_REPORT = """{% extends "base" %}
{% block title %}Evaluation of {{ facts.bundle }}{% endblock %}
{% block body %}
<h1>Evaluation of {{ facts.bundle }}</h1>
{% set f = evaluation.figures() %}
{% if f %}<p class="big">Image AUROC {{ "%.4f" | format(f.image_auroc) }}</p>
<p>AP {{ "%.4f" | format(f.image_ap) }}, best F1 {{ "%.4f" | format(f.image_f1_max) }}{% if evaluation.pixel_figures %},
pixel AUROC {{ "%.4f" | format(evaluation.pixel_figures.pixel_auroc) }}, PRO {{ "%.4f" | format(evaluation.pixel_figures.pro) }}{% endif %}.</p>
{% else %}<p>AUROC needs good and defective pictures.</p>{% endif %}
<h2>Rates at the thresholds</h2>{{ rates() }}
<h2>Classes and verdicts</h2>{{ classes() }}
<h2>Scores, as multiples of the reject threshold</h2>
<svg viewBox="0 0 640 {{ 30 * points | length + 40 }}" width="100%" role="img" aria-label="score of each picture, by class">
{% for share, name in ((0, "¼"), (25, "½"), (50, "1: reject"), (75, "2"), (100, "4")) %}
<line x1="{{ 130 + 5 * share }}" x2="{{ 130 + 5 * share }}" y1="0" y2="{{ 30 * points | length + 10 }}" stroke="{{ '#d33' if share == 50 else '#ddd' }}"/>
<text x="{{ 130 + 5 * share }}" y="{{ 30 * points | length + 28 }}" font-size="11" text-anchor="middle">{{ name }}</text>{% endfor %}
<line x1="{{ 130 + 5 * review }}" x2="{{ 130 + 5 * review }}" y1="0" y2="{{ 30 * points | length + 10 }}" stroke="#d98700" stroke-dasharray="4"/>
{% for row in points %}{% set y = 30 * loop.index0 + 18 %}<text x="0" y="{{ y + 4 }}" font-size="12">{{ row.label | truncate(18, true) }}</text>
{% for x, verdict in row.at %}<circle cx="{{ 130 + 5 * x }}" cy="{{ y + (loop.index0 * 7) % 15 - 7 }}" r="2.5" class="{{ verdict }}" opacity=".6"/>{% endfor %}{% endfor %}
</svg>
<p>Green passed, orange is for a person to look at, red was rejected. What lies outside is drawn at the border.</p>
{% for name, pictures in galleries.items() if pictures %}
<h2>{{ name }}</h2>
<div class="gallery">{% for p in pictures %}<figure>{% if p.data %}<img alt="{{ p.caption }}" src="data:image/jpeg;base64,{{ p.data }}">{% endif %}
<figcaption>{{ p.caption }}</figcaption></figure>{% endfor %}</div>
{% endfor %}
<h2>What was judged on what</h2>
<table>{% for name, value in facts.items() %}<tr><td>{{ name.replace("_", " ") }}<td>{{ value }}</tr>{% endfor %}</table>
{% endblock %}"""
_ACCEPTANCE = """{% extends "base" %}
{% block title %}Site acceptance of {{ facts.bundle }}{% endblock %}
{% block body %}
<h1>Site acceptance</h1>
<table>{% for name, value in facts.items() %}<tr><td>{{ name.replace("_", " ") }}<td>{{ value }}</tr>{% endfor %}</table>
{{ rates() }}{{ classes() }}
<p>The bounds hold for parts like the ones that were judged, drawn at random from the line.</p>
<table class="sign"><tr><td>Line<td>Name<td>Date<td>Signature</tr></table>
{% endblock %}"""
_TEMPLATES = jinja2.Environment(
    autoescape=True, loader=jinja2.DictLoader({"base": _BASE, "report": _REPORT, "acceptance": _ACCEPTANCE})
)
_PAGE, _SHEET = _TEMPLATES.get_template("report"), _TEMPLATES.get_template("acceptance")
