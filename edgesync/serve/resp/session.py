"""Clients and what they share: one request in, its replies out.

No sockets here: the server sends replies when they are due. What a client may say beside commands
on keys is in tables of functions of a session and its arguments: connection, clients, admin,
transactions, messages, blocking, and edge.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from edgesync._native.commands import TABLE, EvictedReply, miscounted
from edgesync._native.resp import Push, ReplyError
from edgesync.cells import Reply
from edgesync.serve.resp import (
    admin,
    blocking,
    clients,
    connection,
    edge,
    info,
    messages,
    transactions,
)
from edgesync.serve.resp.channels import Channels
from edgesync.serve.resp.notifications import Notifications
from edgesync.serve.resp.slowlog import SlowLog
from edgesync.store.edgecells import EdgeCells

if TYPE_CHECKING:
    from edgesync.serve.resp.timeseries import TimeSeries

CONTAINERS: Final = (
    b"client", b"command", b"config", b"latency", b"memory", b"object", b"pubsub", b"script",
    b"slowlog",
)  # fmt: skip
WITHOUT_PASSWORD: Final = (b"auth", b"hello", b"quit", b"reset")
# A command of clients beside those on keys, and how many arguments it has, as in `Command`.
Own = Mapping[bytes, tuple[Callable[["Session", Sequence[bytes]], Reply], int]]


class Wire(Protocol):
    """What is known of a client's connection."""

    last: str

    @property
    def number(self) -> int: ...
    @property
    def local_address(self) -> str: ...
    @property
    def unsent(self) -> int: ...
    @property
    def held_bytes(self) -> int: ...
    @property
    def seen_at(self) -> float: ...


class House:
    """What all clients share.

    site         the node around the keys; None where there are only keys
    sessions     by number
    doomed       numbers of those whose connection is to be closed
    stop         what SHUTDOWN does; None where that is nobody's to do
    waiters      clients that wait for elements of keys
    watched      clients that watch keys for a transaction
    monitors     clients that are shown every command
    serving      whose command is carried out now
    is_in_exec   commands are those of one transaction
    """

    def __init__(
        self,
        cells: EdgeCells,
        *,
        site: edge.Site | None = None,
        password: str = "",
        stop: Callable[[], None] | None = None,
        open_series: "Callable[[], TimeSeries] | None" = None,
    ) -> None:
        self.cells = cells
        self.site = site
        self.password = password.encode()
        self.stop = stop
        self.sessions: dict[int, Session] = {}
        self.doomed: set[int] = set()
        self.facts = info.Facts()
        self.channels = Channels()
        self.notifications = Notifications(self)
        self.waiters = blocking.Waiters(self)
        self.watched = transactions.Watched(self)
        self.slowlog = SlowLog(self)
        self.monitors: dict[Session, None] = {}
        self.serving: Session | None = None
        self.is_in_exec = False
        self._next = 1
        self._open_series = open_series
        self._series: TimeSeries | None = None
        if cells.call.scripts is not None:
            cells.call.scripts.publish = self.channels.publish
            cells.call.scripts.on_command = partial(admin.show_to_monitors, self, "lua")

    @property
    def series(self) -> "TimeSeries":
        """What answers TS.*; raises ReplyError where there is none."""
        if self._series is None:
            if self._open_series is None:
                raise ReplyError("ERR there are no series here")
            self._series = self._open_series()
        return self._series

    def admit(
        self, address: str, send: Callable[[Reply], None], wire: Wire | None = None
    ) -> "Session":
        session = Session(self, self._next, address, send, wire)
        self.sessions[self._next] = session
        self._next += 1
        self.facts.connections += 1
        return session

    @property
    def commands(self) -> int:
        """Commands since the start or `reset_counts`; `errors` of them were answered by one."""
        return self.facts.commands + self.cells.commands

    @property
    def errors(self) -> int:
        return self.facts.errors + self.cells.errors

    def reset_counts(self) -> None:
        self.facts.reset()
        self.facts.commands -= self.cells.commands
        self.facts.errors -= self.cells.errors

    def refresh_time(self) -> None:
        """Let the keys be as they are now: what is past its deadline is absent."""
        self.cells.space.now_ms = self.cells.now_ms()


class Session:
    """One client.

    send      takes what is sent to the client unasked
    wire      its connection; None where there is none
    is_over   it said QUIT: close when its last reply is sent
    is_plain  nothing but commands on keys is to be thought of
    silence   what has no replies: "off" all commands, "skip" the next one; or nothing
    is_silent the command under way has none
    waiter    what it waits for in keys
    """

    __slots__ = (
        "address", "house", "is_known", "is_over", "is_plain", "is_silent", "is_spoiled", "library",
        "library_version", "name", "number", "patterns", "proto", "queue", "queue_bytes",
        "queue_is_bad", "send", "silence", "since", "subscribed", "waiter", "watched", "wire",
    )  # fmt: skip

    def __init__(
        self,
        house: House,
        number: int,
        address: str,
        send: Callable[[Reply], None],
        wire: Wire | None = None,
    ) -> None:
        self.house, self.number, self.address, self.send = house, number, address, send
        self.wire = wire
        self.since = house.facts.monotonic()
        self.proto = 2
        self.is_plain = False
        self.name = self.library = self.library_version = b""
        self.is_known = not house.password
        self.is_over = self.is_spoiled = self.queue_is_bad = self.is_silent = False
        self.silence = b""
        self.queue: list[list[bytes]] | None = None
        self.queue_bytes = 0
        self.watched: dict[bytes, int] = {}
        self.subscribed: set[bytes] = set()
        self.patterns: set[bytes] = set()
        self.waiter: blocking.Waiter | None = None

    def close(self) -> None:
        self.leave_all()
        if self.waiter is not None:
            self.house.waiters.remove(self.waiter)
        self.house.sessions.pop(self.number, None)

    def leave_all(self) -> None:
        """Subscribe to nothing, watch nothing."""
        self.house.watched.remove(self)
        self.house.channels.leave(self)
        self.house.monitors.pop(self, None)

    def run(self, request: list[bytes]) -> list[Reply]:
        """Carry out one request; most have one reply, SUBSCRIBE one a channel."""
        self.house.serving = self
        self.is_silent = bool(self.silence)
        if self.silence == b"skip":
            self.silence = b""
        replies = self._run(request)
        if self.is_silent:
            replies = [one for one in replies if isinstance(one, (Push, edge.Later))]
        self.is_plain = (
            self.is_known
            and self.queue is None
            and not (self.subscribed or self.patterns or self.is_over or self.silence)
        )
        return replies

    def _run(self, request: list[bytes]) -> list[Reply]:
        name = request[0].lower()
        refused = self._refused(name)
        if refused is not None:
            self.house.facts.errors += 1
            return [refused]
        if self.queue is not None and name not in transactions.AT_ONCE:
            return [transactions.enqueue(self, name, request, OWN)]
        return self.carry_out(name, request)

    def _refused(self, name: bytes) -> ReplyError | None:
        if not self.is_known and name not in WITHOUT_PASSWORD:
            return ReplyError("NOAUTH Authentication required.")
        if (
            self.proto == 2
            and (self.subscribed or self.patterns)
            and name not in messages.SUBSCRIBER
        ):
            shown = name.decode(errors="replace")
            return ReplyError(
                f"ERR Can't execute '{shown}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / "
                "QUIT / RESET are allowed in this context"
            )
        return None

    def carry_out(self, name: bytes, request: list[bytes]) -> list[Reply]:
        """Carry out a command that may be; raises nothing."""
        own = OWN.get(name)
        if self.wire is not None and (own is not None or name in TABLE):
            self.wire.last = _full_name(name, request)
        if own is None:
            if name in TABLE and not miscounted(name.decode(), TABLE[name].arity, request):
                self._show(request)
            reply = self.house.cells.run(request)
            if type(reply) is EvictedReply:
                reply = edge.restored(self.house, request, reply)
            return [reply]
        run, arity = own
        self.house.facts.commands += 1
        if wrong := miscounted(name.decode(), arity, request):
            return [wrong]
        if name != b"exec":
            self._show(request)
        begun = time.monotonic_ns()
        try:
            answered = run(self, request[1:])
        except ReplyError as error:
            self.house.facts.errors += 1
            return [error]
        finally:
            if name == b"exec":  # behind its commands, each of which may have been slow
                self._show(request)
            elif name not in admin.SECRET:
                self.house.slowlog.look(request, time.monotonic_ns() - begun)
        return answered.replies if isinstance(answered, messages.Several) else [answered]

    def _show(self, request: list[bytes]) -> None:
        admin.show_to_monitors(self.house, self.address, request)


def _full_name(name: bytes, request: list[bytes]) -> str:
    """Return the name of a command as CLIENT LIST has it: with that of its subcommand."""
    if name in CONTAINERS and len(request) > 1 and request[1].replace(b"-", b"").isalpha():
        name += b"|" + request[1].lower()
    return name.decode()


def _edge(session: Session, args: Sequence[bytes]) -> Reply:
    """EDGE STATUS and its like; `EDGE.STATUS` is the same."""
    return edge.answer(session.house, args)


def _edge_dotted(word: bytes) -> Callable[[Session, Sequence[bytes]], Reply]:
    return lambda session, args: edge.answer(session.house, [word, *args])


def _wait(session: Session, args: Sequence[bytes]) -> Reply:
    return edge.wait(session.house, args)


def _series(name: bytes) -> Callable[[Session, Sequence[bytes]], Reply]:
    return lambda session, args: session.house.series.run(name, args, session.proto)


# Arguments of TS.*, the name counted: edgesync/serve/resp/timeseries.py.
SERIES: Final = {
    b"ts.create": -2, b"ts.add": -4, b"ts.madd": -4, b"ts.get": -2, b"ts.range": -4,
    b"ts.revrange": -4, b"ts.info": -2,
}  # fmt: skip
OWN: Final[Own] = {
    **connection.COMMANDS,
    **clients.COMMANDS,
    **admin.COMMANDS,
    **transactions.COMMANDS,
    **messages.COMMANDS,
    **blocking.COMMANDS,
    b"edge": (_edge, -2),
    b"wait": (_wait, 3),
    **{b"edge." + word: (_edge_dotted(word), -1) for word in edge.COMMANDS},
    **{name: (_series(name), arity) for name, arity in SERIES.items()},
}
admin.OWN.update(OWN)
