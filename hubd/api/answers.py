"""What is answered. Times are nanoseconds since 1970 UTC; a value that is no number is null."""

from typing import Literal

import msgspec

from edgesync.model import Value
from hubd.api.context import EdgeView, LinkEvent
from hubd.api.health import Health
from hubd.state.views import EventRow, SkipRow, Totals
from hubd.state.windows import WindowRow


class Edge(msgspec.Struct, frozen=True, kw_only=True):
    link: EdgeView
    health: Health
    state: Totals


class Edges(msgspec.Struct, frozen=True, kw_only=True):
    now_ns: int
    edges: list[Edge]
    next: str | None


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """A series and its newest reading; `series` is its id in hex."""

    series: str
    entity: str
    key: str
    unit: str
    type: str
    points: int
    time_ns: int
    value: Value | None


class SeriesPage(msgspec.Struct, frozen=True, kw_only=True):
    edge: str
    series: list[Series]
    next: str | None


class Latest(msgspec.Struct, frozen=True, kw_only=True):
    """The newest readings of an edge, by entity and key."""

    edge: str
    now_ns: int
    latest: dict[str, dict[str, Series]]
    next: str | None


class Raw(msgspec.Struct, frozen=True, kw_only=True):
    time_ns: list[int]
    value: list[Value | None]


class Buckets(msgspec.Struct, frozen=True, kw_only=True):
    """Aggregates; `time_ns` is where a bucket begins, first and last are by time."""

    time_ns: list[int]
    count: list[int]
    min: list[float]
    max: list[float]
    mean: list[float]
    sum: list[float]
    first: list[float]
    last: list[float]


class History(msgspec.Struct, frozen=True, kw_only=True):
    """A page of a series as columns: `raw` or `buckets`, as `resolution` says."""

    edge: str
    entity: str
    key: str
    unit: str
    type: str
    series: str
    resolution: Literal["raw", "1m", "1h"]
    from_ns: int
    to_ns: int
    raw: Raw | None
    buckets: Buckets | None
    next: str | None


class Windows(msgspec.Struct, frozen=True, kw_only=True):
    """A page of windows an edge summed up; `merge_s` is their width after merging."""

    edge: str
    entity: str
    key: str
    unit: str
    width_s: int
    merge_s: int
    windows: list[WindowRow]
    next: str | None


class Events(msgspec.Struct, frozen=True, kw_only=True):
    """The newest first."""

    edge: str
    events: list[EventRow]
    next: str | None


class LinkEvents(msgspec.Struct, frozen=True, kw_only=True):
    """The newest first."""

    events: list[LinkEvent]
    next: str | None


class ProjectorStatus(msgspec.Struct, frozen=True, kw_only=True):
    """`lag` is how many positions of the log are still to be projected, at most."""

    name: str
    position: int
    lag: int
    health: str
    skipped: int
    error: str


class Ledger(msgspec.Struct, frozen=True, kw_only=True):
    """One edge's row of the ledger; what is not counted is null."""

    edge: str
    records_at_edge: int
    records_in_log: int
    readings_in_state: int
    events_in_state: int
    dead: int
    lost: int


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    now_ns: int
    version: str
    log_head: int
    projectors: list[ProjectorStatus]
    ledger: list[Ledger]
    skips: list[SkipRow]
    watchers: int
    next: str | None


class Healthz(msgspec.Struct, frozen=True, kw_only=True):
    status: Literal["ok", "degraded"]
    problems: list[str]
