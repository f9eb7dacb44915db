"""``report.html``: what a person wants to see of a trained model, in one file that needs nothing else."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import jinja2
import matplotlib
import numpy as np
from numpy.typing import NDArray

from dskd.runtime import atomic
from dskd.runtime.bundle.manifest import Thresholds
from dskd.runtime.capture.image_files import encode_png
from dskd.runtime.errors import one_line
from dskd.runtime.inspection.overlay import COLOURS, annotate, heat_map
from dskd.runtime.inspection.threshold import describe
from dskd.runtime.result import Image, Verdict
from dskd.train.evaluate import Figures, Scored
from dskd.train.loop import read_curve

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

VERDICTS = {  # and how the banner over each picture is coloured
    verdict: f"rgb({red}, {green}, {blue})" for verdict, (blue, green, red) in COLOURS.items()
}
WORST = 6  # overlays shown of each kind


@dataclass(frozen=True)
class Labelled:
    """Scored pictures: inputs [N, H, W, 3], defect names ("good" for none), file names."""

    inputs: Image
    defects: list[str]
    names: list[str]
    scored: Scored
    painted: bool = False  # the defects are painted on held-out good pictures


def write_report(
    path: Path,
    title: str,
    facts: dict[str, str],
    thresholds: Thresholds,
    held_out: NDArray[np.float32],
    readings: dict[str, Figures],
    labelled: Labelled,
    painted: dict[str, float],
    curve: Path,
) -> None:
    """Writes the page whole or not at all.

    ``readings`` is empty where there are no labelled test pictures; ``labelled`` then holds good parts that were held
    out, and painted defects. ``painted``: image AUROC on these, of all and by kind.
    """
    page = _TEMPLATE.render(
        title=title,
        facts=facts,
        verdicts=VERDICTS,
        counts=_counts(held_out, labelled, thresholds),
        heat=_heat_scale(),
        review=describe(thresholds.review),
        reject=describe(thresholds.reject),
        histogram=_picture(_histogram(held_out, labelled, thresholds)),
        losses=_picture(_losses(curve)),
        readings=readings,
        painted=painted,
        galleries=_galleries(labelled, thresholds),
    )
    atomic.write_text(path, page)


def verdict_of(score: float, thresholds: Thresholds) -> Verdict:
    """The verdict that thresholds alone give."""
    if score > thresholds.reject.score:
        return Verdict.REJECT
    return Verdict.REVIEW if score > thresholds.review.score else Verdict.PASS


def _counts(held_out: NDArray[np.float32], labelled: Labelled, thresholds: Thresholds) -> dict[str, dict[Verdict, int]]:
    """How many parts of each class get which verdict: held-out good ones, then what was tested or painted."""
    classes = {"good, held out": held_out}
    names = np.array(labelled.defects)
    for name in sorted(set(labelled.defects), key=lambda name: (name != "good", name)):
        if not (labelled.painted and name == "good"):  # these are the held-out ones again
            shown = f"{name.replace('_', ' ')}, painted" if labelled.painted else f"{name}, tested"
            classes[shown] = labelled.scored.scores[names == name]
    found = {}
    for name, scores in classes.items():
        given = [verdict_of(float(score), thresholds) for score in scores]
        found[name] = {verdict: given.count(verdict) for verdict in VERDICTS}
    return found


def _heat_scale() -> str:
    """The heat's colours on grey, from no score at the left to 1.5 times the reject threshold at the right."""
    ramp = np.tile(np.linspace(0, 1.5, 360, dtype=np.float32), (24, 1))
    drawn = heat_map(np.full((24, 360, 3), 128, np.uint8), ramp, 1.0, (0, 0, 360, 24))
    return _base64(encode_png(drawn))


def _histogram(held_out: NDArray[np.float32], labelled: Labelled, thresholds: Thresholds) -> Figure:
    groups = {"held-out good": held_out}
    good, scores = np.array(labelled.defects) == "good", labelled.scored.scores
    groups |= (
        {"painted": scores[~good]} if labelled.painted else {"test good": scores[good], "test defective": scores[~good]}
    )
    unit = thresholds.reject.score if thresholds.reject.score > 0 else 1.0
    groups = {name: scores / unit for name, scores in groups.items()}
    figure, axes = plt.subplots(figsize=(8, 3))
    bins = np.histogram_bin_edges(np.concatenate(list(groups.values())), 60).tolist()
    for (name, scores), colour in zip(groups.items(), ("#8aa", "#6a4", "#d55"), strict=False):
        axes.hist(scores, bins, alpha=0.6, label=f"{name} ({len(scores)})", color=colour, density=True)
    for name, threshold, style in (("review", thresholds.review, ":"), ("reject", thresholds.reject, "--")):
        at = threshold.score / unit
        axes.axvline(at, color="black", linestyle=style, label=f"{name} from {at:.2f}")
    axes.set(xlabel="score, as a multiple of the reject threshold", ylabel="density")
    axes.legend(fontsize=8)
    return figure


def _losses(curve: Path) -> Figure:
    rows = read_curve(curve)
    figure, axes = plt.subplots(figsize=(8, 3))
    steps = np.array([int(row["step"]) for row in rows])
    width = max(1, len(rows) // 200)
    for name in [c for c in rows[0] if c not in ("step", "seconds", "learning_rate")] if rows else []:
        values = np.array([float(row[name]) for row in rows])
        smooth = np.convolve(values, np.ones(width) / width, mode="valid")
        axes.plot(steps[: len(smooth)], smooth, label=name)
    axes.set(xlabel="step", ylabel="loss", yscale="log")
    axes.legend(fontsize=8)
    return figure


def _galleries(labelled: Labelled, thresholds: Thresholds) -> dict[str, list[dict[str, str]]]:
    """The defective images that look best, the good ones that look worst, and usual ones, as overlays."""
    good = np.array(labelled.defects) == "good"
    order = np.argsort(labelled.scored.scores)
    defective, fine = order[~good[order]], order[good[order]]
    middle = len(fine) // 2
    defects, parts = ("Painted defects", "Held-out good parts") if labelled.painted else ("Defective", "Good")
    chosen = {
        f"{defects} with the lowest scores": defective[:WORST],
        f"{parts} with the highest scores": fine[::-1][:WORST],
        f"{parts} in the middle": fine[max(0, middle - 1) : middle + 2],
        f"{defects} with the highest scores": defective[::-1][:WORST],
    }
    return {name: [_overlay(labelled, int(k), thresholds) for k in indices] for name, indices in chosen.items()}


def _overlay(labelled: Labelled, k: int, thresholds: Thresholds) -> dict[str, str]:
    image, score = labelled.inputs[k], float(labelled.scored.scores[k])
    box = (0, 0, image.shape[1], image.shape[0])
    heated = heat_map(image, labelled.scored.maps[k], thresholds.reject.score, box)
    pair = np.concatenate((image, heated), axis=1)
    picture = annotate(pair, verdict_of(score, thresholds), score, thresholds.reject.score, ())
    return {"caption": one_line(f"{labelled.defects[k]}: {labelled.names[k]}"), "data": _base64(encode_png(picture))}


def _picture(figure: Figure) -> str:
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=110, bbox_inches="tight")
    plt.close(figure)
    return _base64(target.getvalue())


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


_TEMPLATE = jinja2.Environment(autoescape=True).from_string("""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{{ title }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } td, th { padding: .25rem .8rem; border-bottom: 1px solid #ddd; text-align: right }
td:first-child, th:first-child, .facts td { text-align: left } img { max-width: 100% }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(20rem, 1fr)); gap: 1rem }
.swatch { padding: .1rem .5rem; margin-right: .3rem } figure { margin: 0 } figcaption { color: #666; font-size: 13px; overflow-wrap: anywhere }
</style>
<h1>{{ title }}</h1>
<table class="facts">{% for name, value in facts.items() %}<tr><td>{{ name }}</td><td>{{ value }}</td></tr>{% endfor %}</table>
<h2>Scores and thresholds</h2>
<ul><li><b>REJECT</b>, the part is thrown out: a score over {{ reject }}.</li>
<li><b>REVIEW</b>, a person looks: a score over {{ review }}.</li>
<li><b>PASS</b>: every other part.</li></ul>
<table><tr><th>parts{% for verdict in verdicts %}<th>{{ verdict }}{% endfor %}</tr>
{% for name, given in counts.items() %}<tr><td>{{ name }}{% for verdict in verdicts %}<td>{{ given[verdict] }}{% endfor %}</tr>
{% endfor %}</table>
<p>The thresholds were set by the held-out parts, so their row shows what was asked for; more good pictures prove it.</p>
<img alt="score histogram" src="data:image/png;base64,{{ histogram }}">
{% for reading, f in readings.items() %}
<h2>Accuracy on labelled pictures{% if readings | length > 1 %}, inference path {{ reading.replace('_', ' ') }}{% endif %}</h2>
<table><tr><th>defect<th>images<th>image AUROC<th>image AP<th>pixel AUROC<th>PRO</tr>
<tr><td><b>all</b><td><td>{{ '%.4f' | format(f.image_auroc) }}<td>{{ '%.4f' | format(f.image_ap) }}
<td>{{ '%.4f' | format(f.pixel_auroc) }}<td>{{ '%.4f' | format(f.pro) }}</tr>
{% for name, row in f.per_defect.items() %}<tr><td>{{ name }}<td>{{ row.images }}
<td>{{ '%.4f' | format(row.image_auroc) }}<td>{{ '%.4f' | format(row.image_ap) }}
<td>{{ '%.4f' | format(row.pixel_auroc) }}<td>{{ '%.4f' | format(row.pro) }}</tr>{% endfor %}</table>
<p>F1 max {{ '%.4f' | format(f.image_f1_max) }}; PRO as the RD papers compute it {{ '%.4f' | format(f.pro_rd) }}.</p>
{% endfor %}
<h2>Painted defects</h2>
<p>Defects painted on held-out good pictures, and how often one scores higher than a good part (image AUROC; 1 is always).
They choose settings without a defective part, and are no promise about real defects.</p>
<table><tr><th>kind<th>image AUROC</tr>{% for name, value in painted.items() %}<tr><td>{{ name.replace("_", " ") }}</td><td>{{ '%.4f' | format(value) }}</td></tr>{% endfor %}</table>
<h2>What the colours mean</h2>
<p>Each picture stands beside itself with heat. The banner says the verdict and the score as a multiple of the reject
threshold: {% for verdict, colour in verdicts.items() %}<span class="swatch" style="background: {{ colour }}">{{ verdict }}</span> {% endfor %}</p>
<figure><img alt="colours of the heat" src="data:image/png;base64,{{ heat }}"><figcaption>Heat, from no score (left) to 1.5 times
the reject threshold (right): clear up to half of it, deepest from 1.25 times on. A line surrounds what lies over it.</figcaption></figure>
{% for name, pictures in galleries.items() if pictures %}
<h2>{{ name }}</h2>
<div class="gallery">{% for p in pictures %}<figure>
<img alt="{{ p.caption }}" src="data:image/png;base64,{{ p.data }}"><figcaption>{{ p.caption }}</figcaption>
</figure>{% endfor %}</div>
{% endfor %}
<p>Next: <code>dskd export.onnx</code> makes the bundle; <code>dskd evaluate BUNDLE FOLDER</code> scores it on labelled pictures.</p>
<h2>Losses</h2>
<img alt="loss curves" src="data:image/png;base64,{{ losses }}">
</html>
""")
