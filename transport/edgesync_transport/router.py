"""The hub's end: one ROUTER for all edges, who is who from the key that CURVE proved (I12).

libzmq answers only at the handshake whether a key is welcome, and has no way to end one peer's
connection. So the key of *every* message is looked up in the table again: from the moment a key
is removed, what its connection sends is dropped and counted.

Routing ids are left to libzmq. HANDOVER stays 0: with it, a peer with another key could take over
the id of a live one.

A guest is whoever holds an enrolment token: its key is known, and belongs to no edge. It may ask
one thing, which is answered by `welcome`; nothing else that it sends is looked at.
"""

import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import msgspec
import trio
import zmq

from edgesync_transport import pump, wire, zap
from edgesync_transport.keys import KeyPair
from edgesync_transport.link import LinkClosed, Peer
from edgesync_transport.messages import Message
from edgesync_transport.seldom import Seldom
from edgesync_transport.sockets import DEFAULT_HUB_SETTINGS, LinkSettings, new_context, prepare
from edgesync_transport.zap import KeyTable

log = logging.getLogger(__name__)

GUEST_BYTES_MAX: Final = 4096
GUESTS_WAITING_MAX: Final = 16
# Answers a guest: the enrolment it may redeem, its question -> what it is told.
Welcome = Callable[[str, bytes], Awaitable[bytes]]

# Connections the kernel holds for us while the I/O thread is busy with handshakes (0.5 ms each).
BACKLOG: Final = 1024


class EdgeCounts(msgspec.Struct):
    """What was dropped of one edge, since the hub started."""

    malformed: int = 0  # strikes: a sound edge has none
    unknown: int = 0  # messages of a kind this version does not know; a newer edge may send them


class HearingStats(msgspec.Struct):
    received: int = 0
    sent: int = 0
    send_dropped: int = 0  # answers the pump had no room for, and those after `aclose`
    revoked: int = 0  # messages of keys that are not, or no longer, in the table
    guests: int = 0  # questions of guests
    edges: dict[str, EdgeCounts] = msgspec.field(default_factory=dict)

    def of(self, edge: str) -> EdgeCounts:
        # Bounded: only edges of the key table get here.
        return self.edges.setdefault(edge, EdgeCounts())


class ZmqHearing:
    """Hears all edges; implements `link.Hearing`. See `open_hearing`."""

    def __init__(
        self, socket: zmq.Socket[bytes], handler: zap.Zap, keys: KeyTable, settings: LinkSettings
    ) -> None:
        self.addresses: tuple[str, ...] = ()
        self.stats = HearingStats()
        self.zap = handler
        self._keys = keys
        self._settings = settings
        self._seldom = Seldom()
        self._ask, self._asked = trio.open_memory_channel[tuple[bytes, str, bytes]](
            GUESTS_WAITING_MAX
        )
        self._pump = pump.Pump(
            socket,
            receive_one=_receive_one,
            when_stuck=pump.WhenStuck.DROP,
            limits=settings.pump,
        )

    @property
    def unroutable(self) -> int:
        """Answers that libzmq would not take: the peer is gone or does not read."""
        return self._pump.dropped

    async def send(self, peer: Peer, message: Message) -> None:
        """Queue an answer; dropped and counted when there is no room or no such peer any more."""
        await trio.lowlevel.checkpoint_if_cancelled()
        is_taken = False
        with contextlib.suppress(pump.PumpClosed):
            is_taken = self._pump.send_soon(
                [peer.route, *wire.encode(message, self._settings.wire)]
            )
        if is_taken:
            self.stats.sent += 1
        else:
            self.stats.send_dropped += 1

    async def receive(self) -> tuple[Peer, Message]:
        """Return the next valid message and who sent it; raises LinkClosed after `aclose`."""
        while True:
            try:
                route, public, *frames = await self._pump.receive()
            except pump.PumpClosed:
                raise LinkClosed("the hub has stopped hearing") from None
            # Asked here and not when the message came in: it may have waited since.
            edge = self._keys.edge_of(public.decode("ascii", "replace"))
            if edge is None:
                self._hear_stranger(route, public, frames)
                continue
            try:
                message = wire.decode(frames, self._settings.wire)
            except wire.UnknownMessage:
                self.stats.of(edge).unknown += 1
                continue
            except wire.WireError as error:
                self._count_malformed(edge, error)
                continue
            self.stats.received += 1
            return Peer(route=route, edge=edge), message

    async def aclose(self) -> None:
        """Stop hearing: `receive` raises LinkClosed. The socket closes with `open_hearing`."""
        self._pump.close()
        await trio.lowlevel.checkpoint()

    def _hear_stranger(self, route: bytes, public: bytes, frames: Sequence[bytes]) -> None:
        """Let a guest's question wait for its answer; drop everything else, and too many."""
        enrolment = self._keys.guest_of(public.decode("ascii", "replace"))
        is_question = (
            len(frames) == 2 and frames[0] == wire.GUEST and len(frames[1]) <= GUEST_BYTES_MAX
        )
        if enrolment is None or not is_question:
            self._count_revoked(public)
            return
        self.stats.guests += 1
        with contextlib.suppress(trio.WouldBlock):  # it asks again
            self._ask.send_nowait((route, enrolment, frames[1]))

    async def welcome(self, answer: Welcome) -> None:
        """Answer guests, one after the other, until cancelled."""
        async for route, enrolment, question in self._asked:
            try:
                found = await answer(enrolment, question)
            except Exception:  # A bug of ours costs this guest its answer, and nobody else: I8.
                log.exception("a guest is not answered: enrolment=%s", enrolment)
                continue
            with contextlib.suppress(pump.PumpClosed):
                self._pump.send_soon([route, wire.GUEST, found])

    def _count_revoked(self, public: bytes) -> None:
        self.stats.revoked += 1
        if (again := self._seldom.ask(public)) is not None:
            log.warning(
                "dropped: key %s is revoked; %d more before",
                public.decode("ascii", "replace"),
                again,
            )

    def _count_malformed(self, edge: str, error: wire.WireError) -> None:
        self.stats.of(edge).malformed += 1
        if (again := self._seldom.ask(edge)) is not None:
            log.warning("dropped: edge=%s sent no message: %s; %d more before", edge, error, again)


def _receive_one(socket: zmq.Socket[bytes]) -> pump.Frames:
    """Return [route, public key in Z85, frames...] of the next message, or raise zmq.Again."""
    route = socket.recv(zmq.DONTWAIT)
    public, parts = b"", list[bytes]()
    while socket.getsockopt(zmq.RCVMORE):
        if parts:
            part = socket.recv(zmq.DONTWAIT)
            if len(parts) < pump.PARTS_MAX:
                parts.append(part)
            continue
        frame = socket.recv(zmq.DONTWAIT, copy=False)
        public = _user_id(frame)
        parts.append(frame.bytes)
    return [route, public, *parts]


def _user_id(frame: zmq.Frame) -> bytes:
    try:
        return str(frame.get("User-Id")).encode("ascii", "replace")
    except zmq.ZMQError:
        return b""  # No key is empty: the message is dropped like one of a stranger.


@asynccontextmanager
async def open_hearing(
    binds: Sequence[str],
    *,
    server_keys: KeyPair,
    edges: KeyTable,
    welcome: Welcome | None = None,
    settings: LinkSettings = DEFAULT_HUB_SETTINGS,
) -> AsyncIterator[ZmqHearing]:
    """Yield the hub's ear, bound to `binds`; `edges` may change at any time.

    binds    `tcp://address:port` or `tcp://*:port`; port `*` picks a free one, see `addresses`
    welcome  answers guests; without it they are let in and heard by nobody

    Raises OSError, naming the address, if one cannot be bound.
    """
    context = new_context()
    try:
        # ZAP first: without a handler libzmq would let in any key that knows ours.
        handler = zap.Zap(context, edges)
        socket = context.socket(zmq.ROUTER)
        try:
            hearing = ZmqHearing(socket, handler, edges, settings)
            _prepare_server(socket, server_keys, settings)
            hearing.addresses = tuple(_bind(socket, address) for address in binds)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(handler.run)
                nursery.start_soon(hearing._pump.run)
                if welcome is not None:
                    nursery.start_soon(hearing.welcome, welcome)
                yield hearing
                nursery.cancel_scope.cancel()
            hearing._pump.flush()
        finally:
            handler.close()
            socket.close(linger=round(settings.farewell_s * 1000))
    finally:
        # At most `farewell_s`, for answers that peers still read.
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(context.term)


def _prepare_server(
    socket: zmq.Socket[bytes], server_keys: KeyPair, settings: LinkSettings
) -> None:
    prepare(socket, settings)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    socket.setsockopt(zmq.ROUTER_HANDOVER, 0)
    socket.setsockopt(zmq.BACKLOG, BACKLOG)
    socket.curve_server = True
    socket.curve_publickey = server_keys.public.encode()
    socket.curve_secretkey = server_keys.secret.encode()
    socket.zap_domain = zap.DOMAIN.encode()
    # Without this, a ZAP handler that is missing would mean "everybody is welcome".
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)


def _bind(socket: zmq.Socket[bytes], address: str) -> str:
    # An IPv4 address on an IPv6 socket would come back as [::ffff:127.0.0.1].
    host = address.removeprefix("tcp://").rpartition(":")[0]
    socket.setsockopt(zmq.IPV6, int(not host.replace(".", "").isdecimal()))
    try:
        socket.bind(address)
    except zmq.ZMQError as error:
        raise OSError(error.errno, f"cannot listen on {address}: {error.strerror}") from error
    return str(socket.getsockopt_string(zmq.LAST_ENDPOINT))
