"""What an edge tells about itself: one frozen picture of the present."""

from typing import Literal

import msgspec

from edgesync.sources.base import SourceStatus

Level = Literal["warning", "critical"]


class Indicator(msgspec.Struct, frozen=True):
    """One thing that is out of bounds, as a sentence."""

    name: str
    level: Level
    text: str


class LaneStatus(msgspec.Struct, frozen=True, kw_only=True):
    """safe <= floor <= sent <= tail (I3); `pending` is what waits for the hub.

    trimmed may pass floor where an overflow policy took what the hub does not have: `dropped`
    records and `dropped_readings` in them, ever. `refused` writes are those since the start.

    filled       part of what the settings let wait in it; 0 without such a limit
    ack_counts   batches since the start by how long they took to be stored (`acktimes.BOUNDS_S`)
    ack_p99_s    of the newest hundred
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
    filled: float = 0.0
    ack_counts: tuple[int, ...] = ()
    ack_sum_s: float = 0.0
    ack_p99_s: float | None = None


class LinkStatus(msgspec.Struct, frozen=True, kw_only=True):
    """state is one of Connected, Processing, Disconnected, Queuing, Reconnecting, Draining.

    via        the proxy it goes through, without its credentials; empty for none
    two_hubs   sessions have alternated between two hubs that share one identity, since the start
    slowed     why the hub takes less than there is, as it says; empty while it takes all
    sessions_recent   sessions that began in the last ten minutes
    """

    state: str
    endpoint: str
    via: str = ""
    problem: str = ""
    epoch: int = 0
    rtt_s: float | None = None
    clock_offset_s: float | None = None
    breaker: str = "closed"
    reconnects: int = 0
    restore_safe: bool = False
    two_hubs: bool = False
    slowed: str = ""
    sessions_recent: int = 0


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
    rejected    connections that were not let in; `held_up` attempts of addresses that had guessed
                too much were not looked at
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
    held_up: int = 0
    problem: str = ""
    refusals: tuple[RefusalView, ...] = ()


class DeviceHttpStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The door for HTTP devices; counts are since the start.

    requests    what came; `refused` of them were not stored
    rejected    requests without a token that is known, or that are no HTTP; `held_up` attempts of
                addresses that had guessed too much were not looked at
    problem     why nothing could be stored the last time, if so
    refusals    the newest few, the newest last
    """

    connections: int
    requests: int
    readings: int
    refused: int
    rejected: int
    held_up: int = 0
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


class KeysStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Keys, and how far they are the hub's; counts are since the start.

    state      offline, full_sync (the first pass, or one from the beginning), syncing, degraded or
               idle, which is: the same on both sides
    pending    operations that the hub has not carried out yet, as far as is known here
    share      of what has changed at the hub, how much the pass under way has brought; None while
               that is not known
    received   keys that came
    checks     times the keys here were compared with the hub's; `refetches` of them found others
    synced_ns  wall clock when the hub's newest state had arrived; 0 for never
    problem    why nothing is exchanged for now
    """

    state: str
    keys: int
    pending: int
    share: float | None
    received: int
    checks: int
    refetches: int
    synced_ns: int
    problem: str = ""


class ResendStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The newest range of past readings that was asked to be sent once more, to_ns not in it.

    readings  sent so far; which of them the hub had, it counts
    missed    records of the journal that had gone before they were read again
    share     of what the store has of the range, 0 to 1
    problem   what it waits for
    """

    from_ns: int
    to_ns: int
    entity: str
    key: str
    readings: int
    missed: int
    share: float
    is_done: bool
    problem: str = ""


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


class TunnelStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A tunnel that is open now; bytes are sent to the hub, and received from it."""

    tunnel: str
    target: str
    by: str
    opened_ns: int
    left_s: float
    connections: int
    sent_bytes: int
    received_bytes: int


class TunnelsStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Tunnels that the hub asked for; counts are since the start."""

    open: tuple[TunnelStatus, ...]
    granted: int
    refused: int


class ObjectStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A large object of the hub at this edge.

    have      bytes of `size` that are here
    standing  wanted, fetching, held, refused (`reason` says why), or kept: held, and not assigned
    """

    name: str
    sha256: str
    size: int
    have: int
    standing: str
    reason: str = ""


class ObjectsStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Large objects of the hub; used of limit bytes are taken.

    problem  why nothing goes on, if the disk is the reason
    strays   parts that came and were none of those asked for, since the start
    broken   objects that were whole and not what their SHA-256 says, since the start
    """

    objects: tuple[ObjectStatus, ...]
    used_bytes: int
    limit_bytes: int
    problem: str = ""
    strays: int = 0
    broken: int = 0


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """readings and events count what was stored since the start; series are all known ones.

    series_refused   readings of devices that were left out: of series beyond `[series] max`

    granted          prefixes of the keys the hub tells this edge of; none: all it wishes to have

    running          False: a program reads what is stored, and no link or device is at work
    closed_doors     what is missing while a door cannot be opened, and why: its port is taken, say
    indicators       what is out of bounds, the worst first (edgesync/health.py)
    resource_level   the worst of all resources: normal, warning, high, critical; or unwatched
    resources_worst  those that have it, if it is not normal
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
    keys: KeysStatus | None = None
    rpc: RpcStatus | None = None
    resend: ResendStatus | None = None
    tunnels: TunnelsStatus | None = None
    objects: ObjectsStatus | None = None
    closed_doors: tuple[str, ...] = ()
    indicators: tuple[Indicator, ...] = ()
    rss_bytes: int = 0
    resource_level: str = "unwatched"
    resources_worst: tuple[str, ...] = ()

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
    """A record that the hub refused: its lane and seq; or what a device sent and the edge did."""

    lane: str = ""
    seq: int = 0
    device: str = ""
    reason: str
    at_ns: int


def resident_bytes() -> int:
    """Return the resident memory of this process."""
    import psutil

    return int(psutil.Process().memory_info().rss)
