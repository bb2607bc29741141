"""One TCP connection to a device or gateway, shared by the unit ids behind it.   [shell]

Requests are sent one at a time, the most urgent first, and the next when the answer is there or
given up: many gateways drop or mix up what comes earlier. Only units whose `patience` is shorter
than their time-out (`overlap = true`) let others go on while they wait. An answer is matched by
transaction id, so one that comes late is skipped and never taken for another's.
"""

import logging
import os
import socket
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import trio
from msgspec import Struct

from edgesync.sources.modbus.layout import Limits
from edgesync.sources.modbus.pdu import (
    BadAnswer,
    Frame,
    FrameReader,
    Garbage,
    Request,
    answer_data,
    describe,
    encode_request,
)
from edgesync.sources.modbus.turns import Turns

log = logging.getLogger(__name__)

Connect = Callable[[str, int], Awaitable[trio.abc.Stream]]

RECEIVE_BYTES: Final = 4096
# Answers nobody waits for, in a row: a few are late, this many are a device talking to itself.
STRAYS_MAX: Final = 64
# Time-outs in a row without any answer on the connection. Some may be a dead unit, or a block that
# a device does not answer; after four the peer is probably gone without a word (power cut, NAT
# table), which only a new connection shows.
SILENT_TIMEOUTS_MAX: Final = 4
# Of this many requests that were given up a late answer is known as such.
GIVEN_UP_MAX: Final = 64
# All units of a gateway that refuses connections share one attempt in this time.
REDIAL_S: Final = 1.0


class LineDown(Exception):
    """There is no connection; nothing was asked, or the answer went with it."""


class NoAnswer(Exception):
    """The time-out passed."""


async def open_tcp(host: str, port: int) -> trio.abc.Stream:
    """Connect as devices like it: no delay for small packets, keep-alive for silent losses."""
    stream = await trio.open_tcp_stream(host, port)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return stream


class Answer(Struct, frozen=True):
    """The data bytes of an answer, and when request and answer passed (monotonic seconds)."""

    data: bytes
    sent_s: float
    answered_s: float


class _Waiting:
    """A request under way: `result` is set together with `done`."""

    def __init__(self, request: Request, *, any_transaction: bool) -> None:
        self.request = request
        self.any_transaction = any_transaction
        self.done = trio.Event()
        self.result: Frame | Exception | None = None
        self.transaction = 0
        self.sent_s = 0.0
        self.answered_s = 0.0
        self.deadline_s = 0.0

    def finish(self, result: Frame | Exception) -> None:
        self.result = result
        self.done.set()


class _Connection:
    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.waiting: dict[int, _Waiting] = {}
        self.silent_timeouts = 0
        self.strays = 0
        self.is_open = True
        self.has_answered = False
        self.opened_s = trio.current_time()
        self.reader = FrameReader()
        self.given_up: deque[int] = deque(maxlen=GIVEN_UP_MAX)
        self.stranger: tuple[float, int] | None = None  # when, transaction: answers to nothing

    def fail(self, reason: str) -> None:
        """Tell everyone who waits that there will be no answer."""
        self.is_open = False
        for waiting in self.waiting.values():
            waiting.finish(LineDown(reason))
        self.waiting.clear()


class Line:
    """Speaks with one host and port. `serve` must run while `ask` is used."""

    def __init__(self, host: str, port: int, connect: Connect = open_tcp) -> None:
        self.address = f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"
        self.connects = 0
        self.late: dict[int, int] = {}
        self.on_up: Callable[[], None] = lambda: None  # a new connection brought an answer
        # Called with "sent" or "received" and the bytes of a frame; for `edgesync modbus probe`.
        self.on_bytes: Callable[[str, bytes], None] | None = None
        self.is_shared = True  # several tasks ask; False: the only one asks one thing at a time
        self.connect_delay_s = 0.0  # the longest that any unit needs, whoever connects
        self._host = host
        self._port = port
        self._connect = connect
        self._turns = Turns()
        self._connection: _Connection | None = None
        self._nursery: trio.Nursery | None = None
        self._transaction = 0
        self._quiet_since_s = float("-inf")  # the last byte, sent or received
        self._last_unit: int | None = None
        self._redial_s = float("-inf")
        self._refusal = ""

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the connection's reader until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.fail("the source was stopped")
                with trio.CancelScope(shield=True):
                    await trio.aclose_forcefully(connection.stream)

    async def ask(
        self,
        request: Request,
        limits: Limits,
        *,
        urgency: float,
        patience_s: float = float("inf"),
        any_unit_id: bool = False,
        any_transaction_id: bool = False,
    ) -> Answer:
        """Send `request`; return the data that answers it.

        urgency             when this is wanted; of several that wait the least goes first
        patience_s          how long the others wait for this answer; at most the time-out counts
        any_transaction_id  take the next answer whatever its number: the device counts by itself

        Raises NoAnswer, LineDown, DeviceException, or BadAnswer.
        """
        if self.is_shared:
            await self._turns.acquire(urgency)
        try:
            connection = await self._connected(limits)
            await self._pause(request, limits)
            waiting = _Waiting(request, any_transaction=any_transaction_id)
            await self._send(connection, waiting, limits)
            if patience_s < limits.timeout:
                with trio.move_on_after(patience_s):
                    await waiting.done.wait()
            else:
                await self._wait_out(connection, waiting, limits)
        finally:
            if self.is_shared:
                self._turns.release()
        if not waiting.done.is_set():
            await self._wait_out(connection, waiting, limits)
        if isinstance(waiting.result, Exception):
            raise waiting.result
        assert waiting.result is not None
        data = answer_data(waiting.result, request, any_unit_id=any_unit_id)
        return Answer(data, waiting.sent_s, waiting.answered_s)

    def renew(self, age_s: float) -> None:
        """Close a connection of at least that age: some gateways recover only by a new one."""
        connection = self._connection
        if connection is not None and trio.current_time() - connection.opened_s >= age_s:
            self.hang_up("a new connection is tried")

    def hang_up(self, reason: str) -> None:
        """Close the connection, if there is one; the next request opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.fail(f"{self.address}: {reason}")
            assert self._nursery is not None, "a connection lives inside serve()"
            self._nursery.start_soon(trio.aclose_forcefully, connection.stream)

    async def _connected(self, limits: Limits) -> _Connection:
        if self._connection is not None and self._connection.is_open:
            return self._connection
        if trio.current_time() < self._redial_s:
            raise LineDown(self._refusal)
        assert self._nursery is not None, "serve() runs while ask() is used"
        try:
            with trio.fail_after(limits.timeout):
                stream = await self._connect(self._host, self._port)
        except (OSError, trio.TooSlowError) as error:
            is_slow = isinstance(error, trio.TooSlowError)
            why = "no connection in time" if is_slow else _described_refusal(error)
            self._refusal = f"{self.address}: {why}"
            self._redial_s = trio.current_time() + REDIAL_S
            raise LineDown(self._refusal) from error
        self._connection = connection = _Connection(stream)
        self.connects += 1
        self._nursery.start_soon(self._read, connection)
        await trio.sleep(max(limits.connect_delay, self.connect_delay_s))
        return connection

    async def _pause(self, request: Request, limits: Limits) -> None:
        """Leave the silence the device needs after the last byte on the line."""
        gap_s = limits.min_gap
        if self._last_unit not in (None, request.unit_id):
            gap_s = max(gap_s, limits.unit_switch)
        if gap_s:
            # An answer that comes meanwhile (a late one) starts the silence anew.
            while trio.current_time() < self._quiet_since_s + gap_s:  # noqa: ASYNC110
                await trio.sleep_until(self._quiet_since_s + gap_s)
        self._last_unit = request.unit_id

    async def _send(self, connection: _Connection, waiting: _Waiting, limits: Limits) -> None:
        self._transaction = transaction = self._transaction % 0xFFFF + 1
        waiting.transaction = transaction
        if not connection.is_open:  # closed while we paused
            raise LineDown(f"{self.address}: the connection was closed")
        connection.waiting[transaction] = waiting
        data = encode_request(waiting.request, transaction)
        if self.on_bytes is not None:
            self.on_bytes("sent", data)
        try:
            if rest := data[_sent_at_once(connection.stream, data) :]:
                with trio.move_on_after(limits.timeout) as scope:
                    await connection.stream.send_all(rest)
                if scope.cancelled_caught:
                    # Part of the request may be out: nothing sensible can follow it.
                    self._lose(connection, "the device takes no more requests")
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._lose(connection, f"sending failed: {error}")
        except trio.Cancelled:
            self._lose(connection, "a request was cut off")
            raise
        self._quiet_since_s = waiting.sent_s = trio.current_time()
        waiting.deadline_s = waiting.sent_s + limits.timeout

    async def _wait_out(self, connection: _Connection, waiting: _Waiting, limits: Limits) -> None:
        """Wait until answered or given up; the deadline may move while we wait."""
        while not waiting.done.is_set() and trio.current_time() < waiting.deadline_s:
            with trio.move_on_at(waiting.deadline_s):
                await waiting.done.wait()
        if waiting.done.is_set():
            connection.silent_timeouts = 0
            return
        self._give_up(connection, waiting, limits)

    def _give_up(self, connection: _Connection, waiting: _Waiting, limits: Limits) -> None:
        now_s = trio.current_time()
        connection.waiting.pop(waiting.transaction, None)
        connection.given_up.append(waiting.transaction)
        for younger in connection.waiting.values():
            # A gateway with one serial line answers them only after it gave up the silent unit.
            younger.deadline_s = max(younger.deadline_s, now_s + limits.timeout)
        connection.silent_timeouts += 1
        waiting.finish(NoAnswer(_described_silence(connection, waiting, limits.timeout)))
        if waiting.any_transaction:
            # Nothing but the order tells its answers apart: a late one must not be the next.
            self._lose(connection, "an answer without a number is missing")
        elif connection.silent_timeouts >= SILENT_TIMEOUTS_MAX:
            self._lose(connection, "nothing was answered any more")

    async def _read(self, connection: _Connection) -> None:
        """Hand every frame to who waits for it, until the connection ends."""
        try:
            while connection.is_open:
                data = await connection.stream.receive_some(RECEIVE_BYTES)
                if not data:
                    raise Garbage("the device closed the connection")
                self._quiet_since_s = trio.current_time()
                if self.on_bytes is not None:
                    self.on_bytes("received", bytes(data))
                for frame in connection.reader.feed(data):
                    self._hand_over(connection, frame)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._lose(connection, f"connection lost: {error}")
        except Garbage as error:
            self._lose(connection, str(error))

    def _hand_over(self, connection: _Connection, frame: Frame) -> None:
        waiting = connection.waiting.pop(frame.transaction, None)
        if waiting is None:
            waiting = self._waiting_for_any(connection)
        connection.silent_timeouts = 0
        if waiting is not None:
            connection.strays = 0
            waiting.answered_s = trio.current_time()
            waiting.finish(frame)
            if not connection.has_answered:
                connection.has_answered = True
                self.on_up()
            return
        self.late[frame.unit_id] = self.late.get(frame.unit_id, 0) + 1
        if frame.transaction not in connection.given_up:
            connection.stranger = (trio.current_time(), frame.transaction)
        connection.strays += 1
        if connection.strays > STRAYS_MAX:
            raise Garbage(f"{STRAYS_MAX} answers to nothing")

    def _waiting_for_any(self, connection: _Connection) -> _Waiting | None:
        """Return the only request under way, if its device numbers answers by itself."""
        if len(connection.waiting) != 1:
            return None
        [(transaction, waiting)] = connection.waiting.items()
        if not waiting.any_transaction:
            return None
        del connection.waiting[transaction]
        return waiting

    def _lose(self, connection: _Connection, reason: str) -> None:
        connection.fail(f"{self.address}: {reason}")
        if self._connection is connection and self._nursery is not None:
            log.debug("%s: %s", self.address, reason)
            self.hang_up(reason)


def _described_refusal(error: BaseException) -> str:
    """Say why there is no connection: trio's own words only say that every address failed."""
    cause = error.__cause__
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    text = (cause.strerror or str(cause)) if isinstance(cause, OSError) else str(error)
    return text.lower() if text.isascii() and text[:1].isupper() else text


def _sent_at_once(stream: trio.abc.Stream, data: bytes) -> int:
    """Write what the socket takes without waiting, as it nearly always does; return how much.

    A request is 12 bytes: trio's own way costs a turn of its loop and a timer for each.
    """
    if not isinstance(stream, trio.SocketStream):
        return 0
    try:
        return os.write(stream.socket.fileno(), data)
    except BlockingIOError:
        return 0


def _described_silence(connection: _Connection, waiting: _Waiting, timeout_s: float) -> str:
    """Say that no answer came, and what came instead."""
    text = f"no answer in {timeout_s:g} s"
    if connection.stranger is not None and connection.stranger[0] >= waiting.sent_s:
        number = connection.stranger[1]
        return (
            f"{text}, but one with transaction id {number} instead of {waiting.transaction} "
            "(a device that counts by itself needs the quirk any_transaction_id)"
        )
    if held := connection.reader.held:
        return f"{text}, but {len(held)} bytes that are no answer: {describe(held)}"
    return text


__all__ = ["Answer", "BadAnswer", "Connect", "Line", "LineDown", "NoAnswer", "open_tcp"]
