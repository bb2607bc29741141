"""Lists. Elements stand in the order of their time, whichever edge pushed them."""

from collections.abc import Iterator, Sequence
from itertools import islice

from edgesync._native.keyspace import LIST
from edgesync._native.resp import NullArray, ReplyError
from edgesync.cells import Reply
from edgesync.cells.commands.table import (
    LONG_MAX,
    SYNTAX,
    Call,
    command,
    count_of,
    counted_keys,
    integer,
    limit_of,
    numbered,
    sized,
    span,
    typed,
)

LEFT, RIGHT = 0, 1
SIDES = (b"left", b"right")


def elements(call: Call, key: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
    """Names and values of the elements; raises WRONGTYPE for another type."""
    return call.space.cells(key, LIST, reverse=reverse) if typed(call, key, LIST) else iter(())


def _push(call: Call, args: Sequence[bytes], side: int) -> int:
    sized(call, *args[1:])
    typed(call, args[0], LIST)
    call.space.push(args[0], side, args[1:])
    return call.space.count(args[0], LIST)


@command("lpush", -3, writes=True)
def lpush(call: Call, args: Sequence[bytes]) -> Reply:
    return _push(call, args, LEFT)


@command("rpush", -3, writes=True)
def rpush(call: Call, args: Sequence[bytes]) -> Reply:
    return _push(call, args, RIGHT)


@command("lpushx", -3, writes=True)
def lpushx(call: Call, args: Sequence[bytes]) -> Reply:
    return _push(call, args, LEFT) if typed(call, args[0], LIST) else 0


@command("rpushx", -3, writes=True)
def rpushx(call: Call, args: Sequence[bytes]) -> Reply:
    return _push(call, args, RIGHT) if typed(call, args[0], LIST) else 0


def _pop(call: Call, args: Sequence[bytes], side: int) -> Reply:
    if len(args) > 2:
        name = "lpop" if side == LEFT else "rpop"
        raise ReplyError(f"ERR wrong number of arguments for '{name}' command")
    limit = count_of(args[1]) if len(args) == 2 else 1
    if not typed(call, args[0], LIST):
        return None if len(args) == 1 else NullArray
    values = _take(call, args[0], side, limit)
    return values[0] if len(args) == 1 else values


def _take(call: Call, key: bytes, side: int, limit: int) -> list[bytes]:
    """Pop up to `limit` elements."""
    found = list(islice(elements(call, key, reverse=side == RIGHT), min(limit, LONG_MAX)))
    if found:
        call.space.remove_many(key, [b"l" + name for name, _ in found])
    return [value for _, value in found]


@command("lpop", -2, writes=True)
def lpop(call: Call, args: Sequence[bytes]) -> Reply:
    return _pop(call, args, LEFT)


@command("rpop", -2, writes=True)
def rpop(call: Call, args: Sequence[bytes]) -> Reply:
    return _pop(call, args, RIGHT)


@command("llen", 2)
def llen(call: Call, args: Sequence[bytes]) -> Reply:
    return call.space.count(args[0], LIST) if typed(call, args[0], LIST) else 0


@command("lrange", 4)
def lrange(call: Call, args: Sequence[bytes]) -> Reply:
    start, stop = integer(args[1]), integer(args[2])
    if not typed(call, args[0], LIST):
        return []
    found = span(start, stop, call.space.count(args[0], LIST))
    return [value for _, value in islice(elements(call, args[0]), found.start, max(found.stop, 0))]


def _at(call: Call, key: bytes, index: int) -> tuple[bytes, bytes] | None:
    """Name and value of the element at an index, counted from the nearer end."""
    size = call.space.count(key, LIST)
    index = index + size if index < 0 else index
    if not 0 <= index < size:
        return None
    from_right = index > size // 2
    steps = size - 1 - index if from_right else index
    return next(islice(elements(call, key, reverse=from_right), steps, None), None)


@command("lindex", 3)
def lindex(call: Call, args: Sequence[bytes]) -> Reply:
    if not typed(call, args[0], LIST):
        integer(args[1])
        return None
    found = _at(call, args[0], integer(args[1]))
    return None if found is None else found[1]


@command("lset", 4, writes=True)
def lset(call: Call, args: Sequence[bytes]) -> Reply:
    sized(call, args[2])
    if not typed(call, args[0], LIST):
        raise ReplyError("ERR no such key")
    found = _at(call, args[0], integer(args[1]))
    if found is None:
        raise ReplyError("ERR index out of range")
    call.space.put(args[0], b"l" + found[0], args[2])
    return "OK"


@command("lrem", 4, writes=True)
def lrem(call: Call, args: Sequence[bytes]) -> Reply:
    count = integer(args[1])
    there = elements(call, args[0], reverse=count < 0)
    same = (b"l" + name for name, value in there if value == args[2])
    gone = list(islice(same, min(abs(count), LONG_MAX) or None))
    if gone:
        call.space.remove_many(args[0], gone)
    return len(gone)


@command("ltrim", 4, writes=True)
def ltrim(call: Call, args: Sequence[bytes]) -> Reply:
    start, stop = integer(args[1]), integer(args[2])
    if not typed(call, args[0], LIST):
        return "OK"
    kept = span(start, stop, call.space.count(args[0], LIST))
    names = [b"l" + name for name, _ in elements(call, args[0])]
    gone = [name for index, name in enumerate(names) if index not in kept]
    call.space.remove_many(args[0], gone)
    return "OK"


@command("linsert", 5, writes=True)
def linsert(call: Call, args: Sequence[bytes]) -> Reply:
    """Put an element beside the first that is equal to the pivot.

    What two sites put beside the same one meanwhile stays, the newest next to it.
    """
    key, side, pivot, value = args[0], args[1].lower(), args[2], args[3]
    if side not in (b"before", b"after"):
        raise ReplyError(SYNTAX)
    sized(call, value)
    if not typed(call, key, LIST):
        return 0
    left = b""
    walk = elements(call, key)
    for name, there in walk:
        if there == pivot:
            right = name
            if side == b"after":
                left, right = name, next((behind for behind, _ in walk), b"")
            _insert(call, key, left, right, value)
            return call.space.count(key, LIST)
        left = name
    return -1


def _insert(call: Call, key: bytes, left: bytes, right: bytes, value: bytes) -> None:
    """Put a value between two neighbours, or at an end, where one has no name."""
    if not right:
        call.space.push(key, RIGHT, [value])
    elif not left:
        call.space.push(key, LEFT, [value])
    elif not call.space.insert(key, b"l" + left, b"l" + right, value):
        # Neighbours that were parted too often: what is behind them gets new names.
        behind = list(call.space.cells(key, LIST, right))
        call.space.remove_many(key, [b"l" + name for name, _ in behind])
        call.space.push(key, RIGHT, [value, *(one for _, one in behind)])


@command("lpos", -3)
def lpos(call: Call, args: Sequence[bytes]) -> Reply:
    key, wanted, rank, limit, length = args[0], args[1], 1, -1, 0
    options = list(args[2:])
    while options:
        word = options.pop(0).lower()
        if word not in (b"rank", b"count", b"maxlen") or not options:
            raise ReplyError(SYNTAX)
        raw = options.pop(0)
        if word == b"rank":
            rank = integer(raw)
            if rank == 0:
                raise ReplyError(
                    "ERR RANK can't be zero: use 1 to start from the first match, 2 from the "
                    "second ... or use negative to start from the end of the list"
                )
        elif word == b"count":
            limit = count_of(raw, "ERR COUNT can't be negative")
        else:
            length = count_of(raw, "ERR MAXLEN can't be negative")
    size = call.space.count(key, LIST) if typed(call, key, LIST) else 0
    walk = islice(elements(call, key, reverse=rank < 0), length or None)
    same = (at for at, (_, value) in enumerate(walk) if value == wanted)
    found = islice(same, min(abs(rank) - 1, size), None)
    places = [at if rank > 0 else size - 1 - at for at in islice(found, abs(limit) or None)]
    return places if limit >= 0 else places[0] if places else None


@command("lmove", 5, writes=True, keys=(1, 2, 1))
def lmove(call: Call, args: Sequence[bytes]) -> Reply:
    return _move(call, args[0], args[1], side_of(args[2]), side_of(args[3]))


@command("rpoplpush", 3, writes=True, keys=(1, 2, 1))
def rpoplpush(call: Call, args: Sequence[bytes]) -> Reply:
    return _move(call, args[0], args[1], RIGHT, LEFT)


def side_of(raw: bytes) -> int:
    """Return which end of a list `LEFT` or `RIGHT` is."""
    if raw.lower() not in SIDES:
        raise ReplyError(SYNTAX)
    return SIDES.index(raw.lower())


def _move(call: Call, source: bytes, target: bytes, start: int, end: int) -> Reply:
    if not typed(call, source, LIST):
        return None
    typed(call, target, LIST)
    ((name, value),) = islice(elements(call, source, reverse=start == RIGHT), 1)
    if source != target or call.space.count(source, LIST) > 1:
        call.space.push(target, end, [value])
        call.space.remove(source, b"l" + name)
    return value


@command("lmpop", -4, writes=True, keys=(0, 0, 0), movable=numbered(1))
def lmpop(call: Call, args: Sequence[bytes]) -> Reply:
    keys, rest = counted_keys(args, "ERR syntax error")
    if not rest:
        raise ReplyError(SYNTAX)
    side, limit = side_of(rest[0]), limit_of(rest[1:])
    for key in keys:
        if typed(call, key, LIST):
            return [key, _take(call, key, side, limit)]
    return NullArray
