"""What was captured and not taken yet: bounded, every frame counted once."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dskd.runtime.capture.frame_queue import FrameQueue
from dskd.runtime.reason import Reason
from dskd.runtime.result import Dropped, Frame


@given(
    st.lists(st.sampled_from(["frame", "part", "dropped", "take"]), max_size=80), st.sampled_from(["latest", "every"])
)
def test_any_sequence_of_puts_and_takes_adds_up(actions: list[str], policy: Any) -> None:
    queue = FrameQueue(policy, 3)
    put, taken = 0, list[Frame | Dropped]()
    image = np.zeros((16, 16, 3), np.uint8)
    for number, action in enumerate(actions):
        if action == "take":
            one = queue.take(0)
            taken += [one] if one else []
            continue
        put += 1
        part = f"p{number}" if action == "part" else None
        frame = Frame("cam", str(number), float(number), image, None, part)
        queue.put(Dropped("cam", str(number), 0.0, Reason.FROZEN, "still") if action == "dropped" else frame)
        counts = queue.counts()
        assert counts.captured == put == counts.handed_out + counts.dropped + counts.waiting
        assert counts.waiting <= 3
    while one := queue.take(0):
        taken.append(one)
    assert len({t.id for t in taken}) == len(taken) == put
    assert [t.part for t in taken if isinstance(t, Frame) and t.part] == sorted(
        (t.part for t in taken if isinstance(t, Frame) and t.part), key=lambda part: int(part[1:])
    )
    assert not [t for t in taken if t.part and isinstance(t, Dropped) and t.reason is Reason.REPLACED]


def test_frames_that_can_wait_do_so_where_they_are_large() -> None:
    queue = FrameQueue("latest", 16)
    frame = Frame("f", "0", 0.0, np.zeros((4096, 4096, 3), np.uint8), part="p")
    put = 0
    while queue.wait_for_room(0):
        queue.put(frame)
        put += 1
    assert put == 2
    small = FrameQueue("every", 16)
    while small.wait_for_room(0):
        small.put(Frame("f", "0", 0.0, np.zeros((64, 64, 3), np.uint8)))
    assert small.counts().waiting == 16
