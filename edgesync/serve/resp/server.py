"""The sockets of all Redis clients, owned by one task.

A task a client costs a switch for every request; with fifty clients on a small machine that is most
of the time. Here one task waits on one epoll, runs whatever has arrived, and sends replies when the
commit they wait for is on disk (I1): while a sync is under way, the next commit fills.

A client that does not read its replies is not read from either, until it does; one whose pushes
pile up is cut off (I7).
"""

import contextlib
import logging
import select
import socket
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from edgesync._native.connection import FAILED, GONE, HELD, LEFT, OPEN, Connection
from edgesync._native.resp import Parser, ReplyError
from edgesync.cells import Reply
from edgesync.errors import StoreError, StoreFull
from edgesync.serve.listeners import Listeners, clients_limit
from edgesync.serve.resp.edge import Later, Site
from edgesync.serve.resp.session import House, Session
from edgesync.store.edgecells import EdgeCells

if TYPE_CHECKING:
    from edgesync.serve.resp.gather import Gather
    from edgesync.serve.resp.timeseries import TimeSeries

log = logging.getLogger(__name__)

# Arguments and commands are at least as large, whatever `value_limit` is: there are other ones.
ARGUMENT_BYTES_MIN: Final = 64 << 10
COMMAND_BYTES_MIN: Final = 64 << 20
# Replies on their way to one client before nothing more is read from it.
UNSENT_MAX: Final = 1 << 20
# … and before a client that only listens is cut off.
PUSHED_MAX: Final = 8 << 20
EVENTS_A_TURN: Final = 256
EXPIRE_EVERY_S: Final = 0.25
EXPIRE_FAILED_S: Final = 60.0
Gates = tuple[int, int]  # of cells, of points
READ, WRITE = select.EPOLLIN, select.EPOLLOUT
LOST: Final = select.EPOLLHUP | select.EPOLLERR | select.EPOLLRDHUP


class Client(Connection):
    """A connection and whose it is.

    events    what epoll waits for
    held      ends its waiting for something else than a commit
    pushed    what it published to itself, before the answer to that
    is_due    it is in the list of those that something is sent to
    """

    __slots__ = ("events", "held", "is_due", "local_address", "pushed", "seen_at", "session",
                 "socket")  # fmt: skip

    def __init__(self, connection: socket.socket, parser: Parser) -> None:
        super().__init__(connection.fileno(), parser)
        self.socket = connection
        self.session: Session
        self.local_address = _shown(connection.getsockname())
        self.seen_at = time.monotonic()
        self.pushed: list[Reply] = []
        self.events = READ
        self.held: trio.CancelScope | None = None
        self.is_due = False

    @property
    def held_bytes(self) -> int:
        """Bytes of a request that is not complete."""
        return self.parser.held_bytes


class RespServer:
    """Answers Redis clients out of `cells` until cancelled.

    stop          what SHUTDOWN does; None where it is not the client's to do
    make_gather   of points, when the first TS.* comes; None where there are no series
    """

    def __init__(
        self,
        cells: EdgeCells,
        *,
        site: Site | None = None,
        password: str = "",
        durability: str = "always",
        clients_max: int = 10_000,
        edge: str = "",
        notify_keyspace_events: str = "KEA",
        stop: Callable[[], None] | None = None,
        make_gather: Callable[[], "Gather"] | None = None,
    ) -> None:
        self.house = House(
            cells, site=site, password=password, stop=stop,
            open_series=None if make_gather is None else self._open_series,
        )  # fmt: skip
        self._make_gather = make_gather
        self._gather: Gather | None = None
        self._done = [0, 0]
        self.house.facts.durability = durability
        self.house.facts.clients_max = clients_max
        self.house.facts.edge = edge
        self.house.notifications.configure(notify_keyspace_events)
        self._cells = cells
        self._epoll: select.epoll
        self._listeners: Listeners
        self._is_durable = durability == "always"
        self._clients: dict[int, Client] = {}
        self._strangers: dict[int, Client] = {}  # who has not shown the password, oldest first
        self._of_session: dict[int, Client] = {}
        self._due: list[Client] = []
        self._waiting: set[Client] = set()  # for commits
        self._working: Client | None = None
        self._is_in_turn = False
        self._nursery: trio.Nursery

    async def serve(
        self, host: str, port: int, *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Listen and answer; `started` gives the port."""
        facts = self.house.facts
        facts.clients_max = clients_limit("redis", facts.clients_max)
        with select.epoll() as epoll:
            self._epoll, self._listeners = epoll, Listeners("redis", epoll)
            try:
                self._listeners.listen(host, port)
                (facts.port,) = self._listeners.ports()
                self._cells.on_commit(partial(self._committed, 0))
                task_status.started(facts.port)
                async with trio.open_nursery() as nursery:
                    self._nursery = nursery
                    nursery.start_soon(self._expire)
                    while True:
                        await trio.lowlevel.wait_readable(epoll.fileno())
                        # While there is work, a look is cheaper than a wait (half of a GET).
                        while self._turn():
                            await trio.lowlevel.checkpoint()
            finally:
                for client in list(self._clients.values()):
                    self._close(client)
                self._listeners.close()

    def _turn(self) -> bool:
        """Serve whoever is ready; returns whether anybody was."""
        ready = self._epoll.poll(0, EVENTS_A_TURN)
        self._is_in_turn = True
        for number, events in ready:
            if number in self._listeners:
                self._accept(number)
                continue
            client = self._clients.get(number)
            if client is None:
                continue
            client.seen_at = time.monotonic()
            if events == READ and client.session.is_plain and not self.house.monitors:
                self._serve(client)
            elif events & READ:
                if not client.receive():
                    self._close(client)
                    continue
                self._work(client)
            elif events & LOST:
                self._close(client)
                continue
            if events & WRITE and self._is_open(client):
                self._send(client)
                self._work(client)
        self._is_in_turn = False
        self._flush()
        return bool(ready)

    # -- connections ---------------------------------------------------------------------------

    def _accept(self, number: int) -> None:
        for connection, address in self._listeners.accept(number, self._nursery):
            if not self._has_room():
                self.house.facts.rejected += 1
                with connection, contextlib.suppress(OSError):  # it may be gone already
                    connection.send(b"-ERR max number of clients reached\r\n")
                continue
            client = Client(connection, self._parser())
            send = partial(self._push, client)
            client.session = self.house.admit(_shown(address), send, client)
            self._clients[connection.fileno()] = client
            self._note_known(client)
            self._of_session[client.session.number] = client
            self._epoll.register(connection.fileno(), READ)

    def _has_room(self) -> bool:
        """Make room for one more, if need be of those who have not shown the password."""
        if len(self._clients) >= self.house.facts.clients_max and self._strangers:
            self.house.facts.rejected += 1
            self._close(next(iter(self._strangers.values())))
        return len(self._clients) < self.house.facts.clients_max

    def _note_known(self, client: Client) -> None:
        """Take in whether it has shown the password."""
        client.parser.is_stranger = is_stranger = not client.session.is_known
        if is_stranger:
            self._strangers.setdefault(client.number, client)
        else:
            self._strangers.pop(client.number, None)

    def _close(self, client: Client) -> None:
        if not self._is_open(client):
            return
        del self._clients[client.number]
        self._strangers.pop(client.number, None)
        self._waiting.discard(client)
        self._epoll.unregister(client.number)
        del self._of_session[client.session.number]
        if client.held is not None:
            client.held.cancel()
        self.house.doomed.discard(client.session.number)
        client.session.close()
        client.socket.close()

    def _is_open(self, client: Client) -> bool:
        return self._clients.get(client.number) is client  # another one may have its number now

    def _listen_for(self, client: Client, write: int) -> None:
        """Read from a client only when it has been served what it sent before."""
        events = write if client.has_requests or client.held else write | READ
        if client.held:
            events |= select.EPOLLRDHUP  # nobody is read from who waits, and may have gone
        if client.events != events and self._is_open(client):
            client.events = events
            self._epoll.modify(client.number, events)

    # -- requests ------------------------------------------------------------------------------

    def _serve(self, client: Client) -> None:
        """Do all that most clients ask for: commands on keys, one at a time or a few."""
        self.house.serving = client.session
        done = client.serve(self._cells, client.session.proto, UNSENT_MAX, self._gates)
        if done == HELD:
            self._waiting.add(client)
        elif done == LEFT:
            self._work(client)
        elif done == GONE:
            self._close(client)

    def _work(self, client: Client) -> None:
        """Run what the client asked for, as long as it takes its replies."""
        self._working = client
        session = client.session
        while (
            client.has_requests
            and client.unsent < UNSENT_MAX
            and not (session.is_over or client.held)
        ):
            # What most requests are: nothing but a command on keys.
            is_plain = session.is_plain and not self.house.monitors
            if not is_plain or not self._answer(client):
                self._run_next(client)
        if client.parser.error and not (client.has_requests or session.is_over or client.held):
            self._owe(client, [ReplyError(f"ERR {client.parser.error}")], session.proto)
            session.is_over = True
        self._working = None
        # What there is to send goes out at the end of the turn, nearly always at once.
        self._note_due(client)
        self._listen_for(client, client.events & WRITE)
        if self.house.doomed:
            self._kill_doomed()

    def _answer(self, client: Client) -> int:
        """Run what comes first as long as it is nothing but commands on keys."""
        self.house.serving = client.session
        return client.answer(self._cells, client.session.proto, UNSENT_MAX, self._gates)

    def _run_next(self, client: Client) -> None:
        """Run one request that may concern more than keys."""
        session = client.session
        found = self._run(session, client.take())
        # Like Redis: what it published to itself comes before the answer to PUBLISH.
        replies = [*client.pushed, *found]
        client.pushed.clear()
        if replies and isinstance(replies[-1], Later):
            self._hold(client, replies.pop())
        self._note_known(client)
        self._owe(client, replies, session.proto)

    def _parser(self) -> Parser:
        value_max = self._cells.call.value_max
        return Parser(
            bytes_max=max(value_max, ARGUMENT_BYTES_MIN),
            command_max=max(2 * value_max, COMMAND_BYTES_MIN),
        )

    def _run(self, session: Session, request: list[bytes]) -> list[Reply]:
        """Run one request; a mistake of ours costs its client an answer, nobody more (I8)."""
        try:
            return session.run(request)
        except Exception:
            log.exception("a request failed: %.100r", request[0])
            return [] if session.is_silent else [FAILED]

    def _hold(self, client: Client, later: Reply) -> None:
        """Let a client wait; what it has asked for after it waits as well."""
        assert isinstance(later, Later)
        client.held = trio.CancelScope()
        self._nursery.start_soon(self._wait_for, client, client.held, later)

    async def _wait_for(self, client: Client, scope: trio.CancelScope, later: Later) -> None:
        reply: Reply = FAILED
        with scope:
            try:
                reply = await later.wait()
            except Exception:  # as in `_run`
                log.exception("a request that waited failed")
        if scope.cancelled_caught:
            return  # the client has gone
        client.held = None
        if not client.session.is_silent:
            self._owe(client, [reply], client.session.proto)
        self._work(client)
        self._flush()

    def _owe(self, client: Client, replies: Sequence[object], proto: int) -> None:
        """Send replies when what they rest on is on disk; those of one client in their order."""
        client.owe(replies, proto, self._gates())
        self._note_due(client)

    def _note_due(self, client: Client) -> None:
        """Send at the end of the turn, or after a commit; of a full socket epoll tells."""
        if client.has_due and not (client.is_due or client.events & WRITE):
            client.is_due = True
            self._due.append(client)
        if client.is_waiting:
            self._waiting.add(client)

    def _push(self, client: Client, push: Reply) -> None:
        """Something for a subscriber. It comes after the replies of what it asked before."""
        number = client.session.number
        if number in self.house.doomed:
            return
        if client.unsent > PUSHED_MAX:
            log.warning("a subscriber does not read, cut off: %s", client.session.address)
            self.house.doomed.add(number)
            return
        if client is self._working:
            client.pushed.append(push)
            return
        self._owe(client, [push], client.session.proto)
        if not self._is_in_turn:  # what the hub brought, or a deadline: nobody else sends it
            trio.lowlevel.current_trio_token().run_sync_soon(self._flush, idempotent=True)

    def _kill_doomed(self) -> None:
        while self.house.doomed:
            self._close(self._of_session[self.house.doomed.pop()])

    # -- replies -------------------------------------------------------------------------------

    def _gates(self) -> Gates:
        """Return the commits that must come before what is sent now."""
        if not self._is_durable:
            return OPEN
        gather = self._gather
        return self._cells.gate(), 0 if gather is None else gather.gate()

    def _open_series(self) -> "TimeSeries":
        """Series are asked for: from here on points are committed, too."""
        from edgesync.serve.resp.timeseries import TimeSeries  # with what it needs, 1 MB

        assert self._make_gather is not None
        self._gather = self._make_gather()
        self._gather.on_commit(partial(self._committed, 1))
        self._cells.columns = self._gather.columns
        self._nursery.start_soon(self._gather.keep_committing)
        return TimeSeries(self._gather, self.house.facts.wall_ns)

    def _committed(self, kind: int, generation: int, error: StoreError | None) -> None:
        """Let go what waited for this commit; or say what came of it, to all who waited."""
        if error is None:
            self._done[kind] = generation
        waiting, self._waiting = self._waiting, set()
        for client in waiting:
            if error is not None:
                client.refuse(kind, self._done[kind], _refusal(error), client.session.proto)
            if client.session.is_over or not client.release(self._done):
                client.open(self._done)
                self._note_due(client)
        self._flush()

    def _flush(self) -> None:
        while self._due:
            due, self._due = self._due, []
            for client in due:
                client.is_due = False
                if self._is_open(client):
                    self._send(client)
                    if client.has_requests and self._is_open(client):
                        self._work(client)
        if self.house.doomed:
            self._kill_doomed()

    def _send(self, client: Client) -> None:
        if not client.send():
            self._close(client)
            return
        if client.session.is_over and not client.unsent:
            self._close(client)
            return
        self._listen_for(client, WRITE if client.has_due else 0)

    async def _expire(self) -> None:
        """Remove keys past their deadline; readers do not see them in any case."""
        pause_s = EXPIRE_EVERY_S
        while True:
            await trio.sleep(pause_s)
            pause_s = EXPIRE_EVERY_S
            try:
                while gone := self._cells.expire():
                    self.house.facts.expired += gone
                    await trio.lowlevel.checkpoint()
            except Exception as error:  # A damaged row costs its key, not the site: I8.
                pause_s = EXPIRE_FAILED_S
                log.error("keys past their deadline could not be removed: %r", error)


def _shown(address: tuple[str, int]) -> str:
    return f"{address[0]}:{address[1]}"


def _refusal(error: StoreError) -> ReplyError:
    if isinstance(error, StoreFull):
        return ReplyError(f"OOM nothing was stored: {error}")
    return ReplyError(f"MISCONF nothing was stored: {error}")
