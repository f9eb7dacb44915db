"""Prometheus metrics of a station, on a listener of their own.

What happens per frame is counted as it happens; what the station counts anyway is asked for at each scrape. Labels come
from the station file and from short fixed sets, so that their number is bounded whatever cameras and reasons say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dskd.runtime.errors import MissingPart
from dskd.runtime.metrics_listener import MetricsListener
from dskd.runtime.result import Dropped, Inspection, Verdict
from dskd.runtime.sinks.delivery import SinkStatus

STAGES = ("queue", "fixture", "preprocess", "inference", "decision", "store", "total")
BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0)  # seconds
OTHER = "other"


@dataclass(frozen=True)
class CameraNumbers:
    """What a camera counts itself, since start."""

    ready: bool
    waiting: int
    missed_triggers: int
    reconnects: int


@dataclass(frozen=True)
class Snapshot:
    """What is asked for at each scrape."""

    cameras: Mapping[str, CameraNumbers]
    sinks: Sequence[SinkStatus]
    spooled: int  # records that wait for the store
    free_bytes: int  # on the data folder's disk


class Metrics:
    """Counters that the station feeds, from any thread. Raises MissingPart where prometheus-client is missing.

    ``cameras`` are the names that labels may have; ``snapshot`` is called at each scrape and must be quick.
    """

    def __init__(self, cameras: Sequence[str], snapshot: Callable[[], Snapshot]) -> None:
        try:
            import prometheus_client
            import prometheus_client.core
        except ImportError as error:
            raise MissingPart("metrics: prometheus-client is not installed; pip install 'dskd-edge[line]'") from error
        self._cameras, self._snapshot = frozenset(cameras), snapshot
        self._client: Any = prometheus_client
        self._registry: Any = prometheus_client.CollectorRegistry()
        own: dict[str, Any] = {"registry": self._registry, "namespace": "dskd"}
        self._parts: Any = prometheus_client.Counter("parts", "Inspections by verdict", ["camera", "verdict"], **own)
        self._dropped: Any = prometheus_client.Counter(
            "dropped", "Frames captured and not inspected, by reason", ["camera", "reason"], **own
        )
        self._stages: Any = prometheus_client.Histogram(
            "stage_seconds", "Time of each stage of an inspection", ["stage"], buckets=BUCKETS, **own
        )
        self._latency: Any = prometheus_client.Histogram(
            "latency_seconds", "From capture to verdict", ["camera"], buckets=BUCKETS, **own
        )
        for camera in cameras:  # a counter that is there from the start shows its first step as a rate
            for verdict in Verdict:
                self._parts.labels(camera, verdict.value)
        self._registry.register(self)
        prometheus_client.ProcessCollector(registry=self._registry)

    def inspected(self, inspection: Inspection, latency: float | None = None) -> None:
        """Counts an inspection; ``latency`` is seconds from capture to verdict."""
        camera = self._camera(inspection.source)
        self._parts.labels(camera, inspection.verdict.value).inc()
        for stage, milliseconds in inspection.timings_ms.items():
            self._stages.labels(stage if stage in STAGES else OTHER).observe(milliseconds / 1000)
        if latency is not None:
            self._latency.labels(camera).observe(max(latency, 0.0))

    def dropped(self, dropped: Dropped) -> None:
        """Counts a dropped frame, or the frames that one record stands for, by reason."""
        self._dropped.labels(self._camera(dropped.source), dropped.reason.label).inc(dropped.frames or 1)

    def page(self) -> bytes:
        """All metrics as Prometheus reads them."""
        text: bytes = self._client.generate_latest(self._registry)
        return text

    def listen(
        self,
        host: str = "127.0.0.1",
        port: int = 9464,
        health: Callable[[], tuple[bytes, bool]] | None = None,
    ) -> MetricsListener:
        """Listens; serves ``page``, and ``health`` beside it, from ``start`` until ``stop``.

        Raises DskdError where the address cannot be had.
        """
        return MetricsListener(host, port, self.page, self._client.CONTENT_TYPE_LATEST, health)

    def collect(self) -> Iterator[Any]:
        """What the snapshot says; called by the registry."""
        snapshot = self._snapshot()
        cameras, sinks = list(snapshot.cameras.items()), snapshot.sinks
        yield self._gauge(
            "camera_ready", "1 where the camera takes parts", "camera", [(n, c.ready) for n, c in cameras]
        )
        yield self._gauge("waiting_frames", "Frames in the queue", "camera", [(n, c.waiting) for n, c in cameras])
        yield self._counter(
            "missed_triggers", "Triggers while busy", "camera", [(n, c.missed_triggers) for n, c in cameras]
        )
        yield self._counter("reconnects", "Cameras opened anew", "camera", [(n, c.reconnects) for n, c in cameras])
        yield self._gauge("sink_up", "1 where the sink delivers", "sink", [(s.name, s.health == "ok") for s in sinks])
        yield self._gauge("sink_behind", "Records that wait for the sink", "sink", [(s.name, s.behind) for s in sinks])
        yield self._counter("sink_delivered", "Records delivered", "sink", [(s.name, s.delivered) for s in sinks])
        yield self._counter("sink_refused", "Records refused for good", "sink", [(s.name, s.refused) for s in sinks])
        yield self._gauge("store_spooled", "Records that wait for the store", None, [("", snapshot.spooled)])
        yield self._gauge("disk_free_bytes", "Free space for the data folder", None, [("", snapshot.free_bytes)])

    def describe(self) -> list[Any]:
        """Nothing before the first scrape: the station may not stand yet."""
        return []

    def _gauge(self, name: str, text: str, label: str | None, values: Sequence[tuple[str, float]]) -> Any:
        return self._family(self._client.core.GaugeMetricFamily, name, text, label, values)

    def _counter(self, name: str, text: str, label: str | None, values: Sequence[tuple[str, float]]) -> Any:
        return self._family(self._client.core.CounterMetricFamily, name, text, label, values)

    @staticmethod
    def _family(kind: Any, name: str, text: str, label: str | None, values: Sequence[tuple[str, float]]) -> Any:
        family = kind(f"dskd_{name}", text, labels=[] if label is None else [label])
        for value, number in values:
            family.add_metric([] if label is None else [value], float(number))
        return family

    def _camera(self, name: str) -> str:
        return name if name in self._cameras else OTHER
