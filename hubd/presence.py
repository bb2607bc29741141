"""What is known about each edge now, and what happened to its link lately."""

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import trio

from edgesync.bounds import FLAPPING_S, FLAPPING_SESSIONS
from edgesync_transport.messages import Lane
from edgesync_transport.receiver import Receiver
from edgesync_transport.seldom import Seldom
from hubd.api.context import EdgeView, LaneView, LinkEvent
from hubd.link.rates import Rates, Slowdowns
from hubd.log.base import Log, LogStats
from hubd.registry import RegisteredEdge

# Events kept for screens; the edges' own records tell the whole story.
EVENTS_MAX: Final = 10_000
# Of one kind and edge; then one a minute: an edge that greets without end pushes out no other's.
EVENTS_BURST: Final = 60
# What a session that ended this way leaves its edge as.
ENDS: Final = {"disconnected": "stopped", "lost": "lost"}
# More than a batch or two: a backlog, not what has just been measured.
# After two gateways with one key have fought for sessions.
CLONE_SHOWN_S: Final = 600.0
DRAINING_RECORDS: Final = 1000


class Presence:
    """Implements `hubd.api.context.Hub`; answers come from memory."""

    def __init__(
        self,
        log: Log,
        *,
        address_of: Callable[[str], str] = lambda _edge: "",
        rates: Rates | None = None,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._log = log
        self._rates = rates or Rates()
        self._address_of = address_of
        self._clock_ns = clock_ns
        self._events: deque[LinkEvent] = deque(maxlen=EVENTS_MAX)
        self._seldom = Seldom(burst=EVENTS_BURST)
        self._count = 0
        self._registered: dict[str, RegisteredEdge] = {}
        self._names: list[str] = []
        self._names_of: dict[str, list[str]] = {}  # by tenant
        self._receivers: dict[str, Receiver] = {}
        self._connected_at: dict[str, int] = {}
        self._seen_at: dict[str, int] = {}
        self._behind_since: dict[str, int] = {}
        self._begun: dict[str, tuple[float, ...]] = {}
        # How the last session ended, and when: an orderly stop is no loss of the link.
        self._ended: dict[str, tuple[str, int]] = {}
        self._cloned_at: dict[str, float] = {}  # monotonic: two gateways fought for sessions

    def set_registered(self, edges: Sequence[RegisteredEdge]) -> None:
        self._registered = {edge.name: edge for edge in edges}
        self._names = sorted(self._registered)
        self._names_of = {}
        for name in self._names:
            self._names_of.setdefault(self._registered[name].tenant, []).append(name)
        for known in (
            self._connected_at, self._seen_at, self._behind_since, self._begun, self._ended,
            self._cloned_at,
        ):  # fmt: skip
            for name in [name for name in known if name not in self._registered]:
                del known[name]

    @property
    def registered(self) -> int:
        """How many edges there are, here or not."""
        return len(self._registered)

    def watch(self, receiver: Receiver) -> None:
        self._receivers[receiver.edge] = receiver

    def seen(self, edge: str) -> None:
        self._seen_at[edge] = self._clock_ns()

    def note(
        self, edge: str, kind: str, facts: Mapping[str, str | int | float], now: float
    ) -> Mapping[str, str | int | float] | None:
        """Remember something that happened to a link; `now` is monotonic seconds.

        Returns what is to be told of it; None where the edge causes too much of that.
        """
        again = self._add(edge, kind, ", ".join(f"{name} {value}" for name, value in facts.items()))
        told = None if again is None else {**facts, "left_out": again} if again else facts
        if kind in ENDS:
            self._ended[edge] = (ENDS[kind], self._clock_ns())
        if kind == "duplicate_identity":
            self._cloned_at[edge] = now
        if kind != "connected":
            return told
        self._connected_at[edge] = self._clock_ns()
        begun = (*self._begun.get(edge, ()), now)[-FLAPPING_SESSIONS - 1 :]
        if len(begun) > FLAPPING_SESSIONS and now - begun[0] < FLAPPING_S:
            self._add(edge, "flapping", f"{len(begun)} sessions in {now - begun[0]:.0f} s")
            begun = ()
        self._begun[edge] = begun
        return told

    def _add(self, edge: str, kind: str, detail: str) -> int | None:
        """List it; returns how many before it were left out, None if this one is."""
        again = self._seldom.ask((edge, kind))
        if again is not None:
            detail += f", {again} left out" if again else ""
            self._count += 1
            self._events.append(
                LinkEvent(
                    n=self._count, time_ns=self._clock_ns(), edge=edge, kind=kind, detail=detail
                )
            )  # fmt: skip
        return again

    # -- what the API asks -----------------------------------------------------------------------

    def names(self, tenant: str | None = None) -> Sequence[str]:
        return self._names if tenant is None else self._names_of.get(tenant, ())

    def edges(self) -> Sequence[EdgeView]:
        return [self._view(name) for name in self._names]

    def edge(self, name: str) -> EdgeView | None:
        return self._view(name) if name in self._registered else None

    def link_events(
        self, *, edge: str | None, before: int | None, limit: int
    ) -> Sequence[LinkEvent]:
        found: list[LinkEvent] = []
        for event in reversed(self._events):
            if len(found) >= limit:
                break
            if (edge is None or event.edge == edge) and (before is None or event.n < before):
                found.append(event)
        return found

    @property
    def log_head(self) -> int:
        return self._log.head

    def slowed(self) -> Slowdowns:
        return Slowdowns(
            tenants=self._rates.slowed_tenants(trio.current_time()),
            edges=self._rates.slowed_edges(trio.current_time()),
            counts=self._rates.counts(),
        )

    def cloned(self) -> Sequence[str]:
        return sorted(filter(self._has_clone, self._cloned_at))

    def _has_clone(self, edge: str) -> bool:
        return trio.current_time() - self._cloned_at.get(edge, -math.inf) < CLONE_SHOWN_S

    def log_stats(self) -> LogStats:
        return self._log.stats()

    def _view(self, name: str) -> EdgeView:
        registered = self._registered[name]
        receiver = self._receivers.get(name)
        if receiver is None or registered.is_revoked or not registered.keys:
            state = "revoked" if registered.is_revoked else "disconnected"
            return EdgeView(
                edge=name,
                tenant=registered.tenant,
                site=registered.site,
                prefixes=registered.prefixes,
                label=registered.label,
                type=registered.type,
                customer=registered.customer,
                state=state if registered.keys or registered.is_revoked else "invited",
                is_connected=False,
                since_ns=None
                if registered.keys or registered.is_revoked
                else registered.created_ns,
                address=self._address_of(name),
                seen_at_ns=self._seen_at.get(name),
            )
        session = receiver.session
        lanes = tuple(
            LaneView(lane=lane.name.lower(), tail=tail, floor=stands.floor, safe=stands.safe)
            for lane, tail, stands in zip(Lane, receiver.tails, receiver.floors, strict=True)
        )
        lag = sum(max(0, lane.tail - lane.floor) for lane in lanes)
        ended, ended_ns = self._ended.get(name, ("disconnected", None))
        return EdgeView(
            edge=name,
            tenant=registered.tenant,
            site=registered.site,
            prefixes=registered.prefixes,
            label=registered.label,
            type=registered.type,
            customer=registered.customer,
            state=_state(lag) if session else ended,
            is_connected=session is not None,
            since_ns=self._connected_at.get(name) if session else ended_ns,
            known_at_ns=self._clock_ns() if session else self._seen_at.get(name),
            address=self._address_of(name),
            software=receiver.software,
            incarnation=receiver.incarnation.hex(),
            epoch=session.epoch if session else 0,
            connected_at_ns=self._connected_at.get(name),
            seen_at_ns=self._seen_at.get(name),
            rtt_s=receiver.rtt_s,
            clock_offset_s=receiver.clock_offset_s,
            lag_records=lag,
            lag_s=self._lag_s(name, lag),
            two_hubs=receiver.two_hubs,
            has_clone=self._has_clone(name),
            slowed=self._rates.slowed(name, trio.current_time()) if session else "",
            lanes=lanes,
        )

    def _lag_s(self, name: str, lag: int) -> float:
        now = self._clock_ns()
        if not lag:
            self._behind_since.pop(name, None)
            return 0.0
        return max(0, now - self._behind_since.setdefault(name, now)) / 1e9


def _state(lag: int) -> str:
    """The states of S12 of a session that lasts, as far as they can be told apart from here."""
    if lag > DRAINING_RECORDS:
        return "draining"
    return "processing" if lag else "connected"
