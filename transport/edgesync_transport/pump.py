"""The one task that touches a ZeroMQ socket.

ZMQ_FD is edge-triggered, and *any* call on the socket may consume the edge. So nobody waits for
the descriptor unless both directions were drained and EVENTS says nothing is left, and nobody but
the pump calls the socket: with two tasks on one socket, one eats the other's edge and it sleeps
beside a full queue. See python-trio/trio#116 and zeromq/pyzmq#1177.

Both queues are bounded in messages and bytes (I7). A full inbox stops receiving, so ZeroMQ's
high-water mark and then TCP hold the peer back; a full outbox makes `send` wait and `send_soon`
say no.
"""

import enum
from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec
import trio
import zmq

Frames = list[bytes]

# Messages moved each way before other tasks get a turn, 1 to 2 ms of 64-byte messages; more wins
# nothing (bench/benchmarks/pump.py).
BUDGET: Final = 128

# Calls of receive() or send() answered at once before one of them yields: a Trio checkpoint costs
# as much as moving three messages.
CALLS_PER_YIELD: Final = 32

# The longest message there is is a ZAP request with 7 parts. Later parts are read and thrown away;
# what is left is still too long for every decoder.
PARTS_MAX: Final = 8


class PumpClosed(Exception):
    """The pump has stopped: nothing can be sent or received any more."""


class WhenStuck(enum.Enum):
    """What to do with a message that ZeroMQ will not take now."""

    WAIT = "wait"  # one peer, order matters: keep it at the head
    DROP = "drop"  # many peers: the one whose queue is full or who is gone waits for nobody


class PumpLimits(msgspec.Struct, frozen=True, kw_only=True):
    """A queue is full when either limit is reached; one message may exceed the bytes."""

    inbox_messages: int = 1024
    inbox_bytes: int = 8 * 1024 * 1024
    outbox_messages: int = 1024
    outbox_bytes: int = 8 * 1024 * 1024


class _Queue:
    """Messages and their bytes, so that both can have a limit."""

    def __init__(self, messages_max: int, bytes_max: int) -> None:
        self.items: deque[Frames] = deque()
        self.bytes = 0
        self._messages_max = messages_max
        self._bytes_max = bytes_max

    def has_room(self) -> bool:
        return len(self.items) < self._messages_max and self.bytes < self._bytes_max

    def is_half_empty(self) -> bool:
        return 2 * len(self.items) <= self._messages_max and 2 * self.bytes <= self._bytes_max

    def put(self, frames: Frames) -> None:
        self.items.append(frames)
        self.bytes += sum(map(len, frames))

    def take(self) -> Frames:
        frames = self.items.popleft()
        self.bytes -= sum(map(len, frames))
        return frames


def receive_parts(socket: zmq.Socket[bytes]) -> Frames:
    """Return the next message or raise zmq.Again; parts beyond PARTS_MAX are thrown away."""
    parts = [socket.recv(zmq.DONTWAIT)]
    while socket.getsockopt(zmq.RCVMORE):
        part = socket.recv(zmq.DONTWAIT)
        if len(parts) < PARTS_MAX:
            parts.append(part)
    return parts


class Pump:
    """Moves messages between `socket` and two bounded queues while `run` runs.

    receive_one   reads one message from the socket or raises zmq.Again
    """

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        *,
        receive_one: Callable[[zmq.Socket[bytes]], Frames] = receive_parts,
        when_stuck: WhenStuck = WhenStuck.WAIT,
        limits: PumpLimits | None = None,
    ) -> None:
        limits = limits or PumpLimits()
        self._socket = socket
        self._receive_one = receive_one
        self._when_stuck = when_stuck
        self._inbox = _Queue(limits.inbox_messages, limits.inbox_bytes)
        self._outbox = _Queue(limits.outbox_messages, limits.outbox_bytes)
        self._readers = trio.lowlevel.ParkingLot()
        self._writers = trio.lowlevel.ParkingLot()
        self._parked: trio.CancelScope | None = None
        self._is_inbox_held = False
        self._is_closed = False
        self._calls = 0
        self.dropped = 0  # messages ZeroMQ would not take, under WhenStuck.DROP

    async def run(self) -> None:
        """Own the socket until cancelled; raises zmq.ZMQError if the socket dies under it."""
        try:
            while True:
                if self._drain():
                    await trio.lowlevel.checkpoint()
                    continue
                with trio.CancelScope() as self._parked:  # _wake() cancels it
                    await trio.lowlevel.wait_readable(self._socket.fileno())
                self._parked = None
        finally:
            self._parked = None
            self.close()

    def close(self) -> None:
        """Let every waiting and later call raise PumpClosed; what has arrived can be received."""
        self._is_closed = True
        self._readers.unpark_all()
        self._writers.unpark_all()

    def flush(self) -> None:
        """Move what is left both ways, as far as there is room. Only when `run` has ended."""
        self._receive_some(BUDGET)
        self._send_some(len(self._outbox.items))

    async def send(self, frames: Frames) -> None:
        """Queue a message, waiting while the outbox is full; raises PumpClosed."""
        await self._maybe_yield()
        while not self.send_soon(frames):
            await self._writers.park()

    def send_soon(self, frames: Frames) -> bool:
        """Queue a message unless the outbox is full; raises PumpClosed."""
        if self._is_closed:
            raise PumpClosed
        if not self._outbox.has_room():
            return False
        self._outbox.put(frames)
        self._wake()
        return True

    async def receive(self) -> Frames:
        """Return the next message; raises PumpClosed once all that arrived has been returned.

        A call that is cancelled has taken nothing.
        """
        await self._maybe_yield()
        while not self._inbox.items:
            if self._is_closed:
                raise PumpClosed
            await self._readers.park()
        frames = self._inbox.take()
        if self._is_inbox_held and self._inbox.is_half_empty():
            self._wake()
        return frames

    async def _maybe_yield(self) -> None:
        self._calls += 1
        if self._calls % CALLS_PER_YIELD:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await trio.lowlevel.checkpoint()

    def _wake(self) -> None:
        if self._parked is not None:
            self._parked.cancel()

    def _drain(self) -> bool:
        """Move up to BUDGET messages each way; True if there is more to move right now."""
        received = self._receive_some(BUDGET)
        sent = self._send_some(BUDGET)
        if received:
            self._readers.unpark_all()
        if sent:
            self._writers.unpark_all()
        # Last, as the calls above may have taken the edge for the other direction: parking is
        # right only if EVENTS, asked after everything else, has nothing we want.
        events = int(self._socket.getsockopt(zmq.EVENTS))
        self._is_inbox_held = not self._inbox.has_room()
        can_receive = bool(events & zmq.POLLIN) and not self._is_inbox_held
        can_send = bool(events & zmq.POLLOUT) and bool(self._outbox.items)
        return can_receive or can_send

    def _receive_some(self, count_max: int) -> int:
        for count in range(count_max):
            if not self._inbox.has_room():
                return count
            try:
                self._inbox.put(self._receive_one(self._socket))
            except zmq.Again:
                return count
        return count_max

    def _send_some(self, count_max: int) -> int:
        for count in range(count_max):
            if not self._outbox.items:
                return count
            try:
                self._send_one(self._outbox.items[0])
            except zmq.Again:
                # ZeroMQ takes a message whole or not at all, so it can be tried again whole.
                if self._when_stuck is WhenStuck.WAIT:
                    return count
                self.dropped += 1
            except zmq.ZMQError as error:
                # What ROUTER_MANDATORY answers for a peer that is gone.
                if error.errno != zmq.EHOSTUNREACH or self._when_stuck is WhenStuck.WAIT:
                    raise
                self.dropped += 1
            self._outbox.take()
        return count_max

    def _send_one(self, frames: Frames) -> None:
        for frame in frames[:-1]:
            self._socket.send(frame, zmq.DONTWAIT | zmq.SNDMORE)
        self._socket.send(frames[-1], zmq.DONTWAIT)


async def serve(socket: zmq.Socket[bytes], answer: Callable[[Frames], None]) -> None:
    """Own a socket that only ever reacts: call `answer` with each message, until cancelled.

    `answer` runs in this task, so it may send on the socket.
    """
    while True:
        for _ in range(BUDGET):
            try:
                frames = receive_parts(socket)
            except zmq.Again:
                break
            answer(frames)
        if int(socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            await trio.lowlevel.checkpoint()
        else:
            await trio.lowlevel.wait_readable(socket.fileno())
