"""A door for devices as a part of the node, and what is doubtful about any."""

from collections.abc import Awaitable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import trio

from edgesync.model import Event, Reading
from edgesync.parts.part import Context, DoorPart
from edgesync.serve.devices.credentials import is_readable_by_others
from edgesync.settings import LOOPBACK


class Recorder(Protocol):
    """Stores readings and events; both calls return when they are on disk."""

    def ingest(self, readings: Sequence[Reading]) -> Awaitable[None]: ...
    def emit(self, event: Event) -> Awaitable[None]: ...


class Section(Protocol):
    """A section of the settings that opens a door for devices."""

    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def tls_port(self) -> int: ...
    @property
    def devices(self) -> str: ...


class Server(Protocol):
    def serve(self, *, task_status: trio.TaskStatus[list[int]] = ...) -> Awaitable[None]: ...
    def status(self) -> object: ...


class DevicePart(DoorPart):
    """A door for devices; one whose files are wrong stays closed until they are right.

    section   of the settings, and the field of the status
    """

    section = ""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._server: Server | None = None

    @property
    def address(self) -> str:
        section: Section = getattr(self.context.settings, self.section)
        ports = [str(port) for port in (section.port, section.tls_port) if port]
        return f"{self.section}.port {' and '.join(ports)} on {section.host}"

    def make_server(self) -> Server:
        """Return the server that the section describes; raises ConfigError."""
        raise NotImplementedError

    async def serve(
        self, *, task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED
    ) -> None:
        self._server = self.make_server()
        if self.context.settings.hub.endpoint:
            # What the hub says of devices comes here before they ask for it.
            self.context.parts.get("entities")
        await self._server.serve(task_status=task_status)

    def status(self) -> Mapping[str, Any]:
        if self._server is None or self.problem:
            return {}
        return {self.section: self._server.status()}


def device_doubts(section: Section, name: str, folder: Path, shown: str) -> list[str]:
    """Return what is doubtful about any such door; `shown` is what devices prove themselves by."""
    path, found = folder / section.devices, []
    if is_readable_by_others(path):
        found.append(f"{path} holds secrets and others may read it: chmod 600 {path}")
    if section.port and section.host not in LOOPBACK:
        found.append(
            f"{name}.port on {section.host}: {shown} are sent in clear text; see {name}.tls_port"
        )
    return found
