"""The door as the file says: what is checked before it opens, and what is doubtful about it."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import trio

from edgesync.errors import ConfigError
from edgesync.parts.part import Context, DoorPart
from edgesync.serve.device_http.server import DeviceHttpServer, Recorder
from edgesync.serve.mqtt.calls import Rpc
from edgesync.serve.mqtt.credentials import CredentialsFile, is_readable_by_others
from edgesync.serve.mqtt.shared import Entities
from edgesync.serve.tls import server_tls
from edgesync.settings import LOOPBACK, Settings

log = logging.getLogger(__name__)


class DeviceHttpPart(DoorPart):
    """The door for HTTP devices; one whose files are wrong stays closed, and the log says why."""

    offer = "HTTP devices"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._server: DeviceHttpServer | None = None

    @property
    def address(self) -> str:
        section = self.context.settings.device_http
        ports = [str(port) for port in (section.port, section.tls_port) if port]
        return f"device_http.port {' and '.join(ports)} on {section.host}"

    async def serve(
        self, *, task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED
    ) -> None:
        context = self.context
        try:
            self._server = device_http_server(
                context.settings, context.folder, context.recorder, wall_ns=context.wall_ns,
                entities=lambda: context.parts.get("entities"), rpc=context.parts.get("rpc"),
            )  # fmt: skip
        except ConfigError as error:
            log.error("no %s: %s", self.offer, error)
            task_status.started()
            return
        await self._server.serve(task_status=task_status)

    def status(self) -> Mapping[str, Any]:
        return {} if self._server is None else {"device_http": self._server.status()}


def device_http_server(
    settings: Settings,
    folder: Path,
    recorder: Recorder,
    *,
    wall_ns: Callable[[], int],
    entities: Callable[[], Entities],
    rpc: Rpc | None = None,
) -> DeviceHttpServer:
    """Return the server that `[device_http]` describes; raises ConfigError."""
    section = settings.device_http
    return DeviceHttpServer(
        section,
        recorder,
        CredentialsFile(folder / section.devices),
        tls=server_tls(section, "device_http", folder) if section.tls_port else None,
        wall_ns=wall_ns,
        entities=entities,
        rpc=rpc,
    )


def device_http_doubts(settings: Settings, folder: Path) -> list[str]:
    """Return what is allowed and hardly meant; raises ConfigError as a start would."""
    section = settings.device_http
    CredentialsFile(folder / section.devices)
    if section.tls_port:
        server_tls(section, "device_http", folder)
    path = folder / section.devices
    found = []
    if is_readable_by_others(path):
        found.append(f"{path} holds secrets and others may read it: chmod 600 {path}")
    if section.port and section.host not in LOOPBACK:
        found.append(
            f"device_http.port on {section.host}: tokens are sent in clear text; "
            "see device_http.tls_port"
        )
    return found
