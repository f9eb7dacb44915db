"""A status says since when it is so, and each change is logged once."""

from __future__ import annotations

import logging

import pytest

from dskd.runtime.status import Health, Status


def test_since_is_when_the_state_began_and_changes_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    status: Status[Health] = Status("sink mes", "warning", "not connected yet", logging.getLogger("x"))
    begun = status.now.since
    assert not status.enter("warning", "refused", "next try in 1.0 s")
    assert not status.enter("warning", "refused", "next try in 2.0 s")  # another hint alone
    assert (status.now.detail, status.now.since) == ("refused; next try in 2.0 s", begun)
    assert status.enter("ok", "1 kept")
    assert not status.enter("ok", "2 kept")  # what is well may say so with every frame
    assert status.now.since > begun
    assert status.enter("fault", "wrong password")
    told = [(record.levelname, record.message) for record in caplog.records]
    assert told == [
        ("WARNING", "sink mes: refused; next try in 1.0 s"),
        ("INFO", "sink mes: 1 kept"),
        ("ERROR", "sink mes: wrong password"),
    ]


def test_without_a_log_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    Status("camera", "opening", "not started", None).enter("lost", "gone")
    assert not caplog.records
