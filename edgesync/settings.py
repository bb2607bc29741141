"""What edge.toml may say. Every key has a default and a reason; unknown ones are refused."""

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal
from urllib.parse import quote

import msgspec
from msgspec import Meta

from edgesync import short_form, toml
from edgesync.cells.settings import CellsSection
from edgesync.errors import ConfigError
from edgesync.logs import LoggingSection
from edgesync.model import Lane
from edgesync.objects.settings import ObjectsSection
from edgesync.resources.settings import ResourcesSection
from edgesync.rules.settings import RulesSection
from edgesync.serve.device_http.settings import DeviceHttpSection
from edgesync.serve.mqtt.settings import MqttSection
from edgesync.sources.modbus.settings import ModbusDeviceSettings
from edgesync.store.settings import LanesSection, Policy
from edgesync.tunnel.settings import TunnelSection
from edgesync.units import Bytes, Period, Seconds
from edgesync_transport.backoff import BackoffSettings
from edgesync_transport.breaker import BreakerSettings
from edgesync_transport.lanes.window import SenderSettings

if TYPE_CHECKING:
    from edgesync_transport.keys import KeyPair
    from edgesync_transport.proxy import Proxy

Name = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$",
        description="letters, digits, . _ -, at most 63, beginning with a letter or digit",
    ),
]
HubAddress = Annotated[
    str, Meta(pattern=r"^(tcp://.+:\d{1,5})?$", description="tcp://host:port of the hub's link")
]
Count = Annotated[int, Meta(ge=1)]


class EdgeSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`data_dir` is relative to the file's folder."""

    name: Name = "edge"
    data_dir: str = "data"


class HubSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the hub is. Without an endpoint the edge works alone and keeps everything.

    server_key  the hub's public key in Z85: no other hub is talked to
    keys        the edge's key pair; relative to the file's folder
    url         where the hub is said to be, for an edge that is still to join it
    proxy       what the link goes through: a URL (edgesync_transport.proxy), or "environment"
    """

    endpoint: HubAddress = ""
    server_key: Annotated[
        str,
        Meta(pattern=r"^(.{40})?$", description="the 40 characters that `edgesync init` writes"),
    ] = ""
    keys: str = "edge.keys"
    url: HubAddress = ""
    proxy: str = ""

    @property
    def unjoined(self) -> str:
        """The hub this edge is to join and has not joined yet; empty when there is none."""
        return "" if self.endpoint else self.url


class StoreSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The journal on disk."""

    # A day of 50 points a second, with room: 50 × 86,400 × 16 bytes is 69 MB.
    limit: Bytes = Bytes(1 << 30)
    # Kept after the hub has it, for a hub that is restored from an older backup (I3).
    retain: Bytes = Bytes(32 << 20)


class SyncSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the link behaves; see SenderSettings, BackoffSettings and BreakerSettings."""

    batch_size: Annotated[int, Meta(ge=1, le=65536)] = 16_384
    batch_timeout: Seconds = Seconds(0.005)
    ack_timeout: Period = Period(10.0)
    heartbeat: Period = Period(5.0)
    heartbeats_missed_max: Annotated[int, Meta(ge=1, le=100)] = 3
    reconnect_base: Period = Period(3.0)
    reconnect_factor: Annotated[float, Meta(ge=1, le=10)] = 2.0
    reconnect_jitter: Annotated[float, Meta(ge=0, lt=1)] = 0.2
    reconnect_cap: Period = Period(60.0)
    breaker_failures: Count = 5
    breaker_open: Period = Period(300.0)
    # Between two rounds in which records that are not critical, and operations on keys, are told.
    # At once by default: batches grow by themselves when the link is the narrow place.
    interval: Seconds = Seconds(0.0)
    lanes: LanesSection = LanesSection()

    def backoff(self) -> BackoffSettings:
        return BackoffSettings(
            base_s=self.reconnect_base,
            factor=self.reconnect_factor,
            jitter=self.reconnect_jitter,
            cap_s=self.reconnect_cap,
        )

    def policies(self) -> dict[Lane, Policy]:
        """What gives way in a lane that is full."""
        sections = (self.lanes.critical, self.lanes.normal, self.lanes.bulk)
        return {
            lane: Policy(
                overflow=one.overflow,
                records=one.capacity,
                nbytes=int(one.capacity_bytes),
                keep_every=self.lanes.bulk.keep_every,
            )
            for lane, one in zip(Lane, sections, strict=True)
        }

    def breaker(self) -> BreakerSettings:
        return BreakerSettings(failures_max=self.breaker_failures, open_s=self.breaker_open)

    def sender(self, software: str) -> SenderSettings:
        return SenderSettings(
            batch_records_max=self.batch_size,
            linger_s=(0.0, min(0.002, self.batch_timeout), float(self.batch_timeout)),
            ack_timeout_s=float(self.ack_timeout),
            greeting_timeout_s=float(self.ack_timeout),
            # Plain floats: these travel, and the wire knows no durations with a unit.
            heartbeat_s=float(self.heartbeat),
            heartbeats_missed_max=self.heartbeats_missed_max,
            software=software,
        )


class RollupRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What travels of series whose entity begins with `prefix`; the longest prefix counts.

    send     raw: readings; aggregates: windows of `width_s`; both
    sketch   quantiles too, for about as many bytes again
    """

    prefix: str = ""
    width_s: Annotated[int, Meta(ge=1, le=86_400)] = 60
    send: Literal["raw", "aggregates", "both"] = "both"
    sketch: bool = True


class SeriesSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Readings kept at the edge for questions there, beside the journal.

    keep       newest readings of a series
    age        older ones are not shown; "0s" for no such limit
    max        series kept
    ingested   keep what devices and `ingest` bring, too; those of sensors and TS.ADD always are
    rollup     what is summed up of them, and what travels
    """

    keep: Annotated[int, Meta(ge=1, le=1_000_000)] = 1000
    age: Seconds = Seconds(0.0)
    max: Annotated[int, Meta(ge=1, le=1_000_000)] = 10_000
    rollup: tuple[RollupRule, ...] = ()
    # One more row a series and write: an edge that nobody asks should not pay for answers.
    ingested: bool = False


class HttpSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Metrics, health and status over HTTP; port 0 switches it off."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 9464


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """edge.toml, whole."""

    edge: EdgeSection = EdgeSection()
    hub: HubSection = HubSection()
    store: StoreSection = StoreSection()
    sync: SyncSection = SyncSection()
    cells: CellsSection = CellsSection()
    resources: ResourcesSection = ResourcesSection()
    series: SeriesSection = SeriesSection()
    http: HttpSection = HttpSection()
    mqtt: MqttSection = MqttSection()
    device_http: DeviceHttpSection = DeviceHttpSection()
    rules: RulesSection = RulesSection()
    tunnel: TunnelSection = TunnelSection()
    objects: ObjectsSection = ObjectsSection()
    logging: LoggingSection = LoggingSection()
    modbus: tuple[ModbusDeviceSettings, ...] = ()


LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")

# Names under which these settings are known elsewhere, and what they are here (S16). The timeout is
# found in both units: from 1,000 on it is milliseconds.
ALIASES: Final[Mapping[str, tuple[str, str, str]]] = {
    "CLOUD_RPC_KEEP_ALIVE_TIME_SEC": ("sync", "heartbeat", "s"),
    "CLOUD_RECONNECT_TIMEOUT": ("sync", "reconnect_base", "ms"),
    "CLOUD_RPC_TIMEOUT": ("sync", "ack_timeout", "s or ms"),
}
SECONDS_MAX: Final = 999
# … ENABLED, HOST, PORT, USERNAME, PASSWORD: a proxy for CONNECT.
PROXY_ALIAS: Final = "CLOUD_RPC_PROXY_"


def _unit_of(value: str, unit: str) -> str:
    if unit != "s or ms":
        return unit
    return "ms" if value.isdecimal() and int(value) > SECONDS_MAX else "s"


def _aliased_proxy(variables: Mapping[str, str]) -> str:
    host, port, user, password = (
        variables.get(f"{PROXY_ALIAS}{name}", "")
        for name in ("HOST", "PORT", "USERNAME", "PASSWORD")
    )
    who = f"{quote(user, '')}:{quote(password, '')}@" if user else ""
    return f"http://{who}{host}:{port}"


def read_settings(path: Path, environment: Mapping[str, str] | None = None) -> Settings:
    """Return what `path` says, with EDGESYNC_SECTION__KEY from the environment over it.

    The file may be in the short form (short_form.py) as well.
    """
    variables = dict(toml.environment() if environment is None else environment)
    for alias, (section, key, unit) in ALIASES.items():
        name = f"EDGESYNC_{section}__{key}".upper()
        if alias in variables and name not in variables:
            variables[name] = f'"{variables[alias]}{_unit_of(variables[alias], unit)}"'
    if variables.get(f"{PROXY_ALIAS}ENABLED", "").lower() == "true":
        variables.setdefault("EDGESYNC_HUB__PROXY", _aliased_proxy(variables))
    return from_table(toml.read(path), file=str(path), environment=variables)


def from_mapping(table: Mapping[str, Any]) -> Settings:
    """Return settings given in a program, in either form; raises ConfigError."""
    return from_table(copy.deepcopy(dict(table)), file="settings", environment={})


def from_table(table: dict[str, Any], *, file: str, environment: Mapping[str, str]) -> Settings:
    """Return settings that fit together; changes `table`. Raises ConfigError."""
    names = short_form.for_edge(table, file)
    variables = toml.override(table, environment, "EDGESYNC")
    settings = toml.convert(table, Settings, file=file, names=names, variables=variables)
    if problem := _misfit(settings, file):
        raise toml.renamed(problem, names)
    return settings


def _misfit(settings: Settings, file: str) -> ConfigError | None:
    if settings.hub.endpoint and not settings.hub.server_key:
        return ConfigError(
            file=file,
            field="hub.server_key",
            problem="is missing",
            remedy="an edge talks only to the hub it knows; `edgesync init --token …` writes it",
        )
    try:
        link_proxy(settings)
    except ValueError as error:
        return ConfigError(
            file=file,
            field="hub.proxy",
            problem=str(error),
            remedy="docs/configuration.md has examples; write @ : / of a password as %40 %3A %2F",
        )
    cells = settings.cells
    if cells.port and not cells.password and cells.host not in LOOPBACK:
        return ConfigError(
            file=file,
            field="cells.password",
            problem=f"is empty, and {cells.host} lets clients of other machines in",
            remedy='set one, or host = "127.0.0.1"',
        )
    for name, door in (("mqtt", settings.mqtt), ("device_http", settings.device_http)):
        if door.tls_port and not (door.certificate and door.key):
            return ConfigError(
                file=file,
                field=f"{name}.tls_port",
                problem=f"needs {name}.certificate and {name}.key",
                remedy="name both files, or tls_port = 0",
            )
    return None


def resolve(
    settings: Settings | str | os.PathLike[str] | Mapping[str, Any], folder: Path | None
) -> tuple[Settings, Path, Path | None]:
    """Return settings given in any form, the folder their paths start from, and their file."""
    if isinstance(settings, Settings):
        return settings, (folder or Path()).absolute(), None
    if isinstance(settings, Mapping):
        return from_mapping(settings), (folder or Path()).absolute(), None
    path = Path(settings)
    return read_settings(path), (folder or path.parent).absolute(), path


def options(settings: Settings) -> dict[str, object]:
    """Return every setting as `section.name`, secrets left out."""
    found: dict[str, object] = {}
    for section, values in msgspec.structs.asdict(settings).items():
        if isinstance(values, msgspec.Struct):
            for name, value in msgspec.structs.asdict(values).items():
                if name != "password":
                    found[f"{section}.{name}"] = value
    found["hub.proxy"] = str(link_proxy(settings) or "")
    return found


def link_proxy(settings: Settings) -> "Proxy | None":
    """Return the proxy that the link goes through; raises ValueError for what is none."""
    if not settings.hub.proxy:
        return None
    from edgesync_transport import proxy

    address = settings.hub.endpoint or settings.hub.url
    return proxy.chosen(settings.hub.proxy, address.removeprefix("tcp://").rpartition(":")[0])


def link_keys(settings: Settings, folder: Path) -> "KeyPair":
    """Return the edge's key pair for its link; raises ConfigError, which says how to get one."""
    from edgesync_transport import keys  # ZeroMQ, which an edge that works alone does without

    try:
        return keys.read_keys(folder / settings.hub.keys)
    except keys.KeyFileError as error:
        raise ConfigError(
            file="settings",
            field="hub.keys",
            problem=str(error),
            remedy="restore the file, or come with a token of `hubd enroll NAME --again`",
        ) from error
