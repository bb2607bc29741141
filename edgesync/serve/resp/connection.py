"""HELLO, AUTH, PING and what else a client says about its connection."""

from collections.abc import Sequence
from hmac import compare_digest
from typing import TYPE_CHECKING, Final

from edgesync._native.resp import ReplyError
from edgesync.cells import Reply
from edgesync.cells.commands.table import integer
from edgesync.serve.resp.messages import Several

if TYPE_CHECKING:
    from edgesync.serve.resp.session import Session

# What an answer to HELLO and INFO names, for clients that choose features by it.
REDIS_VERSION: Final = "7.0.15"
ONE_DATABASE: Final = (
    "ERR DB index is out of range: an edge has one database, 0; leave the number out of the "
    "client's address, and tell programs apart by prefixes of keys"
)


def hello(session: "Session", args: Sequence[bytes]) -> Reply:
    proto, rest = session.proto, list(args)
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
            _identify(session, rest.pop(0), rest.pop(0))
        elif option == b"setname" and rest:
            name = client_name(rest.pop(0))
        else:
            shown = option.decode(errors="replace")
            raise ReplyError(f"ERR Syntax error in HELLO option '{shown}'")
    if not session.is_known:
        raise ReplyError(
            "NOAUTH HELLO must be called with the client already authenticated, otherwise the "
            "HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client "
            "and select the RESP protocol version at the same time"
        )
    session.proto = proto
    session.name = session.name if name is None else name
    return {
        b"server": b"redis", b"version": REDIS_VERSION.encode(), b"proto": session.proto,
        b"id": session.number, b"mode": b"standalone", b"role": b"master", b"modules": [],
    }  # fmt: skip


def auth(session: "Session", args: Sequence[bytes]) -> Reply:
    if len(args) > 2:
        raise ReplyError("ERR syntax error")
    _identify(session, args[0] if len(args) == 2 else b"default", args[-1])
    return "OK"


def _identify(session: "Session", user: bytes, password: bytes) -> None:
    if not session.house.password:
        raise ReplyError(
            "ERR AUTH <password> called without any password configured for the default user. "
            "Are you sure your configuration is correct?"
        )
    if user != b"default" or not compare_digest(password, session.house.password):
        raise ReplyError("WRONGPASS invalid username-password pair or user is disabled.")
    session.is_known = True


def client_name(raw: bytes, of: str = "Client names") -> bytes:
    """Return a name that can stand in CLIENT LIST; raises ReplyError."""
    if any(not 33 <= one <= 126 for one in raw):
        raise ReplyError(f"ERR {of} cannot contain spaces, newlines or special characters.")
    return raw


def ping(session: "Session", args: Sequence[bytes]) -> Reply:
    if len(args) > 1:
        raise ReplyError("ERR wrong number of arguments for 'ping' command")
    if session.proto == 2 and (session.subscribed or session.patterns):
        return [b"pong", args[0] if args else b""]
    return args[0] if args else "PONG"


def echo(_session: "Session", args: Sequence[bytes]) -> Reply:
    return args[0]


def quit_(session: "Session", _args: Sequence[bytes]) -> Reply:
    session.is_over = True
    return "OK"


def reset(session: "Session", _args: Sequence[bytes]) -> Reply:
    session.queue, session.queue_is_bad = None, False
    session.leave_all()
    session.silence, session.is_silent = b"", False
    session.proto, session.name = 2, b""
    session.is_known = not session.house.password
    return "RESET"


def select(_session: "Session", args: Sequence[bytes]) -> Reply:
    if integer(args[0]) != 0:
        raise ReplyError(ONE_DATABASE)
    return "OK"


def time(session: "Session", _args: Sequence[bytes]) -> Reply:
    seconds, micros = divmod(session.house.facts.wall_ns() // 1000, 1_000_000)
    return [b"%d" % seconds, b"%d" % micros]


def shutdown(session: "Session", _args: Sequence[bytes]) -> Reply:
    """SHUTDOWN: like Redis it says nothing; the connection ends when the edge has stopped."""
    if session.house.stop is None:
        raise ReplyError("ERR this node is part of a program; stop that")
    session.house.stop()
    session.is_over = True
    return Several([])


COMMANDS: Final = {
    b"hello": (hello, -1),
    b"auth": (auth, -2),
    b"ping": (ping, -1),
    b"echo": (echo, 2),
    b"quit": (quit_, -1),
    b"reset": (reset, 1),
    b"select": (select, 2),
    b"time": (time, 1),
    b"shutdown": (shutdown, -1),
}
