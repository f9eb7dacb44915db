"""Sources that are a GStreamer pipeline and nothing else: a Jetson's CSI camera, and any pipeline."""

from __future__ import annotations

from dskd.runtime.capture.sources import pipelines
from dskd.runtime.capture.sources.base import Source, SourceContext, SourceKind
from dskd.runtime.capture.sources.gstreamer import GStreamerSource, has_elements
from dskd.runtime.capture.sources.opencv_capture import opencv_pipeline


def _csi(uri: str, options: object, context: SourceContext) -> Source:
    return _source(uri, pipelines.csi(uri), finite=False)


def _gst(uri: str, options: object, context: SourceContext) -> Source:
    return _source(uri, pipelines.gst(uri), finite=True)


def _source(uri: str, pipeline: str, finite: bool) -> Source:
    if has_elements("appsink"):
        return GStreamerSource(uri, lambda: pipeline, finite=finite)
    return opencv_pipeline(uri, lambda: pipeline)


CSI = SourceKind("csi://0", _csi, pipelines.CsiOptions)
GST = SourceKind("gst://PIPELINE", _gst)
