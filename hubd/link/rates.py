"""Limits of what an edge, and a tenant, may send a second; beyond them edges pause.   [sans-IO]

What was sent pushes the time at which all of it is within the rate ahead: what is beyond now is
*debt*, in seconds. Nothing is ever too large, it only makes a longer debt, and nothing is dropped:
the edge keeps what it is not to send yet. Lanes in front may run up more of a debt, so that a flood
of readings delays no alarm of the same edge.

A tenant over its rate slows down those of its edges that take more than an equal share of it.
"""

import math
from collections import Counter
from collections.abc import Callable
from typing import Final

import msgspec

from edgesync_transport.messages import Lane

# A pause shows for so long after it is over: the next one is near, mostly.
SHOWN_S: Final = 10.0


class Rate(msgspec.Struct, frozen=True):
    """The amount that may be sent a second; 0 is without limit."""

    readings: float = 0.0
    nbytes: float = 0.0


class RateSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`burst_s`: seconds of a rate that may be sent at once, and a lane may be in debt."""

    edge: Rate = Rate()
    tenant: Rate = Rate()
    burst_s: float = 10.0


class Pause(msgspec.Struct, frozen=True):
    """A pause asked of an edge: send nothing more for `seconds`, for this reason."""

    seconds: float
    reason: str


class Slowed(msgspec.Struct, frozen=True):
    """A tenant or an edge that was slowed down lately."""

    name: str
    reason: str


class Slowdowns(msgspec.Struct, frozen=True):
    """Tenants and connected edges that are slowed down now; how often each edge was so far."""

    tenants: list[Slowed]
    edges: list[Slowed]
    counts: dict[str, int]


class Meter:
    """The lead of one sender over a rate."""

    def __init__(self, rate: Rate, burst_s: float) -> None:
        self._rate = rate
        self._burst_s = burst_s
        self._readings_at = self._bytes_at = -math.inf

    def take(self, readings: int, nbytes: int, now: float, *, share: int = 1) -> None:
        """Count what was sent; of a rate that `share` senders have in equal parts."""
        if self._rate.readings:
            since = max(self._readings_at, now - self._burst_s)
            self._readings_at = since + readings * share / self._rate.readings
        if self._rate.nbytes:
            since = max(self._bytes_at, now - self._burst_s)
            self._bytes_at = since + nbytes * share / self._rate.nbytes

    def debt(self, now: float) -> tuple[float, str]:
        """Return in how many seconds all sent is within the rate, and which setting says so."""
        if self._readings_at >= self._bytes_at:
            return self._readings_at - now, "readings"
        return self._bytes_at - now, "bytes"


class _Sender:
    """An edge or a tenant: its meter, and how it was slowed down last."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self.count = 0
        self.until = -math.inf
        self.reason = ""

    def note(self, pause: Pause, now: float) -> None:
        if now >= self.until:
            self.count += 1
        self.reason, self.until = pause.reason, now + pause.seconds + SHOWN_S


class Rates:
    """See the module.

    tenant_of   whose an edge is
    edges       how many edges of each tenant are connected: an equal share of its rate is theirs
    """

    def __init__(
        self,
        settings: RateSettings | None = None,
        *,
        tenant_of: Callable[[str], str] = lambda _edge: "",
    ) -> None:
        self.settings = settings or RateSettings()
        self._tenant_of = tenant_of
        self.edges: Counter[str] = Counter()
        self._connected: dict[str, str] = {}
        self._edges: dict[str, _Sender] = {}
        self._shares: dict[str, Meter] = {}
        self._tenants: dict[str, _Sender] = {}

    def take(self, edge: str, readings: int, nbytes: int, now: float) -> None:
        """Count what an edge has sent."""
        tenant = self._tenant_of(edge)
        self._edge(edge).meter.take(readings, nbytes, now)
        self._tenant(tenant).meter.take(readings, nbytes, now)
        self._share(edge).take(readings, nbytes, now, share=max(1, self.edges[tenant]))

    def pause(self, edge: str, lane: Lane, now: float) -> Pause | None:
        """Return how long nothing more of a lane is wanted; None if it may go on."""
        sender, tenant = self._edge(edge), self._tenant(self._tenant_of(edge))
        pause = self._pause_of(sender.meter, lane, now, "edge")
        if pause is not None:
            sender.note(pause, now)
        if self._share(edge).debt(now)[0] > 0:
            theirs = self._pause_of(tenant.meter, lane, now, "tenant")
            if theirs is not None:
                tenant.note(theirs, now)
                if pause is None or theirs.seconds > pause.seconds:
                    sender.note(theirs, now)
                    return theirs
        return pause

    def _pause_of(self, meter: Meter, lane: Lane, now: float, whose: str) -> Pause | None:
        debt_s, what = meter.debt(now)
        # Bulk may not be ahead at all, each lane in front of it by a burst more.
        seconds = debt_s - (Lane.BULK - lane) * self.settings.burst_s
        if seconds <= 0:
            return None
        return Pause(seconds, f"slow down: `{whose}_{what}` under [limits] in hub.toml")

    def refuses(self, pause: Pause | None) -> bool:
        """Return whether a sender is refused: it was asked to pause and goes on all the same."""
        return pause is not None and pause.seconds > self.settings.burst_s

    def slowed(self, edge: str, now: float) -> str:
        """Return why an edge is slowed down now, or was a moment ago; empty when it is not."""
        sender = self._edges.get(edge)
        return sender.reason if sender is not None and now < sender.until else ""

    def slowed_tenants(self, now: float) -> list[Slowed]:
        tenants = sorted(self._tenants.items())
        return [Slowed(name, one.reason) for name, one in tenants if now < one.until]

    def slowed_edges(self, now: float) -> list[Slowed]:
        edges = sorted(name for name in self._connected if self.slowed(name, now))
        return [Slowed(name, self.slowed(name, now)) for name in edges]

    def counts(self) -> dict[str, int]:
        """Return how often each edge was slowed down since the start."""
        return {edge: one.count for edge, one in self._edges.items() if one.count}

    def connected(self, edge: str) -> None:
        """Take in that an edge has a session: its tenant's rate is shared by one more."""
        tenant = self._connected[edge] = self._tenant_of(edge)
        self.edges[tenant] += 1

    def disconnected(self, edge: str) -> None:
        self.edges[self._connected.pop(edge)] -= 1

    def forget(self, edge: str) -> None:
        self._edges.pop(edge, None)
        self._shares.pop(edge, None)

    def _edge(self, edge: str) -> _Sender:
        found = self._edges.get(edge)
        if found is None:
            found = self._edges[edge] = _Sender(Meter(self.settings.edge, self.settings.burst_s))
        return found

    def _share(self, edge: str) -> Meter:
        found = self._shares.get(edge)
        if found is None:
            found = self._shares[edge] = Meter(self.settings.tenant, self.settings.burst_s)
        return found

    def _tenant(self, tenant: str) -> _Sender:
        found = self._tenants.get(tenant)
        if found is None:
            meter = Meter(self.settings.tenant, self.settings.burst_s)
            found = self._tenants[tenant] = _Sender(meter)
        return found
