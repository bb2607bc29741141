"""What happens to lanes, and what they want done.                                     [sans-IO]"""

from collections.abc import Mapping

import msgspec

from edgesync_transport.messages import Batch, Codec, Lane, LaneFloor, Message, NackCode


class Event(msgspec.Struct, frozen=True):
    """Base of what can happen."""


class Effect(msgspec.Struct, frozen=True):
    """Base of what is wanted."""


class DownFloors(msgspec.Struct, frozen=True):
    """What an edge has of the hub's journal for it; `incarnation` is b"" for one that has none."""

    incarnation: bytes
    lanes: tuple[LaneFloor, ...]


# -- of a lane that sends ------------------------------------------------------------------------


class Grown(Event, frozen=True):
    """The journal has records up to `tail` now."""

    lane: Lane
    tail: int


class Loaded(Event, frozen=True):
    """The answer to Load: records `first .. last`, packed."""

    lane: Lane
    first: int
    last: int
    prev_chain: int
    last_chain: int
    codec: Codec
    payload: bytes


class LoadedNothing(Event, frozen=True):
    """The answer to Load when the journal has nothing at `first`.

    trimmed   up to where it keeps nothing by now; 0 where that is told by `Trimmed`
    """

    lane: Lane
    first: int
    trimmed: int = 0


class Trimmed(Event, frozen=True):
    lane: Lane
    up_to: int


class Transmit(Effect, frozen=True):
    message: Message


class Load(Effect, frozen=True):
    """Read records from `first` on, none beyond `last_max` or the limits, pack, answer Loaded."""

    lane: Lane
    first: int
    last_max: int
    limit_records: int
    limit_bytes: int


class Mark(Effect, frozen=True):
    """The receiver has everything up to `floor`; store that, trim what is safe. May be delayed."""

    lane: Lane
    floor: int
    safe: int


class Rewind(Effect, frozen=True):
    """The receiver has lost what was above `floor`; it is going to be sent again (S32)."""

    lane: Lane
    floor: int


class Dead(Effect, frozen=True):
    """One record was refused for good; it is on its way as a dead letter (S14)."""

    lane: Lane
    seq: int
    reason: str


class Lost(Effect, frozen=True):
    """Records `first .. last` are neither here nor there; the receiver is told (R8)."""

    lane: Lane
    first: int
    last: int
    reason: str


class Report(Effect, frozen=True):
    """Something an operator should see once: `kind` is a word, `facts` its values."""

    kind: str
    facts: Mapping[str, str | int | float]


class Hangup(Effect, frozen=True):
    """Close this link; `retry_after_s` is a lower bound for the next attempt, 0 for "as usual"."""

    reason: str
    retry_after_s: float = 0.0
    is_success: bool = False  # the session had been granted: the attempt counts as a good one


# -- of a lane that receives ---------------------------------------------------------------------


class Store(Effect, frozen=True):
    """Validate and store this batch, answer Stored. Stores of one receiver keep their order."""

    token: int
    batch: Batch


class Stored(Event, frozen=True):
    """The answer to Store: durable up to `floor`, or refused with `code` and nothing changed.

    A refusal may not know the floor; it is 0 then. For `pause_s` nothing more is wanted on the
    lane; `reason` says why it is refused, or slowed down.
    """

    token: int
    floor: int
    safe: int
    code: NackCode | None = None
    is_stale: bool = False
    reason: str = ""
    pause_s: float = 0.0
