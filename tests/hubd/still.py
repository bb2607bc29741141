"""A hub at one moment: what the API asks of it, answered from lists."""

from collections.abc import Sequence

import msgspec

from hubd.api.context import Context, EdgeView, LaneView, LinkEvent
from hubd.link.rates import Slowdowns
from hubd.log.base import LogStats

NOW_NS = 1_767_225_600 * 10**9 + 3600 * 10**9


class StillHub:
    def __init__(self, edges: Sequence[EdgeView], events: Sequence[LinkEvent] = ()) -> None:
        self.all = list(edges)
        self.happened = list(events)
        self.head = 0
        self.views_made = 0
        self.slowdowns = Slowdowns([], [], {})
        self.log = LogStats(entries=3, damaged=0, used_bytes=1 << 20, limit_bytes=1 << 30)

    def names(self, tenant: str | None = None) -> Sequence[str]:
        return sorted(one.edge for one in self.all if tenant in (None, one.tenant))

    def edges(self) -> Sequence[EdgeView]:
        self.views_made += len(self.all)
        return self.all

    def edge(self, name: str) -> EdgeView | None:
        self.views_made += 1
        return next((one for one in self.all if one.edge == name), None)

    def link_events(
        self, *, edge: str | None, before: int | None, limit: int
    ) -> Sequence[LinkEvent]:
        found = [
            one
            for one in reversed(self.happened)
            if edge in (None, one.edge) and (before is None or one.n < before)
        ]
        return found[:limit]

    @property
    def log_head(self) -> int:
        return self.head

    def slowed(self) -> Slowdowns:
        return self.slowdowns

    def cloned(self) -> Sequence[str]:
        return [one.edge for one in self.all if one.has_clone]

    def log_stats(self) -> LogStats:
        return self.log


def of_tenant(context: Context, tenant: str) -> Context:
    """Give all edges of a still hub to a tenant."""
    hub = context.hub
    assert isinstance(hub, StillHub)
    hub.all = [msgspec.structs.replace(one, tenant=tenant) for one in hub.all]
    return context


def an_edge(name: str, *, lag: int = 0, is_connected: bool = True, state: str = "") -> EdgeView:
    """An edge that is heard, or was heard an hour before `NOW_NS`."""
    if state in ("invited", "revoked"):
        return EdgeView(edge=name, state=state, is_connected=False)
    return EdgeView(
        edge=name,
        state=state or ("connected" if is_connected else "lost"),
        is_connected=is_connected,
        since_ns=NOW_NS - 3600 * 10**9,
        known_at_ns=NOW_NS if is_connected else NOW_NS - 3600 * 10**9,
        address="192.0.2.7",
        software="edgesync 0.1.0",
        epoch=3,
        seen_at_ns=NOW_NS,
        rtt_s=0.0123,
        clock_offset_s=-0.002,
        lag_records=lag,
        lag_s=2.5 if lag else 0.0,
        lanes=(
            LaneView(lane="critical", tail=2, floor=2, safe=2),
            LaneView(lane="normal", tail=40, floor=40, safe=40),
            LaneView(lane="bulk", tail=1000 + lag, floor=1000, safe=1000),
        ),
    )
