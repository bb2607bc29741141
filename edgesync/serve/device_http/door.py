"""The door as the file says: what is checked before it opens, and what is doubtful about it."""

from collections.abc import Callable
from pathlib import Path

from edgesync.serve.device_http.server import DeviceHttpServer
from edgesync.serve.devices.attributes import Entities
from edgesync.serve.devices.calls import Rpc
from edgesync.serve.devices.credentials import CredentialsFile
from edgesync.serve.devices.door import DevicePart, Recorder, device_doubts
from edgesync.serve.devices.package_folder import PackageFolder
from edgesync.serve.tls import DoorTls
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
        CredentialsFile(folder / section.devices, folder / settings.edge.data_dir),
        packages=PackageFolder(folder / section.firmware),
        tls=DoorTls(section, "device_http", folder) if section.tls_port else None,
        reserved={device.name for device in settings.modbus},
        wall_ns=wall_ns,
        entities=entities,
        rpc=rpc,
    )


def device_http_doubts(settings: Settings, folder: Path) -> list[str]:
    """Return what is allowed and hardly meant; raises ConfigError as a start would."""
    section = settings.device_http
    CredentialsFile(folder / section.devices, folder / settings.edge.data_dir)
    if section.tls_port:
        DoorTls(section, "device_http", folder)
    return device_doubts(section, "device_http", folder, "tokens")
