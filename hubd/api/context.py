"""What the API needs from the rest of the hub, and no more."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from hubd.api.connections import Waits
from hubd.api.logins import Logins
from hubd.api.settings import ApiSettings
from hubd.cells import Answers, HubCells
from hubd.edge_service import EdgeService
from hubd.link.rates import Slowdowns
from hubd.log.base import LogStats
from hubd.log.retention import Standing
from hubd.objects.service import ObjectService
from hubd.project.live import Live
from hubd.project.projectors import Projectors
from hubd.registry import DEFAULT_TENANT
from hubd.rpc.service import RpcService
from hubd.rules.service import RuleService
from hubd.state import State
from hubd.tunnel.service import Tunnels


class LaneView(msgspec.Struct, frozen=True, kw_only=True):
    """Where one lane of an edge stands: safe <= floor <= tail (I3).

    tail    highest seq in the edge's journal, as far as the hub was told
    floor   highest seq that is durable in the hub's log
    safe    highest seq that every backup of the hub contains
    """

    lane: str
    tail: int
    floor: int
    safe: int


class EdgeView(msgspec.Struct, frozen=True, kw_only=True):
    """One edge as the hub sees it now; what is not known (yet) is None.

    state           connected, processing or draining while its session lasts; else invited (its
                    token is not redeemed), revoked, stopped (it said goodbye), lost (it fell
                    silent), or disconnected (not heard since this hub started)
    site            where it stands, as `hubd enroll --site` said
    since_ns        since when it is in that state, as far as that is known
    known_at_ns     of when everything below is: now while connected, else when it was last heard;
                    None: this hub has not heard it since it started
    lag_records     records the edge has and the hub does not
    lag_s           age of the oldest of them, or time since the lag began
    clock_offset_s  the edge's wall clock minus the hub's
    two_hubs        it was with another hub of the same identity between two sessions here
    has_clone       two machines with its key have had sessions in turn, lately
    prefixes        of the keys it may be told of; none: all of its tenant's
    label           what people call it; type: which kind of edge it is
    customer        for whom its tenant runs it
    slowed          why it is told to send less, now or a moment ago; empty when it is not
    """

    edge: str
    state: str
    is_connected: bool
    tenant: str = ""
    site: str = ""
    since_ns: int | None = None
    known_at_ns: int | None = None
    address: str = ""
    software: str = ""
    incarnation: str = ""
    epoch: int = 0
    connected_at_ns: int | None = None
    seen_at_ns: int | None = None
    rtt_s: float | None = None
    clock_offset_s: float | None = None
    lag_records: int | None = None
    lag_s: float | None = None
    two_hubs: bool = False
    has_clone: bool = False
    prefixes: tuple[str, ...] = ()
    label: str = ""
    type: str = ""
    customer: str = ""
    slowed: str = ""
    lanes: tuple[LaneView, ...] = ()


class LinkEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened to a link: `kind` is connected, lost, refused, fork, rewind, ..."""

    n: int
    time_ns: int
    edge: str
    kind: str
    detail: str = ""


class Hub(Protocol):
    """The hub's present. Called in Trio's thread, often: answers come from memory."""

    def names(self, tenant: str | None = None) -> Sequence[str]:
        """Every registered edge's name, in order; of a tenant or of all."""
        ...

    def edges(self) -> Sequence[EdgeView]:
        """Every registered edge, by name. Each view is made anew: ask once a question."""
        ...

    def edge(self, name: str) -> EdgeView | None: ...

    def link_events(
        self, *, edge: str | None, before: int | None, limit: int
    ) -> Sequence[LinkEvent]:
        """The newest first, with n < `before` if given."""
        ...

    @property
    def log_head(self) -> int: ...

    def log_stats(self) -> LogStats: ...

    def slowed(self) -> Slowdowns:
        """Return who is told to send less."""
        ...

    def cloned(self) -> Sequence[str]:
        """Return edges of which `EdgeView.has_clone` is true, by name."""
        ...


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a request handler may use.

    tenant             whose everything here is; None is the operator's, of all tenants
    registry_problem   returns what is wrong with the registry, "" for nothing
    retention          returns what the log keeps that is to go, and why
    all_answers        returns the keys of every tenant, by its name
    rpc                calls of devices; None where nothing is told to edges
    rules              rule chains that are kept for edges; None where none are
    logins             users and their sessions; None where there are none
    edges              what may be done with an edge as a whole; None where nothing may
    tunnels            to what edges can reach; None where there is no link
    objects            large ones, for edges to hold; None where there are none
    waits              requests that wait for something to happen
    """

    hub: Hub
    state: State
    live: Live
    projectors: Projectors
    answers: Answers
    settings: ApiSettings = msgspec.field(default_factory=ApiSettings)
    version: str = ""
    now_ns: Callable[[], int] = time.time_ns
    tenant: str | None = None
    registry_problem: Callable[[], str] = str
    retention: Callable[[], Standing] = Standing
    all_answers: Callable[[], Mapping[str, Answers]] = dict
    rpc: RpcService | None = None
    rules: RuleService | None = None
    logins: Logins | None = None
    edges: EdgeService | None = None
    tunnels: Tunnels | None = None
    objects: ObjectService | None = None
    waits: Waits = msgspec.field(default_factory=Waits)

    def sees(self, edge: str) -> bool:
        """Whether anything of this edge may be told here."""
        return self.tenant is None or self.hub.edge(edge) is not None

    def seen_answers(self) -> Mapping[str, Answers]:
        """Return the keys that are seen here, by tenant: of all of them, or of one."""
        if self.tenant is not None:
            return {self.tenant: self.answers}
        return self.all_answers() or {DEFAULT_TENANT: self.answers}

    @property
    def cells(self) -> HubCells:
        return self.answers.cells
