"""Sources that are a GStreamer pipeline and nothing else: a Jetson's CSI camera, and any pipeline."""

from __future__ import annotations

from dskd.runtime.capture.sources import pipelines
from dskd.runtime.capture.sources.argus import ArgusSource
from dskd.runtime.capture.sources.base import Source, SourceContext, SourceKind
from dskd.runtime.capture.sources.gstreamer import GStreamerSource, has_elements
from dskd.runtime.capture.sources.opencv_capture import opencv_pipeline


def _csi(uri: str, options: object, context: SourceContext) -> Source:
    pipeline = pipelines.csi(uri)
    return ArgusSource(uri, lambda: pipeline) if has_elements("appsink") else opencv_pipeline(uri, lambda: pipeline)


def _gst(uri: str, options: object, context: SourceContext) -> Source:
    pipeline = pipelines.gst(uri, jetson=has_elements("nvvidconv"))
    if has_elements("appsink"):
        return GStreamerSource(uri, lambda: pipeline, finite=True)
    return opencv_pipeline(uri, lambda: pipeline)


CSI = SourceKind("csi://0", _csi, pipelines.CsiOptions)
GST = SourceKind("gst://PIPELINE", _gst)
