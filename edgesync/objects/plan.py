"""What an edge does next about its objects, and which parts of one it asks for.     [sans-IO]

Nothing is remembered that cannot be found again: the next step follows from the listing, what is
held, what is in the draft and what there is room for, whenever it is asked for. So neither a cut, a
kill nor a restore of either side leaves anything to be repaired.
"""

from collections import deque
from collections.abc import Mapping
from typing import Final

import msgspec

from edgesync.objects.model import (
    OBJECTS_MAX,
    PART_BYTES_MAX,
    REASON_CHARS_MAX,
    Listing,
    ObjectRef,
    ObjectState,
    Standing,
)

# A question that is not answered by then is asked again.
ANSWER_S: Final = 10.0
# Parts that take longer stand in the way of acks and heartbeats; see Transfer.
FAST_S: Final = 0.5
SLOW_S: Final = 1.0
CREDIT_BYTES_MIN: Final = 8 * 1024
CREDIT_BYTES_MAX: Final = 256 * 1024
# What failed is tried again after so long, then ever more seldom.
AGAIN_S: Final = 30.0
AGAIN_MAX_S: Final = 600.0


class Room(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes that objects may take at this edge, that the disk has free, and that it is to keep."""

    limit: int
    free: int
    reserve: int


class Failure(msgspec.Struct, frozen=True):
    """Why an object could not be fetched, and from when on it is tried again."""

    reason: str
    until: float
    times: int = 1


class Drop(msgspec.Struct, frozen=True):
    """Remove what is held under this name."""

    name: str


class Adopt(msgspec.Struct, frozen=True):
    """The bytes are here already, under another name."""

    ref: ObjectRef


class Fetch(msgspec.Struct, frozen=True):
    """Ask for the bytes that are missing."""

    ref: ObjectRef


Held = Mapping[str, ObjectRef]
Failures = Mapping[str, Failure]


def plan(
    listing: Listing, held: Held, have: Mapping[str, int], room: Room, failures: Failures,
    now: float,
) -> Drop | Adopt | Fetch | None:  # fmt: skip
    """Return the next step; None while there is nothing to do, or nothing that may be done.

    held      by name; have: bytes in the draft of a SHA-256
    failures  by SHA-256
    """
    for name in listing.removed:
        if name in held:
            return Drop(name)
    contents = {(ref.sha256, ref.size) for ref in held.values()}
    for ref in listing.wanted:
        if held.get(ref.name) == ref:
            continue
        if (ref.sha256, ref.size) in contents:
            return Adopt(ref)
        failure = failures.get(ref.sha256)
        if failure is not None and failure.until > now:
            continue
        if not refusal(ref, held, have.get(ref.sha256, 0), room):
            return Fetch(ref)
    return None


def refusal(ref: ObjectRef, held: Held, have: int, room: Room) -> str:
    """Return why there is no room for an object; empty when there is."""
    if other := next((one for one in held.values() if one.sha256 == ref.sha256), None):
        return f"its bytes are here and are {other.size}, and the hub lists {ref.size}"
    used = sum({one.sha256: one.size for one in held.values()}.values())
    if used + ref.size > room.limit:
        return (
            f"objects may take {room.limit} bytes here and {used} are used; raise `limit` under "
            "[objects] in edge.toml, or unassign others"
        )
    if ref.size - have > room.free - room.reserve:
        return (
            f"{ref.size - have} bytes are missing and the disk has {room.free} free, {room.reserve}"
            " of them in reserve; make room on it, or lower `reserve` under [objects] in edge.toml"
        )
    return ""


def failed(before: Failure | None, reason: str, now: float) -> Failure:
    """Return what is remembered of a fetch that failed."""
    times = 1 if before is None else before.times + 1
    pause_s = min(AGAIN_S * 2.0 ** min(times - 1, 10), AGAIN_MAX_S)
    return Failure(reason[:REASON_CHARS_MAX], now + pause_s, times)


def again_at(failures: Failures, now: float) -> float:
    """Return when something that failed is to be tried again; infinity for never."""
    return min((one.until for one in failures.values() if one.until > now), default=float("inf"))


def states(
    listing: Listing, held: Held, have: Mapping[str, int], room: Room, failures: Failures,
    fetching: str = "",
) -> list[ObjectState]:  # fmt: skip
    """Return how each object stands, those of the listing first. fetching: a SHA-256."""
    found: list[ObjectState] = []
    for ref in listing.wanted:
        there = have.get(ref.sha256, 0)
        reason = ""
        if held.get(ref.name) == ref:
            standing, there = Standing.HELD, ref.size
        elif ref.sha256 == fetching:
            standing = Standing.FETCHING
        elif reason := refusal(ref, held, there, room):
            standing = Standing.REFUSED
        elif ref.sha256 in failures:
            standing, reason = Standing.REFUSED, failures[ref.sha256].reason
        else:
            standing = Standing.WANTED
        found.append(_report(ref, there, standing, reason))
    wanted = {ref.name for ref in listing.wanted}
    kept = [ref for name, ref in sorted(held.items()) if name not in wanted]
    found += [_report(ref, ref.size, Standing.KEPT, "") for ref in kept[:OBJECTS_MAX]]
    return found


def _report(ref: ObjectRef, have: int, standing: Standing, reason: str) -> ObjectState:
    reason = reason[:REASON_CHARS_MAX]
    return ObjectState(ref.name, ref.sha256, ref.size, have, standing, reason)


class Ask(msgspec.Struct, frozen=True):
    """A part that was asked for."""

    offset: int
    length: int
    at: float


class Transfer:
    """One object on its way: which parts to ask for, and which to take.

        taken + bytes asked for and not answered <= size

    Parts are taken in order, each as it was asked for and none else. What is under way has a
    *credit*: it grows while parts come fast and shrinks when they are slow, so that on a narrow
    link acks and heartbeats wait for a small part at most.

    taken    bytes that the draft has
    strays   parts that nobody waits for, or that are not what was asked for
    """

    def __init__(self, ref: ObjectRef, taken: int) -> None:
        self.ref = ref
        self.taken = taken
        self.strays = 0
        self.credit = PART_BYTES_MAX
        self._waiting: deque[Ask] = deque()

    @property
    def is_whole(self) -> bool:
        return self.taken >= self.ref.size

    @property
    def in_flight(self) -> int:
        return sum(ask.length for ask in self._waiting)

    def restart(self) -> None:
        """Forget what was asked for: its session is over."""
        self._waiting.clear()

    def asks(self, now: float) -> list[Ask]:
        """Return what to ask for now, beside what is under way."""
        if self._waiting and now - self._waiting[0].at >= ANSWER_S:
            self.credit = max(CREDIT_BYTES_MIN, self.credit // 4)
            self.restart()
        found: list[Ask] = []
        offset = self.taken + self.in_flight
        while offset < self.ref.size:
            length = min(_part_bytes(self.credit), self.ref.size - offset)
            if self._waiting and self.in_flight + length > self.credit:
                break
            ask = Ask(offset, length, now)
            self._waiting.append(ask)
            found.append(ask)
            offset += length
        return found

    def due_at(self) -> float:
        """Return when what is under way is late; infinity when nothing is."""
        return self._waiting[0].at + ANSWER_S if self._waiting else float("inf")

    def take(self, sha256: str, offset: int, size: int, payload: bytes, now: float) -> bool:
        """Return whether a part is the next one of this object; if so it counts as taken."""
        ask = self._waiting[0] if self._waiting else None
        if (
            ask is None
            or (sha256, offset, size) != (self.ref.sha256, ask.offset, self.ref.size)
            or len(payload) != ask.length
        ):
            self.strays += 1
            return False
        self._waiting.popleft()
        self.taken += ask.length
        took_s = now - ask.at
        if took_s < FAST_S:
            self.credit = min(CREDIT_BYTES_MAX, self.credit + ask.length)
        elif took_s > SLOW_S:
            self.credit = max(CREDIT_BYTES_MIN, self.credit // 2)
        return True


def _part_bytes(credit: int) -> int:
    """Return how long a part may be: a power of two, for offsets that are round."""
    return min(PART_BYTES_MAX, 1 << (max(credit, CREDIT_BYTES_MIN).bit_length() - 1))
