"""``fleet.yaml``, key by key: where updates come from, whom to believe, what a new bundle must show."""

from __future__ import annotations

import os
import pwd
import socket
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import AfterValidator, Field, ValidationError

from dskd.jetson.download import check_source
from dskd.jetson.engine_builder import BuildWindow, Engine
from dskd.jetson.live_check import LiveLimits
from dskd.jetson.signing import load_trusted
from dskd.jetson.slots import Slots
from dskd.runtime.configuration.fields import LocalPath, Name, Secret, Text
from dskd.runtime.configuration.strict_yaml import LARGEST_YAML, Strict, first_fault, parse_yaml
from dskd.runtime.errors import CallError
from dskd.runtime.sinks.mqtt import split_broker


def _source(text: str) -> str:
    try:
        return check_source(text)
    except CallError as error:
        raise ValueError(str(error)) from error


def _broker(text: str) -> str:
    split_broker(text)
    return text


class BrokerConfig(Strict):
    """Where inventory and status go, and where updates are announced. Topics: TOPIC/device/DEVICE/{status,inventory},
    TOPIC/update/PRODUCT (kept by the broker: the newest signed statement).
    """

    address: Annotated[Text, AfterValidator(_broker)] = Field(description="mqtt://HOST[:1883] or mqtts://HOST[:8883]")
    topic: Text = Field(
        "dskd", description="what all topics begin with", pattern=r"^[^+#\x00/$][^+#\x00]*$", max_length=200
    )
    user: Secret | None = Field(None, description="as ${NAME}")
    password: Secret | None = Field(None, description="as ${NAME}")
    ca_file: LocalPath | None = Field(None, description="certificates to trust (default: the system's)")


class FleetConfig(Strict):
    """One device's part in the fleet."""

    device: Name = Field(default_factory=lambda: socket.gethostname()[:64], description="its name in the fleet")
    product: Name = Field(description="what is inspected here; updates of other products are refused")
    source: Annotated[Text, AfterValidator(_source)] = Field(description="https://HOST/FOLDER/ or file:///FOLDER/")
    source_ca_file: LocalPath | None = Field(None, description="certificates to trust (default: the system's)")
    keys: LocalPath = Field(Path("/etc/dskd/keys"), description="folder of *.pub: who may publish")
    threshold: int = Field(1, ge=1, le=16, description="how many of them must have signed an update")
    slots: LocalPath = Field(Path("/var/lib/dskd/bundles"), description="PRODUCT/current in it is the station's bundle")
    store: LocalPath | None = Field(None, description="the station's store; without one, updates are confirmed by hand")
    live: LiveLimits = Field(default_factory=LiveLimits, description="what a new bundle must show at the line")
    engine: Engine = Field("none", description="engines to build before a bundle is tried: none, best, int8, fp16")
    build: BuildWindow = Field(default_factory=BuildWindow, description="when engines may be built")
    every_s: float = Field(900, ge=1, le=86400 * 7, description="how often the source is asked")
    switched: LocalPath = Field(Path("/var/lib/dskd/switched"), description="touched on each switch; systemd restarts the station")  # fmt: skip
    broker: BrokerConfig | None = Field(None, description="without one the device only pulls")

    def open_slots(self) -> Slots:
        """The product's slots. Raises CallError where the keys are none."""
        trusted = load_trusted(self.keys)
        if len(trusted) < self.threshold:
            raise CallError(f"{self.keys}: holds {len(trusted)} keys, and threshold {self.threshold} needs as many")
        folder = self.slots / self.product
        _refuse_root(folder)
        return Slots(folder, self.product, trusted, threshold=self.threshold)


def _refuse_root(folder: Path) -> None:
    """Raises CallError where root is asked to work in another user's folder: that user could lead it anywhere."""
    there = next((path for path in (folder, *folder.parents) if os.path.lexists(path)), Path("/"))
    owner = os.lstat(there).st_uid
    if os.geteuid() == 0 and owner != 0:
        raise CallError(
            f"{there} belongs to user {_user(owner)}; run this as that user: sudo -u {_user(owner)} dskd jetson ..."
        )


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"#{number}"


def load_fleet_config(file: Path) -> FleetConfig:
    """Reads ``fleet.yaml``. Raises CallError with the key that is wrong; paths in it are beside the file."""
    try:
        with file.open("rb") as handle:
            raw = handle.read(LARGEST_YAML + 1)
        if len(raw) > LARGEST_YAML:
            raise CallError(f"{file}: is too large for settings")
        return FleetConfig.model_validate(parse_yaml(raw.decode()) or {}, context={"folder": file.parent})
    except OSError as error:
        raise CallError(f"{file}: cannot be read ({error.strerror})") from error
    except ValidationError as error:
        raise CallError(f"{file}: {first_fault(error)}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CallError(f"{file}: is not valid YAML ({str(error).splitlines()[0]})") from error
