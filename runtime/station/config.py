"""``station.yaml``, key by key. The descriptions are the documentation; ``load.py`` reads and checks the file."""

from __future__ import annotations

import re
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, Tag, ValidationInfo, model_validator

from dskd.runtime.bundle.manifest import Positive, Precision
from dskd.runtime.capture.pixel_limit import MOST_MEGAPIXELS
from dskd.runtime.configuration.chosen import Chosen, Named
from dskd.runtime.configuration.fields import (
    MAY_HOLD_SECRET,
    VARIABLE,
    Address,
    LocalPath,
    Milliseconds,
    Name,
    Text,
    discriminator,
)
from dskd.runtime.configuration.strict_yaml import Strict
from dskd.runtime.configuration.uri import misplaced_login
from dskd.runtime.inspection.backends import BACKENDS
from dskd.runtime.sinks import SINKS, SinkConfig
from dskd.runtime.station.outputs.kinds import OUTPUTS, OutputConfig

_NETWORK = re.compile(r"(rtsps?|https?)://", re.IGNORECASE)
_FILES = re.compile(r"(folder|file|watch)://(?!/)(.+)", re.IGNORECASE | re.DOTALL)


def _public_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1) and "@" not in parts.netloc
    except ValueError:
        good = False
    if not good or parts.query or parts.fragment or not text.isascii() or not text.isprintable():
        raise ValueError("is no address of a page such as https://station-3.plant.example/")
    return text


def _network(text: str) -> str:
    try:
        return str(ip_network(text, strict=False))
    except ValueError:
        raise ValueError(f"{text!r} is no IP address and no network such as 10.0.0.0/24") from None


def _camera_address(uri: str, info: ValidationInfo) -> str:
    """A source's URI without a written-out password; relative paths are beside the file."""
    user = re.match(r"[A-Za-z0-9+.-]+://([^/?#]*)@", uri)
    if user and VARIABLE.sub("", user.group(1)).strip(":"):
        raise ValueError("user and password do not belong in the file; write ${NAME}:${NAME}@ and set the variables")
    if _NETWORK.match(uri) and misplaced_login(uri):
        raise ValueError(
            "an @ stands behind the host, as where a password holds / ? # or @; write ${NAME}:${NAME}@ and set the "
            "variables to what they are (in a URI of dskd runtime: / as %2F, ? as %3F, # as %23, @ as %40)"
        )
    folder = Path((info.context or {}).get("folder", Path()))
    files = _FILES.fullmatch(uri)
    if files:
        return f"{files.group(1)}://{folder / files.group(2)}"
    return uri if "://" in uri else str(folder / uri)


CameraAddress = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_camera_address), MAY_HOLD_SECRET]
TimeOfDay = Annotated[str, Field(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")]
Depth = Annotated[int, Field(ge=1, le=1024)]


class FreeTrigger(Strict):
    """Every frame is judged; with ``debounce`` the line is told only when the verdict of several frames changes."""

    kind: Literal["free"] = "free"
    debounce: Depth = Field(
        1, description="frames that must agree before a worse verdict holds; 1: each frame is a part"
    )
    window: Depth | None = Field(None, description="the last frames that are looked at (default: as many as debounce)")

    @model_validator(mode="after")
    def _wide_enough(self) -> FreeTrigger:
        if self.window is not None and self.window < self.debounce:
            raise ValueError(f"window {self.window} must not be under debounce {self.debounce}")
        return self


class PartTrigger(Strict):
    """What every trigger that announces a part has."""

    deadline_ms: int = Field(500, ge=10, le=60_000, description="from trigger to answer; then the fail-safe verdict")
    queue: Depth = Field(4, description="parts that may be under way at once; more are missed triggers")


class SoftwareTrigger(PartTrigger):
    """By web page, MQTT or Modbus."""

    kind: Literal["software"]


class GpioTrigger(PartTrigger):
    """By an edge on an input line, such as a light barrier."""

    kind: Literal["gpio"]
    chip: Text = Field("/dev/gpiochip0", description="gpiochip device")
    line: int = Field(ge=0, le=1023, description="line offset on the chip")
    edge: Literal["rising", "falling"] = Field("rising", description="which edge announces a part")
    bounce_ms: Milliseconds = Field(5, description="edges that follow sooner are contact bounce")


class LineTrigger(PartTrigger):
    """By the camera's own input: each frame that comes is a part."""

    kind: Literal["line"]


Trigger = Annotated[
    Annotated[FreeTrigger, Tag("free")]
    | Annotated[SoftwareTrigger, Tag("software")]
    | Annotated[GpioTrigger, Tag("gpio")]
    | Annotated[LineTrigger, Tag("line")],
    discriminator("kind"),
]


class FrameHealthConfig(Strict):
    """When a frame shows that the camera is not well; such a frame is never passed."""

    frozen: bool = Field(True, description="the same picture again, bit for bit")
    black: int = Field(8, ge=0, le=255, description="grey level: black where 95 % of the picture are darker; 0: off")
    bright: int = Field(247, ge=0, le=255, description="over-exposed where 95 % of the picture are brighter; 255: off")
    blur: float = Field(0, ge=0, description="least variance of the Laplacian in the sharpest tile; 0: off")
    size: tuple[Positive, Positive] | None = Field(None, description="width and height; null: as the first frame")


class Camera(Strict):
    """One camera."""

    source: CameraAddress = Field(
        description="a path or the camera's URI; user and password as ${NAME}; options of each kind of camera are at the end"
    )
    recipe: Name = Field(description="recipe at first start; a later change is kept in the data folder")
    trigger: Trigger = FreeTrigger()
    policy: Literal["latest", "every"] | None = Field(None, description="default: latest for free run, else every")
    health: FrameHealthConfig = FrameHealthConfig()


class RecipeConfig(Strict):
    """What is inspected and how strictly."""

    bundle: LocalPath = Field(description="bundle folder")
    job: int = Field(0, ge=0, le=65_535, description="number by which a PLC asks for it; 0: none")
    precision: Precision | None = Field(None, description="which of the bundle's graphs")
    review: float | None = Field(None, description="score over which a person looks (default: the bundle's)")
    reject: float | None = Field(None, description="score over which a part goes out (default: the bundle's)")
    min_area: int = Field(0, ge=0, description="regions of fewer frame pixels do not count")
    roi: LocalPath | None = Field(
        None,
        description="mask image of the frame's size, of the cut-out part's where the bundle has a fixture; only its white part counts",
    )
    fail_safe: Literal["REJECT", "REVIEW"] = Field("REJECT", description="verdict of a part that was not inspected")


class BackendConfig(Strict):
    """What runs the graphs."""

    name: Annotated[str, Named(BACKENDS)] = Field(
        "auto", description="auto: the first that is here, fits and agrees with the bundle's golden frames"
    )
    threads: int = Field(0, ge=0, le=1024, description="CPU threads; 0: one for each core it may use")
    latency_budget_ms: Milliseconds = Field(20, description="how long a frame may wait for others of its batch")


Output = Annotated[OutputConfig, Chosen(OUTPUTS, lambda kind: kind.config)]
Sink = Annotated[SinkConfig, Chosen(SINKS, lambda kind: kind.config)]


class WebConfig(Strict):
    """The operator's page."""

    listen: Address = Field("127.0.0.1:8080", description="address and port")
    public_url: Annotated[Text, AfterValidator(_public_url)] | None = Field(
        None,
        description="what browsers see where a TLS proxy stands before the page; then looking needs the token too. Sign-in links lead there",
    )
    trusted_proxies: list[Annotated[str, AfterValidator(_network)]] = Field(
        [], max_length=64, description="addresses or networks of proxies: what they say of clients is believed"
    )
    token_file: LocalPath | None = Field(None, description="default: token in the data folder, made at first start")
    shifts: list[TimeOfDay] = Field(
        ["06:00", "14:00", "22:00"], max_length=24, description="when shifts begin, local time; empty: midnight"
    )


class MetricsConfig(Strict):
    """Prometheus metrics and health without the page."""

    listen: Address = Field("127.0.0.1:9464", description="address and port")


class StoreConfig(Strict):
    """How long records stay; what a sink has not delivered yet stays longer. Counts and audit log stay for ever."""

    max_count: Positive = Field(5_000_000, description="records kept; five million are some two gigabytes")
    max_age_days: float | None = Field(None, gt=0, description="older ones go")


class StationConfig(Strict):
    """A station."""

    name: Name = Field(description="of the station, on its page, in MQTT and in metrics")
    data: LocalPath = Field(description="folder of store, archive, token and what operators changed")
    cameras: dict[Name, Camera] = Field(min_length=1, max_length=32)
    recipes: dict[Name, RecipeConfig] = Field(min_length=1, max_length=256)
    backend: BackendConfig = BackendConfig()
    outputs: dict[Name, Output] = Field({}, max_length=64)
    sinks: dict[Name, Sink] = Field({}, max_length=64)
    store: StoreConfig = StoreConfig()
    max_megapixels: int | None = Field(
        None,
        ge=1,
        le=MOST_MEGAPIXELS,
        description="larger picture files are refused (default: $DSKD_MAX_MEGAPIXELS, else 64); decoding takes up to "
        "12 MB of memory for each",
    )
    web: WebConfig | None = None
    metrics: MetricsConfig | None = None
    log_file: LocalPath | None = Field(None, description="beside standard error; rotated at 10 MB, five kept")
