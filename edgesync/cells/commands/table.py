"""What a command is, the table of all, and what they share: types, numbers, options.

A command is a function of a `Call` and its arguments. It runs to its end without waiting for
anything and returns a reply as `resp.encode` takes it; errors read as those of Redis.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final

from edgesync._native.commands import TABLE, WRONG_TYPE, Command
from edgesync._native.keyspace import HASH, LIST, SET, STRING, ZSET, Keyspace
from edgesync._native.resp import ReplyError
from edgesync.cells import Reply

if TYPE_CHECKING:
    from random import Random

    from edgesync.cells.guard import Guard

TYPE_NAMES: Final = {
    STRING: "string", HASH: "hash", LIST: "list", SET: "set", ZSET: "zset", 0: "none",
}  # fmt: skip
NOT_AN_INTEGER: Final = "ERR value is not an integer or out of range"
NOT_A_FLOAT: Final = "ERR value is not a valid float"
SYNTAX: Final = "ERR syntax error"
# Counters of many sites are added up: what one may reach leaves room for all (64 bits in the end).
COUNTER_MAX: Final = 1 << 59

INTEGER = re.compile(rb"0|-?[1-9][0-9]{0,18}")
FLOAT = re.compile(rb"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]{1,4})?")
INFINITY = re.compile(rb"[-+]?inf(inity)?", re.IGNORECASE)


class Call:
    """What commands work on.

    space       the keys
    random      chance, for SPOP and its like (I13)
    value_max   bytes of one value, by the preset
    writable    which keys may be written here (keyspace.is_in)
    cursors     of SCAN and its like: where a number continues
    guard       of a store that may not grow without limit; None for none
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
        self.writable = writable
        self.cursors = Cursors()
        self.guard: Guard | None = None


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
        if not raw.isdigit():
            raise ReplyError("ERR invalid cursor")
        return self._last.get(int(raw))


# Writes that take something away, or give it an end: they go on in a store that is full. A rename
# is none of them here, for it writes every cell anew.
FREEING: Final = frozenset({
    "del", "unlink", "flushdb", "getdel", "getex", "expire", "pexpire", "expireat", "pexpireat",
    "persist", "hdel", "lpop", "rpop", "lrem", "ltrim", "srem", "spop", "zrem", "zpopmin",
    "zpopmax", "zremrangebyscore", "zremrangebyrank",
})  # fmt: skip


def command(
    name: str, arity: int, *, writes: bool = False, keys: tuple[int, int, int] = (1, 1, 1)
) -> Callable[[Callable[[Call, Sequence[bytes]], Reply]], Callable[[Call, Sequence[bytes]], Reply]]:
    """Put a function into the table. `keys`: first, last and step of the arguments that are."""

    def put(run: Callable[[Call, Sequence[bytes]], Reply]) -> Callable[..., Reply]:
        one = Command(name, run, arity, writes, keys, writes and name not in FREEING)
        # In the spelling of most clients too: one look for each.
        TABLE[name.encode()] = TABLE[name.upper().encode()] = one
        return run

    return put


# -- what commands share ---------------------------------------------------------------------


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
            f"ERR value is larger than this edge takes ({call.value_max} bytes); see [cells] preset"
        )


def integer(raw: bytes, problem: str = NOT_AN_INTEGER) -> int:
    if INTEGER.fullmatch(raw) is None or not -(1 << 63) <= (value := int(raw)) < 1 << 63:
        raise ReplyError(problem)
    return value


def floating(raw: bytes, problem: str = NOT_A_FLOAT) -> float:
    if FLOAT.fullmatch(raw) is None and INFINITY.fullmatch(raw) is None:
        raise ReplyError(problem)
    return float(raw)


def count_of(raw: bytes) -> int:
    value = integer(raw)
    if value < 0:
        raise ReplyError("ERR value is out of range, must be positive")
    return value


def span(start: int, stop: int, size: int) -> range:
    """Indices of a list from `start` to `stop`, both counted, negative from its end."""
    first = max(start + size if start < 0 else start, 0)
    last = min(stop + size if stop < 0 else stop, size - 1)
    return range(first, last + 1)


def glob(pattern: bytes) -> re.Pattern[bytes]:
    r"""Return Redis' patterns (`*`, `?`, `[a-z]`, `[^x]`, `\\`) as a regular expression."""
    out, at = [], 0
    while at < len(pattern):
        one = pattern[at : at + 1]
        at += 1
        if one == b"*":
            out.append(b".*")
        elif one == b"?":
            out.append(b".")
        elif one == b"[":
            kind, at = _set(pattern, at)
            out.append(kind)
        else:
            if one == b"\\" and at < len(pattern):
                one = pattern[at : at + 1]
                at += 1
            out.append(re.escape(one))
    # `.*.*` would try every split of a long name.
    merged = re.sub(rb"(?:\.\*)+", b".*", b"".join(out))
    return re.compile(merged, re.DOTALL)


def _set(pattern: bytes, at: int) -> tuple[bytes, int]:
    """A class of characters whose `[` is before `at`; returns it and where it ends."""
    is_not = pattern[at : at + 1] == b"^"
    at += is_not
    members: list[bytes] = []
    while at < len(pattern) and pattern[at : at + 1] != b"]":
        if pattern[at : at + 1] == b"\\" and at + 1 < len(pattern):
            at += 1
            members.append(re.escape(pattern[at : at + 1]))
        elif pattern[at + 1 : at + 2] == b"-" and at + 2 < len(pattern):
            low, high = sorted((pattern[at], pattern[at + 2]))
            members.append(re.escape(bytes([low])) + b"-" + re.escape(bytes([high])))
            at += 2
        else:
            members.append(re.escape(pattern[at : at + 1]))
        at += 1
    if not members:
        return (b"." if is_not else b"(?!)"), at + 1
    return b"[" + (b"^" if is_not else b"") + b"".join(members) + b"]", at + 1


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
    limit = integer(found.get("count", b"10"))
    matches = glob(found["match"]).fullmatch if "match" in found else None
    page: list[bytes] = []
    for name in names(b"" if after is None else after + b"\0"):
        if len(page) == limit:
            kept = [one for one in page if matches is None or matches(one)]
            return call.cursors.give(page[-1]), kept
        page.append(name)
    return b"0", [one for one in page if matches is None or matches(one)]
