"""What is answered. Times are nanoseconds since 1970 UTC; a value that is no number is null."""

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from edgesync.model import Value
from hubd.api.context import EdgeView, LinkEvent
from hubd.api.errors import Problem
from hubd.api.health import Health
from hubd.api.redis_json import Blob
from hubd.log.base import LogStats
from hubd.log.retention import Standing
from hubd.project.gaps import Gap
from hubd.rpc.calls import CallView
from hubd.state.views import EventRow, SkipRow, Totals
from hubd.state.windows import WindowRow


class KeysTold(msgspec.Struct, frozen=True, kw_only=True):
    """How far an edge was told of the hub's keys by the last answer it was given.

    share   of what had changed since the state that it has in full, 0 to 1
    """

    share: float
    at_ns: int


class Edge(msgspec.Struct, frozen=True, kw_only=True):
    """`keys` of one edge only; null while it has not asked for keys since the hub's start."""

    link: EdgeView
    health: Health
    state: Totals
    keys: KeysTold | None = None


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


class FleetEvents(msgspec.Struct, frozen=True, kw_only=True):
    """A page of events of any edge; it may be empty and not the last."""

    events: list[EventRow]
    next: str | None


class Events(msgspec.Struct, frozen=True, kw_only=True):
    """The newest first."""

    edge: str
    events: list[EventRow]
    next: str | None


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """A device as its edge's newest event tells of it; `time_ns` is when that changed.

    state     "online" or "offline"; "" if the event does not say
    changes   how often the state changed since the event before
    invalid   points without a current value, and why; `more` are not listed
    """

    entity: str
    state: str
    reason: str
    address: str
    time_ns: int
    changes: int
    invalid: dict[str, str]
    more: int


class Devices(msgspec.Struct, frozen=True, kw_only=True):
    edge: str
    now_ns: int
    devices: list[Device]


class WaitingRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What the hub has stored for an edge, which has not said yet that it is on its disk."""

    edge: str
    lane: str
    seq: int
    type: str
    action: str
    entity: str
    body: Any
    created_ns: int


class Downlink(msgspec.Struct, frozen=True, kw_only=True):
    """By edge and lane, in the order in which an edge gets them."""

    records: list[WaitingRecord]
    next: str | None


class GivenUp(msgspec.Struct, frozen=True, kw_only=True):
    """How many records an edge gets no more; it is told so."""

    edge: str
    records: int


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


class KeysStats(msgspec.Struct, frozen=True, kw_only=True):
    """The keys and who keeps a copy.

    used_bytes          of their file
    change              number of the newest change
    stable, collected   every edge has confirmed to have all up to here; cleared away up to here
    lag                 positions of the log whose operations are still to be carried out
    skipped             entries of the log that could not be carried out
    clamped             stamps of edges whose clock runs far ahead, taken as now
    """

    keys: int
    used_bytes: int
    change: int
    stable: int
    collected: int
    lag: int
    replicas: int
    conflicts_open: int
    conflicts_detected: int
    commands: int
    skipped: int
    clamped: int


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """The hub as a whole is its operator's: a tenant's token gets none of it (log, projectors).

    history_from_ns   some of what was stored before then is not in this state: it was made again
                      from a log that had dropped it; null: nothing is missing
    gaps              … in detail
    retention         what the log keeps that is to go, and why
    keys              those that are read and written here: of the tenant that is named, or default
    keys_by_tenant    … and of all that may be told of here
    """

    now_ns: int
    version: str
    history_from_ns: int | None
    gaps: list[Gap]
    retention: Standing | None
    log_head: int | None
    keys: KeysStats
    keys_by_tenant: dict[str, KeysStats]
    projectors: list[ProjectorStatus]
    ledger: list[Ledger]
    skips: list[SkipRow]
    watchers: int
    log: LogStats | None
    rebuilds: int
    problems: list[str]
    next: str | None


class Healthz(msgspec.Struct, frozen=True, kw_only=True):
    """`is_working` is false while a part of the hub does not work; then the answer is a 503.

    problems   in sentences, for the operator: they may name edges of any tenant
    """

    status: Literal["ok", "degraded"]
    problems: list[str]
    is_working: bool


KeyType = Literal["string", "hash", "list", "set", "zset"]


class KeyRow(msgspec.Struct, frozen=True, kw_only=True):
    """`expires_ns` is null for a key that stays."""

    key: Blob
    type: KeyType
    expires_ns: int | None


class Keys(msgspec.Struct, frozen=True, kw_only=True):
    """In the order of their bytes; a page may be empty and not the last."""

    keys: list[KeyRow]
    next: str | None


class KeyChange(msgspec.Struct, frozen=True, kw_only=True):
    """A key that has changed. `type` is null for one that is gone; `after` goes on behind it."""

    key: Blob
    type: KeyType | None
    after: str


class KeyChanges(msgspec.Struct, frozen=True, kw_only=True):
    """Each key stands where it changed last: several changes in between are one.

    next   to go on from, with the same prefix
    """

    changes: list[KeyChange]
    next: str


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """A key and a page of its value: text, a map of fields, elements, members, or [member, score].

    count   fields, elements or members in all; 1 for a string
    """

    key: Blob
    type: KeyType
    expires_ns: int | None
    strategy: str
    stored_bytes: int
    count: int
    value: Any
    next: str | None


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """Of one command among several: its reply, or what was wrong."""

    reply: Any | UnsetType = UNSET
    error: Problem | UnsetType = UNSET


class CommandAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """`reply` to a `command`, `replies` to `commands`."""

    reply: Any | UnsetType = UNSET
    replies: list[Outcome] | UnsetType = UNSET


class ConflictSide(msgspec.Struct, frozen=True, kw_only=True):
    """One of the writes that met: operation `number` of `replica`, which is that edge.

    edge    `hub` for the hub's own clients; empty when nobody knows any more
    value   its beginning; null for a removal
    """

    edge: str
    replica: int
    number: int
    time_ns: int
    value: Blob | None


class ConflictView(msgspec.Struct, frozen=True, kw_only=True):
    """A cell in which writes have met.

    name     of the field or member; empty for a string
    winner   what the cell shows under `strategy`; null: a sum, or nothing
    """

    id: int
    status: Literal["open", "resolved", "expired"]
    kind: Literal["VALUE", "DELETE_UPDATE", "TYPE"]
    key: Blob
    cell: Literal["string", "field", "member", "element", "key"]
    name: Blob
    found_ns: int
    strategy: str
    winner: ConflictSide | None
    losers: list[ConflictSide]


class Conflicts(msgspec.Struct, frozen=True, kw_only=True):
    """By id: the oldest first."""

    conflicts: list[ConflictView]
    next: str | None


class ReplicaView(msgspec.Struct, frozen=True, kw_only=True):
    """A copy of the keys: an edge, in one life of its store.

    acked    its operations up to this number are carried out here
    base     it has confirmed to have all changes up to this number
    behind   changes after that
    """

    edge: str
    replica: int
    incarnation: str
    acked: int
    base: int
    behind: int
    seen_ns: int


class Replicas(msgspec.Struct, frozen=True, kw_only=True):
    keyspace: str
    change: int
    stable: int
    collected: int
    replicas: list[ReplicaView]
    next: str | None


class Retired(msgspec.Struct, frozen=True, kw_only=True):
    edge: str
    replica: int


class CallPage(msgspec.Struct, frozen=True, kw_only=True):
    """Calls of devices, the newest first."""

    calls: list[CallView]
    next: str | None = None
