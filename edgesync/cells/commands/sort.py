"""SORT: a list, a set or a sorted set in another order, by itself or by other keys."""

import math
from collections.abc import Sequence
from itertools import islice

from edgesync._native.commands import LACKING_MAX, WRONG_TYPE, EvictedReply
from edgesync._native.keyspace import HASH, LIST, SET, STRING, ZSET
from edgesync._native.resp import ReplyError
from edgesync.cells import Reply
from edgesync.cells.commands.lists import RIGHT, elements
from edgesync.cells.commands.sets import members
from edgesync.cells.commands.table import FLOAT, INFINITY, SYNTAX, Call, command, integer
from edgesync.cells.commands.zsets import ordered
from edgesync.errors import Evicted

# Arguments that options other than STORE have.
SKIPPED = {b"by": 1, b"get": 1, b"limit": 2}


class _Options:
    def __init__(self, rest: Sequence[bytes], may_store: bool) -> None:
        self.is_descending = self.is_alpha = False
        self.start, self.count = 0, -1
        self.by = self.target = b""
        self.gets: list[bytes] = []
        left = list(rest[::-1])
        while left:
            word = left.pop().lower()
            if word in (b"asc", b"desc"):
                self.is_descending = word == b"desc"
            elif word == b"alpha":
                self.is_alpha = True
            elif word == b"limit" and len(left) >= 2:
                self.start, self.count = max(integer(left.pop()), 0), integer(left.pop())
            elif word == b"store" and left and may_store:
                self.target, self.stores = left.pop(), True
            elif word == b"by" and left:
                self.by = left.pop()
                self.is_sorting = b"*" in self.by
            elif word == b"get" and left:
                self.gets.append(left.pop())
            else:
                raise ReplyError(SYNTAX)

    stores = False
    is_sorting = True


class _Lookup:
    """Values of keys that patterns name; `lacking` has those keys whose values are at the hub."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self.lacking: dict[bytes, None] = {}

    def find(self, pattern: bytes, element: bytes) -> bytes | None:
        """Return what `weight_*`, `item_*->field` or `#` means for an element."""
        if pattern == b"#":
            return element
        before, star, behind = pattern.partition(b"*")
        if not star:
            return None
        behind, arrow, field = behind.partition(b"->")
        if arrow and not field:
            behind += arrow
        key, space = before + element + behind, self._call.space
        try:
            if field:
                return space.get(key, b"h" + field) if space.type_of(key) == HASH else None
            return space.get_string(key) if space.type_of(key) == STRING else None
        except Evicted:
            self.lacking[key] = None
            return None

    def check(self) -> None:
        """Ask for what is lacking, before anything is made of the rest."""
        if self.lacking:
            raise EvictedReply(list(self.lacking)[:LACKING_MAX])


def _elements(call: Call, key: bytes) -> tuple[int, list[bytes]]:
    kind = call.space.type_of(key)
    if kind not in (0, LIST, SET, ZSET):
        raise ReplyError(WRONG_TYPE)
    if kind == LIST:
        return kind, [value for _, value in elements(call, key)]
    if kind == ZSET:
        return kind, [member for member, _ in ordered(call, key)]
    return kind, members(call, key)


def _number(raw: bytes) -> float:
    """Return a number as strtod reads it: nothing is 0, and what is too large is none."""
    raw = raw.partition(b"\0")[0].lstrip(b" \t\n\v\f\r")
    if not raw:
        return 0.0
    is_infinite = INFINITY.fullmatch(raw) is not None
    number = float(raw) if is_infinite or FLOAT.fullmatch(raw) else math.nan
    if math.isnan(number) or (math.isinf(number) and not is_infinite):
        raise ReplyError("ERR One or more scores can't be converted into double")
    return number


def _sorted(found: list[bytes], lookup: _Lookup, options: _Options) -> list[bytes]:
    by = options.by if b"*" in options.by else b"#"
    values = [lookup.find(by, element) for element in found]
    lookup.check()
    if options.is_alpha:
        keys = [(value is not None, value or b"") for value in values]
        order = sorted(range(len(found)), key=keys.__getitem__, reverse=options.is_descending)
    else:
        scores = [0.0 if value is None else _number(value) for value in values]
        pairs = list(zip(scores, found, strict=True))
        order = sorted(range(len(found)), key=pairs.__getitem__, reverse=options.is_descending)
    return [found[at] for at in order]


def _arranged(call: Call, key: bytes, lookup: _Lookup, options: _Options) -> list[bytes]:
    kind, found = _elements(call, key)
    if not options.is_sorting and kind == SET and options.stores:
        options.is_alpha = options.is_sorting = True  # so that what is stored has an order
    if options.is_sorting:
        found = _sorted(found, lookup, options)
    elif options.is_descending and kind != SET:
        found.reverse()
    count = len(found) if options.count < 0 else options.count
    return found[options.start : options.start + count]


def _sort(call: Call, args: Sequence[bytes], *, may_store: bool) -> Reply:
    options, lookup = _Options(args[1:], may_store), _Lookup(call)
    found = _arranged(call, args[0], lookup, options)
    out: list[bytes | None] = [*found]
    if options.gets:
        out, size = [], 0
        for element in found:
            for pattern in options.gets:
                value = lookup.find(pattern, element)
                size += 8 + len(value or b"")
                out.append(value)
            if size > call.reply_max:
                raise ReplyError(f"ERR a reply of more than {call.reply_max} bytes; use LIMIT")
        lookup.check()
    if not options.stores:
        return out
    call.space.delete(options.target)
    if out:
        call.space.push(options.target, RIGHT, [value or b"" for value in out])
    return len(out)


def _targets(request: Sequence[bytes]) -> list[bytes]:
    """Return what STORE names; the last counts."""
    target: list[bytes] = []
    words = iter(request[2:])
    for word in words:
        if word.lower() == b"store":
            target = [*islice(words, 1)] or target
        else:
            for _ in islice(words, SKIPPED.get(word.lower(), 0)):
                pass
    return target


@command("sort", -2, writes=True, movable=_targets)
def sort(call: Call, args: Sequence[bytes]) -> Reply:
    return _sort(call, args, may_store=True)


@command("sort_ro", -2, movable=lambda _request: [])
def sort_ro(call: Call, args: Sequence[bytes]) -> Reply:
    return _sort(call, args, may_store=False)
