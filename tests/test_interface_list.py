"""Commands, options, keys, schemes, routes and metrics that were there are there: nothing vanishes by accident.

The list was made from commit 0896740. ``python tests/interface.py`` prints today's; a name that is given up on purpose
is taken out of the list by hand, with a line in CHANGELOG.md.
"""

from __future__ import annotations

import pytest
from conftest import ROOT
from interface import interface


@pytest.mark.slow
def test_every_name_of_the_list_is_still_there() -> None:
    listed = (ROOT / "tests/data/interface.txt").read_text().splitlines()
    assert len(listed) > 800
    assert sorted(set(listed) - set(interface())) == []
