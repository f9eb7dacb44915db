"""Deletion by age waits while the wall clock is not believed."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import numpy as np
import pytest

from dskd.jetson.doctor import surroundings
from dskd.jetson.doctor.base import Context
from dskd.runtime.reason import Reason
from dskd.runtime.result import Dropped, Frame, Inspection, Verdict
from dskd.runtime.sinks.archive import Archive, ArchiveConfig
from dskd.runtime.store import Store
from dskd.runtime.wall_clock import DAY, OFF, SETTLED, SLACK, Span, WallClock

NOW = 1_790_000_000.0


class Times:
    """A wall clock and a counting one that a test moves."""

    def __init__(self, wall: float = NOW, ran: float = 100.0) -> None:
        self.wall, self.ran, self.boot, self.newest = wall, ran, "boot 1", 0

    def go(self, seconds: float) -> None:
        self.wall += seconds
        self.ran += seconds

    def clock(self, kept: str | None = None, last: float | None = None) -> WallClock:
        return WallClock(
            kept, last, newest=lambda: self.newest, wall=lambda: self.wall, ran=lambda: self.ran, boot=self.boot
        )

    def reboot(self, off: float, clock: WallClock) -> WallClock:
        kept = clock.as_kept()
        self.boot, self.ran = self.boot + "'", 20.0
        self.wall += off
        return self.clock(kept)


@pytest.mark.parametrize(
    "jump", [SLACK + 1, 3600, 86400, 400 * DAY, 3650 * DAY, -SLACK - 1, -3600, -DAY, -54 * 365 * DAY]
)
def test_a_jump_while_it_runs_stops_deletion_until_it_goes_back(jump: float) -> None:
    times = Times()
    clock = times.clock()
    assert clock.safe_now() == times.wall
    times.go(60)
    times.wall += jump
    assert clock.doubt()
    assert clock.safe_now() is None
    assert clock.likely_now() == NOW + 60
    times.go(30 * DAY)
    assert clock.safe_now() is None, "time alone makes no jump true"
    times.wall -= jump
    assert clock.safe_now() == times.wall


@pytest.mark.parametrize("jump", [400 * DAY, 5 * DAY, -DAY, 3600])
def test_a_jump_between_two_runs_of_one_boot_is_seen(jump: float) -> None:
    times = Times()
    kept = times.clock()
    assert not kept.doubt()
    times.go(60)
    text = kept.as_kept()
    times.wall += jump
    assert times.clock(text).doubt()
    assert times.clock(text).safe_now() is None


def test_after_a_weekend_off_the_clock_is_taken_as_true_once_it_held_for_an_hour() -> None:
    times = Times()
    clock = times.clock()
    clock.doubt()
    clock = times.reboot(3 * DAY, clock)
    assert not clock.doubt()
    assert clock.safe_now() == NOW, "until then nothing is older than the device saw"
    times.go(SETTLED - 1)
    assert clock.safe_now() == NOW + SETTLED - 1
    times.go(2)
    assert clock.safe_now() == times.wall


def test_a_clock_far_ahead_after_a_reboot_waits_for_a_person() -> None:
    times = Times()
    clock = times.clock()
    clock.doubt()
    clock = times.reboot(OFF + 400 * DAY, clock)
    assert "ahead" in clock.doubt()
    times.go(DAY)
    assert clock.safe_now() is None
    clock.accept()
    assert clock.safe_now() == times.wall
    assert not times.clock(clock.as_kept()).doubt()


def test_a_device_without_battery_starts_in_1970_and_is_set_later() -> None:
    times = Times()
    clock = times.clock()
    clock.doubt()
    times.newest = 50
    clock.doubt()
    clock = times.reboot(0, clock)
    times.wall = 30.0
    times.newest = 60
    assert "not set" in clock.doubt()
    times.newest = 65
    times.go(600)
    times.wall = NOW + 3600
    assert not clock.doubt()
    (span,) = clock.spans()
    assert (span.first, span.last) == (51, 65)
    assert NOW <= span.when <= times.wall
    assert times.clock(clock.as_kept()).spans() == (span,)


def test_a_new_device_in_1970_dates_its_first_records_when_it_is_set() -> None:
    times = Times(wall=40.0)
    clock = times.clock()
    assert clock.safe_now() is None
    times.newest = 7
    times.wall = NOW
    assert clock.safe_now() == NOW
    assert clock.spans() == (Span(1, 7, NOW),)


def test_a_store_that_kept_nothing_of_clocks_is_asked_for_its_newest_record() -> None:
    assert Times().clock(last=NOW - DAY).doubt() == ""
    assert Times().clock(last=NOW - 400 * DAY).doubt()
    assert Times().clock(last=NOW + DAY).doubt()


def test_what_was_kept_may_be_anything() -> None:
    for text in ("", "{", "[]", "null", "{}", '{"spans": [[1]]}', json.dumps({"spans": [], "boot": 3, "ran": "x"})):
        assert Times().clock(text).safe_now() == NOW


def test_many_random_jumps_never_give_a_moment_ahead_of_true_time() -> None:
    chance = random.Random(1)
    for _ in range(300):
        times, truth = Times(), NOW
        clock = times.clock()
        clock.doubt()
        for _ in range(20):
            step = chance.choice([1, 60, 3600 * 0.9])
            times.go(step)
            truth += step
            times.wall = truth + chance.choice([0, 0, chance.uniform(-2e9, 2e9), chance.uniform(-OFF, OFF)])
            now = clock.safe_now()
            assert now is None or now <= truth + SLACK


def dropped(captured: float) -> Dropped:
    return Dropped("top", f"{captured}", captured, Reason.BLACK)


def test_records_of_a_doubtful_clock_live_as_long_as_their_neighbours(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.db")
    store.add([dropped(NOW + k) for k in range(5)])
    store.add([dropped(30.0 + k) for k in range(5)])  # ids 6 to 10: a clock in 1970
    store.add([dropped(NOW + 3650 * DAY) for _ in range(5)])  # ids 11 to 15: far ahead
    store.add([dropped(NOW + 100 + k) for k in range(5)])
    spans = [Span(6, 10, NOW + 50), Span(11, 15, NOW + 60)]
    assert store.prune(before=NOW - 1, spans=spans) == 0
    assert store.prune(before=NOW + 20, spans=spans) == 5
    assert [record.id for record in store.after(0, 100)] == list(range(6, 21))
    assert store.prune(before=NOW + 70, spans=spans) == 10
    store.close()


def write(archive: Archive, captured: float, number: int) -> None:
    image = np.full((8, 8, 3), 90, np.uint8)
    found = Inspection("top", str(number), captured, Verdict.REJECT, 2.0, 1.0, (), {}, "bundle", "test")
    archive.write([(Frame("top", str(number), captured, image), found)])


@pytest.mark.parametrize("jump", [400 * DAY, -NOW + 30, -300 * DAY])
def test_the_archive_keeps_its_pictures_through_a_jump_and_back(tmp_path: Path, jump: float) -> None:
    times = Times()
    clock = times.clock()
    clock.doubt()
    for passed, wall in ((0, NOW), (3600, NOW + 3600 + jump), (7200, NOW + 7200)):
        times.ran, times.wall = 100.0 + passed, wall
        config = ArchiveConfig(kind="archive", keep="all", max_age_days=30, min_free_gb=0, overlay=False, heat=False)
        archive = Archive(config, tmp_path, clock)
        write(archive, wall, int(wall))
    assert len(list(tmp_path.rglob("*.json"))) == 3 + 1, "three records and the note of the mistimed hour"


def test_by_count_the_ones_written_first_go_whatever_the_clock_said(tmp_path: Path) -> None:
    times = Times()
    clock = times.clock()
    clock.doubt()
    config = ArchiveConfig(kind="archive", keep="all", max_count=2, min_free_gb=0, overlay=False, heat=False)
    archive = Archive(config, tmp_path, clock)
    write(archive, NOW - 7200, 1)
    times.wall = 50.0
    write(archive, 51.0, 2)
    write(archive, 52.0, 3)
    left = sorted(path.name.split("-")[2] for path in tmp_path.rglob("*.json") if path.name != "mistimed.json")
    assert left == ["2", "3"]


@pytest.mark.parametrize(("ahead", "status"), [(60.0, "OK"), (400 * DAY, "FAIL"), (-2 * 3600.0, "FAIL")])
def test_the_doctor_compares_the_clock_with_the_stations_records(tmp_path: Path, ahead: float, status: str) -> None:
    moment = time.time() + DAY  # later than this file, which the doctor looks at too
    store = Store(tmp_path / "store.db")
    store.add([dropped(moment)])
    store.close()
    found = surroundings.clock(Context(bundle=tmp_path / "none", data=tmp_path, now=moment + ahead))
    assert (found.status == "FAIL") == (status == "FAIL"), found
    assert status != "FAIL" or "--accept-clock" in found.mend
