"""``station.yaml``, key by key. The descriptions are the documentation; ``load.py`` reads and checks the file."""

from __future__ import annotations

import os
import re
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import quote

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from runtime.errors import CallError
from runtime.manifest import Positive, Precision
from runtime.result import Verdict
from runtime.strict_yaml import Strict

MOST_SECONDS = 3600.0
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def _plain(text: str) -> str:
    """Whatever is no secret is written out: a variable in it would be taken literally."""
    if "${" in text:
        raise ValueError("${NAME} is for secrets only (camera address, user, password, header_token); write it out")
    return text


def _local(path: object, info: ValidationInfo) -> Path:
    """A path beside the file it is written in."""
    if isinstance(path, Path):
        return path
    if not isinstance(path, str) or not path or "\0" in path:
        raise ValueError("a path is needed, text that is not empty and holds no NUL byte")
    _plain(path)
    folder = (info.context or {}).get("folder", Path())
    return Path(folder) / Path(path)


def _address(text: str) -> str:
    host, _, port = text.rpartition(":")
    try:
        ip_address(host.strip("[]"))
        number = int(port)
    except ValueError:
        raise ValueError(f"{text!r} is no ADDRESS:PORT such as 127.0.0.1:8080") from None
    if not 0 <= number < 1 << 16 or not port.isdigit():
        raise ValueError(f"port {port} must lie between 0 (any free one) and 65535")
    return text


def _client(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        raise ValueError(f"{text!r} is no IP address") from None


def _camera_address(uri: str) -> str:
    user = re.match(r"[A-Za-z0-9+.-]+://([^/?#]*)@", uri)
    if user and _VARIABLE.sub("", user.group(1)).strip(":"):
        raise ValueError("user and password do not belong in the file; write ${NAME}:${NAME}@ and set the variables")
    return uri


def _kind(value: object) -> str | None:
    """What says which of several forms a mapping has."""
    kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    return kind if isinstance(kind, str) else None


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
Text = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_plain)]
Secret = Annotated[str, Field(min_length=1, max_length=4096)]
LocalPath = Annotated[Path, BeforeValidator(_local)]
Address = Annotated[str, Field(max_length=64), AfterValidator(_address)]
Client = Annotated[str, AfterValidator(_client)]
Milliseconds = Annotated[int, Field(ge=0, le=60_000)]
Depth = Annotated[int, Field(ge=1, le=1024)]


def reveal(text: str, quoted: bool = False) -> str:
    """``text`` with its ${NAME} replaced from the environment. Raises CallError that names what is not set."""

    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match.group(1))
        if not found:
            raise CallError(f"environment variable {match.group(1)} is not set; the station file needs it for a secret")
        return quote(found, safe="") if quoted else found

    return _VARIABLE.sub(value, text)


def split_address(address: str) -> tuple[str, int]:
    """Host and port of a listening address."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


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
    edge: Literal["rising", "falling"] = "rising"
    bounce_ms: Milliseconds = Field(5, description="edges that follow sooner are contact bounce")


class LineTrigger(PartTrigger):
    """By the camera's own input: each frame that comes is a part."""

    kind: Literal["line"]


Trigger = Annotated[
    Annotated[FreeTrigger, Tag("free")]
    | Annotated[SoftwareTrigger, Tag("software")]
    | Annotated[GpioTrigger, Tag("gpio")]
    | Annotated[LineTrigger, Tag("line")],
    Discriminator(_kind),
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

    source: Secret = Field(description="URI of the camera; user and password as ${NAME}")
    recipe: Name = Field(description="recipe at first start; a later change is kept in the data folder")
    trigger: Trigger = FreeTrigger()
    policy: Literal["latest", "every"] | None = Field(None, description="default: latest for free run, else every")
    health: FrameHealthConfig = FrameHealthConfig()

    _source = field_validator("source")(_camera_address)


class RecipeConfig(Strict):
    """What is inspected and how strictly."""

    bundle: LocalPath = Field(description="bundle folder")
    job: int = Field(0, ge=0, le=65_535, description="number by which a PLC asks for it; 0: none")
    precision: Precision | None = Field(None, description="which of the bundle's graphs")
    review: float | None = Field(None, description="score over which a person looks (default: the bundle's)")
    reject: float | None = Field(None, description="score over which a part goes out (default: the bundle's)")
    min_area: int = Field(0, ge=0, description="regions of fewer frame pixels do not count")
    roi: LocalPath | None = Field(None, description="mask image of the frame's size; only its white part counts")
    fail_safe: Literal["REJECT", "REVIEW"] = Field("REJECT", description="verdict of a part that was not inspected")


class BackendConfig(Strict):
    """What runs the graphs."""

    name: Literal["auto", "onnxruntime", "tensorrt"] = "auto"
    threads: int = Field(0, ge=0, le=1024, description="CPU threads; 0: the backend's choice")
    latency_budget_ms: Milliseconds = Field(20, description="how long a frame may wait for others of its batch")


class GpioOutput(Strict):
    """A pulse on an output line, such as a reject valve."""

    kind: Literal["gpio"]
    chip: Text = Field("/dev/gpiochip0", description="gpiochip device; board: header pins by Jetson.GPIO")
    line: int = Field(ge=0, le=1023, description="line offset on the chip, or the header's pin number")
    on: list[Verdict] = Field([Verdict.REJECT], min_length=1, description="verdicts that give a pulse")
    delay_ms: Milliseconds = Field(0, description="from the trigger to the pulse: the way from camera to gate")
    pulse_ms: int = Field(50, ge=1, le=60_000, description="width of the pulse")
    active: Literal["high", "low"] = Field("high", description="level that moves the gate; the other one is safe")
    cameras: list[Name] = Field([], description="cameras it listens to; empty: all")


class ModbusOutput(Strict):
    """A Modbus TCP server with handshake bits and results of one camera."""

    kind: Literal["modbus"]
    listen: Address = "127.0.0.1:1502"
    camera: Name
    allow: list[Client] = Field([], description="client addresses; needed as soon as it listens beyond loopback")
    buffer: Depth = Field(64, description="results that wait for the PLC's acknowledgement")

    @model_validator(mode="after")
    def _guarded(self) -> ModbusOutput:
        host = ip_address(split_address(self.listen)[0])
        if not host.is_loopback and not self.allow:
            raise ValueError(
                f"{self.listen} is open to the network, and Modbus knows no password; name the clients in allow"
            )
        return self


Output = Annotated[
    Annotated[GpioOutput, Tag("gpio")] | Annotated[ModbusOutput, Tag("modbus")],
    Discriminator(_kind),
]


class ArchiveSink(Strict):
    """Originals, overlays and JSON in the data folder."""

    kind: Literal["archive"]
    keep: Text = Field("rejects and 1 in 100 passes", description="rejects, all, or rejects and 1 in N passes")
    max_count: Positive | None = Field(None, description="pictures kept at most; the oldest go first")
    max_age_days: float | None = Field(None, gt=0)
    min_free_gb: float = Field(1.0, ge=0, description="free space below which the oldest go, whatever the count")


class MqttSink(Strict):
    """Results to a broker, MQTT 5, at least once, from the store."""

    kind: Literal["mqtt"]
    broker: Text = Field(description="mqtt://HOST:PORT or mqtts://HOST:PORT")
    topic: Text = Field(description="topics begin with it")
    user: Secret | None = None
    password: Secret | None = None
    commands: bool = Field(False, description="take triggers and recipe changes from TOPIC/command")


class WebhookSink(Strict):
    """One POST per record, at least once, from the store."""

    kind: Literal["webhook"]
    url: Text
    on: list[Verdict] = Field(list(Verdict), min_length=1)
    header_token: Secret | None = Field(None, description="sent as Authorization: Bearer")


class CsvSink(Strict):
    """One line per inspection, from the store."""

    kind: Literal["csv"]
    path: LocalPath


Sink = Annotated[
    Annotated[ArchiveSink, Tag("archive")]
    | Annotated[MqttSink, Tag("mqtt")]
    | Annotated[WebhookSink, Tag("webhook")]
    | Annotated[CsvSink, Tag("csv")],
    Discriminator(_kind),
]


class WebConfig(Strict):
    """The operator's page."""

    listen: Address = "127.0.0.1:8080"
    token_file: LocalPath | None = Field(None, description="default: token in the data folder, made at first start")


class MetricsConfig(Strict):
    """Prometheus metrics and health without the page."""

    listen: Address = "127.0.0.1:9464"


class StationConfig(Strict):
    """A station."""

    name: Name
    data: LocalPath = Field(description="folder of store, archive, token and what operators changed")
    cameras: dict[Name, Camera] = Field(min_length=1, max_length=32)
    recipes: dict[Name, RecipeConfig] = Field(min_length=1, max_length=256)
    backend: BackendConfig = BackendConfig()
    outputs: dict[Name, Output] = Field({}, max_length=64)
    sinks: dict[Name, Sink] = Field({}, max_length=64)
    web: WebConfig | None = None
    metrics: MetricsConfig | None = None
    log_file: LocalPath | None = Field(None, description="beside standard error; rotated at 10 MB, five kept")
