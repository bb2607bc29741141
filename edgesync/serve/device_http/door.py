"""The door as the file says: what is checked before it opens, and what is doubtful about it."""

from collections.abc import Callable
from pathlib import Path

from edgesync.serve.device_http.server import DeviceHttpServer
from edgesync.serve.devices import DevicePart, Recorder, device_doubts
from edgesync.serve.mqtt.calls import Rpc
from edgesync.serve.mqtt.credentials import CredentialsFile
from edgesync.serve.mqtt.shared import Entities
from edgesync.serve.tls import server_tls
from edgesync.settings import Settings


class DeviceHttpPart(DevicePart):
    offer, section = "HTTP devices", "device_http"

    def make_server(self) -> DeviceHttpServer:
        context = self.context
        return device_http_server(
            context.settings, context.folder, context.recorder, wall_ns=context.wall_ns,
            entities=lambda: context.parts.get("entities"), rpc=context.parts.get("rpc"),
        )  # fmt: skip


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
    return device_doubts(section, "device_http", folder, "tokens")
