"""What all routes share: the station, its store and pictures, and the threads that blocking calls run in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from dskd.runtime.errors import CallError, DskdError
from dskd.runtime.station.control import CameraStatus, StationControl, StationStatus
from dskd.runtime.store import Store
from dskd.runtime.web.archive import Archive
from dskd.runtime.web.auth import Authenticator
from dskd.runtime.web.calls import Calls
from dskd.runtime.web.endpoint import Refused
from dskd.runtime.web.live import LivePictures

VIEW_SECONDS = 5.0
CHANGE_SECONDS = 120.0  # a recipe's bundle is loaded and its golden frames are checked

T = TypeVar("T")


@dataclass
class AppState:
    """Built once per server; every part is safe to use from any thread."""

    control: StationControl
    store: Store
    archive: Archive | None
    door: Authenticator
    cookie: str
    shifts: tuple[str, ...]
    address: str  # of the page, as browsers find it; ends with a slash
    live: LivePictures = field(default_factory=LivePictures)
    views: Calls = field(default_factory=lambda: Calls("view", threads=4, waiting=64))
    changes: Calls = field(default_factory=lambda: Calls("change", threads=2, waiting=8))
    exports: Calls = field(default_factory=lambda: Calls("export", threads=1, waiting=4))

    async def view(self, work: Callable[[], T]) -> T:
        """Runs something that only looks."""
        return await self.views.run(lambda: _told(work, 503), VIEW_SECONDS)

    async def change(self, work: Callable[[], T]) -> T:
        """Runs something that changes the station or takes long."""
        return await self.changes.run(lambda: _told(work, 409), CHANGE_SECONDS)

    def camera(self, name: str, status: StationStatus | None = None) -> CameraStatus:
        """The camera of that name. Raises Refused where there is none."""
        for camera in (status or self.control.status()).cameras:
            if camera.status.name == name:
                return camera
        raise Refused(404, "there is no such camera")

    def sign_in_link(self) -> str:
        """An address that signs a person in, once and within ten minutes. It is a secret."""
        return f"{self.address}#sign-in={self.door.one_time_code()}"

    def close(self) -> None:
        """Waits for calls that run."""
        self.views.close()
        self.changes.close()
        self.exports.close()


def _told(work: Callable[[], T], status: int) -> T:
    """Errors of the station become answers in its own words."""
    try:
        return work()
    except CallError as error:
        raise Refused(400, str(error)) from error
    except DskdError as error:
        raise Refused(status, str(error)) from error
