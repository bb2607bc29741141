"""The sockets of all Redis clients, owned by one task.

A task a client costs a switch for every request; with fifty clients on a small machine that is most
of the time. Here one task waits on one epoll, runs whatever has arrived, and sends replies when the
commit they wait for is on disk (I1): while a sync is under way, the next commit fills.

A client that does not read its replies is not read from either, until it does; one whose pushes
pile up is cut off (I7).
"""

import logging
import resource
import select
import socket
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from operator import le
from typing import TYPE_CHECKING, Final

import trio

from edgesync._native.resp import Parser, Push, ReplyError, encode
from edgesync.cells import Reply
from edgesync.cells.commands import TABLE
from edgesync.errors import StoreError, StoreFull
from edgesync.serve.resp.edge import Later, Site
from edgesync.serve.resp.session import House, Session
from edgesync.store.cells import EdgeCells

if TYPE_CHECKING:
    from edgesync.serve.resp.gather import Gather
    from edgesync.serve.resp.timeseries import TimeSeries

log = logging.getLogger(__name__)

CHUNK: Final = 64 * 1024
# Replies on their way to one client before nothing more is read from it.
UNSENT_MAX: Final = 1 << 20
# … and before a client that only listens is cut off.
PUSHED_MAX: Final = 8 << 20
EVENTS_A_TURN: Final = 256
REPLIES_A_TIME: Final = 256
SMALL_BYTES: Final = 1024
LARGE: Final = (list, dict, set)
EXPIRE_EVERY_S: Final = 0.25
EXPIRE_FAILED_S: Final = 60.0
Gates = tuple[int, int]  # of cells, of points
READ, WRITE = select.EPOLLIN, select.EPOLLOUT
NO_GATES: Final[Gates] = (0, 0)
GONE: Final = select.EPOLLHUP | select.EPOLLERR


class Client:
    """One connection: what it has sent, and what it has not read yet."""

    __slots__ = (
        "due", "events", "held", "out", "out_bytes", "parser", "pushed", "session", "socket",
        "todo", "waiting", "waiting_bytes",
    )  # fmt: skip

    def __init__(self, connection: socket.socket, parser: Parser) -> None:
        self.socket = connection
        self.parser = parser
        self.session: Session
        self.todo: deque[Sequence[bytes]] = deque()
        # Replies that wait for commits: their generations, the bytes, how many replies they are.
        self.waiting: deque[tuple[Gates, bytes, int]] = deque()
        self.out: deque[bytes] = deque()
        self.out_bytes = self.waiting_bytes = 0
        self.pushed: list[Push] = []
        self.events = READ
        self.held: trio.CancelScope | None = None  # it waits for something else than a commit
        self.due = False  # it has something to be sent, and is in the list of those

    @property
    def unsent(self) -> int:
        """Bytes of replies that wait for a commit, or for the client."""
        return self.out_bytes + self.waiting_bytes


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
        self._cells = cells
        self._epoll: select.epoll
        self._listening: socket.socket
        self._is_durable = durability == "always"
        self._clients: dict[int, Client] = {}
        self._of_session: dict[int, Client] = {}
        self._due: list[Client] = []
        self._working: Client | None = None
        self._nursery: trio.Nursery

    async def serve(
        self, host: str, port: int, *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Listen and answer; `started` gives the port."""
        _allow_files(self.house.facts.clients_max)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family, backlog=1024)
        with listening, select.epoll() as epoll:
            listening.setblocking(False)
            epoll.register(listening.fileno(), READ)
            self._epoll, self._listening = epoll, listening
            self.house.facts.port = listening.getsockname()[1]
            self._cells.on_commit(partial(self._committed, 0))
            task_status.started(self.house.facts.port)
            try:
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

    def _turn(self) -> bool:
        """Serve whoever is ready; returns whether anybody was."""
        ready = self._epoll.poll(0, EVENTS_A_TURN)
        for number, events in ready:
            if number == self._listening.fileno():
                self._accept()
                continue
            client = self._clients.get(number)
            if client is None:
                continue
            if events & READ:
                self._read(client)
            elif events & GONE:
                self._close(client)
                continue
            if events & WRITE and number in self._clients:
                self._send(client)
                self._work(client)
        self._flush()
        return bool(ready)

    # -- connections ---------------------------------------------------------------------------

    def _accept(self) -> None:
        while True:
            try:
                connection, address = self._listening.accept()
            except BlockingIOError:
                return
            except OSError as error:
                log.warning("a client could not be let in: %s", error)
                return
            connection.setblocking(False)
            if len(self._clients) >= self.house.facts.clients_max:
                self.house.facts.rejected += 1
                connection.send(b"-ERR max number of clients reached\r\n")
                connection.close()
                continue
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client = Client(connection, Parser(bytes_max=self._cells.call.value_max + 1024))
            send = partial(self._push, client)
            client.session = self.house.admit(f"{address[0]}:{address[1]}", send)
            client.parser.is_stranger = not client.session.is_known
            self._clients[connection.fileno()] = client
            self._of_session[client.session.number] = client
            self._epoll.register(connection.fileno(), READ)

    def _close(self, client: Client) -> None:
        number = client.socket.fileno()
        if self._clients.pop(number, None) is None:
            return
        self._epoll.unregister(number)
        del self._of_session[client.session.number]
        if client.held is not None:
            client.held.cancel()
        self.house.doomed.discard(client.session.number)
        client.session.close()
        client.socket.close()

    def _listen_for(self, client: Client, write: int) -> None:
        """Read from a client only when it has been served what it sent before."""
        events = write if client.todo or client.held else write | READ
        if client.events != events and client.socket.fileno() in self._clients:
            client.events = events
            self._epoll.modify(client.socket.fileno(), events)

    # -- requests ------------------------------------------------------------------------------

    def _read(self, client: Client) -> None:
        try:
            chunk = client.socket.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        if not chunk:
            self._close(client)
            return
        client.todo.extend(client.parser.feed(chunk))
        self._work(client)

    def _work(self, client: Client) -> None:
        """Run what the client asked for, as long as it takes its replies."""
        self._working = client
        session, todo, replies = client.session, client.todo, list[Reply]()
        while todo and client.unsent < UNSENT_MAX and not (session.is_over or client.held):
            request = todo.popleft()
            if session.is_plain and request[0] in TABLE:
                reply = session.answer(request)
                replies.append(reply)
                if len(replies) < REPLIES_A_TIME and _is_small(reply):
                    continue
            else:
                proto = session.proto
                found = self._run(session, request)
                # What was asked before HELLO is answered as it was then. And like Redis: what it
                # published to itself comes before the answer to PUBLISH.
                self._owe(client, replies, proto)
                replies = [*client.pushed, *found]
                client.pushed.clear()
                if isinstance(replies[-1], Later):
                    self._hold(client, replies.pop())
                client.parser.is_stranger = not session.is_known
            self._owe(client, replies, session.proto)
            replies = []
        if not todo and client.parser.error and not (session.is_over or client.held):
            replies.append(ReplyError(f"ERR {client.parser.error}"))
            session.is_over = True
        self._owe(client, replies, session.proto)
        self._working = None
        # What there is to send goes out at the end of the turn, nearly always at once.
        self._listen_for(client, client.events & WRITE)
        if self.house.doomed:
            self._kill_doomed()

    def _run(self, session: Session, request: Sequence[bytes]) -> list[Reply]:
        """Run one request; a mistake of ours costs its client an answer, nobody more (I8)."""
        try:
            return session.run(request)
        except Exception:
            log.exception("a request failed: %.100r", request[0])
            return [ReplyError("ERR this request failed at the edge; its log says why")]

    def _hold(self, client: Client, later: Reply) -> None:
        """Let a client wait; what it has asked for after it waits as well."""
        assert isinstance(later, Later)
        client.held = trio.CancelScope()
        self._nursery.start_soon(self._wait_for, client, client.held, later)

    async def _wait_for(self, client: Client, scope: trio.CancelScope, later: Later) -> None:
        with scope:
            reply = await later.wait()
        if scope.cancelled_caught:
            return  # the client has gone
        client.held = None
        self._owe(client, [reply], client.session.proto)
        self._work(client)
        self._flush()

    def _owe(self, client: Client, replies: Sequence[object], proto: int) -> None:
        """Send replies when what they rest on is on disk; those of one client in their order."""
        if not replies:
            return
        raw = encode(replies, proto)
        gates = self._gates() if self._is_durable else NO_GATES
        if gates != NO_GATES or client.waiting:
            client.waiting.append((gates, raw, len(replies)))
            client.waiting_bytes += len(raw)
            return
        self._let_go(client, raw)

    def _let_go(self, client: Client, raw: bytes) -> None:
        """Send at the end of the turn."""
        client.out.append(raw)
        client.out_bytes += len(raw)
        if not client.due:
            client.due = True
            self._due.append(client)

    def _push(self, client: Client, push: Push) -> None:
        """Something for a subscriber. It comes after the replies of what it asked before."""
        if client.unsent > PUSHED_MAX:
            log.warning("a subscriber does not read, cut off: %s", client.session.address)
            self.house.doomed.add(client.session.number)
            return
        if client is self._working:
            client.pushed.append(push)
            return
        self._owe(client, [push], client.session.proto)

    def _kill_doomed(self) -> None:
        while self.house.doomed:
            self._close(self._of_session[self.house.doomed.pop()])

    # -- replies -------------------------------------------------------------------------------

    def _gates(self) -> Gates:
        gather = self._gather
        return self._cells.gate(), 0 if gather is None else gather.gate()

    def _open_series(self) -> "TimeSeries":
        """Series are asked for: from here on points are committed, too."""
        from edgesync.serve.resp.timeseries import TimeSeries  # with what it needs, 1 MB

        assert self._make_gather is not None
        self._gather = self._make_gather()
        self._gather.on_commit(partial(self._committed, 1))
        self._nursery.start_soon(self._gather.keep_committing)
        return TimeSeries(self._gather, self.house.facts.wall_ns)

    def _committed(self, kind: int, generation: int, error: StoreError | None) -> None:
        """Let go what waited for this commit; or say what came of it, to all who waited."""
        if error is None:
            self._done[kind] = generation
        else:
            for client in self._clients.values():
                self._refuse(client, kind, error)
        for client in list(self._clients.values()):
            waiting = client.waiting
            while waiting and all(map(le, waiting[0][0], self._done)):
                _, raw, _ = waiting.popleft()
                client.waiting_bytes -= len(raw)
                self._let_go(client, raw)
        self._flush()

    def _refuse(self, client: Client, kind: int, error: StoreError) -> None:
        """Put an error in place of every reply that rests on a commit that was refused."""
        for at, (gates, _, count) in enumerate(client.waiting):
            if gates[kind] > self._done[kind]:
                raw = encode([_refusal(error)] * count, client.session.proto)
                client.waiting[at] = (NO_GATES, raw, count)
        client.waiting_bytes = sum(len(raw) for _, raw, _ in client.waiting)

    def _flush(self) -> None:
        while self._due:
            due, self._due = self._due, []
            for client in due:
                client.due = False
                if client.socket.fileno() in self._clients:
                    self._send(client)
                    if client.todo and client.socket.fileno() in self._clients:
                        self._work(client)

    def _send(self, client: Client) -> None:
        try:
            while client.out:
                raw = client.out[0] if len(client.out) == 1 else b"".join(client.out)
                sent = client.socket.send(raw)
                client.out_bytes -= sent
                client.out.clear()
                if sent < len(raw):
                    client.out.append(raw[sent:])
                    break
        except BlockingIOError:
            pass
        except OSError:
            self._close(client)
            return
        if client.session.is_over and not client.out and not client.waiting:
            self._close(client)
            return
        self._listen_for(client, WRITE if client.out else 0)

    async def _expire(self) -> None:
        """Remove keys past their deadline; readers do not see them in any case."""
        pause_s = EXPIRE_EVERY_S
        while True:
            await trio.sleep(pause_s)
            pause_s = EXPIRE_EVERY_S
            try:
                while self._cells.expire():
                    await trio.lowlevel.checkpoint()
            except Exception as error:  # A damaged row costs its key, not the site: I8.
                pause_s = EXPIRE_FAILED_S
                log.error("keys past their deadline could not be removed: %r", error)


def _is_small(reply: object) -> bool:
    """Whether many such replies may be gathered before they are counted."""
    return len(reply) <= SMALL_BYTES if type(reply) is bytes else not isinstance(reply, LARGE)


def _refusal(error: StoreError) -> ReplyError:
    if isinstance(error, StoreFull):
        return ReplyError(f"OOM nothing was stored: {error}")
    return ReplyError(f"MISCONF nothing was stored: {error}")


def _allow_files(clients: int) -> None:
    """Let this process have as many open files as clients may come."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = clients + 256
    if soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        if most < wanted:
            log.warning("only %d open files are allowed, for %d clients", most, clients)
