"""The commands of docs/jetson.md."""

from __future__ import annotations

import re

from conftest import ROOT

DOCUMENT = (ROOT / "docs/jetson.md").read_text()


def blocks(where: str) -> list[str]:
    """The commands marked ``desktop``, ``device`` or ``hardware``, in order."""
    return re.findall(rf"\*{where}\*\n\n```sh\n(.*?)```", DOCUMENT, re.S)
