"""Calls that wait at an edge for its devices: order, what is under way, what has expired. [sans-IO]

Calls of a device go in the order in which they came, a bounded number of them without the device's
acknowledgement. A call that was sent and not acknowledged is sent again, under its number, when the
device comes back, unless it was sent where nothing is acknowledged. What became of a call is on
disk before the next one goes: after a kill only the last call that a device saw may come again.
"""

import heapq
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Final

import msgspec
from msgspec import Raw

from edgesync.rpc.model import NO_ANSWER, Report, State

# Without acknowledgement, of one device: with more than one, a device that restarts while it is
# sent a burst has several in doubt.
IN_FLIGHT_MAX: Final = 1
ROWS_MAX: Final = 10_000
BYTES_MAX: Final = 16 << 20
# Of calls whose time passes together: nothing else runs while these are carried out or stored.
EFFECTS_MAX: Final = 500
# How long after its time a call is known, for an answer that comes late.
LATE_NS: Final = 86_400 * 10**9
EXPIRED: Final = "its time passed"


class Call(msgspec.Struct):
    """A row of the edge's store. `number` is what the device knows it by.

    order              of the calls that wait; numbers of another start say nothing of it
    is_unacknowledged   it is sent where nothing is acknowledged, so it is not sent again
    """

    number: int
    id: str
    device: str
    method: str
    params: bytes
    one_way: bool
    expires_ns: int
    state: State = State.QUEUED
    is_unacknowledged: bool = False
    has_answer: bool = False
    order: int = 0

    @property
    def is_final(self) -> bool:
        return self.state.is_final(one_way=self.one_way)

    @property
    def nbytes(self) -> int:
        return len(self.params) + 300


class Effect(msgspec.Struct, frozen=True):
    """Base of what is wanted."""


class Send(Effect, frozen=True):
    """Send the call to its device; tell `sent` once it is written to the device's connection.

    Of one that will not be acknowledged tell `unacknowledged` instead: it is to be sent when this
    comes again, with `call.is_unacknowledged`, since that is on disk.
    """

    call: Call


class Mark(Effect, frozen=True):
    """Store the call as it is now, which is not acknowledged; then tell `stored`."""

    call: Call


class Note(Effect, frozen=True):
    """Store call, as it is now, and report for the hub in one transaction; then tell `stored`."""

    call: Call
    report: Report


class Keep(Effect, frozen=True):
    """Store the call as it is now."""

    call: Call


class Forget(Effect, frozen=True):
    number: int


class UnknownCall(LookupError):
    """A device answers what it was not asked, or was asked too long ago."""


class CallQueue:
    """See the module. Times are the hub's wall clock, as that sets when a call expires.

    Whoever notices that it was set tells `stepped`.
    """

    def __init__(self, calls: Collection[Call] = ()) -> None:
        self._calls: dict[int, Call] = {}
        self._numbers: dict[str, int] = {}
        self._waiting: dict[str, list[int]] = {}  # of a device, in order: not acknowledged
        self._in_flight: dict[str, set[int]] = {}  # of devices that are there
        self._unstored = Counter[str]()  # of a device, notes that are not on disk
        self._due: list[tuple[int, int]] = []
        self.nbytes = 0
        self.order = 0  # the last one's
        for call in sorted(calls, key=lambda one: (one.order, one.number)):
            self._put(call)

    def __len__(self) -> int:
        return len(self._calls)

    def __contains__(self, number: int) -> bool:
        return number in self._calls

    def open_calls(self) -> Iterator[Call]:
        """Yield the calls that are not final."""
        return (call for call in self._calls.values() if not call.is_final)

    def knows(self, id: str) -> bool:
        return id in self._numbers

    def room(self, now_ns: int) -> list[Effect] | None:
        """Return what is forgotten for one more call; None when there is no room."""
        if len(self._calls) < ROWS_MAX and self.nbytes < BYTES_MAX:
            return []
        old = [one for one in self._calls.values() if one.is_final and one.expires_ns <= now_ns]
        if not old:
            return None
        return [self._forget(call) for call in old[: max(1, len(old) // 2)]]

    def _put(self, call: Call) -> None:
        self._calls[call.number] = call
        self.order = max(self.order, call.order)
        self._numbers[call.id] = call.number
        self.nbytes += call.nbytes
        heapq.heappush(self._due, (self._due_ns(call), call.number))
        if call.state in (State.QUEUED, State.SENT) and not call.is_unacknowledged:
            self._waiting.setdefault(call.device, []).append(call.number)

    def _due_ns(self, call: Call) -> int:
        return call.expires_ns + (LATE_NS if call.state is State.EXPIRED else 0)

    def _forget(self, call: Call) -> Effect:
        del self._calls[call.number]
        del self._numbers[call.id]
        self.nbytes -= call.nbytes
        return Forget(call.number)

    # -- events ----------------------------------------------------------------------------------

    def add(self, call: Call, now_ns: int) -> list[Effect]:
        """Take a call that is on disk."""
        self._put(call)
        return self._pump(call.device, now_ns)

    def reached(self, device: str, holds: Collection[int], now_ns: int) -> list[Effect]:
        """The device is there; what its connection `holds` is under way already."""
        waiting = self._waiting.get(device, ())
        self._in_flight[device] = {number for number in waiting if number in holds}
        return self._pump(device, now_ns)

    def left(self, device: str) -> None:
        self._in_flight.pop(device, None)

    def is_reached(self, device: str) -> bool:
        return device in self._in_flight

    def unacknowledged(self, number: int) -> list[Effect]:
        """The device would not acknowledge the call, which was not sent yet."""
        call = self._calls.get(number)
        if call is None or call.state is not State.QUEUED:
            return []
        call.is_unacknowledged = True
        self._settle(call)
        self._unstored[call.device] += 1
        return [Mark(msgspec.structs.replace(call))]

    def sent(self, device: str, number: int, now_ns: int) -> list[Effect]:
        """The call was written to the device."""
        call = self._calls.get(number)
        if call is None or call.device != device or call.state is not State.QUEUED:
            return []
        call.state = State.SENT
        return [self._note(call, now_ns)]

    def stored(self, done: Sequence[Note | Mark], now_ns: int) -> list[Effect]:
        """What was to be noted is on disk."""
        effects: list[Effect] = []
        for one in done:
            self._unstored[one.call.device] -= 1
            call = self._calls.get(one.call.number)
            if isinstance(one, Mark) and call is not None and call.state is State.QUEUED:
                effects.append(Send(call))
        for device in dict.fromkeys(one.call.device for one in done):
            if not self._unstored[device]:
                del self._unstored[device]
            effects += self._pump(device, now_ns)
        return effects

    def delivered(self, device: str, number: int, now_ns: int) -> list[Effect]:
        """The device has acknowledged the call."""
        call = self._calls.get(number)
        if call is None or call.device != device:
            return []
        self._settle(call)
        if call.state in (State.QUEUED, State.SENT):
            call.state = State.DELIVERED
            return [self._note(call, now_ns)]
        return self._pump(device, now_ns)

    def answered(
        self, device: str, number: int, now_ns: int, answer: Raw | None, error: str = ""
    ) -> list[Effect]:
        """The device has answered; raises UnknownCall. A second answer counts for nothing."""
        call = self._calls.get(number)
        if call is None or call.device != device:
            raise UnknownCall(f"{device} was sent no call {number}")
        self._settle(call)
        if not call.has_answer:
            call.has_answer = True
            if call.state is not State.EXPIRED:
                call.state = State.DELIVERED if call.one_way else State.ANSWERED
            return [self._note(call, now_ns, answer=answer, error=error)]
        return self._pump(device, now_ns)

    def elapsed(self, now_ns: int) -> list[Effect]:
        """Give up what is due, forget what is long over: EFFECTS_MAX of them, others later."""
        effects: list[Effect] = []
        while self._due and self._due[0][0] <= now_ns and len(effects) < EFFECTS_MAX:
            _, number = heapq.heappop(self._due)
            call = self._calls.get(number)
            if call is None:
                continue
            if self._due_ns(call) > now_ns:
                heapq.heappush(self._due, (self._due_ns(call), number))
            elif call.is_final:
                effects.append(self._forget(call))
            else:
                call.state = State.EXPIRED
                self._settle(call)
                effects.append(self._note(call, now_ns, reason=EXPIRED))
                heapq.heappush(self._due, (self._due_ns(call), number))
        return effects

    def stepped(self, by_ns: int) -> list[Effect]:
        """The hub's clock was set, by so much: calls keep the time that they had left."""
        for call in self._calls.values():
            call.expires_ns += by_ns
        self._due = [(at_ns + by_ns, number) for at_ns, number in self._due]
        return [Keep(call) for call in self._calls.values()]

    def due_ns(self) -> int | None:
        return self._due[0][0] if self._due else None

    # -- inside ----------------------------------------------------------------------------------

    def _settle(self, call: Call) -> None:
        """The device need not be sent the call any more."""
        waiting = self._waiting.get(call.device, [])
        if call.number in waiting:
            waiting.remove(call.number)
            if not waiting:
                del self._waiting[call.device]
        self._in_flight.get(call.device, set()).discard(call.number)

    def _pump(self, device: str, now_ns: int) -> list[Effect]:
        """Send what comes next, if the device is there and what came before is over, on disk."""
        in_flight = self._in_flight.get(device)
        if in_flight is None or self._unstored[device]:
            return []
        effects: list[Effect] = []
        for number in self._waiting.get(device, ()):
            if len(in_flight) >= IN_FLIGHT_MAX:
                break
            call = self._calls[number]
            if number not in in_flight and call.expires_ns > now_ns:
                in_flight.add(number)
                effects.append(Send(call))
        return effects

    def _note(
        self, call: Call, now_ns: int, *, answer: Raw | None = None, error: str = "",
        reason: str = "",
    ) -> Note:  # fmt: skip
        report = Report(
            id=call.id, state=call.state, at_ns=now_ns, method=call.method, one_way=call.one_way,
            answer=NO_ANSWER if answer is None else answer, error=error, reason=reason,
        )  # fmt: skip
        self._unstored[call.device] += 1
        return Note(msgspec.structs.replace(call), report)
