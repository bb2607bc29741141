"""One client: its protocol version, transaction, subscriptions, and the commands about those.

Requests go in, replies come out; the server sends them when they are due.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from edgesync._native.commands import TABLE, EvictedReply, miscounted, unknown
from edgesync._native.keyspace import KEY_BYTES_MAX
from edgesync._native.resp import NullArray, Push, ReplyError
from edgesync.cells import Reply
from edgesync.cells.commands.table import glob, integer
from edgesync.serve.resp import edge, info
from edgesync.serve.resp.channels import Channels
from edgesync.store.edgecells import EdgeCells

if TYPE_CHECKING:
    from edgesync.serve.resp.timeseries import TimeSeries

# What an answer to HELLO and INFO names, for clients that choose features by it.
REDIS_VERSION: Final = "7.0.15"
NAMES: Final = [name for name in TABLE if name.islower()]
QUEUE_MAX: Final = 65_536
# In protocol version 2 a subscriber may say nothing else.
SUBSCRIBER: Final = (b"subscribe", b"unsubscribe", b"psubscribe", b"punsubscribe", b"ping", b"quit",
                     b"reset")  # fmt: skip
NOT_IN_MULTI: Final = (b"subscribe", b"unsubscribe", b"psubscribe", b"punsubscribe", b"shutdown")
WITHOUT_PASSWORD: Final = (b"auth", b"hello", b"quit", b"reset")


class House:
    """What all clients share.

    site       the node around the keys; None where there are only keys
    sessions   by number
    doomed     numbers of those whose connection is to be closed
    stop       what SHUTDOWN does; None where that is nobody's to do
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
        self.channels = Channels()
        self.watchers: dict[bytes, set[Session]] = {}
        self.facts = info.Facts()
        self._next = 1
        self._open_series = open_series
        if cells.call.scripts is not None:
            cells.call.scripts.publish = self.channels.publish
        self._series: TimeSeries | None = None

    @property
    def series(self) -> "TimeSeries":
        """What answers TS.*; raises ReplyError where there is none."""
        if self._series is None:
            if self._open_series is None:
                raise ReplyError("ERR there are no series here")
            self._series = self._open_series()
        return self._series

    def admit(self, address: str, send: Callable[[Push], None]) -> "Session":
        session = Session(self, self._next, address, send)
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

    def watch_rows(self) -> None:
        """Note changed rows only while somebody watches keys."""
        self.cells.rows.touched = set() if self.watchers else None

    def tell_watchers(self) -> None:
        """Spoil the transactions of those who watch what has just changed."""
        touched = self.cells.rows.touched if self.watchers else None
        if not touched:
            return
        for row in touched:
            for session in self.watchers.get(row[1:], ()) if row.startswith(b"k") else ():
                session.is_spoiled = True
        touched.clear()


class Session:
    """One client.

    send      takes what is pushed to the client unasked
    is_over   it said QUIT: close when its last reply is sent
    """

    __slots__ = (
        "address", "house", "is_known", "is_over", "is_plain", "is_spoiled", "library", "name",
        "number", "patterns", "proto", "queue", "queue_is_bad", "send", "subscribed", "watched",
    )  # fmt: skip

    def __init__(
        self, house: House, number: int, address: str, send: Callable[[Push], None]
    ) -> None:
        self.house, self.number, self.address, self.send = house, number, address, send
        self.proto = 2
        self.is_plain = False  # nothing but commands on keys is to be thought of
        self.name = self.library = b""
        self.is_known = not house.password
        self.is_over = self.is_spoiled = self.queue_is_bad = False
        self.queue: list[list[bytes]] | None = None
        self.watched: dict[bytes, int] = {}
        self.subscribed: set[bytes] = set()
        self.patterns: set[bytes] = set()

    def close(self) -> None:
        self._unwatch()
        self.house.channels.leave(self)
        self.house.sessions.pop(self.number, None)

    def run(self, request: list[bytes]) -> list[Reply]:
        """Carry out one request; most have one reply, SUBSCRIBE one a channel."""
        replies = self._run(request)
        self.is_plain = (
            self.is_known
            and self.queue is None
            and not (self.subscribed or self.patterns or self.is_over)
        )
        return replies

    def _answer(self, request: list[bytes]) -> Reply:
        """Carry out a command of the table; its reply may have to be waited for."""
        reply = self.house.cells.run(request)
        self.house.tell_watchers()
        return edge.restored(self.house, request, reply) if type(reply) is EvictedReply else reply

    def _run(self, request: list[bytes]) -> list[Reply]:
        name = request[0].lower()
        facts = self.house.facts
        refused = self._refused(name)
        if refused is not None:
            facts.errors += 1
            return [refused]
        if self.queue is not None and name not in (
            b"exec", b"discard", b"multi", b"watch", b"quit", b"reset",
        ):  # fmt: skip
            return [self._enqueue(name, request)]
        return self._carry_out(name, request)

    def _refused(self, name: bytes) -> ReplyError | None:
        if not self.is_known and name not in WITHOUT_PASSWORD:
            return ReplyError("NOAUTH Authentication required.")
        if self.proto == 2 and (self.subscribed or self.patterns) and name not in SUBSCRIBER:
            shown = name.decode(errors="replace")
            return ReplyError(
                f"ERR Can't execute '{shown}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / "
                "QUIT / RESET are allowed in this context"
            )
        return None

    def _carry_out(self, name: bytes, request: list[bytes]) -> list[Reply]:
        own = OWN.get(name)
        if own is None:
            return [self._answer(request)]
        run, arity = own
        self.house.facts.commands += 1
        if wrong := miscounted(name.decode(), arity, request):
            return [wrong]
        try:
            answered = run(self, request[1:])
        except ReplyError as error:
            self.house.facts.errors += 1
            return [error]
        return answered.replies if isinstance(answered, Several) else [answered]

    # -- who it is -----------------------------------------------------------------------------

    def hello(self, args: Sequence[bytes]) -> Reply:
        proto, rest = self.proto, list(args)
        if rest:
            version = rest.pop(0)
            if version not in (b"2", b"3"):
                if not version.lstrip(b"-").isdigit():
                    raise ReplyError("ERR Protocol version is not an integer or out of range")
                raise ReplyError("NOPROTO unsupported protocol version")
            proto = int(version)
        name = None
        while rest:
            option = rest.pop(0).lower()
            if option == b"auth" and len(rest) >= 2:
                self._identify(rest.pop(0), rest.pop(0))
            elif option == b"setname" and rest:
                name = _client_name(rest.pop(0))
            else:
                raise ReplyError(f"ERR Syntax error in HELLO option '{option.decode()}'")
        if not self.is_known:
            raise ReplyError(
                "NOAUTH HELLO must be called with the client already authenticated, otherwise the "
                "HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client "
                "and select the RESP protocol version at the same time"
            )
        self.proto = proto
        self.name = self.name if name is None else name
        return {
            b"server": b"redis", b"version": REDIS_VERSION.encode(), b"proto": self.proto,
            b"id": self.number, b"mode": b"standalone", b"role": b"master", b"modules": [],
        }  # fmt: skip

    def auth(self, args: Sequence[bytes]) -> Reply:
        if len(args) > 2:
            raise ReplyError("ERR syntax error")
        self._identify(args[0] if len(args) == 2 else b"default", args[-1])
        return "OK"

    def _identify(self, user: bytes, password: bytes) -> None:
        from hmac import compare_digest

        if not self.house.password:
            raise ReplyError(
                "ERR AUTH <password> called without any password configured for the default user. "
                "Are you sure your configuration is correct?"
            )
        if user != b"default" or not compare_digest(password, self.house.password):
            raise ReplyError("WRONGPASS invalid username-password pair or user is disabled.")
        self.is_known = True

    def client(self, args: Sequence[bytes]) -> Reply:
        word, rest = args[0].lower(), args[1:]
        if word == b"id":
            return self.number
        if word == b"getname":
            return self.name or None
        if word == b"setname" and len(rest) == 1:
            self.name = _client_name(rest[0])
            return "OK"
        if word == b"setinfo" and len(rest) == 2:
            if rest[0].lower() == b"lib-name":
                self.library = _client_name(rest[1])
            return "OK"
        if word == b"info":
            return info.client_line(self).encode()
        if word == b"list":
            lines = (info.client_line(one) for one in self.house.sessions.values())
            return "".join(lines).encode()
        if word in (b"no-evict", b"no-touch") and len(rest) == 1:
            return "OK"
        if word == b"kill":
            return self._kill(rest)
        if word == b"reply" and [one.lower() for one in rest] == [b"on"]:
            return "OK"
        shown = args[0].decode(errors="replace")
        raise ReplyError(f"ERR unknown subcommand or wrong number of arguments for '{shown}'.")

    def _kill(self, rest: Sequence[bytes]) -> Reply:
        if len(rest) == 1:
            found = [one for one in self.house.sessions.values() if one.address.encode() == rest[0]]
            if not found:
                raise ReplyError("ERR No such client")
        elif len(rest) == 2 and rest[0].lower() == b"id":
            number = integer(rest[1])
            found = [one for one in self.house.sessions.values() if one.number == number]
        else:
            raise ReplyError("ERR syntax error")
        self.house.doomed |= {one.number for one in found}
        return "OK" if len(rest) == 1 else len(found)

    # -- small talk ----------------------------------------------------------------------------

    def ping(self, args: Sequence[bytes]) -> Reply:
        if len(args) > 1:
            raise ReplyError("ERR wrong number of arguments for 'ping' command")
        if self.proto == 2 and (self.subscribed or self.patterns):
            return [b"pong", args[0] if args else b""]
        return args[0] if args else "PONG"

    def echo(self, args: Sequence[bytes]) -> Reply:
        return args[0]

    def quit(self, _args: Sequence[bytes]) -> Reply:
        self.is_over = True
        return "OK"

    def reset(self, _args: Sequence[bytes]) -> Reply:
        self.queue, self.queue_is_bad = None, False
        self._unwatch()
        self.house.channels.leave(self)
        self.proto, self.name = 2, b""
        self.is_known = not self.house.password
        return "RESET"

    def select(self, args: Sequence[bytes]) -> Reply:
        if integer(args[0]) != 0:
            raise ReplyError("ERR DB index is out of range: an edge has one database, 0")
        return "OK"

    def _now_us(self) -> int:
        """Return the time that deadlines go by, for EXPIREAT."""
        return self.house.facts.wall_ns() // 1000 + self.house.cells.behind_ms * 1000

    def time(self, _args: Sequence[bytes]) -> Reply:
        seconds, micros = divmod(self._now_us(), 1_000_000)
        return [b"%d" % seconds, b"%d" % micros]

    def command(self, args: Sequence[bytes]) -> Reply:
        word = args[0].lower() if args else b""
        if word == b"count":
            return len(NAMES) + len(OWN)
        if word == b"docs":
            return {}
        if word == b"list":
            return [*NAMES, *OWN]
        if word not in (b"", b"info"):
            shown = args[0].decode(errors="replace")
            raise ReplyError(f"ERR unknown subcommand '{shown}'. Try COMMAND COUNT, INFO or LIST.")
        wanted = [one.lower() for one in args[1:]] or NAMES
        return [info.command_row(TABLE[one]) if one in TABLE else None for one in wanted]

    def info(self, args: Sequence[bytes]) -> Reply:
        return info.text(self.house, [one.lower().decode(errors="replace") for one in args])

    def config(self, args: Sequence[bytes]) -> Reply:
        word, rest = args[0].lower(), [one.lower() for one in args[1:]]
        if word == b"get" and rest:
            known = info.config(self.house)
            matches = [glob(one) for one in rest]
            return {
                name: value for name, value in known.items()
                if any(one.matches(name) for one in matches)
            }  # fmt: skip
        if word == b"resetstat":
            self.house.reset_counts()
            return "OK"
        if word == b"set":
            raise ReplyError("ERR an edge is configured in edge.toml; CONFIG SET changes nothing")
        raise ReplyError("ERR unknown subcommand or wrong number of arguments for CONFIG")

    def shutdown(self, _args: Sequence[bytes]) -> Reply:
        """SHUTDOWN: like Redis it says nothing; the connection ends when the edge has stopped."""
        if self.house.stop is None:
            raise ReplyError("ERR this node is part of a program; stop that")
        self.house.stop()
        self.is_over = True
        return Several([])

    def debug(self, _args: Sequence[bytes]) -> Reply:
        raise ReplyError("ERR DEBUG is switched off here")

    def edge(self, args: Sequence[bytes]) -> Reply:
        """EDGE STATUS and its like; `EDGE.STATUS` is the same."""
        return edge.answer(self.house, args)

    def wait(self, args: Sequence[bytes]) -> Reply:
        return edge.wait(self.house, args)

    # -- transactions --------------------------------------------------------------------------

    def _enqueue(self, name: bytes, request: list[bytes]) -> Reply:
        assert self.queue is not None
        error = self._check(name, request)
        if error is None and len(self.queue) >= QUEUE_MAX:
            error = ReplyError(f"ERR a transaction of more than {QUEUE_MAX} commands")
        if error is not None:
            self.queue_is_bad = True
            return error
        self.queue.append(request)
        return "QUEUED"

    def _check(self, name: bytes, request: Sequence[bytes]) -> ReplyError | None:
        if name in NOT_IN_MULTI:
            return ReplyError(f"ERR {name.decode().upper()} is not allowed in transactions")
        if name in OWN:
            arity = OWN[name][1]
        elif name in TABLE:
            arity = TABLE[name].arity
        else:
            return unknown(request)
        return miscounted(name.decode(), arity, request) or self._no_room([request])

    def _no_room(self, requests: Sequence[Sequence[bytes]]) -> ReplyError | None:
        """Why these may not be carried out at present: they add, and nothing may be added."""
        guard = self.house.cells.call.guard
        if guard is None or guard.refusal is None:
            return None
        names = (request[0].lower() for request in requests)
        grows = any(name in TABLE and TABLE[name].grows for name in names)
        return guard.refused() if grows else None

    def multi(self, _args: Sequence[bytes]) -> Reply:
        if self.queue is not None:
            raise ReplyError("ERR MULTI calls can not be nested")
        self.queue, self.queue_is_bad = [], False
        return "OK"

    def exec(self, _args: Sequence[bytes]) -> Reply:
        if self.queue is None:
            raise ReplyError("ERR EXEC without MULTI")
        queue, self.queue = self.queue, None
        space = self.house.cells.space
        space.now_ms = self.house.cells.now_ms()
        is_spoiled = self.is_spoiled or any(
            space.type_of(key) != kind for key, kind in self.watched.items()
        )
        self._unwatch()
        if self.queue_is_bad:
            raise ReplyError("EXECABORT Transaction discarded because of previous errors.")
        if is_spoiled:
            return NullArray
        if no_room := self._no_room(queue):
            raise ReplyError(f"EXECABORT Transaction discarded because of: {no_room}")
        # Nothing comes between: no command waits, and one commit takes all of them.
        replies = [self._carry_out(one[0].lower(), one)[0] for one in queue]
        return [one.at_once if isinstance(one, edge.Later) else one for one in replies]

    def discard(self, _args: Sequence[bytes]) -> Reply:
        if self.queue is None:
            raise ReplyError("ERR DISCARD without MULTI")
        self.queue = None
        self._unwatch()
        return "OK"

    def watch(self, args: Sequence[bytes]) -> Reply:
        if self.queue is not None:
            raise ReplyError("ERR WATCH inside MULTI is not allowed")
        for key in args:
            if len(key) > KEY_BYTES_MAX:
                raise ReplyError(f"ERR a key of {len(key)} bytes; at most {KEY_BYTES_MAX}")
            self.watched.setdefault(key, self.house.cells.space.type_of(key))
            self.house.watchers.setdefault(key, set()).add(self)
        if self.house.cells.rows.touched is None:
            self.house.watch_rows()
        return "OK"

    def unwatch(self, _args: Sequence[bytes]) -> Reply:
        self._unwatch()
        return "OK"

    def _unwatch(self) -> None:
        for key in self.watched:
            there = self.house.watchers[key]
            there.discard(self)
            if not there:
                del self.house.watchers[key]
        self.watched = {}
        self.is_spoiled = False
        if not self.house.watchers:
            self.house.watch_rows()

    # -- channels ------------------------------------------------------------------------------

    def subscribe(self, args: Sequence[bytes]) -> Reply:
        return Several([self.house.channels.join(self, one) for one in args])

    def psubscribe(self, args: Sequence[bytes]) -> Reply:
        return Several([self.house.channels.join(self, one, is_pattern=True) for one in args])

    def unsubscribe(self, args: Sequence[bytes]) -> Reply:
        names: list[bytes | None] = [*args] or [*sorted(self.subscribed)] or [None]
        return Several([self.house.channels.part(self, one) for one in names])

    def punsubscribe(self, args: Sequence[bytes]) -> Reply:
        names: list[bytes | None] = [*args] or [*sorted(self.patterns)] or [None]
        return Several([self.house.channels.part(self, one, is_pattern=True) for one in names])

    def publish(self, args: Sequence[bytes]) -> Reply:
        return self.house.channels.publish(args[0], args[1])

    def pubsub(self, args: Sequence[bytes]) -> Reply:
        channels, word = self.house.channels, args[0].lower()
        if word == b"channels" and len(args) <= 2:
            matches = glob(args[1]).matches if len(args) == 2 else None
            return [one for one in channels.names() if matches is None or matches(one)]
        if word == b"numsub":
            flat: list[bytes | int] = []
            for name in args[1:]:
                flat += [name, channels.count(name)]
            return flat
        if word == b"numpat":
            return channels.patterns_count()
        raise ReplyError("ERR unknown subcommand or wrong number of arguments for PUBSUB")


class Several:
    """Any number of replies to one request."""

    def __init__(self, replies: list[Reply]) -> None:
        self.replies = replies


def _client_name(raw: bytes) -> bytes:
    if any(not 33 <= one <= 126 for one in raw):
        raise ReplyError("ERR Client names cannot contain spaces, newlines or special characters.")
    return raw


def _edge_dotted(word: bytes) -> Callable[[Session, Sequence[bytes]], Reply]:
    return lambda session, args: session.edge([word, *args])


def _series(name: bytes) -> Callable[[Session, Sequence[bytes]], Reply]:
    return lambda session, args: session.house.series.run(name, args, session.proto)


# Arguments of TS.*, the name counted: edgesync/serve/resp/timeseries.py.
SERIES: Final = {
    b"ts.create": -2, b"ts.add": -4, b"ts.madd": -4, b"ts.get": -2, b"ts.range": -4,
    b"ts.revrange": -4, b"ts.info": -2,
}  # fmt: skip
OWN: Final[dict[bytes, tuple[Callable[[Session, Sequence[bytes]], Reply], int]]] = {
    b"hello": (Session.hello, -1),
    b"auth": (Session.auth, -2),
    b"client": (Session.client, -2),
    b"ping": (Session.ping, -1),
    b"echo": (Session.echo, 2),
    b"quit": (Session.quit, -1),
    b"reset": (Session.reset, 1),
    b"select": (Session.select, 2),
    b"time": (Session.time, 1),
    b"command": (Session.command, -1),
    b"info": (Session.info, -1),
    b"config": (Session.config, -2),
    b"shutdown": (Session.shutdown, -1),
    b"debug": (Session.debug, -2),
    b"multi": (Session.multi, 1),
    b"exec": (Session.exec, 1),
    b"discard": (Session.discard, 1),
    b"watch": (Session.watch, -2),
    b"unwatch": (Session.unwatch, 1),
    b"subscribe": (Session.subscribe, -2),
    b"unsubscribe": (Session.unsubscribe, -1),
    b"psubscribe": (Session.psubscribe, -2),
    b"punsubscribe": (Session.punsubscribe, -1),
    b"publish": (Session.publish, 3),
    b"pubsub": (Session.pubsub, -2),
    b"edge": (Session.edge, -2),
    b"wait": (Session.wait, 3),
    **{b"edge." + word: (_edge_dotted(word), -1) for word in edge.COMMANDS},
    **{name: (_series(name), arity) for name, arity in SERIES.items()},
}  # fmt: skip
