"""The edge's end of a link: a fresh DEALER for each attempt, CURVE towards one known server key.

ZeroMQ would reconnect by itself, silently, and go on sending into a session the hub has already
ended. So a link lives as long as one TCP connection, its end is a LinkLost that names the cause,
and whoever drives the link decides when to try again (I5).

What libzmq may do by itself is look for a hub that is not there: its I/O thread connects again and
again, and nothing of Python runs until somebody answers. That is cheap enough to go on for weeks.

Through a proxy a link is connected before libzmq has a part in it, and its hub is looked for more
seldom, since others use the proxy too. libzmq then connects to a socket of this process, which
passes the bytes on (carrier.py).
"""

import enum
import logging
import math
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio
import zmq
from zmq.utils.monitor import parse_monitor_message

from edgesync_transport import descriptors, proxy, pump, wire, zap
from edgesync_transport.carrier import Carrier
from edgesync_transport.keys import KeyPair, guest_keys
from edgesync_transport.link import LinkClosed
from edgesync_transport.messages import Message
from edgesync_transport.proxy import Proxy, ProxyError, ProxyFault
from edgesync_transport.seldom import Seldom
from edgesync_transport.sockets import DEFAULT_SETTINGS, LinkSettings, new_context, prepare

log = logging.getLogger(__name__)

RESOLVE_TIMEOUT_S: Final = 10.0
GUEST_PAUSE_S: Final = 0.5
# A link that looks for its hub ends after so long or so many looks, whichever is later, and the
# next one resolves the name again.
LOOK_S: Final = 10.0
LOOKS_MIN: Final = 3
# Where packets vanish, a connection is given up so soon; every second link is patient instead, for
# lines on which an answer takes longer.
IMPATIENT_S: Final = 1.0
# At least so long between two looks through a proxy: a hub that is back is found in 2 s.
PROXY_LOOK_S: Final = 1.0
# A name server that does not answer, or no descriptor that is free: asked again so soon.
RETRY_S: Final = 1.0
# A hub that hangs is tried again after two handshakes, four, … and so long; its fleet does not add
# to what keeps it busy, and it is no hub that refuses, which may be left alone for minutes.
HUNG_S: Final = 60.0
# What a link takes, twice: three sockets, a connection, name resolution.
DESCRIPTORS_MIN: Final = 16


class Phase(enum.Enum):
    """How far a link has come."""

    CONNECTING = "connecting"
    GREETING = "greeting"  # TCP is there, CURVE is not yet
    UP = "up"
    ENDED = "ended"


class Cause(enum.Enum):
    """Why a link ended; the value is a sentence for status pages."""

    UNRESOLVED = "the hub's name cannot be resolved"
    UNREACHABLE = ProxyFault.HUB_AWAY.value
    PROXY_AWAY = ProxyFault.AWAY.value
    PROXY_REFUSED = ProxyFault.REFUSED.value
    ABSENT = "something accepts connections there and closes them: the hub behind it is away"
    SILENT = "something accepts connections there but does not answer as a hub"
    UNPROVEN = "the hub has another server key than expected, or it is no hub"
    REFUSED = "the hub does not know this edge's key: not enrolled, or revoked"
    FULL = "the hub lets nobody in for now: it is short of file descriptors"
    LOST = "the connection was lost"
    EXHAUSTED = "this machine has no file descriptors, or no folder for temporary files, for it"
    CLOSED = "closed on this side"


class LinkLost(LinkClosed):
    """The link has ended; `cause` says why."""

    def __init__(
        self, address: str, cause: Cause, detail: str = "", retry_after_s: float | None = None
    ) -> None:
        super().__init__(f"{address}: {cause.value}{f' ({detail})' if detail else ''}")
        self.address = address
        self.cause = cause
        self.retry_after_s = retry_after_s


class Past:
    """What the links to one hub have learnt, for the next one.

    is_proven   the hub has shown its key before: who closes a connection now stands before it
    shunned     the address that answered last without being the hub, for the next link
    silences    handshakes in a row that it has begun and not gone on with
    """

    def __init__(self) -> None:
        self.is_proven = False
        self.addresses: list[str] = []
        self.shunned = ""
        self.links = 0
        self.silences = 0
        self.log_seldom = Seldom()

    def hung_s(self, handshake_s: float) -> float | None:
        """Return after which pause to try a silent hub again; None if it may be no hub at all."""
        self.silences += 1
        if not self.is_proven:
            return None
        pause_s = min(HUNG_S, handshake_s * 2.0 ** min(self.silences, 16))
        return pause_s * random.uniform(0.5, 1.0)


class ZmqLink:
    """One attempt to reach the hub; made by `ZmqConnect`, implements `link.Link`."""

    def __init__(
        self,
        address: str,
        socket: zmq.Socket[bytes],
        settings: LinkSettings,
        past: Past,
        *,
        look_s: float | None,
        proxy: Proxy | None = None,
        nursery: trio.Nursery | None = None,
    ) -> None:
        self.address = address
        self._proxy = proxy
        self._nursery = nursery  # … of the carrier, which is there a moment longer than the link
        self._proxy_look_s = look_s
        if proxy is not None:
            look_s = None  # libzmq has nothing to look for
        self.phase = Phase.CONNECTING
        self.handshakes = 0  # begun: more than one when the hub, or who stands before it, hung up
        self.malformed = 0  # messages of the hub that were dropped: not decodable
        self.unknown = 0  # ... of a kind this version does not know
        self._socket = socket
        self._settings = settings
        self._past = past
        self._look_s = look_s
        self._endpoints: list[str] = []
        self._failed = 0  # of them
        self._absence = Cause.UNREACHABLE
        self._look_until = -math.inf if look_s is None else math.inf
        self._settled = trio.Event()
        self._pump = pump.Pump(socket, limits=settings.pump)
        self._scope = trio.CancelScope()
        self._gone = trio.Event()
        self._end: LinkLost | None = None
        self._is_farewell = False

    async def wait_up(self) -> None:
        """Return once the hub has proven its key; raises LinkLost."""
        await self._settled.wait()
        if self._end is not None:
            raise self._lost()

    async def send(self, message: Message) -> None:
        """Queue `message`, waiting while the queue is full; raises LinkLost once the link ended."""
        if self._end is not None:
            raise self._lost()
        try:
            await self._pump.send(wire.encode(message, self._settings.wire))
        except pump.PumpClosed:
            raise self._lost() from None

    async def receive(self) -> Message:
        """Return the next valid message; raises LinkLost when there will be none."""
        while True:
            try:
                frames = await self._pump.receive()
            except pump.PumpClosed:
                raise self._lost() from None
            try:
                return wire.decode(frames, self._settings.wire)
            except wire.UnknownMessage:
                self.unknown += 1
            except wire.WireError as error:
                self.malformed += 1
                if (again := self._past.log_seldom.ask("malformed")) is not None:
                    log.warning("dropped from %s: %s; %d more before", self.address, error, again)

    async def ask_as_guest(self, question: bytes) -> bytes:
        """Put the one question that a guest has, see `wire.GUEST`; raises LinkLost."""
        try:
            await self._pump.send([wire.GUEST, question])
            while True:
                frames = await self._pump.receive()
                if len(frames) == 2 and frames[0] == wire.GUEST:
                    return frames[1]
                self.malformed += 1
        except pump.PumpClosed:
            raise self._lost() from None

    async def aclose(self) -> None:
        """End the link; what was sent last (a Bye) gets `farewell_s` to leave."""
        self._is_farewell = self._end is None
        self._finish(Cause.CLOSED)
        with trio.CancelScope(shield=True):
            await self._gone.wait()

    def _lost(self) -> LinkLost:
        # A new object each time: an exception that is raised twice grows its traceback.
        end = self._end or LinkLost(self.address, Cause.CLOSED)
        lost = LinkLost(self.address, end.cause, retry_after_s=end.retry_after_s)
        lost.args = end.args
        return lost

    def _finish(self, cause: Cause, detail: str = "", retry_after_s: float | None = None) -> None:
        if self._end is None:
            self._end = LinkLost(self.address, cause, detail, retry_after_s)
            self.phase = Phase.ENDED
            self._settled.set()
            log.debug("link ended: %s", self._end)
            self._scope.cancel()

    async def _run(self) -> None:
        """Own both sockets of this link until it ends."""
        monitor = self._socket.get_monitor_socket(events=_LOOKED_AT | self._attempts)
        try:
            with self._scope:
                via = self._proxy
                self._endpoints = [await self._carry(via)] if via else await self._resolve()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(pump.serve, monitor, self._on_event)
                    for endpoint in self._endpoints:
                        self._socket.connect(endpoint)
                    await self._wait_settled()
                    # Not before: what is sent would wait for one of the addresses.
                    await self._pump.run()
        finally:
            self._finish(Cause.CLOSED)
            # Messages that came before the end are still worth reading, a Bye worth sending.
            self._pump.flush()
            self._pump.close()
            self._socket.disable_monitor()
            monitor.close()
            farewell_s = self._settings.farewell_s if self._is_farewell else 0.0
            self._socket.close(linger=round(farewell_s * 1000))
            self._gone.set()

    async def _wait_settled(self) -> None:
        if self._look_s is not None:
            self._look_until = trio.current_time() + look_time_s(self._look_s)
            with trio.move_on_at(self._look_until):
                await self._settled.wait()
            if self.phase is Phase.CONNECTING:
                self._finish(self._absence, retry_after_s=0.0)
        await self._settled.wait()  # a handshake that has begun has a limit of its own

    @property
    def _attempts(self) -> int:
        """Return the events of attempts that fail: who looks for a hub wants to know of none."""
        return int(zmq.EVENT_CLOSED) if self._look_s is None else 0

    async def _resolve(self) -> list[str]:
        """Return the addresses as numbers: those of last time when the name cannot be resolved.

        libzmq would resolve in its I/O thread, where a slow name server stops every connection.
        """
        host, port = split_address(self.address)
        past = self._past
        try:
            with trio.fail_after(RESOLVE_TIMEOUT_S):
                found = await trio.socket.getaddrinfo(host, port, type=trio.socket.SOCK_STREAM)
        except (OSError, UnicodeError, trio.TooSlowError) as error:
            if not past.addresses:
                detail = str(error) or type(error).__name__
                self._finish(Cause.UNRESOLVED, detail, RETRY_S)
                await trio.lowlevel.checkpoint_if_cancelled()
        else:
            ips = dict.fromkeys(str(one[4][0]) for one in found)
            past.addresses = [
                f"tcp://[{ip}]:{port}" if ":" in ip else f"tcp://{ip}:{port}" for ip in ips
            ]
        shunned, past.shunned = past.shunned, ""
        return [one for one in past.addresses if one != shunned] or past.addresses

    async def _carry(self, via: Proxy) -> str:
        """Connect through the proxy; return the endpoint that stands for the hub."""
        stream, early = await self._reach_through(via)
        carrier = Carrier(stream, early, self._gone, self._settings.farewell_s)
        assert self._nursery is not None
        endpoint = ""
        try:
            endpoint = await self._nursery.start(carrier.run)
        except* OSError as errors:
            self._finish(Cause.EXHAUSTED, str(errors.exceptions[0]), RETRY_S)
        await trio.lowlevel.checkpoint_if_cancelled()
        return endpoint

    async def _reach_through(self, via: Proxy) -> tuple[trio.SocketStream, bytes]:
        """Do as `proxy.connect`, again and again where the hub is to be looked for."""
        host, port = split_address(self.address)
        look_s, until = self._proxy_look_s, trio.current_time()
        if look_s is not None:
            until += look_time_s(look_s)
        while True:
            try:
                return await proxy.connect(via, host, port, timeout_s=self._settings.connect_s)
            except ProxyError as error:
                is_refusal = error.fault is ProxyFault.REFUSED
                if is_refusal or trio.current_time() >= until:
                    retry_s = None if is_refusal else PROXY_LOOK_S
                    self._finish(Cause(error.fault.value), error.detail, retry_s)
            # The end of the link ends this, too.
            await trio.sleep(max(look_s or 0.0, PROXY_LOOK_S) * random.uniform(1.0, 2.0))

    def _on_event(self, frames: pump.Frames) -> None:
        """Follow the connection through libzmq's socket monitor (zmq_socket_monitor(3))."""
        report = parse_monitor_message(frames)
        event, value = report["event"], int(report["value"])
        endpoint = report["endpoint"].decode()
        if self.phase is Phase.CONNECTING:
            self._looked(event, endpoint)
        elif self.phase is Phase.ENDED or endpoint not in self._endpoints:
            return  # late, or of another address, given up when this one answered
        elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self.phase = Phase.UP
            self._past.is_proven = True
            self._past.silences = 0
            self._settled.set()
        elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            cause = Cause.FULL if value == zap.SHORT else Cause.REFUSED
            self._finish(cause, f"ZAP status {value}")
        elif event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL and value == zmq.EAGAIN:
            self._past.shunned = endpoint
            handshake_s = self._settings.handshake_s
            pause_s = self._past.hung_s(handshake_s)
            self._finish(Cause.SILENT, f"no handshake in {handshake_s:g} s", pause_s)
        elif event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
            self._past.shunned = endpoint
            self._finish(Cause.UNPROVEN)
        elif event in _ENDS:
            self._closed(endpoint)

    def _looked(self, event: int, endpoint: str) -> None:
        """Keep the first address that answers; the link ends when none is left to do so."""
        if event == zmq.EVENT_CONNECTED:
            for other in self._endpoints:
                if other != endpoint and len(self._endpoints) > 1:
                    self._socket.disconnect(other)
            self._endpoints = [endpoint]
            self.phase = Phase.GREETING
            self.handshakes += 1
        elif event == zmq.EVENT_CLOSED:
            self._failed += 1
            if self._failed >= len(self._endpoints):
                self._finish(Cause.UNREACHABLE, retry_after_s=0.0)

    def _closed(self, endpoint: str) -> None:
        if self.phase is Phase.UP:
            self._finish(Cause.LOST)
            return
        if self._past.is_proven and trio.current_time() < self._look_until:
            self._absence = Cause.ABSENT
            self.phase = Phase.CONNECTING  # libzmq tries again
            return
        self._past.shunned = endpoint
        if self._past.is_proven:
            self._finish(Cause.ABSENT, retry_after_s=PROXY_LOOK_S if self._proxy else 0.0)
        else:
            self._finish(Cause.UNPROVEN)


_ENDS: Final = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL,
    zmq.EVENT_DISCONNECTED,
    zmq.EVENT_CLOSED,
)
_LOOKED_AT: Final = int(
    zmq.EVENT_CONNECTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_DISCONNECTED
)


async def ask_as_guest(
    address: str,
    *,
    server_key: str,
    secret: str,
    question: bytes,
    timeout_s: float,
    proxy: Proxy | None = None,
) -> bytes:
    """Connect as whoever holds the token with this secret, and put its question to the hub.

    Asks again as long as the link fails and there is time: the hub knows a token half a second
    after it was made. Raises LinkLost with the last cause, TooSlowError if there was none.
    """
    keys, lost = guest_keys(secret), None
    async with open_connect(address, server_key=server_key, keys=keys, proxy=proxy) as connect:
        with trio.move_on_after(timeout_s):
            while True:
                link = await connect()
                try:
                    return await link.ask_as_guest(question)
                except LinkLost as error:
                    lost = error
                finally:
                    await link.aclose()
                await trio.sleep(GUEST_PAUSE_S)
    raise lost or trio.TooSlowError


class ZmqConnect:
    """Makes links to one hub; implements `link.Connect`. See `open_connect`."""

    def __init__(
        self,
        address: str,
        *,
        server_key: str,
        keys: KeyPair,
        settings: LinkSettings,
        context: zmq.Context[zmq.Socket[bytes]],
        nursery: trio.Nursery,
        proxy: Proxy | None = None,
    ) -> None:
        split_address(address)
        self._proxy = proxy
        self.address = address
        self._server_key = server_key
        self._keys = keys
        self._settings = settings
        self._context = context
        self._nursery = nursery
        self._past = Past()

    async def __call__(self, look_s: float | None = None) -> ZmqLink:
        """Start an attempt and return at once; the first receive tells what became of it.

        look_s   go on trying for a while, each time after one to two times as long

        Raises LinkLost when there are too few descriptors to start one.
        """
        await trio.lowlevel.checkpoint()
        if (free := descriptors.free()) < DESCRIPTORS_MIN:
            # libzmq would end the process when it gets none.
            detail = f"{free} of {descriptors.limit()} free"
            raise LinkLost(self.address, Cause.EXHAUSTED, detail, RETRY_S)
        socket = self._context.socket(zmq.DEALER)
        prepare(socket, self._settings)
        is_patient = look_s is None or self._past.links % 2 == 0
        connect_s = self._settings.connect_s if is_patient else IMPATIENT_S
        socket.setsockopt(zmq.RECONNECT_IVL, -1 if look_s is None else max(1, round(look_s * 1000)))
        socket.setsockopt(zmq.CONNECT_TIMEOUT, round(connect_s * 1000))
        socket.curve_serverkey = self._server_key.encode()
        socket.curve_publickey = self._keys.public.encode()
        socket.curve_secretkey = self._keys.secret.encode()
        link = ZmqLink(
            self.address, socket, self._settings, self._past, look_s=look_s, proxy=self._proxy,
            nursery=self._nursery,
        )  # fmt: skip
        self._past.links += 1
        self._nursery.start_soon(link._run)
        return link


@asynccontextmanager
async def open_connect(
    address: str,
    *,
    server_key: str,
    keys: KeyPair,
    settings: LinkSettings = DEFAULT_SETTINGS,
    proxy: Proxy | None = None,
) -> AsyncIterator[ZmqConnect]:
    """Yield a Connect for the hub at `address`; all its links end with the block.

    address     `tcp://host:port`, `tcp://[v6]:port`; ValueError otherwise
    server_key  the hub's public key in Z85; a hub that cannot prove it gets nothing
    proxy       what all of it goes through
    """
    context = new_context()
    try:
        async with trio.open_nursery() as nursery:
            yield ZmqConnect(
                address,
                server_key=server_key,
                keys=keys,
                settings=settings,
                context=context,
                nursery=nursery,
                proxy=proxy,
            )
            nursery.cancel_scope.cancel()
    finally:
        # All sockets are closed; this waits for the last farewell, at most `farewell_s`.
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(context.term)


def look_time_s(look_s: float) -> float:
    """Return how long a link goes on that looks about so often; longer than to its second look.

    Its first look is at its beginning: links that ended before the second would turn looks of a
    fleet at random times into looks of all at once.
    """
    return max(LOOK_S, LOOKS_MIN * 2 * look_s)


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of `tcp://host:port`; raises ValueError."""
    scheme, _, rest = address.partition("://")
    host, _, port = rest.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if scheme != "tcp" or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"{address!r} is no hub address: it would be tcp://host:port")
    return host, int(port)
