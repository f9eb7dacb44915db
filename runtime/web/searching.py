"""What a request looks for among stored inspections."""

from __future__ import annotations

from typing import Literal, cast

from dskd.runtime.result import Verdict
from dskd.runtime.store import Search
from dskd.runtime.store.search import ORDERS
from dskd.runtime.web.endpoint import Call, Refused

LONGEST_WORD = 200
LABELS = ("good", "defect", "any", "none")
FIELDS = {
    "camera": "one camera's only",
    "verdict": "PASS, REVIEW, REJECT, by commas",
    "part": "a piece of the part's name, or of the frame's",
    "since": "seconds since the epoch",
    "until": "seconds since the epoch",
    "least": "of the score, in multiples of the reject threshold",
    "most": "of the score, in multiples of the reject threshold",
    "label": f"what people said: {', '.join(LABELS)}",
    "order": f"{', '.join(ORDERS)}: which comes first",
}


def search_of(call: Call, verdicts: str) -> Search:
    """The query's search; ``verdicts`` by commas where it names none. Raises Refused."""
    try:
        wanted = tuple(Verdict(word) for word in (call.query.get("verdict") or verdicts).split(",")[:8])
    except ValueError as error:
        raise Refused(400, "verdict: PASS, REVIEW or REJECT is needed, or several by commas") from error
    label = call.query.get("label") or None
    if label not in (None, *LABELS):
        raise Refused(400, f"label: one of {', '.join(LABELS)} is needed")
    order = call.query.get("order") or "newest"
    if order not in ORDERS:
        raise Refused(400, f"order: one of {', '.join(ORDERS)} is needed")
    part = call.query.get("part") or None
    if part is not None and len(part) > LONGEST_WORD:
        raise Refused(400, f"part: at most {LONGEST_WORD} letters can be looked for")
    return Search(
        tuple(dict.fromkeys(wanted)), call.query.get("camera") or None, part, call.given("since"), call.given("until"),
        call.given("least"), call.given("most"), cast(Literal["good", "defect", "any", "none"] | None, label),
        cast(Literal["newest", "oldest", "score"], order),
    )  # fmt: skip
