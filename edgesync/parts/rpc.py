"""Calls of devices: from the hub to whoever speaks for a device here, and answers back.

    async with node.part("rpc").serve("pump") as calls:
        async for call in calls:
            await call.answer({"done": call.method})

A call is on disk before it counts as taken, and each of its states is stored with the report that
tells the hub, in one transaction (I2). Doors for devices use `attach`, `delivered` and `answered`.
"""

import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec
import trio
from msgspec import Raw

from edgesync._native import event as event_codec
from edgesync._native.write import Write
from edgesync.errors import StoreError
from edgesync.model import Event, EventType, Lane, RecordKind
from edgesync.parts.part import Context, Part
from edgesync.rpc.model import (
    ANSWER_BYTES_MAX,
    SELF,
    Report,
    State,
    is_json,
    parse_request,
    report_event,
)
from edgesync.rpc.queue import (
    EFFECTS_MAX,
    Call,
    CallQueue,
    Effect,
    Forget,
    Keep,
    Mark,
    Note,
    Send,
)
from edgesync.status import RpcStatus

if TYPE_CHECKING:
    from edgesync.parts.link import LinkPart

log = logging.getLogger(__name__)

DATABASE: Final = "rpc"
# Numbers are what devices see: ThingsBoard's clients read 32 bits.
NUMBER_MAX: Final = 2**31 - 1
RETRY_S: Final = 1.0
# What is due is looked at so often; `due_ns` is on a clock that may be set.
TICK_S: Final = 0.25
# A hub's clock that was set; less is what a bad line makes of measuring it.
STEP_NS: Final = 5 * 10**9
SERVED_MAX: Final = 100
ERROR_CHARS_MAX: Final = 4096

# Calls of this edge's own, under ids that no hub can give; it is told nothing of them.
LOCAL: Final = "local:"
UNDER_WAY_MAX: Final = 1000

Method = Callable[[str, Any], Awaitable[Any]]
# Answers any method: device, method, params; raises LookupError when nobody does.
AnyMethod = Callable[[str, str, Any], Awaitable[Any]]
Ended = Callable[[Report], None]


class Speaker(Protocol):
    """Who speaks for a device: a connection, or a program."""

    def send_call(self, call: Call) -> bool | None:
        """Begin to write a call; returns whether the device acknowledges it, None if it is gone.

        `sent` is told once it is written. Where nothing is acknowledged, one is written once that
        is noted of it (`call.is_unacknowledged`), and not before.
        """
        ...


class RpcPart(Part):
    """See the module."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.queue = CallQueue()
        self._speakers: dict[str, Speaker] = {}
        self._own: Speaker | None = None
        self._methods: dict[str, Method] = {}
        self._local: dict[str, Ended] = {}
        self.any_method: AnyMethod | None = None  # for methods that nobody registered
        self._notes: list[Effect] = []
        self._flushing = trio.Lock()
        self._has_notes = trio.Event()
        self._number = self._order = 0  # the last one's
        self._offset_s: float | None = None
        self._hub_ahead_ns = 0  # of the monotonic clock
        self.received = self.refused = 0

    # -- life ------------------------------------------------------------------------------------

    def open(self) -> None:
        """Take in the calls that wait, and be whom the link gives new ones."""
        calls = list[Call]()
        for key, raw in self.context.recorder.store.rows(DATABASE):
            try:
                calls.append(msgspec.msgpack.decode(raw, type=Call))
            except (ValueError, msgspec.MsgspecError) as error:
                log.error("a call in a damaged row is left out: key=%s %s", key.hex(), error)
                self._notes.append(Forget(int.from_bytes(key, "big")))
                self._has_notes.set()
        self.queue = CallQueue(calls)
        # Each start counts from elsewhere: a store that is new, or a copy put back, does not know
        # which numbers were given before, and a device may still answer what it was called by one.
        self._number = self.context.random.randrange(NUMBER_MAX)
        self._order = self.queue.order
        link: LinkPart = self.context.parts.get("link")
        link.handlers[EventType.RPC_REQUEST] = self

    async def run(self, *, task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_notes)
            nursery.start_soon(self._keep_time)
            task_status.started()

    def status(self) -> Mapping[str, Any]:
        states = [call.state for call in self.queue.open_calls()]
        return {
            "rpc": RpcStatus(
                queued=states.count(State.QUEUED),
                sent=states.count(State.SENT),
                delivered=states.count(State.DELIVERED),
                received=self.received,
                devices=len(self._speakers) - (SELF in self._speakers),
            )
        }

    def now_ns(self) -> int:
        """Return the hub's time, as well as it is known here: that set when calls expire.

        Once it was measured on the link it goes on by a clock that nobody sets. Where the hub's was
        set, the calls that are here keep the time that they had left.
        """
        context = self.context
        link: LinkPart = context.parts.get("link")
        offset_s = link.driver.sender.clock_offset_s if link.driver is not None else None
        if offset_s is None:
            return context.wall_ns()
        if offset_s != self._offset_s:
            hub_ns = context.wall_ns() - int(offset_s * 1e9)
            ahead_ns = hub_ns - context.monotonic_ns()
            step_ns = ahead_ns - self._hub_ahead_ns
            if self._offset_s is not None and abs(step_ns) >= STEP_NS:
                log.warning("the hub's clock stepped by %.3f s: calls keep theirs", step_ns / 1e9)
                self._carry_out(self.queue.stepped(step_ns))
            self._offset_s, self._hub_ahead_ns = offset_s, ahead_ns
        return context.monotonic_ns() + self._hub_ahead_ns

    # -- from the hub (edgesync.sync.inbound.Handler) --------------------------------------------

    def stage(self, write: Write, event: Event) -> Callable[[], None]:
        from edgesync.sync.inbound import NoRoom

        request, now_ns = parse_request(event.body), self.now_ns()
        if self.queue.knows(request.id):
            return _nothing  # told again by a hub that was restored
        if request.expires_ns <= now_ns:
            report = Report(
                id=request.id, state=State.EXPIRED, at_ns=now_ns, method=request.method,
                one_way=request.one_way, reason="its time had passed when it came to the edge",
            )  # fmt: skip
            _append(write, report_event(event.entity_id, report))
            return _nothing
        forgotten = self.queue.room(now_ns)
        if forgotten is None:
            raise NoRoom(f"{len(self.queue)} calls of devices wait at the edge, no more may")
        for one in forgotten:
            self._write(write, one)
        number, order = self._following()
        call = Call(
            number=number, id=request.id, device=event.entity_id, method=request.method,
            params=bytes(request.params), one_way=request.one_way, expires_ns=request.expires_ns,
            order=order,
        )  # fmt: skip
        write.put(DATABASE, _key(number), msgspec.msgpack.encode(call), essential=True)
        return lambda: self._take(call)

    def _following(self) -> tuple[int, int]:
        """Return number and order of a new call."""
        self._order += 1
        self._number = self._number % NUMBER_MAX + 1
        while self._number in self.queue:
            self._number = self._number % NUMBER_MAX + 1
        return self._number, self._order

    def _take(self, call: Call) -> None:
        self.received += 1
        self._carry_out(self.queue.add(call, self.now_ns()))

    # -- doors -----------------------------------------------------------------------------------

    def attach(self, device: str, speaker: Speaker, holds: Collection[int] = ()) -> None:
        """Send calls of a device to `speaker` from here on; calls it `holds` are under way there.

        Of several who speak for one device, the newest does.
        """
        if device == SELF and speaker is not self._own:
            return
        self._speakers[device] = speaker
        self._carry_out(self.queue.reached(device, holds, self.now_ns()))

    def attach_self(self, speaker: Speaker) -> None:
        """Send calls of this edge itself to `speaker`; no device can be called so."""
        self._own = speaker
        self.attach(SELF, speaker)

    def resume(self, device: str, speaker: Speaker) -> None:
        """Send calls to `speaker` again, which was gone for one, if it speaks for the device."""
        if self._speakers.get(device) is speaker:
            self._carry_out(self.queue.reached(device, (), self.now_ns()))

    def detach(self, device: str, speaker: Speaker) -> None:
        """The speaker speaks for the device no longer; what was not acknowledged waits."""
        if self._speakers.get(device) is speaker:
            del self._speakers[device]
            self.queue.left(device)

    def sent(self, device: str, number: int) -> None:
        """A call was written to the device's connection."""
        self._carry_out(self.queue.sent(device, number, self.now_ns()))

    def delivered(self, device: str, number: int) -> None:
        """The device has acknowledged a call."""
        self._carry_out(self.queue.delivered(device, number, self.now_ns()))

    async def answered(self, device: str, number: int, answer: Raw | None, error: str = "") -> None:
        """Store a device's answer; on disk when this returns.

        Raises UnknownCall, and StoreError when it could not be stored yet.
        """
        self.take_answer(device, number, answer, error)
        await self.flush()

    def take_answer(self, device: str, number: int, answer: Raw | None, error: str = "") -> None:
        """Note an answer, which `flush` stores; raises UnknownCall.

        One that nobody could read is noted as an error that says so.
        """
        if answer is not None and not is_json(bytes(answer)):
            error, answer = _why_no_answer(bytes(answer)), None
        error = error[:ERROR_CHARS_MAX].encode(errors="replace").decode()
        self._carry_out(self.queue.answered(device, number, self.now_ns(), answer, error))

    # -- programs --------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def serve(self, device: str) -> "AsyncIterator[ServedCalls]":
        """Answer the calls of a device; see the module. One that is taken counts as delivered."""
        served = ServedCalls(self, device)
        self.attach(device, served)
        try:
            yield served
        finally:
            self.detach(device, served)

    def register(self, method: str, function: Method) -> None:
        """Let `function(device, params)` answer what devices call under this name, here."""
        self._methods[method] = function

    def answers(self, method: str) -> bool:
        return method in self._methods or self.any_method is not None

    async def call(self, device: str, method: str, params: Any) -> Any:
        """Carry out what a device calls; raises LookupError for a name that nobody registered."""
        if method not in self._methods and self.any_method is not None:
            return await self.any_method(device, method, params)
        return await self._methods[method](device, params)

    async def place(
        self, device: str, method: str, params: Any, *, timeout_s: float, one_way: bool,
        ended: Ended,
    ) -> None:  # fmt: skip
        """Call a device from this edge; on disk when this returns.

        `ended` is told once: ANSWERED, EXPIRED, or DELIVERED for a call that is one-way. After a
        restart nobody is. Raises StoreError, and LookupError when no more calls may wait.
        """
        now_ns = self.now_ns()
        forgotten = self.queue.room(now_ns)
        if forgotten is None or len(self._local) >= UNDER_WAY_MAX:
            raise LookupError(f"{len(self.queue)} calls of devices wait already, no more may")
        write, (number, order) = Write(), self._following()
        for one in forgotten:
            self._write(write, one)
        call = Call(
            number=number, id=f"{LOCAL}{number}", device=device, method=method,
            params=msgspec.json.encode(params), one_way=one_way,
            expires_ns=now_ns + round(timeout_s * 1e9), order=order,
        )  # fmt: skip
        write.put(DATABASE, _key(number), msgspec.msgpack.encode(call))
        await self.context.recorder.store.submit(write)
        self._local[call.id] = ended
        self._take(call)

    # -- effects ---------------------------------------------------------------------------------

    def _carry_out(self, effects: list[Effect]) -> None:
        pending = deque(effects)
        while pending:
            effect = pending.popleft()
            if not isinstance(effect, Send):
                self._notes.append(effect)
                self._has_notes.set()
                continue
            call = effect.call
            speaker = self._speakers.get(call.device)
            is_acknowledged = None if speaker is None else speaker.send_call(call)
            if is_acknowledged is None:
                self.queue.left(call.device)
            elif not is_acknowledged:
                pending += self.queue.unacknowledged(call.number)

    async def flush(self) -> None:
        """Store what is noted; raises StoreError, and keeps it for later."""
        async with self._flushing:
            left = len(self._notes)
            while left > 0:
                notes = self._notes[: min(left, EFFECTS_MAX)]
                await self._store(notes)
                left -= len(notes)

    async def _store(self, notes: Sequence[Effect]) -> None:
        """Store the first of what is noted."""
        write = Write()
        for note in notes:
            self._write(write, note)
        tails = await self.context.recorder.store.submit(write)
        del self._notes[: len(notes)]
        stored = [note for note in notes if isinstance(note, Note | Mark)]
        for note in stored:
            if isinstance(note, Note) and note.report.id in self._local:
                self._tell_local(note.report)
        self.context.recorder.note_grown(tails)
        self._carry_out(self.queue.stored(stored, self.now_ns()))

    def _tell_local(self, report: Report) -> None:
        if report.state.is_final(one_way=report.one_way):
            self._local.pop(report.id)(report)

    def _write(self, write: Write, effect: Effect) -> None:
        match effect:
            case Note(call, report):
                raw = msgspec.msgpack.encode(call)
                write.put(DATABASE, _key(call.number), raw, essential=True)
                if not call.id.startswith(LOCAL):
                    _append(write, report_event(call.device, report))
            case Keep(call) | Mark(call):
                write.put(DATABASE, _key(call.number), msgspec.msgpack.encode(call), essential=True)
            case Forget(number):
                write.delete(DATABASE, _key(number))

    async def _keep_notes(self) -> None:
        while True:
            await self._has_notes.wait()
            self._has_notes = trio.Event()
            try:
                await self.flush()
            except StoreError as error:
                log.error("what became of calls is stored later: %s", error)
                await trio.sleep(RETRY_S)
                self._has_notes.set()

    async def _keep_time(self) -> None:
        while True:
            await trio.sleep(TICK_S)
            due_ns = self.queue.due_ns()
            if due_ns is not None and due_ns <= (now_ns := self.now_ns()):
                self._carry_out(self.queue.elapsed(now_ns))


class ServedCall:
    """A call that a program answers for a device."""

    def __init__(self, part: RpcPart, call: Call) -> None:
        self._part = part
        self._call = call
        self.id = call.id
        self.device = call.device
        self.method = call.method
        self.params: Any = msgspec.json.decode(call.params)
        self.one_way = call.one_way

    async def answer(self, value: Any) -> None:
        """Answer with anything that JSON can hold; on disk when this returns."""
        answer = Raw(msgspec.json.encode(value))
        await self._part.answered(self.device, self._call.number, answer)

    async def fail(self, error: str) -> None:
        """Answer that it cannot be done."""
        await self._part.answered(self.device, self._call.number, None, error)


class ServedCalls:
    """The calls of a device, for `async for`; one is delivered when the program takes it."""

    def __init__(self, part: RpcPart, device: str) -> None:
        self._part = part
        self._device = device
        self._sent, self._taken = trio.open_memory_channel[Call](SERVED_MAX)

    def send_call(self, call: Call) -> bool | None:
        try:
            self._sent.send_nowait(call)
        except trio.WouldBlock:
            return None
        self._part.sent(self._device, call.number)
        return True

    def __aiter__(self) -> "ServedCalls":
        return self

    async def __anext__(self) -> ServedCall:
        call = await self._taken.receive()
        self._part.delivered(self._device, call.number)
        return ServedCall(self._part, call)


def _append(write: Write, event: Event) -> None:
    raw = event_codec.encode(
        event.type, event.action, event.entity_type, event.entity_id, event.body, event.time_ns,
        event.time_ns, event.hlc,
    )  # fmt: skip
    write.append(Lane.CRITICAL, RecordKind.EVENT, raw)


def _nothing() -> None:
    """What is done after a commit that changed no call."""


def _why_no_answer(raw: bytes) -> str:
    if len(raw) > ANSWER_BYTES_MAX:
        return f"an answer of {len(raw)} bytes; {ANSWER_BYTES_MAX} are the most"
    return f"an answer that is no JSON: {raw[:100].decode(errors='replace')}"


def _key(number: int) -> bytes:
    return number.to_bytes(8, "big")
