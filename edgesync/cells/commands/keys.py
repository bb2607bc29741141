"""Keys of any type: removing, expiring, listing, copying."""

from collections.abc import Callable, Sequence

from edgesync._native.keyspace import LIST, NEVER, STRING, STRING_CELL, is_in
from edgesync._native.resp import ReplyError
from edgesync.cells import Reply
from edgesync.cells.commands.table import (
    LONG_MAX,
    NOT_AN_INTEGER,
    SYNTAX,
    TYPE_NAMES,
    WALK_MAX,
    Call,
    command,
    count_of,
    glob,
    integer,
    subcommand,
    walk_options,
)
from edgesync.entities.keys import ROOT

# What a deadline may be in Unix ms: what Redis takes too, below NEVER.
DEADLINE_MAX = LONG_MAX
SAME_OBJECT = "ERR source and destination objects are the same"
OBJECT_HELP = [
    "OBJECT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "ENCODING <key>",
    "    How a value is kept: inline, raw, lz4, evicted, or cells of a collection.",
    "REFCOUNT <key>",
    "    1: no value is shared here.",
    "HELP",
    "    Print this help.",
]
MEMORY_HELP = [
    "MEMORY <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "USAGE <key> [SAMPLES <count>]",
    "    Bytes of rows that a key takes.",
    "HELP",
    "    Print this help.",
]


def deadline_of(call: Call, name: str, unit: bytes, raw: bytes) -> int:
    """Return the deadline that `EX 10` and its like mean, in Unix ms."""
    value = integer(raw)
    if value <= 0:
        raise ReplyError(f"ERR invalid expire time in '{name}' command")
    value *= 1000 if unit in (b"ex", b"exat") else 1
    deadline = value if unit in (b"exat", b"pxat") else call.space.now_ms + value
    if deadline > DEADLINE_MAX:
        raise ReplyError(f"ERR invalid expire time in '{name}' command")
    return deadline


@command("del", -2, writes=True, keys=(1, -1, 1))
def del_(call: Call, args: Sequence[bytes]) -> Reply:
    gone = 0
    for key in args:
        if call.space.type_of(key):
            call.space.delete(key)
            gone += 1
    return gone


@command("unlink", -2, writes=True, keys=(1, -1, 1))
def unlink(call: Call, args: Sequence[bytes]) -> Reply:
    return del_(call, args)


@command("exists", -2, keys=(1, -1, 1))
def exists(call: Call, args: Sequence[bytes]) -> Reply:
    return sum(call.space.type_of(key) != 0 for key in args)


@command("touch", -2, keys=(1, -1, 1))
def touch(call: Call, args: Sequence[bytes]) -> Reply:
    return exists(call, args)


@command("type", 2)
def type_(call: Call, args: Sequence[bytes]) -> Reply:
    return TYPE_NAMES[call.space.type_of(args[0])]


def _expire(name: str, unit: int, is_absolute: bool) -> Callable[[Call, Sequence[bytes]], Reply]:
    """EXPIRE, PEXPIRE, EXPIREAT, PEXPIREAT: `unit` in ms, from now or from 1970."""

    def run(call: Call, args: Sequence[bytes]) -> Reply:
        key, value = args[0], integer(args[1]) * unit
        flags = {one.lower() for one in args[2:]}
        for one in args[2:]:
            if one.lower() not in (b"nx", b"xx", b"gt", b"lt"):
                raise ReplyError(f"ERR Unsupported option {one.decode(errors='replace')}")
        if b"nx" in flags and len(flags) > 1:
            raise ReplyError("ERR NX and XX, GT or LT options at the same time are not compatible")
        if {b"gt", b"lt"} <= flags:
            raise ReplyError("ERR GT and LT options at the same time are not compatible")
        deadline = value if is_absolute else call.space.now_ms + value
        if not -DEADLINE_MAX <= min(value, deadline) <= max(value, deadline) <= DEADLINE_MAX:
            raise ReplyError(f"ERR invalid expire time in '{name}' command")
        now = call.space.deadline(key)
        if now is None or not _may_expire(flags, now, deadline):
            return 0
        if deadline <= call.space.now_ms:
            call.space.delete(key)
        else:
            call.space.expire(key, deadline)
        return 1

    command(name, -3, writes=True)(run)
    return run


def _may_expire(flags: set[bytes], now: int, deadline: int) -> bool:
    has_one = now != NEVER
    return not (
        (b"nx" in flags and has_one)
        or (b"xx" in flags and not has_one)
        or (b"gt" in flags and deadline <= now)
        or (b"lt" in flags and deadline >= now)
    )


expire = _expire("expire", 1000, False)
pexpire = _expire("pexpire", 1, False)
expireat = _expire("expireat", 1000, True)
pexpireat = _expire("pexpireat", 1, True)


def _left(call: Call, key: bytes) -> int:
    """Milliseconds left; -1 for ever, -2 when the key is absent."""
    deadline = call.space.deadline(key)
    if deadline is None:
        return -2
    return -1 if deadline == NEVER else deadline - call.space.now_ms


@command("ttl", 2)
def ttl(call: Call, args: Sequence[bytes]) -> Reply:
    left = _left(call, args[0])
    return left if left < 0 else (left + 500) // 1000


@command("pttl", 2)
def pttl(call: Call, args: Sequence[bytes]) -> Reply:
    return _left(call, args[0])


@command("expiretime", 2)
def expiretime(call: Call, args: Sequence[bytes]) -> Reply:
    at = pexpiretime(call, args)
    assert isinstance(at, int)
    return at if at < 0 else (at + 500) // 1000


@command("pexpiretime", 2)
def pexpiretime(call: Call, args: Sequence[bytes]) -> Reply:
    deadline = call.space.deadline(args[0])
    return -2 if deadline is None else -1 if deadline == NEVER else deadline


@command("persist", 2, writes=True)
def persist(call: Call, args: Sequence[bytes]) -> Reply:
    if call.space.deadline(args[0]) in (None, NEVER):
        return 0
    call.space.expire(args[0], NEVER)
    return 1


@command("rename", 3, writes=True, keys=(1, 2, 1))
def rename(call: Call, args: Sequence[bytes]) -> Reply:
    if not call.space.type_of(args[0]):
        raise ReplyError("ERR no such key")
    if args[0] != args[1]:
        _copy(call, args[0], args[1])
        call.space.delete(args[0])
    return "OK"


@command("renamenx", 3, writes=True, keys=(1, 2, 1))
def renamenx(call: Call, args: Sequence[bytes]) -> Reply:
    if not call.space.type_of(args[0]):
        raise ReplyError("ERR no such key")
    if call.space.type_of(args[1]):
        return 0
    rename(call, args)
    return 1


@command("copy", -3, writes=True, keys=(1, 2, 1))
def copy(call: Call, args: Sequence[bytes]) -> Reply:
    replaces, left = False, list(args[2:])
    while left:
        word = left.pop(0).lower()
        if word == b"replace":
            replaces = True
        elif word == b"db" and left:
            _database(left.pop(0))
        else:
            raise ReplyError(SYNTAX)
    if args[0] == args[1]:
        raise ReplyError(SAME_OBJECT)
    if not call.space.type_of(args[0]) or (call.space.type_of(args[1]) and not replaces):
        return 0
    _copy(call, args[0], args[1])
    return 1


def _database(raw: bytes, problem: str = NOT_AN_INTEGER) -> None:
    """Refuse every database but the one there is."""
    number = integer(raw, problem)
    if not -(1 << 31) <= number < 1 << 31:
        raise ReplyError(
            "ERR value is out of range, value must between -2147483648 and 2147483647"
            if problem == NOT_AN_INTEGER
            else problem
        )
    if number:
        raise ReplyError("ERR DB index is out of range")


@command("move", 3, writes=True)
def move(_call: Call, args: Sequence[bytes]) -> Reply:
    _database(args[1])
    raise ReplyError(SAME_OBJECT)


@command("swapdb", 3, writes=True, keys=(0, 0, 0))
def swapdb(_call: Call, args: Sequence[bytes]) -> Reply:
    _database(args[0], "ERR invalid first DB index")
    _database(args[1], "ERR invalid second DB index")
    return "OK"


def _copy(call: Call, source: bytes, target: bytes) -> None:
    """Make `target` what `source` is, deadline and all: writes of its own, for every cell."""
    space = call.space
    kind, deadline = space.type_of(source), space.deadline(source)
    # All is read before anything is written: some of it may be at the hub.
    value = space.get_string(source) if kind == STRING else None
    cells = [] if kind == STRING else list(space.cells(source, kind))
    space.delete(target)
    if kind == STRING:
        space.put(target, STRING_CELL, value or b"")
    elif kind == LIST:
        space.push(target, 1, [element for _, element in cells])
    else:
        mark = bytes([kind])
        space.put_many(target, [(mark + name, one) for name, one in cells])
    if deadline is not None and deadline != NEVER:
        space.expire(target, deadline)


def _shown(pattern: bytes) -> Callable[[bytes], bool]:
    """Return what a pattern shows: those of entities only if it says so itself."""
    matches = glob(pattern).matches
    if pattern.startswith(ROOT):
        return matches
    return lambda key: not key.startswith(ROOT) and matches(key)


@command("keys", 2, keys=(0, 0, 0))
def keys_(call: Call, args: Sequence[bytes]) -> Reply:
    matches = _shown(args[0])
    found: list[bytes] = []
    last: bytes | None = None
    while names := call.space.names(last):
        last = names[-1]
        found += [one for one in names if matches(one) and call.space.type_of(one)]
    return found


@command("scan", -2, keys=(0, 0, 0))
def scan(call: Call, args: Sequence[bytes]) -> Reply:
    after = call.cursors.take(args[0])
    options = walk_options(args[1:], "match", "count", "type")
    limit = min(integer(options.get("count", b"10")), WALK_MAX)
    matches = _shown(options.get("match", b"*"))
    wanted = options.get("type", b"").lower().decode(errors="replace")
    names = call.space.names(after, limit=limit)
    found = []
    for name in names:
        kind = call.space.type_of(name)
        if kind and matches(name) and wanted in ("", TYPE_NAMES[kind]):
            found.append(name)
    return [b"0" if len(names) < limit else call.cursors.give(names[-1]), found]


@command("randomkey", 1, keys=(0, 0, 0))
def randomkey(call: Call, _args: Sequence[bytes]) -> Reply:
    """A key from a random place in their order; what stands densely there is as likely."""
    for _ in range(8):
        start = bytes([call.random.randrange(256)])
        for names in (call.space.names(start, limit=64), call.space.names(None, limit=64)):
            there = [one for one in names if not one.startswith(ROOT) and call.space.type_of(one)]
            if there:
                return call.random.choice(there)
    everything = keys_(call, [b"*"])
    assert isinstance(everything, list)
    return call.random.choice(everything) if everything else None


@command("dbsize", 1, keys=(0, 0, 0))
def dbsize(call: Call, _args: Sequence[bytes]) -> Reply:
    return call.space.keys


@command("object", -2, keys=(2, 2, 1))
def object_(call: Call, args: Sequence[bytes]) -> Reply:
    word = subcommand("object", args, {"encoding": 2, "refcount": 2, "idletime": 2, "freq": 2})
    if word == "help":
        return OBJECT_HELP
    kind = call.space.type_of(args[1])
    if not kind:
        return None
    if word == "encoding":
        return _encoding(call, args[1]) if kind == STRING else b"cells"
    if word == "refcount":
        return 1
    raise ReplyError(f"ERR {word.upper()} is not kept: here no value is evicted by its use")


def _encoding(call: Call, key: bytes) -> bytes:
    dots = call.space.siblings(key, STRING_CELL)
    if any(dot.evicted for dot in dots):
        return b"evicted"
    if any(dot.packed for dot in dots):
        return b"lz4"
    size = max((len(dot.payload) for dot in dots), default=0)
    return b"inline" if size <= 23 else b"raw"


@command("memory", -2, keys=(2, 2, 1))
def memory(call: Call, args: Sequence[bytes]) -> Reply:
    if subcommand("memory", args, {"usage": -2}) == "help":
        return MEMORY_HELP
    if len(args) > 2:
        if len(args) != 4 or args[2].lower() != b"samples":
            raise ReplyError(SYNTAX)
        count_of(args[3], SYNTAX)
    return call.space.stored_bytes(args[1])


@command("flushdb", -1, writes=True, keys=(0, 0, 0))
def flushdb(call: Call, args: Sequence[bytes]) -> Reply:
    """Remove every key, here and in time everywhere: so it is allowed by a setting, or YES."""
    return _flush(call, args, "FLUSHDB")


@command("flushall", -1, writes=True, keys=(0, 0, 0))
def flushall(call: Call, args: Sequence[bytes]) -> Reply:
    return _flush(call, args, "FLUSHALL")


def _flush(call: Call, args: Sequence[bytes], name: str) -> Reply:
    words = [one.lower() for one in args]
    is_sure = words[-1:] == [b"yes"]
    if words[: len(words) - is_sure] not in ([], [b"sync"], [b"async"]):
        raise ReplyError(SYNTAX)
    if call.flush == "refuse" and not is_sure:
        raise ReplyError(
            f"ERR {name} removes every key on every edge; say {name} YES to do it, or set "
            '[cells] flush = "local-scope" or "everywhere"'
        )
    every_key = keys_(call, [b"*"])
    assert isinstance(every_key, list)
    is_scoped = call.flush == "local-scope" and not is_sure and call.writable
    for key in every_key:
        if not is_scoped or is_in(key, call.writable):
            call.space.delete(key)
    return "OK"
