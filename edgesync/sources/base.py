"""What every source of readings offers, and what it is given to write to.

A source is run by one task until it is cancelled. It lives with a device that is away: that is a
state it shows and an event it sends, never an exception, so one bad device ends nothing (I8).
"""

import enum
from collections.abc import Sequence
from typing import Protocol

import msgspec

from edgesync.model import Event, Reading


class SourceState(enum.StrEnum):
    STARTING = "starting"  # not asked yet
    ONLINE = "online"  # the last poll brought data
    BUSY = "busy"  # the device asks for patience (Modbus exceptions 5 and 6)
    OFFLINE = "offline"  # silent or refusing; probed now and then
    STOPPED = "stopped"


class BreakerState(enum.StrEnum):
    CLOSED = "closed"  # polled as scheduled
    OPEN = "open"  # left alone until the next probe
    PROBING = "probing"  # one cheap read is under way


class SourceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One device as its source sees it now. Counters run since the source was made."""

    name: str
    kind: str
    address: str = ""
    state: SourceState = SourceState.STARTING
    breaker: BreakerState = BreakerState.CLOSED
    retry_in_s: float | None = None  # until the next probe, while the breaker is open
    last_success_ns: int | None = None  # wall clock of the newest reading
    age_s: float | None = None  # its age by the monotonic clock
    last_error: str = ""
    polls: int = 0
    readings: int = 0
    unchanged: int = 0  # held back by a deadband
    errors: int = 0  # requests that brought no data, of every kind below too
    timeouts: int = 0
    rejected: int = 0  # exceptions answered by the device
    busy: int = 0
    malformed: int = 0  # answers that are not what was asked for
    implausible: int = 0  # values that fell or stepped more than their point may
    late: int = 0  # answers skipped because their request was given up
    connects: int = 0
    overruns: int = 0  # polls left out because the one before took too long
    refused: int = 0  # readings the store had no room for
    invalid_points: dict[str, str] = {}  # every point that has no current value, and why


class Sink(Protocol):
    """Where readings and events go; both calls return after the durable commit (I1)."""

    async def readings(self, readings: Sequence[Reading]) -> None: ...

    async def event(self, event: Event) -> None: ...


class Source(Protocol):
    """Something that brings readings of one or more devices."""

    @property
    def name(self) -> str: ...

    async def run(self, sink: Sink) -> None:
        """Bring readings to `sink` until cancelled."""
        ...

    def statuses(self) -> Sequence[SourceStatus]:
        """Return one status a device, in the order of the settings."""
        ...

    def retry_now(self, name: str) -> bool:
        """Probe device `name` at once, whatever its breaker says; False if it is not here."""
        ...
