"""Parts, a door and a source that only tests put into the table of a node."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import trio

from edgesync.model import Reading
from edgesync.parts.part import DoorPart, Part
from edgesync.sources.base import Sink, SourceStatus


class Noted(Part):
    """Notes what happens to it."""

    log: ClassVar[list[str]] = []
    name: ClassVar = "noted"

    def open(self) -> None:
        self.log.append(f"open {self.name}")

    async def run(self, *, task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            self.log.append(f"end {self.name}")

    def close(self) -> None:
        # Whatever this part used is still open.
        assert self.context.recorder.store.commit.broken is None
        self.log.append(f"close {self.name}")


class Other(Noted):
    name = "other"


class Unopenable(Noted):
    name = "unopenable"

    def open(self) -> None:
        raise OSError("no such bus")


class Crashing(Noted):
    name = "crashing"

    async def run(self, *, task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        raise ZeroDivisionError


class CountDoor(DoorPart):
    """Tells whoever connects to a socket how many readings there are."""

    offer = "counts"

    @property
    def path(self) -> Path:
        return self.context.data_dir / "count"

    @property
    def address(self) -> str:
        return str(self.path)

    async def serve(
        self, *, task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED
    ) -> None:
        listening = trio.socket.socket(trio.socket.AF_UNIX)
        with listening:
            await listening.bind(str(self.path))
            listening.listen()
            task_status.started()
            while True:
                connection, _ = await listening.accept()
                with connection:
                    await connection.send(b"%d\n" % self.context.node.status().readings)


class Thermometer:
    """A source with one reading."""

    def __init__(self, name: str) -> None:
        self.name = self.key = name

    async def run(self, sink: Sink) -> None:
        await sink.readings([Reading(self.name, "celsius", 21.5, 1)])
        await trio.sleep_forever()

    def statuses(self) -> Sequence[SourceStatus]:
        return [SourceStatus(name=self.name, kind="test")]

    def retry_now(self, name: str) -> bool:
        return name == self.name


def thermometers(section: Any, **_facts: Any) -> Sequence[Thermometer]:
    return [Thermometer(f"thermometer of {section.name}")]
