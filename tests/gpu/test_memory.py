"""Both packages for GPU memory on a real device."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest

from dskd.runtime.errors import DskdError, MissingPart
from dskd.runtime.inspection.cuda import ADAPTERS, Device, Memory, open_memory

ROWS, COLUMNS = 64, 1 << 18  # 64 MiB: long enough under way to be seen


def test_the_device_is_described(device: Device) -> None:
    assert device.name
    assert float(device.compute_capability) >= 5
    assert device.memory_bytes > 1 << 30


def test_round_trip_and_waiting(memory: Memory) -> None:
    with memory.active():
        source, target = (memory.host((ROWS, COLUMNS), np.float32) for _ in range(2))
        address, stream, event = memory.allocate(source.array.nbytes), memory.stream(), memory.event()
        assert address % 256 == 0
        assert not source.array.any()
        source.array[:] = np.arange(ROWS)[:, None]
        memory.to_device(address, source, ROWS, stream)
        memory.to_host(target, address, ROWS - 1, stream)
        event.record(stream)
        event.synchronize()
        np.testing.assert_array_equal(target.array[:-1], source.array[:-1])
        assert not target.array[-1].any()


def test_an_event_is_passed_before_the_work_after_it(memory: Memory) -> None:
    with memory.active():
        source, target = (memory.host((ROWS, COLUMNS), np.float32) for _ in range(2))
        address, stream, event = memory.allocate(source.array.nbytes), memory.stream(), memory.event()
        source.array[:] = 1
        memory.to_device(address, source, ROWS, stream)
        event.record(stream)
        memory.to_host(target, address, ROWS, stream)
        event.synchronize()
        source.array[:] = 2  # was read already
        stream.synchronize()
        assert (target.array == 1).all()


def test_the_device_sees_host_memory_without_a_copy(memory: Memory) -> None:
    """Copied from the address at which the device sees it, and to it."""
    with memory.active():
        source, target, through = (memory.host((4, 256), np.float32) for _ in range(3))
        stream = memory.stream()
        source.array[:] = np.arange(4)[:, None]
        memory.to_host(target, source.address, 4, stream)
        memory.to_device(through.address, source, 4, stream)
        stream.synchronize()
        np.testing.assert_array_equal(target.array, source.array)
        np.testing.assert_array_equal(through.array, source.array)


def test_recorded_work_runs_when_launched_and_reads_what_is_there_then(memory: Memory) -> None:
    if not memory.captures:
        pytest.skip(f"{memory.name} records no graphs")
    with memory.active():
        source, target = (memory.host((4, 256), np.float32) for _ in range(2))
        address, stream = memory.allocate(source.array.nbytes), memory.stream()

        def work() -> None:
            memory.to_device(address, source, 4, stream)
            memory.to_host(target, address, 4, stream)

        graph = memory.capture(stream, work)
        stream.synchronize()
        assert not target.array.any()
        for value in (1, 2, 3):
            source.array[:] = value
            graph.launch(stream)
            stream.synchronize()
            assert (target.array == value).all()
        graph.close()


def test_a_recording_that_breaks_off_leaves_the_stream_usable(memory: Memory) -> None:
    if not memory.captures:
        pytest.skip(f"{memory.name} records no graphs")
    with memory.active():
        stream = memory.stream()
        with pytest.raises(ZeroDivisionError):
            memory.capture(stream, lambda: 1 / 0)
        with pytest.raises(DskdError, match="the GPU failed"):
            memory.capture(stream, stream.synchronize)  # waiting is not allowed in a recording
        source, target = (memory.host((4,), np.float32) for _ in range(2))
        source.array[:] = 5
        memory.to_host(target, source.address, 4, stream)
        stream.synchronize()
        assert (target.array == 5).all()


def test_more_than_there_is_is_refused_by_name(memory: Memory) -> None:
    with pytest.raises(DskdError, match="the GPU has no memory left"), memory.active():
        memory.allocate(1 << 50)
    with memory.active():
        assert memory.allocate(256)


def test_threads_and_both_packages_share_the_device(device: Device) -> None:
    opened = []
    for name in ADAPTERS:
        try:
            opened.append(open_memory(device, name))
        except MissingPart:
            continue
    faults: list[BaseException] = []

    def work(memory: Memory, value: int) -> None:
        try:
            with memory.active():
                source, target = (memory.host((1024,), np.float32) for _ in range(2))
                address, stream = memory.allocate(4096), memory.stream()
                for k in range(200):
                    source.array[:] = value + k
                    memory.to_device(address, source, 1024, stream)
                    memory.to_host(target, address, 1024, stream)
                    stream.synchronize()
                    assert (target.array == value + k).all()
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(memory, 1000 * k)) for k, memory in enumerate(opened * 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for memory in opened:
        memory.close()
    assert not faults


def test_closing_gives_everything_back(device: Device, adapter: str, free_bytes: Callable[[], int]) -> None:
    def use() -> None:
        memory = open_memory(device, adapter)
        with memory.active():
            host = memory.host((1 << 22,), np.uint8)
            address, stream, event = memory.allocate(1 << 26), memory.stream(), memory.event()
            memory.to_device(address, host, 1 << 22, stream)
            event.record(stream)
            event.synchronize()
        del host, stream, event
        memory.close()
        memory.close()

    use()
    before = free_bytes()
    for _ in range(50):
        use()
    assert before - free_bytes() < 1 << 24
