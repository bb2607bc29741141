"""Tunnels from this machine to what an edge can reach, over the edge's link.

Whoever may change things asks for one; the edge refuses or grants it. The hub then listens on a
loopback address, for as long as the tunnel lasts: programs here connect to that, and so do those
elsewhere that come to this machine over SSH. Both ends keep the time, and a tunnel ends with its
session. Who wanted it, and what came of it, is in the audit before the edge is asked and when it is
over; a hub that cannot write the one does not do the other.
"""

import ipaddress
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from random import Random, SystemRandom
from typing import Final, Protocol

import msgspec
import trio

from edgesync_transport import descriptors
from edgesync_transport.link import Peer
from edgesync_transport.messages import (
    CONNECTIONS_MAX,
    Message,
    TunnelClose,
    TunnelCode,
    TunnelData,
    TunnelOpen,
    TunnelOpened,
)
from edgesync_transport.receiver import Session
from edgesync_transport.seldom import Seldom
from edgesync_transport.tunnel.end import FAREWELL_S, TunnelEnd
from edgesync_transport.tunnel.stream import FRAMES_MAX, StreamFault
from edgesync_transport.tunnel.tunnel import End, Tunnel
from hubd.errors import HubError

log = logging.getLogger(__name__)

# At a time; what one edge takes is its own setting.
TUNNELS_MAX: Final = 64
TENANT_TUNNELS_MAX: Final = 16
LONGEST_S: Final = 86_400.0
# The edge stores that it grants it, and then answers.
ANSWER_S: Final = 20.0
# Tunnels that are over and still shown.
OVER_KEPT: Final = 100
# Messages for edges that wait to be handed to the link, which takes each at once: what may be under
# way in all connections of all tunnels, and 3 of each that say what became of others.
OUTGOING_MAX: Final = TUNNELS_MAX * CONNECTIONS_MAX * (FRAMES_MAX + 3)
BACKLOG: Final = 16


class TunnelRefused(HubError):
    """No tunnel; the sentence says why. `field` is what was asked for wrongly, if it was that."""

    def __init__(self, reason: str, *, field: str = "") -> None:
        super().__init__(reason)
        self.field = field


class NewTunnel(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody wants: `host:port` as the edge reaches it; `listen` is a loopback address."""

    edge: str
    tenant: str
    host: str
    port: int
    for_s: float
    by: str
    listen: str = "127.0.0.1"
    listen_port: int = 0

    @property
    def target(self) -> str:
        return joined(self.host, self.port)


class TunnelView(msgspec.Struct, frozen=True, kw_only=True):
    """A tunnel, as an operator sees it. Bytes are sent to the edge, and received from it.

    state         opening, open or over
    address       where this machine listens for it; "" before and after
    connections   that are open now; `opened` counts all there were
    code, reason  why it is over
    """

    tunnel: str
    edge: str
    target: str
    by: str
    state: str
    address: str
    opened_ns: int
    for_s: float
    left_s: float
    connections: int
    opened: int
    sent_bytes: int
    received_bytes: int
    code: str = ""
    reason: str = ""


class Sessions(Protocol):
    """The hub's link, as far as tunnels need it."""

    def session(self, edge: str) -> Session | None: ...

    async def tell(self, peer: Peer, message: Message) -> None: ...


class HubTunnel:
    """A tunnel of this hub; `end` is there once the edge has granted it."""

    def __init__(self, number: int, asked: NewTunnel, session: Session, opened_ns: int) -> None:
        self.number = number
        self.asked = asked
        self.peer = session.peer
        self.epoch = session.epoch
        self.opened_ns = opened_ns
        self.end: TunnelEnd | None = None
        self.ended: End | None = None
        self.ended_by = ""
        self.address = ""
        self.answered = trio.Event()  # by the edge
        self.settled = trio.Event()  # granted and listened for, or over
        self.over = trio.Event()

    @property
    def name(self) -> str:
        return f"{self.number:08x}"

    async def wait_over(self, wait_s: float) -> None:
        """Return once it is over and on record, or after so long."""
        with trio.move_on_after(wait_s):
            await self.over.wait()

    def view(self) -> TunnelView:
        tunnel = self.end.tunnel if self.end else None
        is_over = self.ended is not None
        left_s = 0.0 if tunnel is None or is_over else tunnel.expires_at - trio.current_time()
        return TunnelView(
            tunnel=self.name, edge=self.asked.edge, target=self.asked.target, by=self.asked.by,
            state="over" if is_over else "open" if self.address else "opening",
            address="" if is_over else self.address, opened_ns=self.opened_ns,
            for_s=tunnel.for_s if tunnel else self.asked.for_s, left_s=max(0.0, left_s),
            connections=len(tunnel.streams) if tunnel else 0, opened=tunnel.opened if tunnel else 0,
            sent_bytes=tunnel.sent if tunnel else 0,
            received_bytes=tunnel.received if tunnel else 0,
            code=self.ended.code.name.lower() if self.ended else "",
            reason=self.ended.reason if self.ended else "",
        )  # fmt: skip


class Tunnels:
    """See the module. `run` lasts until cancelled.

    note   puts an entry into the audit (`hubd.registry.audit.Audit.note`), in a thread
    """

    def __init__(
        self,
        note: Callable[..., None],
        *,
        wall_ns: Callable[[], int] = time.time_ns,
        random: Random | None = None,
    ) -> None:
        self._note_entry = note
        self._seldom = Seldom()
        self._wall_ns = wall_ns
        self._random = random or SystemRandom()
        self._open: dict[int, HubTunnel] = {}
        self._over = deque[HubTunnel](maxlen=OVER_KEPT)
        self._send, self._outgoing = trio.open_memory_channel[tuple[Peer, Message]](OUTGOING_MAX)
        self._link: Sessions | None = None
        self._nursery: trio.Nursery | None = None

    async def run(
        self, link: Sessions, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        async with trio.open_nursery() as nursery:
            self._link, self._nursery = link, nursery
            task_status.started()
            async for peer, message in self._outgoing:
                await link.tell(peer, message)

    # -- for operators ---------------------------------------------------------------------------

    async def open(self, asked: NewTunnel) -> TunnelView:
        """Return the tunnel once it can be used; raises TunnelRefused, and HubError without audit.

        It goes on when whoever asked has gone: it ends by itself.
        """
        session = self._session(asked)
        number = self._random.getrandbits(32)
        while number in self._open:
            number = self._random.getrandbits(32)
        one = HubTunnel(number, asked, session, self._wall_ns())
        self._open[number] = one
        try:
            listening = await listen(asked)
            try:
                await self._note(one, "tunnels", asked.by)
            except BaseException:
                listening.close()
                raise
        except BaseException:
            del self._open[number]
            raise
        assert self._nursery is not None
        self._nursery.start_soon(self._keep, one, listening)
        await one.settled.wait()
        if one.ended is not None:
            reason = f"no tunnel to {asked.target} at {asked.edge}: {one.ended.reason}"
            raise TunnelRefused(reason, field="host")
        return one.view()

    def _session(self, asked: NewTunnel) -> Session:
        """Return the session of an edge that takes tunnels, if there may be one more."""
        edge = asked.edge
        session = self._link.session(edge) if self._link is not None else None
        if session is None:
            raise TunnelRefused(f"{edge} is not connected: a tunnel needs its link", field="edge")
        if not session.has_tunnels:
            raise TunnelRefused(
                f"{edge} takes no tunnels: `allow` under [tunnel] in its edge.toml is empty, or "
                "its edgesync is too old for them",
                field="edge",
            )
        theirs = sum(one.asked.tenant == asked.tenant for one in self._open.values())
        if len(self._open) >= TUNNELS_MAX or theirs >= TENANT_TUNNELS_MAX:
            raise TunnelRefused(
                f"{theirs} tunnels of {asked.tenant} are open, {len(self._open)} in all, as many "
                "as may be: close one"
            )
        if descriptors.are_short():
            descriptors.note_shortage("tunnel")
            raise TunnelRefused("the hub is short of file descriptors; raise LimitNOFILE=")
        return session

    def some(self, sees: Callable[[str], bool]) -> Sequence[TunnelView]:
        """Return the tunnels of edges that are seen, the newest first; some are over."""
        found = [*self._over, *self._open.values()]
        return [one.view() for one in reversed(found) if sees(one.asked.edge)]

    def find(self, name: str, sees: Callable[[str], bool]) -> HubTunnel | None:
        for one in (*self._open.values(), *reversed(self._over)):
            if one.name == name and sees(one.asked.edge):
                return one
        return None

    def close(self, one: HubTunnel, by: str) -> None:
        """End a tunnel; its `over` is set once that is on record."""
        if one.ended is None:
            one.ended_by = by
            self._end(one, End(TunnelCode.CLOSED, f"closed by {by} at the hub"))

    # -- from edges ------------------------------------------------------------------------------

    def hear(self, edge: str, message: TunnelOpened | TunnelData | TunnelClose) -> None:
        """Take what an edge says in its live session; of a tunnel that is its own."""
        one = self._open.get(message.tunnel)
        if one is None or one.asked.edge != edge or one.epoch != message.epoch:
            return
        if isinstance(message, TunnelOpened):
            self._granted(one, message)
        elif one.end is not None:
            one.end.hear(message)
        elif isinstance(message, TunnelClose) and message.stream == 0:
            self._end(one, End(message.code, f"the edge refuses it: {message.reason}"))

    def session_over(self, edge: str) -> None:
        for one in self._open.values():
            if one.asked.edge == edge:
                self._end(one, End(TunnelCode.LOST, "the session of the edge is over"))

    def _granted(self, one: HubTunnel, told: TunnelOpened) -> None:
        if one.end is None and one.ended is None:
            tunnel = Tunnel(
                one.epoch, one.number, now=trio.current_time(), connections=told.connections,
                for_s=min(told.for_s, one.asked.for_s),
            )  # fmt: skip
            one.end = TunnelEnd(tunnel, partial(self._tell, one))
            one.answered.set()

    def _end(self, one: HubTunnel, end: End) -> None:
        """End a tunnel, whether the edge has granted it or not."""
        if one.end is not None:
            one.end.end(end)
        elif one.ended is None:
            one.ended = end
            self._tell(one, TunnelClose(
                epoch=one.epoch, tunnel=one.number, stream=0, code=end.code, reason=end.reason,
            ))  # fmt: skip
            one.answered.set()

    def _tell(self, one: HubTunnel, message: Message) -> None:
        try:
            self._send.send_nowait((one.peer, message))
        except trio.WouldBlock:  # the other end notices what is missing
            if (again := self._seldom.ask(one.asked.edge)) is not None:
                log.warning(
                    "tunnel %s: a message to %s was dropped; %d more before",
                    one.name, one.asked.edge, again,
                )  # fmt: skip

    # -- its life --------------------------------------------------------------------------------

    async def _keep(self, one: HubTunnel, listening: trio.socket.SocketType) -> None:
        """Ask the edge, listen until the tunnel is over, and note what came of it."""
        asked = one.asked
        end = End(TunnelCode.CLOSED, "the hub stops")
        try:
            with listening:
                self._tell(one, TunnelOpen(
                    epoch=one.epoch, tunnel=one.number, host=asked.host, port=asked.port,
                    for_s=asked.for_s, by=asked.by,
                ))  # fmt: skip
                with trio.move_on_after(ANSWER_S):
                    await one.answered.wait()
                if one.end is None:
                    self._end(one, End(TunnelCode.LOST, f"no answer in {ANSWER_S:g} s"))
                    end = one.ended or end
                else:
                    end = await self._serve(one, one.end, listening)
        except Exception as error:  # What one tunnel meets must not end all others (I8).
            log.exception("tunnel %s failed", one.name)
            end = End(TunnelCode.RESET, f"the hub failed: {error!r}")
        finally:
            self._end(one, end)
            one.ended = end
            self._open.pop(one.number, None)
            self._over.append(one)
            one.settled.set()
            log.info("tunnel closed: %s", one.view())
            with trio.move_on_after(FAREWELL_S, shield=True):
                try:
                    await self._note(one, "tunnels/close", one.ended_by or asked.by)
                except Exception as error:  # it is said here at least, and costs no other (I8)
                    log.error("audit not written: %r; %s", error, one.view())
            one.over.set()

    async def _serve(
        self, one: HubTunnel, end: TunnelEnd, listening: trio.socket.SocketType
    ) -> End:
        door = descriptors.Door("tunnel", end.tunnel.connections)

        async def carry(connection: trio.socket.SocketType) -> None:
            async def connected() -> trio.SocketStream:
                await trio.lowlevel.checkpoint()
                return trio.SocketStream(connection)

            try:
                stream = end.open()
            except StreamFault:
                return  # the one before is still being closed
            await end.serve(stream, connected)

        async def listen() -> None:
            try:
                await door.serve(listening, carry, nursery)
            except OSError as error:
                end.end(End(TunnelCode.RESET, f"the hub cannot listen: {error}"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            one.address = joined(*listening.getsockname()[:2])
            log.info("tunnel opened: %s", one.view())
            one.settled.set()
            found = await end.run()
            nursery.cancel_scope.cancel()
        return found

    async def _note(self, one: HubTunnel, what: str, by: str) -> None:
        view = one.view()
        facts: dict[str, str | int | float] = {
            "tunnel": view.tunnel, "target": view.target, "for_s": view.for_s,
        }  # fmt: skip
        if view.state == "over":
            facts |= {
                "code": view.code, "reason": view.reason, "connections": view.opened,
                "sent_bytes": view.sent_bytes, "received_bytes": view.received_bytes,
            }  # fmt: skip
        await trio.to_thread.run_sync(partial(
            self._note_entry, tenant=one.asked.tenant, by=by, what=what, edge=one.asked.edge,
            detail=msgspec.json.encode(facts).decode(),
        ))  # fmt: skip


async def listen(asked: NewTunnel) -> trio.socket.SocketType:
    """Return a socket that listens on a loopback address; raises TunnelRefused."""
    try:
        address = ipaddress.ip_address(asked.listen)
    except ValueError:
        address = None
    if address is None or not address.is_loopback:
        raise TunnelRefused(
            f"{asked.listen} is no loopback address: whoever may use the tunnel comes to this "
            "machine first, over SSH say",
            field="listen",
        )
    family = trio.socket.AF_INET6 if address.version == 6 else trio.socket.AF_INET
    listening = trio.socket.socket(family, trio.socket.SOCK_STREAM)
    try:
        listening.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_REUSEADDR, 1)
        await listening.bind((asked.listen, asked.listen_port))
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        at = joined(asked.listen, asked.listen_port)
        raise TunnelRefused(f"cannot listen on {at}: {error.strerror}", field="listen") from error
    return listening


def joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
