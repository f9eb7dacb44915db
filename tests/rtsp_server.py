"""GStreamer's RTSP server with H.264 on loopback: ``python tests/rtsp_server.py PORT [USER PASSWORD]``."""

from __future__ import annotations

import sys

from dskd.runtime.capture.sources.gstreamer import gstreamer
from dskd.runtime.capture.sources.system_gi import typelib

LAUNCH = (
    "( videotestsrc is-live=true pattern=ball ! video/x-raw,width=322,height=240,framerate=25/1 ! videoconvert ! "
    "video/x-raw,format=I420 ! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=15 ! "
    "rtph264pay name=pay0 pt=96 config-interval=1 audiotestsrc is-live=true ! alawenc ! rtppcmapay name=pay1 pt=8 )"
)


def main(port: str, login: list[str]) -> None:
    gstreamer()
    rtsp = typelib("GstRtspServer", "1.0", "gir1.2-gst-rtsp-server-1.0")
    loop = typelib("GLib", "2.0", "gir1.2-glib-2.0").MainLoop()
    server, factory = rtsp.RTSPServer(), rtsp.RTSPMediaFactory()
    server.set_address("127.0.0.1")
    server.set_service(port)
    factory.set_launch(LAUNCH)
    factory.set_shared(True)
    if login:
        auth, token, permissions = rtsp.RTSPAuth(), rtsp.RTSPToken(), rtsp.RTSPPermissions()
        token.set_string("media.factory.role", "user")
        auth.add_basic(rtsp.RTSPAuth.make_basic(*login), token)
        server.set_auth(auth)
        permissions.add_permission_for_role("user", "media.factory.access", True)
        permissions.add_permission_for_role("user", "media.factory.construct", True)
        factory.set_permissions(permissions)
    server.get_mount_points().add_factory("/cam", factory)
    assert server.attach(None)
    print(server.get_bound_port(), flush=True)
    loop.run()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
