"""The door as the file says: what is checked before it opens, and what is doubtful about it."""

from pathlib import Path
from typing import TYPE_CHECKING

from edgesync.serve.devices.credentials import Credentials, CredentialsFile
from edgesync.serve.devices.door import DevicePart, device_doubts
from edgesync.serve.devices.package_folder import PackageFolder
from edgesync.serve.mqtt.server import MqttServer
from edgesync.serve.mqtt.settings import MqttSection
from edgesync.serve.mqtt.tls import MqttTls
from edgesync.settings import LOOPBACK, Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgesync.serve.devices.attributes import Entities
    from edgesync.serve.devices.calls import Rpc
    from edgesync.serve.devices.door import Recorder


class MqttPart(DevicePart):
    offer, section = "MQTT clients", "mqtt"

    def make_server(self) -> MqttServer:
        context = self.context
        return mqtt_server(
            context.settings, context.folder, context.recorder, wall_ns=context.wall_ns,
            entities=lambda: context.parts.get("entities"), rpc=context.parts.get("rpc"),
        )  # fmt: skip


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
        CredentialsFile(
            folder / section.devices, folder / settings.edge.data_dir, anonymous=section.anonymous
        ),
        packages=PackageFolder(folder / section.firmware),
        tls=MqttTls(section, folder) if section.tls_port else None,
        reserved={device.name for device in settings.modbus},
        rpc=rpc,
        wall_ns=wall_ns,
        entities=entities,
    )


def mqtt_doubts(settings: Settings, folder: Path) -> list[str]:
    """Return what is allowed and hardly meant; raises ConfigError as a start would."""
    section = settings.mqtt
    server = mqtt_server(settings, folder, _Nowhere(), wall_ns=lambda: 0, entities=_no_entities)
    found = device_doubts(section, "mqtt", folder, "credentials")
    if doubt := certificate_doubt(section, server.credentials):
        found.append(doubt)
    if section.anonymous and section.host not in LOOPBACK:
        found.append(f"mqtt.anonymous on {section.host}: whoever reaches it may write readings")
    return found


def certificate_doubt(section: MqttSection, credentials: Credentials) -> str:
    if not section.tls_port and (credentials.certificates or credentials.has_fingerprints):
        return "mqtt.tls_port is 0: devices cannot show the certificates that they have"
    if credentials.has_fingerprints and not section.client_ca:
        return (
            "mqtt.client_ca is not set: devices with a fingerprint are not let in; name who has"
            " signed their certificates, or write down the certificates"
        )
    return ""


class _Nowhere:
    async def ingest(self, _readings: object) -> None:
        raise AssertionError

    async def emit(self, _event: object) -> None:
        raise AssertionError


def _no_entities() -> "Entities":
    raise AssertionError
