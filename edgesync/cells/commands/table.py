"""What a command is, the table of all, and what they share: types, numbers, options.

A command is a function of a `Call` and its arguments. It runs to its end without waiting for
anything and returns a reply as `resp.encode` takes it; errors read as those of Redis.
"""

import re
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

from edgesync._native.commands import TABLE, WRONG_TYPE, Command
from edgesync._native.glob import Glob
from edgesync._native.keyspace import HASH, LIST, SET, STRING, ZSET, Keyspace
from edgesync._native.resp import ReplyError
from edgesync.cells import Reply

if TYPE_CHECKING:
    from random import Random

    from edgesync.cells.guard import Guard
    from edgesync.cells.scripts import Scripts
    from edgesync.cells.settings import Flush

T = TypeVar("T")
TYPE_NAMES: Final = {
    STRING: "string", HASH: "hash", LIST: "list", SET: "set", ZSET: "zset", 0: "none",
}  # fmt: skip
NOT_AN_INTEGER: Final = "ERR value is not an integer or out of range"
NOT_A_FLOAT: Final = "ERR value is not a valid float"
SYNTAX: Final = "ERR syntax error"
# Counters of many sites are added up: what one may reach leaves room for all (64 bits in the end).
COUNTER_MAX: Final = 1 << 59
REPLY_MAX: Final = 64 << 20
# Besides what stands in it, an element of a reply counts as so much.
ELEMENT_BYTES: Final = 16
# Random picks at one go, which may be more than there are members: 20 ms or so.
PICKS_MAX: Final = 1 << 16
# Names looked at in one step of a SCAN, whose COUNT is a wish.
WALK_MAX: Final = 10_000
DIGITS_MAX: Final = 20  # of a cursor
LONG_MAX: Final = (1 << 63) - 1

INTEGER = re.compile(rb"0|-?[1-9][0-9]{0,18}")
FLOAT = re.compile(rb"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]{1,4})?")
INFINITY = re.compile(rb"[-+]?inf(inity)?", re.IGNORECASE)


class Call:
    """What commands work on.

    space       the keys
    random      chance, for SPOP and its like (I13)
    value_max   bytes of one value, by the preset
    reply_max   bytes of a reply that is larger than the data it was made of
    writable    which keys may be written here (keyspace.is_in)
    cursors     of SCAN and its like: where a number continues
    guard       of a store that may not grow without limit; None for none
    flush       what FLUSHDB and FLUSHALL do when they are not told YES
    scripts     of clients, in Lua; None where none run
    """

    def __init__(
        self,
        space: Keyspace,
        random: "Random",
        *,
        value_max: int = 512 << 20,
        writable: Sequence[tuple[bytes, bool]] = (),
    ) -> None:
        self.space = space
        self.random = random
        self.value_max = value_max
        self.reply_max = REPLY_MAX
        self.writable = writable
        self.cursors = Cursors()
        self.guard: Guard | None = None
        self.scripts: Scripts | None = None
        self.flush: Flush = "refuse"


class Cursors:
    """Where the walks of clients continue: the last name given, behind a number for the client.

    The oldest is forgotten beyond `limit`; who comes back with it begins anew, which costs that
    client repetitions, as a walk may.
    """

    def __init__(self, limit: int = 4096) -> None:
        self._limit = limit
        self._last: dict[int, bytes] = {}
        self._next = 1

    def give(self, last: bytes) -> bytes:
        if len(self._last) >= self._limit:
            del self._last[next(iter(self._last))]
        number, self._next = self._next, self._next + 1
        self._last[number] = last
        return b"%d" % number

    def take(self, raw: bytes) -> bytes | None:
        """Return the last name given; None to begin with."""
        if not raw.isdigit() or len(raw) > DIGITS_MAX:
            raise ReplyError("ERR invalid cursor")
        return self._last.get(int(raw))


# Writes that take something away, or give it an end: they go on in a store that is full. A rename
# is none of them here, for it writes every cell anew.
FREEING: Final = frozenset({
    "del", "unlink", "flushdb", "flushall", "getdel", "getex", "expire", "pexpire", "expireat",
    "pexpireat", "persist", "hdel", "lpop", "rpop", "lrem", "ltrim", "srem", "spop", "zrem",
    "zpopmin", "zpopmax", "zremrangebyscore", "zremrangebyrank", "zremrangebylex", "lmpop", "zmpop",
})  # fmt: skip


def command(
    name: str,
    arity: int,
    *,
    writes: bool = False,
    keys: tuple[int, int, int] = (1, 1, 1),
    movable: Callable[[Sequence[bytes]], list[bytes]] | None = None,
) -> Callable[[Callable[[Call, Sequence[bytes]], Reply]], Callable[[Call, Sequence[bytes]], Reply]]:
    """Put a function into the table.

    keys     first, last and step of the arguments that are
    movable  finds those that are in other places, in a whole request
    """

    def put(run: Callable[[Call, Sequence[bytes]], Reply]) -> Callable[..., Reply]:
        one = Command(name, run, arity, writes, keys, writes and name not in FREEING, movable)
        # In the spelling of most clients too: one look for each.
        TABLE[name.encode()] = TABLE[name.upper().encode()] = one
        return run

    return put


# -- what commands share ---------------------------------------------------------------------


def weight_of(reply: Reply) -> int:
    """Return about how many bytes a reply takes."""
    if isinstance(reply, bytes | str):
        return ELEMENT_BYTES + len(reply)
    if isinstance(reply, dict):
        return ELEMENT_BYTES + sum(weight_of(k) + weight_of(v) for k, v in reply.items())
    if isinstance(reply, list | tuple | set | frozenset):
        return ELEMENT_BYTES + sum(map(weight_of, reply))
    return ELEMENT_BYTES


def typed(call: Call, key: bytes, kind: int) -> bool:
    """Whether the key is there; raises WRONGTYPE when it is something else."""
    found = call.space.type_of(key)
    if found and found != kind:
        raise ReplyError(WRONG_TYPE)
    return found != 0


def sized(call: Call, *values: bytes) -> None:
    """Refuse values beyond the limit, before anything is changed."""
    if any(len(value) > call.value_max for value in values):
        raise ReplyError(
            f"ERR value is larger than this edge takes ({call.value_max} bytes); see [cells] "
            "value_limit"
        )


def integer(raw: bytes, problem: str = NOT_AN_INTEGER) -> int:
    if INTEGER.fullmatch(raw) is None or not -(1 << 63) <= (value := int(raw)) < 1 << 63:
        raise ReplyError(problem)
    return value


def floating(raw: bytes, problem: str = NOT_A_FLOAT) -> float:
    if FLOAT.fullmatch(raw) is None and INFINITY.fullmatch(raw) is None:
        raise ReplyError(problem)
    return float(raw)


def count_of(
    raw: bytes, problem: str = "ERR value is out of range, must be positive", least: int = 0
) -> int:
    value = integer(raw, problem)
    if value < least:
        raise ReplyError(problem)
    return value


def counted_keys(
    args: Sequence[bytes], too_many: str = "ERR Number of keys can't be greater than number of args"
) -> tuple[Sequence[bytes], Sequence[bytes]]:
    """Part `numkeys key [key …] …` into keys and what follows them."""
    count = count_of(args[0], "ERR numkeys should be greater than 0", least=1)
    if count > len(args) - 1:
        raise ReplyError(too_many)
    return args[1 : count + 1], args[count + 1 :]


def limit_of(options: Sequence[bytes]) -> int:
    """Return what `COUNT n` of LMPOP and its like says; 1 without."""
    if not options:
        return 1
    if len(options) != 2 or options[0].lower() != b"count":
        raise ReplyError(SYNTAX)
    return count_of(options[1], "ERR count should be greater than 0", least=1)


def picks_of(raw: bytes) -> int:
    """Return how many random members are wanted: negative where one may come more than once."""
    count = integer(raw)
    if count < -LONG_MAX:
        raise ReplyError(
            f"ERR value is out of range, value must between {-LONG_MAX} and {LONG_MAX}"
        )
    return count


def pick(call: Call, there: Sequence[T], count: int) -> list[T]:
    """Choose that many members by chance, as SRANDMEMBER does; raises beyond PICKS_MAX."""
    if count >= 0:
        return call.random.sample(there, min(count, len(there)))
    if not there:
        return []
    if -count > PICKS_MAX:
        raise ReplyError(f"ERR value is out of range, at least -{PICKS_MAX}")
    # One look at what may be the system's source of chance, and not one for each.
    return [
        there[chance * len(there) >> 64] for chance in array("Q", call.random.randbytes(-8 * count))
    ]


def fitting(call: Call, values: Iterable[bytes | None]) -> None:
    """Refuse a reply that would have the same data many times over."""
    if sum(len(value) for value in values if value) > call.reply_max:
        raise ReplyError(f"ERR a reply of more than {call.reply_max} bytes; ask for less at once")


def numbered(at: int) -> Callable[[Sequence[bytes]], list[bytes]]:
    """Return what finds the keys behind their number, the argument `at` of a request."""

    def find(request: Sequence[bytes]) -> list[bytes]:
        raw = request[at] if at < len(request) else b""
        count = int(raw) if INTEGER.fullmatch(raw) is not None else 0
        return list(request[at + 1 : at + 1 + max(count, 0)])

    return find


def span(start: int, stop: int, size: int) -> range:
    """Indices of a list from `start` to `stop`, both counted, negative from its end."""
    first = max(start + size if start < 0 else start, 0)
    last = min(stop + size if stop < 0 else stop, size - 1)
    return range(first, last + 1)


def glob(pattern: bytes) -> Glob:
    """Compile one of Redis' patterns; raises ReplyError for one that is too long."""
    try:
        return Glob(pattern)
    except ValueError as error:
        raise ReplyError(f"ERR {error}") from error


def subcommand(name: str, args: Sequence[bytes], known: Mapping[str, int]) -> str:
    """Return the first argument, one of those or `help`; their arity counts it too."""
    word = args[0].lower().decode(errors="replace")
    arity = {**known, "help": 1}.get(word)
    if arity is None:
        shown = args[0][:128].decode(errors="replace")
        raise ReplyError(f"ERR unknown subcommand '{shown}'. Try {name.upper()} HELP.")
    if len(args) != arity and not 0 < -arity <= len(args):
        raise ReplyError(f"ERR wrong number of arguments for '{name}|{word}' command")
    return word


def walk_options(options: Sequence[bytes], *known: str) -> dict[str, bytes]:
    """Read `MATCH p`, `COUNT n` and their like; raises a syntax error for others."""
    found: dict[str, bytes] = {}
    left = list(options)
    while left:
        name = left.pop(0).lower().decode(errors="replace")
        if name not in known or not left:
            raise ReplyError(SYNTAX)
        found[name] = left.pop(0)
    if "count" in found and integer(found["count"]) < 1:
        raise ReplyError(SYNTAX)
    return found


def walk_page(
    call: Call, cursor: bytes, options: Sequence[bytes], names: Callable[[bytes], Iterable[bytes]]
) -> tuple[bytes, list[bytes]]:
    """One step of a walk through the fields or members of a key.

    names   gives those from a name on, in order

    Returns the cursor to go on with, b"0" at the end, and the names that match.
    """
    after = call.cursors.take(cursor)
    found = walk_options(options, "match", "count")
    limit = min(integer(found.get("count", b"10")), WALK_MAX)
    matches = glob(found["match"]).matches if "match" in found else None
    page: list[bytes] = []
    for name in names(b"" if after is None else after + b"\0"):
        if len(page) == limit:
            kept = [one for one in page if matches is None or matches(one)]
            return call.cursors.give(page[-1]), kept
        page.append(name)
    return b"0", [one for one in page if matches is None or matches(one)]
