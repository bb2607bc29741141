"""CLIENT: who is connected, and what may be done about it."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from edgesync._native.resp import ReplyError
from edgesync.cells import Reply
from edgesync.cells.commands.table import integer
from edgesync.serve.resp.connection import client_name
from edgesync.serve.resp.messages import Several

if TYPE_CHECKING:
    from edgesync.serve.resp.session import Session

TYPES: Final = (b"normal", b"master", b"replica", b"slave", b"pubsub")
NOT_HERE: Final = {
    b"tracking": "keyspace notifications (CONFIG SET notify-keyspace-events) tell of changes",
    b"caching": "there is no tracking",
    b"pause": "clients of an edge are never held up on purpose",
    b"unpause": "clients of an edge are never held up on purpose",
}
HELP: Final = """CLIENT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:
GETNAME, GETREDIR, ID, INFO, LIST [TYPE normal|pubsub] [ID id ...]
KILL ip:port | [ID id] [ADDR ip:port] [LADDR ip:port] [TYPE type] [USER default] [SKIPME yes|no]
NO-EVICT on|off, NO-TOUCH on|off, REPLY on|off|skip, SETINFO LIB-NAME|LIB-VER text, SETNAME name
UNBLOCK id [TIMEOUT|ERROR]"""


def line(session: "Session") -> str:
    """Return a client as CLIENT LIST has it: the fields of Redis 7.0, and of its library."""
    now = session.house.facts.monotonic()
    wire, queue = session.wire, session.queue
    flags = "".join([
        "O" if session in session.house.monitors else "",
        "P" if session.subscribed or session.patterns else "",
        "x" if queue is not None else "",
        "d" if session.is_spoiled else "",
        "b" if session.waiter is not None else "",
    ])  # fmt: skip
    queued = 0 if queue is None else session.queue_bytes
    unsent, held = (0, 0) if wire is None else (wire.unsent, wire.held_bytes)
    fields: dict[str, object] = {
        "id": session.number, "addr": session.address,
        "laddr": "" if wire is None else wire.local_address,
        "fd": -1 if wire is None else wire.number, "name": session.name.decode(),
        "age": int(now - session.since), "idle": 0 if wire is None else int(now - wire.seen_at),
        "flags": flags or "N", "db": 0, "sub": len(session.subscribed),
        "psub": len(session.patterns), "ssub": 0, "multi": -1 if queue is None else len(queue),
        "qbuf": held, "qbuf-free": 0, "argv-mem": 0, "multi-mem": queued, "rbs": 0, "rbp": 0,
        "obl": 0, "oll": 0, "omem": unsent, "tot-mem": unsent + held + queued, "events": "r",
        "cmd": "NULL" if wire is None or not wire.last else wire.last, "user": "default",
        "redir": -1, "resp": session.proto, "watch": len(session.watched),
        "lib-name": session.library.decode(), "lib-ver": session.library_version.decode(),
    }  # fmt: skip
    return " ".join(f"{name}={value}" for name, value in fields.items()) + "\n"


def client(session: "Session", args: Sequence[bytes]) -> Reply:
    word, rest = args[0].lower(), args[1:]
    found = SUBCOMMANDS.get(word)
    if found is not None and found[1] <= len(rest) <= found[2]:
        return found[0](session, rest)
    shown = args[0].decode(errors="replace")
    if found is not None:
        raise ReplyError(f"ERR wrong number of arguments for 'client|{shown.lower()}' command")
    if word in NOT_HERE:
        raise ReplyError(f"ERR CLIENT {shown.upper()} is not here: {NOT_HERE[word]}")
    raise ReplyError(f"ERR unknown subcommand '{shown}'. Try CLIENT HELP.")


def _id(session: "Session", _rest: Sequence[bytes]) -> Reply:
    return session.number


def _get_name(session: "Session", _rest: Sequence[bytes]) -> Reply:
    return session.name or None


def _set_name(session: "Session", rest: Sequence[bytes]) -> Reply:
    session.name = client_name(rest[0])
    return "OK"


def _set_info(session: "Session", rest: Sequence[bytes]) -> Reply:
    option = rest[0].lower()
    if option == b"lib-name":
        session.library = client_name(rest[1], "lib-name")
    elif option == b"lib-ver":
        session.library_version = client_name(rest[1], "lib-ver")
    else:
        raise ReplyError(f"ERR Unrecognized option '{rest[0].decode(errors='replace')}'")
    return "OK"


def _on_off(_session: "Session", rest: Sequence[bytes]) -> Reply:
    """Nothing is evicted by use of a client here, and no key is touched by it alone."""
    if rest[0].lower() not in (b"on", b"off"):
        raise ReplyError("ERR syntax error")
    return "OK"


def _reply(session: "Session", rest: Sequence[bytes]) -> Reply:
    mode = rest[0].lower()
    if mode == b"on":
        session.silence, session.is_silent = b"", False
        return "OK"
    if mode not in (b"off", b"skip"):
        raise ReplyError("ERR syntax error")
    if session.silence != b"off":
        session.silence = mode
    return Several([])


def _list(session: "Session", rest: Sequence[bytes]) -> Reply:
    found, left = list(session.house.sessions.values()), list(rest)
    if left and left[0].lower() == b"type" and len(left) == 2:
        found = [one for one in found if _type_of(one) == _type(left[1])]
    elif len(left) > 1 and left[0].lower() == b"id":
        numbers = {_number(raw, "ERR Invalid client ID") for raw in left[1:]}
        found = [one for one in found if one.number in numbers]
    elif left:
        raise ReplyError("ERR syntax error")
    return "".join(map(line, found)).encode()


def _type(raw: bytes) -> bytes:
    if raw.lower() not in TYPES:
        raise ReplyError(f"ERR Unknown client type '{raw.decode(errors='replace')}'")
    return raw.lower()


def _type_of(session: "Session") -> bytes:
    return b"pubsub" if session.subscribed or session.patterns else b"normal"


def _number(raw: bytes, problem: str) -> int:
    number = integer(raw, problem)
    if number < 1:
        raise ReplyError(problem)
    return number


def _kill(session: "Session", rest: Sequence[bytes]) -> Reply:
    house = session.house
    if len(rest) == 1:
        found = [one for one in house.sessions.values() if one.address.encode() == rest[0]]
        if not found:
            raise ReplyError("ERR No such client")
        _end(session, found)
        return "OK"
    if len(rest) % 2:
        raise ReplyError("ERR syntax error")
    is_skipped = True
    tests: list[Callable[[Session], bool]] = []
    for name, value in zip(rest[::2], rest[1::2], strict=True):
        if name.lower() == b"skipme":
            if value.lower() not in (b"yes", b"no"):
                raise ReplyError("ERR syntax error")
            is_skipped = value.lower() == b"yes"
        else:
            tests.append(_filter(name.lower(), value))
    found = [
        one for one in house.sessions.values()
        if all(test(one) for test in tests) and not (is_skipped and one is session)
    ]  # fmt: skip
    _end(session, found)
    return len(found)


def _end(session: "Session", found: "Sequence[Session]") -> None:
    """Close connections: that of whoever asks for it when it has been answered."""
    session.house.doomed |= {one.number for one in found if one is not session}
    session.is_over |= session in found


def _filter(name: bytes, value: bytes) -> "Callable[[Session], bool]":
    shown = value.decode(errors="replace")
    if name == b"id":
        number = _number(value, "ERR client-id should be greater than 0")
        return lambda one: one.number == number
    if name == b"addr":
        return lambda one: one.address == shown
    if name == b"laddr":
        return lambda one: one.wire is not None and one.wire.local_address == shown
    if name == b"type":
        kind = _type(value)
        return lambda one: _type_of(one) == kind
    if name == b"user":
        if value != b"default":
            raise ReplyError(f"ERR No such user '{shown}'")
        return lambda one: True
    raise ReplyError("ERR syntax error")


def _unblock(session: "Session", rest: Sequence[bytes]) -> Reply:
    number = integer(rest[0])
    how = rest[1].lower() if len(rest) == 2 else b"timeout"
    if how not in (b"timeout", b"error"):
        raise ReplyError("ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR")
    other = session.house.sessions.get(number)
    if other is None or other.waiter is None or other.waiter.served.is_set():
        return 0
    session.house.waiters.remove(other.waiter)
    if how == b"error":
        problem = "UNBLOCKED client unblocked via CLIENT UNBLOCK"
        other.waiter.finish(ReplyError(problem))
    else:
        other.waiter.time_out()
    return 1


# With the least and the most arguments.
SUBCOMMANDS: Final["dict[bytes, tuple[Callable[[Session, Sequence[bytes]], Reply], int, int]]"] = {
    b"id": (_id, 0, 0),
    b"getname": (_get_name, 0, 0),
    b"setname": (_set_name, 1, 1),
    b"setinfo": (_set_info, 2, 2),
    b"info": (lambda session, _: line(session).encode(), 0, 0),
    b"list": (_list, 0, 1 << 20),
    b"kill": (_kill, 1, 1 << 20),
    b"no-evict": (_on_off, 1, 1),
    b"no-touch": (_on_off, 1, 1),
    b"reply": (_reply, 1, 1),
    b"unblock": (_unblock, 1, 2),
    b"getredir": (lambda _session, _: -1, 0, 0),
    b"help": (lambda _session, _: HELP.splitlines(), 0, 0),
}
COMMANDS: Final = {b"client": (client, -2)}
