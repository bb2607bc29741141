"""The door as the file says: what is checked before it opens, and what is doubtful about it."""

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio

from edgesync.errors import ConfigError
from edgesync.parts.part import Context, DoorPart
from edgesync.serve.mqtt.credentials import CredentialsFile, is_readable_by_others
from edgesync.serve.mqtt.server import MqttServer
from edgesync.serve.tls import server_tls
from edgesync.settings import LOOPBACK, Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgesync.serve.mqtt.calls import Rpc
    from edgesync.serve.mqtt.server import Recorder
    from edgesync.serve.mqtt.shared import Entities


log = logging.getLogger(__name__)

SWITCH_S: Final = 0.0002


class MqttPart(DoorPart):
    """The door for MQTT devices; one whose files are wrong stays closed, and the log says why."""

    offer = "MQTT clients"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._server: MqttServer | None = None

    @property
    def address(self) -> str:
        section = self.context.settings.mqtt
        ports = [str(port) for port in (section.port, section.tls_port) if port]
        return f"mqtt.port {' and '.join(ports)} on {section.host}"

    async def serve(
        self, *, task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED
    ) -> None:
        context = self.context
        try:
            self._server = mqtt_server(
                context.settings, context.folder, context.recorder, wall_ns=context.wall_ns,
                entities=lambda: context.parts.get("entities"), rpc=context.parts.get("rpc"),
            )  # fmt: skip
        except ConfigError as error:
            log.error("no %s: %s", self.offer, error)
            task_status.started()
            return
        # A commit ends on a thread of its own, which would wait up to 5 ms for this one.
        sys.setswitchinterval(SWITCH_S)
        await self._server.serve(task_status=task_status)

    def status(self) -> Mapping[str, Any]:
        return {} if self._server is None else {"mqtt": self._server.status()}


def mqtt_server(
    settings: Settings,
    folder: Path,
    recorder: "Recorder",
    *,
    wall_ns: "Callable[[], int]",
    entities: "Callable[[], Entities]",
    rpc: "Rpc | None" = None,
) -> MqttServer:
    """Return the server that `[mqtt]` describes; raises ConfigError."""
    section = settings.mqtt
    return MqttServer(
        section,
        recorder,
        CredentialsFile(folder / section.devices, anonymous=section.anonymous),
        tls=server_tls(section, "mqtt", folder) if section.tls_port else None,
        reserved={device.name for device in settings.modbus},
        rpc=rpc,
        wall_ns=wall_ns,
        entities=entities,
    )


def mqtt_doubts(settings: Settings, folder: Path) -> list[str]:
    """Return what is allowed and hardly meant; raises ConfigError as a start would."""
    section = settings.mqtt
    mqtt_server(settings, folder, _Nowhere(), wall_ns=lambda: 0, entities=_no_entities)
    path = folder / section.devices
    found = []
    if is_readable_by_others(path):
        found.append(f"{path} holds secrets and others may read it: chmod 600 {path}")
    if section.port and section.host not in LOOPBACK:
        found.append(
            f"mqtt.port on {section.host}: credentials are sent in clear text; see mqtt.tls_port"
        )
    if section.anonymous and section.host not in LOOPBACK:
        found.append(f"mqtt.anonymous on {section.host}: whoever reaches it may write readings")
    return found


class _Nowhere:
    async def ingest(self, _readings: object) -> None:
        raise AssertionError

    async def emit(self, _event: object) -> None:
        raise AssertionError


def _no_entities() -> "Entities":
    raise AssertionError
