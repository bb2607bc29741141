"""One TCP connection to a device or gateway, shared by the unit ids behind it.   [shell]

Requests are sent one at a time, the most urgent first. An answer is matched by transaction id,
so one that comes late is skipped (or accepted, while its request still waits) and never taken
for another's. A silent unit holds the turn only for its `patience`, then the others go on while
it keeps waiting: that is why one dead unit does not age its neighbours' values.
"""

import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import trio

from edgesync.sources.modbus.layout import Limits
from edgesync.sources.modbus.pdu import (
    BadAnswer,
    Frame,
    FrameReader,
    Garbage,
    Request,
    decode_answer,
    encode_request,
)
from edgesync.sources.modbus.turns import Turns

log = logging.getLogger(__name__)

Connect = Callable[[str, int], Awaitable[trio.abc.Stream]]

RECEIVE_BYTES: Final = 4096
# Answers nobody waits for, in a row: a few are late, this many are a device talking to itself.
STRAYS_MAX: Final = 64
# Time-outs in a row without any answer on the connection. One may be a dead unit; after two the
# peer is probably gone without a word (power cut, NAT table), which only a new connection shows.
SILENT_TIMEOUTS_MAX: Final = 2
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


class _Waiting:
    """A request under way: `result` is set together with `done`."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.done = trio.Event()
        self.result: Frame | Exception | None = None
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

    def fail(self, reason: str) -> None:
        """Tell everyone who waits that there will be no answer."""
        self.is_open = False
        for waiting in self.waiting.values():
            waiting.finish(LineDown(reason))
        self.waiting.clear()


class Line:
    """Speaks with one host and port. `serve` must run while `ask` is used."""

    def __init__(self, host: str, port: int, connect: Connect = open_tcp) -> None:
        self.address = f"tcp://{host}:{port}"
        self.connects = 0
        self.late: dict[int, int] = {}
        self.on_up: Callable[[], None] = lambda: None  # a new connection brought an answer
        self._host = host
        self._port = port
        self._connect = connect
        self._turns = Turns()
        self._connection: _Connection | None = None
        self._nursery: trio.Nursery | None = None
        self._transaction = 0
        self._last_sent_s = float("-inf")
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
        patience_s: float,
        any_unit_id: bool = False,
    ) -> tuple[Sequence[int], float]:
        """Send `request`; return its registers or bits, and the seconds the answer took.

        urgency      when this was due; of several that wait the least goes first
        patience_s   how long the others wait for this answer; at most the time-out counts

        Raises NoAnswer, LineDown, DeviceException, or BadAnswer.
        """
        async with self._turns.hold(urgency):
            connection = await self._connected(limits)
            await self._pause(request, limits)
            waiting = await self._send(connection, request, limits)
            with trio.move_on_after(min(patience_s, limits.timeout)):
                await waiting.done.wait()
        await self._wait_out(connection, waiting, limits)
        if isinstance(waiting.result, Exception):
            raise waiting.result
        assert waiting.result is not None
        words = decode_answer(waiting.result, request, any_unit_id=any_unit_id)
        return words, waiting.answered_s - waiting.sent_s

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
            why = "no connection in time" if isinstance(error, trio.TooSlowError) else str(error)
            self._refusal = f"{self.address}: {why}"
            self._redial_s = trio.current_time() + REDIAL_S
            raise LineDown(self._refusal) from error
        self._connection = connection = _Connection(stream)
        self.connects += 1
        self._nursery.start_soon(self._read, connection)
        await trio.sleep(limits.connect_delay)
        return connection

    async def _pause(self, request: Request, limits: Limits) -> None:
        """Leave the silence the device needs between two requests."""
        gap_s = limits.min_gap
        if self._last_unit not in (None, request.unit_id):
            gap_s = max(gap_s, limits.unit_switch)
        await trio.sleep_until(max(self._last_sent_s + gap_s, trio.current_time()))
        self._last_unit = request.unit_id

    async def _send(self, connection: _Connection, request: Request, limits: Limits) -> _Waiting:
        self._transaction = transaction = self._transaction % 0xFFFF + 1
        waiting = _Waiting(request)
        if not connection.is_open:  # closed while we paused
            raise LineDown(f"{self.address}: the connection was closed")
        connection.waiting[transaction] = waiting
        try:
            with trio.fail_after(limits.timeout):
                await connection.stream.send_all(encode_request(request, transaction))
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._lose(connection, f"sending failed: {error}")
        except trio.TooSlowError:
            # Part of the request may be out: nothing sensible can follow it.
            self._lose(connection, "the device takes no more requests")
        except trio.Cancelled:
            self._lose(connection, "a request was cut off")
            raise
        self._last_sent_s = waiting.sent_s = trio.current_time()
        waiting.deadline_s = waiting.sent_s + limits.timeout
        return waiting

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
        connection.waiting = {k: w for k, w in connection.waiting.items() if w is not waiting}
        for younger in connection.waiting.values():
            # A gateway with one serial line answers them only after it gave up the silent unit.
            younger.deadline_s = max(younger.deadline_s, now_s + limits.timeout)
        connection.silent_timeouts += 1
        if connection.silent_timeouts >= SILENT_TIMEOUTS_MAX:
            self._lose(connection, "nothing was answered any more")
        waiting.finish(NoAnswer(f"no answer in {limits.timeout:g} s"))

    async def _read(self, connection: _Connection) -> None:
        """Hand every frame to who waits for it, until the connection ends."""
        reader = FrameReader()
        try:
            while connection.is_open:
                data = await connection.stream.receive_some(RECEIVE_BYTES)
                if not data:
                    raise Garbage("the device closed the connection")
                for frame in reader.feed(bytes(data)):
                    self._hand_over(connection, frame)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._lose(connection, f"connection lost: {error}")
        except Garbage as error:
            self._lose(connection, str(error))

    def _hand_over(self, connection: _Connection, frame: Frame) -> None:
        waiting = connection.waiting.pop(frame.transaction, None)
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
        connection.strays += 1
        if connection.strays > STRAYS_MAX:
            raise Garbage(f"{STRAYS_MAX} answers to nothing")

    def _lose(self, connection: _Connection, reason: str) -> None:
        connection.fail(f"{self.address}: {reason}")
        if self._connection is connection and self._nursery is not None:
            log.debug("%s: %s", self.address, reason)
            self.hang_up(reason)


__all__ = ["BadAnswer", "Connect", "Line", "LineDown", "NoAnswer", "open_tcp"]
