"""What an edge tells about itself: one frozen picture of the present."""

import msgspec

from edgesync.sources.base import SourceStatus


class LaneStatus(msgspec.Struct, frozen=True, kw_only=True):
    """safe <= floor <= sent <= tail (I3); `pending` is what waits for the hub.

    trimmed may pass floor where an overflow policy took what the hub does not have: `dropped`
    records and `dropped_readings` in them, ever. `refused` writes are those since the start.
    """

    lane: str
    tail: int
    sent: int
    floor: int
    safe: int
    trimmed: int
    pending: int
    stored_bytes: int
    overflow: str = "refuse"
    refused: int = 0
    dropped: int = 0
    dropped_readings: int = 0


class LinkStatus(msgspec.Struct, frozen=True, kw_only=True):
    """state is one of Connected, Processing, Disconnected, Queuing, Reconnecting, Draining.

    two_hubs   sessions have alternated between two hubs that share one identity, since the start
    slowed     why the hub takes less than there is, as it says; empty while it takes all
    """

    state: str
    endpoint: str
    problem: str = ""
    epoch: int = 0
    rtt_s: float | None = None
    clock_offset_s: float | None = None
    breaker: str = "closed"
    reconnects: int = 0
    restore_safe: bool = False
    two_hubs: bool = False
    slowed: str = ""


class StoreStatus(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    used_bytes: int
    limit_bytes: int
    commits: int
    last_commit_s: float
    problem: str = ""
    quarantined: int = 0


class RefusalView(msgspec.Struct, frozen=True, kw_only=True):
    """A message that was not stored, and why."""

    device: str
    topic: str
    problem: str
    at_ns: int


class MqttStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The door for MQTT devices; counts are since the start.

    sessions    those that are kept for clients that are away, too
    messages    what came; `refused` of them were not stored, or not whole
    rejected    connections that were not let in
    taken_over  connections that ended because another one had the same client id
    problem     why nothing could be stored the last time, if so
    refusals    the newest few, the newest last
    """

    clients: int
    sessions: int
    messages: int
    readings: int
    refused: int
    rejected: int
    taken_over: int
    problem: str = ""
    refusals: tuple[RefusalView, ...] = ()


class DeviceHttpStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The door for HTTP devices; counts are since the start.

    requests    what came; `refused` of them were not stored
    rejected    requests without a token that is known, or that are no HTTP
    problem     why nothing could be stored the last time, if so
    refusals    the newest few, the newest last
    """

    connections: int
    requests: int
    readings: int
    refused: int
    rejected: int
    problem: str = ""
    refusals: tuple[RefusalView, ...] = ()


class RuleNodeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What a node of a rule chain has done since the start."""

    chain: str
    node: str
    type: str
    messages: int
    failures: int
    last_error: str = ""
    last_error_ns: int = 0


class RulesStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Rule chains; counts are since the start.

    messages   that came to the root chain, and those that nodes made
    unhandled  failures that no connection took
    problem    why the chains in the files do not run, if so; those before go on, or none
    """

    root: str
    chains: tuple[str, ...]
    messages: int
    unhandled: int
    problem: str = ""
    is_worker_running: bool = False
    nodes: tuple[RuleNodeStatus, ...] = ()


class RpcStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Calls of devices that are open here, by state.

    received  calls that came since the start
    devices   those that somebody speaks for now
    """

    queued: int
    sent: int
    delivered: int
    received: int
    devices: int


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """readings and events count what was stored since the start; series are all known ones.

    series_refused   readings of devices that were left out: of series beyond `[series] max`

    granted          prefixes of the keys the hub tells this edge of; none: all it wishes to have

    running          False: a program reads what is stored, and no link or device is at work
    resource_level   the worst of all resources: normal, warning, high, critical; or unwatched
    """

    edge: str
    version: str
    running: bool = True
    incarnation: str
    uptime_s: float
    readings: int
    events: int
    series: int
    series_max: int = 0
    series_refused: int = 0
    granted: tuple[str, ...] = ()
    dead: int
    oldest_pending_s: float | None
    lanes: tuple[LaneStatus, ...]
    link: LinkStatus
    store: StoreStatus
    sources: tuple[SourceStatus, ...] = ()
    mqtt: MqttStatus | None = None
    device_http: DeviceHttpStatus | None = None
    rules: RulesStatus | None = None
    rpc: RpcStatus | None = None
    rss_bytes: int = 0
    resource_level: str = "unwatched"

    @property
    def pending(self) -> int:
        return sum(lane.pending for lane in self.lanes)


class EventView(msgspec.Struct, frozen=True, kw_only=True):
    """An event of the journal; `state` is PENDING, IN_FLIGHT, DEPLOYED or DEAD, from positions."""

    lane: str
    seq: int
    event_id: str
    type: str
    action: str
    entity: str
    time_ns: int
    state: str
    body: str


class LatestView(msgspec.Struct, frozen=True, kw_only=True):
    entity: str
    key: str
    value: float | int | bool | str
    unit: str
    time_ns: int


class DeadView(msgspec.Struct, frozen=True, kw_only=True):
    lane: str
    seq: int
    reason: str
    at_ns: int


def resident_bytes() -> int:
    """Return the resident memory of this process."""
    import psutil

    return int(psutil.Process().memory_info().rss)
