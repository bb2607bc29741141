"""What hub.toml may say. Every key has a default; unknown ones are refused."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from edgesync import short_form, toml
from edgesync.cells.settings import PrefixStrategy, StrategyName, ranking
from edgesync.logs import LoggingSection
from edgesync.model import Strategy
from edgesync.units import Bytes, Period, Seconds
from hubd.api.settings import ApiSettings
from hubd.link.rates import Rate, RateSettings
from hubd.log.retention import Policy
from hubd.objects.settings import ObjectsSection
from hubd.project.limits import SERIES_MAX, TENANT_SERIES_MAX, SeriesLimits

# Room for some of the largest batches: with less, an edge could hand over none, ever.
LIMIT_LEAST_MIB: Final = 4

Address = Annotated[
    str,
    Meta(pattern=r"^tcp://.+:(\d{1,5}|\*)$", description="tcp://address:port, as edges connect"),
]
PublicAddress = Annotated[
    str,
    Meta(
        pattern=r"^(tcp://.+:\d{1,5})?$",
        description="tcp://host:port, as edges reach it, such as tcp://hub.example.org:7400",
    ),
]
PublicUrl = Annotated[
    str, Meta(pattern=r"^(https?://.+)?$", description="https://host, as edges reach it")
]


class HubSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the hub keeps things and listens.

    data_dir       log, state, keys and registry; relative to the file's folder
    database       URL of a PostgreSQL database for what is in SQL; empty: files in `data_dir`
    password_file  holds the password of `database` alone; relative to the file's folder
    listen         addresses of the link; edges connect here
    public         the link's address as edges see it, put into tokens; empty: made from `listen`
    public_url     the HTTP address as edges see it, put into tokens: they enrol there; empty: over
                   the link
    """

    data_dir: str = "data"
    database: str = ""
    password_file: str = ""
    listen: tuple[Address, ...] = ("tcp://0.0.0.0:7400",)
    public: PublicAddress = ""
    public_url: PublicUrl = ""


class LinkSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the link treats edges; seconds."""

    # Three missed: a dead edge is known after 15 s, on both ends (S17).
    heartbeat: Period = Period(5.0)
    heartbeats_missed_max: Annotated[int, Meta(ge=1, le=100)] = 3
    # Batches of one edge that may wait for the log; more are refused for now.
    window_batches: Annotated[int, Meta(ge=1, le=256)] = 16
    takeovers_max: Annotated[int, Meta(ge=1)] = 3
    holdoff: Seconds = Seconds(10.0)


def check_limit(limit: int) -> None:
    if limit < LIMIT_LEAST_MIB << 20:
        raise ValueError(f"`limit` is {limit} bytes; edges need at least {LIMIT_LEAST_MIB} MiB")


class LogSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`limit` bounds the log's file. `managed_backups`: edges keep what no backup holds yet.

    keep         entries older than that are dropped; 0: none for its age
    keep_bytes   … and the oldest beyond that much; 0: none, unless a backup has it and room is
                 short
    """

    limit: Bytes = Bytes(64 << 30)
    keep: Seconds = Seconds(0.0)
    keep_bytes: Bytes = Bytes(0)
    managed_backups: bool = False

    def __post_init__(self) -> None:
        check_limit(self.limit)

    def policy(self) -> Policy:
        return Policy(
            keep_ns=round(self.keep * 1e9),
            keep_bytes=int(self.keep_bytes),
            is_backed_up=self.managed_backups,
        )


class CellsSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The keys edges write: how the hub's own clients read them, and when an edge is given up.

    limit          bounds the file of the keys
    retire_after   an edge that has not asked so long holds up no clearing; it comes back as new
    conflicts_for  so long a conflict nobody resolves is listed as open
    """

    limit: Bytes = Bytes(16 << 30)
    strategy: StrategyName = "crdt_merge"
    prefix: tuple[PrefixStrategy, ...] = ()
    value_limit: Bytes = Bytes(1 << 20)
    retire_after: Period = Period(30 * 86400.0)
    conflicts_for: Period = Period(7 * 86400.0)

    def __post_init__(self) -> None:
        check_limit(self.limit)

    def strategies(self) -> list[tuple[bytes, Strategy]]:
        return ranking(self.strategy, self.prefix)


class StateSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`memory` bounds what of the newest readings is held in memory before it is written out."""

    memory: Bytes = Bytes(256 << 20)


class RetentionSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long readings, the levels below an hour, and hours are kept; 0 for ever.

    readings   … leave hours behind, unless those are kept no longer
    """

    readings: Seconds = Seconds(0.0)
    windows: Seconds = Seconds(0.0)
    minutes: Seconds = Seconds(0.0)
    hours: Seconds = Seconds(0.0)


PerSecond = Annotated[int, Meta(ge=0, le=1_000_000_000)]


class LimitsSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one edge, and all of a tenant, may name and send.

    series, tenant_series  readings of more stay in the log and are counted
    *_readings, *_bytes    a second; who sends more is slowed down and loses nothing. 0: no limit
    burst                  so long a rate may be passed at once
    """

    series: Annotated[int, Meta(ge=1, le=1_000_000)] = SERIES_MAX
    tenant_series: Annotated[int, Meta(ge=1, le=10_000_000)] = TENANT_SERIES_MAX
    edge_readings: PerSecond = 500_000
    edge_bytes: Bytes = Bytes(16 << 20)
    tenant_readings: PerSecond = 1_000_000
    tenant_bytes: Bytes = Bytes(64 << 20)
    burst: Period = Period(10.0)

    def series_limits(self, tenant_of: Callable[[str], str]) -> SeriesLimits:
        return SeriesLimits(self.series, self.tenant_series, tenant_of=tenant_of)

    def rates(self) -> RateSettings:
        return RateSettings(
            edge=Rate(self.edge_readings, self.edge_bytes),
            tenant=Rate(self.tenant_readings, self.tenant_bytes),
            burst_s=float(self.burst),
        )


class EnrolSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A token can be redeemed once, within this time."""

    valid: Period = Period(900.0)


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """hub.toml, whole."""

    hub: HubSettings = HubSettings()
    link: LinkSection = LinkSection()
    log: LogSection = LogSection()
    cells: CellsSection = CellsSection()
    state: StateSection = StateSection()
    retention: RetentionSection = RetentionSection()
    limits: LimitsSection = LimitsSection()
    objects: ObjectsSection = ObjectsSection()
    api: ApiSettings = ApiSettings()
    enrol: EnrolSection = EnrolSection()
    logging: LoggingSection = LoggingSection()


def read_settings(path: Path, environment: Mapping[str, str] | None = None) -> Settings:
    """Return what `path` says, with HUBD_SECTION__KEY from the environment over it."""
    variables = toml.environment() if environment is None else environment
    settings = from_table(toml.read(path), file=str(path), environment=variables)
    if not settings.hub.password_file:
        return settings
    password_file = (path.parent / settings.hub.password_file).absolute()
    hub = msgspec.structs.replace(settings.hub, password_file=str(password_file))
    return msgspec.structs.replace(settings, hub=hub)


def from_table(table: dict[str, Any], *, file: str, environment: Mapping[str, str]) -> Settings:
    """Return the settings in `table`, which may be in the short form; changes it."""
    names = short_form.for_hub(table, file)
    variables = toml.override(table, environment, "HUBD")
    return toml.convert(table, Settings, file=file, names=names, variables=variables)


def data_dir(path: Path, settings: Settings) -> Path:
    return (path.parent / settings.hub.data_dir).absolute()
