"""Commands that come by MQTT: checked, carried out one after the other in a thread of their own, and answered.

A command is a JSON object: {"command": "trigger", "camera": "top", "part": "A17"} or {"command": "recipe",
"camera": "top", "recipe": "bracket-b"}; an ``id`` comes back in the reply.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
from collections.abc import Callable
from typing import Annotated, Literal, Protocol

from pydantic import Field, Tag, TypeAdapter, ValidationError

from dskd.runtime.configuration.fields import Name, discriminator
from dskd.runtime.configuration.strict_yaml import Strict, first_fault
from dskd.runtime.errors import DskdError, one_line

LARGEST_COMMAND = 4096  # bytes
WAITING = 16  # commands; more come faster than a station can act on
WHO = "mqtt"

Reply = Callable[[bytes], object]
_Label = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]*$")]
_log = logging.getLogger(__name__)


class Station(Protocol):
    """What commands may do."""

    def trigger(self, camera: str, part: str | None) -> str:
        """Starts one inspection; returns the part id."""
        ...

    def set_recipe(self, camera: str, recipe: str, who: str) -> None:
        """Changes a camera's recipe."""
        ...


class TriggerCommand(Strict):
    """Inspect one part now."""

    command: Literal["trigger"]
    camera: Name
    part: _Label | None = None
    id: _Label | None = None


class RecipeCommand(Strict):
    """Change a camera's recipe."""

    command: Literal["recipe"]
    camera: Name
    recipe: Name
    id: _Label | None = None


_COMMAND: TypeAdapter[TriggerCommand | RecipeCommand] = TypeAdapter(
    Annotated[
        Annotated[TriggerCommand, Tag("trigger")] | Annotated[RecipeCommand, Tag("recipe")], discriminator("command")
    ]
)


class CommandQueue:
    """Takes commands without blocking; loading a recipe may take seconds."""

    def __init__(self, station: Station) -> None:
        self._station = station
        self._waiting: queue.Queue[tuple[bytes, Reply] | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._run, name="mqtt commands", daemon=True)
        self._thread.start()

    def take(self, command: bytes, reply: Reply) -> None:
        """Puts a command in the queue; ``reply`` is called with the outcome, at once where there is no room."""
        try:
            self._waiting.put_nowait((command[: LARGEST_COMMAND + 1], reply))
        except queue.Full:
            _answer(reply, {"ok": False, "error": f"{WAITING} commands wait already; send more slowly"})

    def stop(self, timeout: float = 5.0) -> bool:
        """Ends after the command under way; whether it did in time."""
        while True:
            try:
                self._waiting.put_nowait(None)
                break
            except queue.Full:
                self._waiting.get_nowait()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (item := self._waiting.get()) is not None:
            command, reply = item
            _answer(reply, self._carry_out(command))

    def _carry_out(self, data: bytes) -> dict[str, object]:
        if len(data) > LARGEST_COMMAND:
            return {"ok": False, "error": f"a command has at most {LARGEST_COMMAND} bytes"}
        try:
            command = _COMMAND.validate_json(data)
        except ValidationError as error:
            return {"ok": False, "error": one_line(f"is no command: {first_fault(error)}")}
        answer: dict[str, object] = {"command": command.command, "camera": command.camera, "id": command.id}
        try:
            if isinstance(command, TriggerCommand):
                answer["part"] = self._station.trigger(command.camera, command.part)
            else:
                self._station.set_recipe(command.camera, command.recipe, WHO)
                answer["recipe"] = command.recipe
        except DskdError as error:
            return {**answer, "ok": False, "error": one_line(str(error))}
        except Exception as error:  # the thread must outlive whatever the station raises
            _log.exception("mqtt command failed")
            return {**answer, "ok": False, "error": f"failed inside ({type(error).__name__}); see the log"}
        return {**answer, "ok": True}


def _answer(reply: Reply, answer: dict[str, object]) -> None:
    try:
        reply(json.dumps(answer).encode())
    except Exception as error:  # the connection may be gone by now
        _log.info("reply to an MQTT command not sent: %s", one_line(str(error)))
