"""COMMAND, CONFIG, INFO, MONITOR, SLOWLOG, LATENCY and what else tools ask a server."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from edgesync._native.commands import TABLE, keys_of, miscounted
from edgesync._native.resp import ReplyError
from edgesync.cells import Reply
from edgesync.cells.commands.table import glob, integer, numbered
from edgesync.serve.resp import info

if TYPE_CHECKING:
    from edgesync.serve.resp.session import House, Session

NAMES: Final = [name for name in TABLE if name.islower()]
# Commands of clients beside those on keys; session.py fills it, for it knows all of them.
OWN: Final[dict[bytes, tuple[Any, int]]] = {}
# First, last and step of the arguments that are keys, as in `Command.keys`.
KEYS_OF_OWN: Final = {
    b"watch": (1, -1, 1), b"blpop": (1, -2, 1), b"brpop": (1, -2, 1), b"bzpopmin": (1, -2, 1),
    b"bzpopmax": (1, -2, 1), b"blmove": (1, 2, 1), b"brpoplpush": (1, 2, 1),
}  # fmt: skip
# ... and those whose keys are counted, as in `Command.movable`.
MOVABLE_OF_OWN: Final = {b"blmpop": numbered(2), b"bzmpop": numbered(2)}
GROUPS: Final = {
    "strings": "string", "hashes": "hash", "lists": "list", "sets": "set", "zsets": "sorted-set",
    "keys": "generic", "scripts": "scripting", "connection": "connection", "clients": "connection",
    "admin": "server", "transactions": "transactions", "messages": "pubsub", "bits": "bitmap",
}  # fmt: skip
LATENCY_HELP: Final = "LATENCY LATEST | HISTORY command | RESET | DOCTOR: commands in the slow log"
SECRET: Final = (b"auth", b"hello")


# -- COMMAND -------------------------------------------------------------------------------------


def command(session: "Session", args: Sequence[bytes]) -> Reply:
    word, rest = args[0].lower() if args else b"", list(args[1:])
    if word == b"count" and not rest:
        return len(NAMES) + len(OWN)
    if word == b"docs":
        names = [one.lower() for one in rest] or [*NAMES, *OWN]
        return {name: _docs(name) for name in names if name in TABLE or name in OWN}
    if word == b"list":
        return _listed(rest)
    if word in (b"getkeys", b"getkeysandflags"):
        if len(rest) < 2:
            shown = f"command|{word.decode()}"
            raise ReplyError(f"ERR wrong number of arguments for '{shown}' command")
        keys = _keys(rest)
        return keys if word == b"getkeys" else [[key, [b"RW"]] for key in keys]
    if word == b"help":
        return ["COMMAND [COUNT | DOCS name ... | GETKEYS command | INFO name ... | LIST]"]
    if word not in (b"", b"info"):
        shown = args[0].decode(errors="replace")
        raise ReplyError(f"ERR unknown subcommand '{shown}'. Try COMMAND HELP.")
    return [_row(name.lower()) for name in rest or (*NAMES, *OWN)]


def _row(name: bytes) -> Reply:
    """Return an entry of COMMAND INFO: name, arity, flags, first key, last key, step."""
    if name in TABLE:
        return info.command_row(TABLE[name])
    if name not in OWN:
        return None
    keys = KEYS_OF_OWN.get(name, (0, 0, 0))
    is_blocking = name.startswith(b"b") and name in OWN
    flags = {"write", "blocking"} if is_blocking else {"noscript", "loading", "stale", "fast"}
    if name in MOVABLE_OF_OWN:
        flags.add("movablekeys")
    return [name, OWN[name][1], flags, *keys, set(), [], [], []]


def _group(name: bytes) -> str:
    run: Any = TABLE[name].run if name in TABLE else OWN[name][0]
    module = str(run.__module__).rpartition(".")[2]
    if module == "blocking":
        return "sorted-set" if name.startswith(b"bz") else "list"
    return GROUPS.get(module, "module" if b"." in name else "generic")


def _docs(name: bytes) -> Reply:
    run: Any = TABLE[name].run if name in TABLE else OWN[name][0]
    summary = (run.__doc__ or f"See docs/redis-commands.md: {name.decode().upper()}").split("\n")[0]
    return {b"summary": summary.encode(), b"since": b"1.0.0", b"group": _group(name).encode()}


def _listed(rest: Sequence[bytes]) -> Reply:
    names = [*NAMES, *OWN]
    if not rest:
        return names
    if len(rest) != 3 or rest[0].lower() != b"filterby":
        raise ReplyError("ERR syntax error")
    how, value = rest[1].lower(), rest[2]
    if how == b"pattern":
        matches = glob(value.lower())
        return [name for name in names if matches.matches(name)]
    if how == b"aclcat":
        return [name for name in names if value.lower().decode("latin-1") in _categories(name)]
    if how == b"module":
        return [name for name in names if name.startswith(value.lower() + b".")]
    raise ReplyError("ERR syntax error")


def _categories(name: bytes) -> set[str]:
    group = _group(name).replace("-", "").rstrip("s").replace("generic", "keyspace")
    found = {group, "transaction" if group == "transaction" else group}
    if name in TABLE:
        found.add("write" if TABLE[name].writes else "read")
    if name in KEYS_OF_OWN and name != b"watch":
        found |= {"write", "blocking"}
    return found


def _keys(request: list[bytes]) -> list[bytes]:
    name = request[0].lower()
    if name not in TABLE and name not in OWN:
        raise ReplyError("ERR Invalid command specified")
    arity = TABLE[name].arity if name in TABLE else OWN[name][1]
    if miscounted(name.decode(), arity, request):
        raise ReplyError("ERR Invalid number of arguments specified for command")
    if name in TABLE:
        keys, movable = keys_of(TABLE[name], request), TABLE[name].movable
    elif movable := MOVABLE_OF_OWN.get(name):
        keys = movable(request)
    else:
        first, last, step = KEYS_OF_OWN.get(name, (0, 0, 0))
        keys = request[first : last + 1 or None : step] if first else []
    if not keys and movable and not name.startswith(b"eval"):  # of which "0 keys" is right
        raise ReplyError("ERR Invalid arguments specified for command")
    if not keys and not movable:
        raise ReplyError("ERR The command has no key arguments")
    return list(keys)


# -- INFO and CONFIG -----------------------------------------------------------------------------


def info_(session: "Session", args: Sequence[bytes]) -> Reply:
    text = info.text(session.house, [one.lower().decode(errors="replace") for one in args])
    return text


def config(session: "Session", args: Sequence[bytes]) -> Reply:
    word, rest = args[0].lower(), list(args[1:])
    if word == b"get" and rest:
        matches = [glob(one.lower()) for one in rest]
        return {
            name: value for name, value in info.config(session.house).items()
            if any(one.matches(name) for one in matches)
        }  # fmt: skip
    if word == b"resetstat" and not rest:
        session.house.reset_counts()
        return "OK"
    if word == b"set" and rest and len(rest) % 2 == 0:
        for name, value in zip(rest[::2], rest[1::2], strict=True):
            _set(session, name.lower(), value)
        return "OK"
    if word == b"rewrite" and not rest:
        raise ReplyError("ERR edge.toml is written by people; CONFIG REWRITE changes nothing")
    if word == b"help" and not rest:
        return ["CONFIG GET pattern ... | SET name value ... | RESETSTAT"]
    raise ReplyError("ERR unknown subcommand or wrong number of arguments for CONFIG")


def _set(session: "Session", name: bytes, value: bytes) -> None:
    """Set what acts until the edge is restarted; the rest is in edge.toml."""
    house, known = session.house, info.config(session.house)
    shown = name.decode(errors="replace")
    failed = f"ERR CONFIG SET failed (possibly related to argument '{shown}')"
    if name == b"notify-keyspace-events":
        house.notifications.configure(value.decode(errors="replace"), is_asked=True)
    elif name == b"slowlog-log-slower-than":
        house.slowlog.configure(
            integer(value, f"{failed} - argument couldn't be parsed into an integer")
        )
    elif name == b"slowlog-max-len":
        length = integer(value, f"{failed} - argument couldn't be parsed into an integer")
        if length < 0:
            raise ReplyError(f"{failed} - argument must be 0 or more")
        house.slowlog.resize(length)
    elif name not in known:
        raise ReplyError(f"ERR Unknown option or number of arguments for CONFIG SET - '{shown}'")
    elif known[name] != value:
        raise ReplyError(
            f"{failed} - an edge is configured in edge.toml; of this, CONFIG SET changes nothing"
        )


# -- what happens --------------------------------------------------------------------------------


def slowlog(session: "Session", args: Sequence[bytes]) -> Reply:
    log, word, rest = session.house.slowlog, args[0].lower(), args[1:]
    if word == b"len" and not rest:
        return len(log.entries)
    if word == b"reset" and not rest:
        log.entries.clear()
        return "OK"
    if word == b"get" and len(rest) <= 1:
        count = integer(rest[0]) if rest else 10
        if count < -1:
            raise ReplyError("ERR count should be greater than or equal to -1")
        chosen = list(log.entries)[: None if count == -1 else count]
        return [
            [one.number, one.time_s, one.micros, list(one.words), one.address.encode(), one.name]
            for one in chosen
        ]
    if word == b"help" and not rest:
        return ["SLOWLOG GET [count] | LEN | RESET"]
    shown = args[0].decode(errors="replace")
    raise ReplyError(f"ERR unknown subcommand '{shown}'. Try SLOWLOG HELP.")


def latency(session: "Session", args: Sequence[bytes]) -> Reply:
    """LATENCY: what the slow log has, as one event, `command`."""
    log, word, rest = session.house.slowlog, args[0].lower(), args[1:]
    entries = list(log.entries)
    if word == b"latest" and not rest:
        if not entries:
            return []
        newest, most = entries[0], max(one.micros for one in entries)
        return [[b"command", newest.time_s, newest.micros // 1000, most // 1000]]
    if word == b"history" and len(rest) == 1:
        if rest[0].lower() != b"command":
            return []
        return [[one.time_s, one.micros // 1000] for one in reversed(entries)]
    if word == b"reset":
        log.entries.clear()
        return int(bool(entries))
    if word == b"doctor" and not rest:
        slow = f"{len(entries)} slow commands are in SLOWLOG" if entries else "no command was slow"
        return f"{slow}; EDGE.RESOURCES tells of memory, disk and the commit".encode()
    if word == b"histogram":
        return {}
    if word == b"help":
        return [LATENCY_HELP]
    shown = args[0].decode(errors="replace")
    raise ReplyError(f"ERR unknown subcommand '{shown}'. Try LATENCY HELP.")


def monitor(session: "Session", _args: Sequence[bytes]) -> Reply:
    session.house.monitors[session] = None
    return "OK"


def show_to_monitors(house: "House", source: str, request: Sequence[bytes]) -> None:
    """Send a command to those who monitor, as Redis writes it; passwords are not shown."""
    if not house.monitors or request[0].lower() in SECRET:
        return
    micros = house.facts.wall_ns() // 1000
    words = " ".join(f'"{_quoted(word)}"' for word in request)
    shown = f"{micros // 1_000_000}.{micros % 1_000_000:06d} [0 {source}] {words}"
    for other in list(house.monitors):
        if other.address != source:
            other.send(shown)


def _quoted(word: bytes) -> str:
    text = word.decode("latin-1").encode("unicode_escape").decode()
    return (
        text.replace('"', '\\"')
        if word.isascii()
        else "".join(
            chr(one) if 32 <= one < 127 and one not in b'"\\' else f"\\x{one:02x}" for one in word
        )
    )


def role(_session: "Session", _args: Sequence[bytes]) -> Reply:
    return [b"master", 0, []]


def debug(_session: "Session", _args: Sequence[bytes]) -> Reply:
    raise ReplyError("ERR DEBUG is switched off here")


COMMANDS: Final[dict[bytes, tuple[Callable[["Session", Sequence[bytes]], Reply], int]]] = {
    b"command": (command, -1),
    b"info": (info_, -1),
    b"config": (config, -2),
    b"slowlog": (slowlog, -2),
    b"latency": (latency, -2),
    b"monitor": (monitor, 1),
    b"role": (role, 1),
    b"debug": (debug, -2),
}
