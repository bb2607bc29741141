"""Conflicts: writes that met and had not seen each other, what came of it, and how to change that.

A cell always shows one value, chosen by the strategy of its key; the others stand beside it until
somebody who has seen them all writes to the cell. That is what resolving is: a write like any
other, which every replica carries out.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from edgesync._native import cells
from edgesync._native.cells import Dot
from edgesync._native.clock import wall_ms_of
from edgesync._native.keyspace import Keyspace
from edgesync._native.resp import ReplyError
from edgesync.model import Strategy

PREVIEW_BYTES: Final = 64
OPEN, RESOLVED, EXPIRED = "open", "resolved", "expired"
STATES: Final = (OPEN, RESOLVED, EXPIRED)
KINDS: Final = ("", "VALUE", "DELETE_UPDATE")
# By the first byte of a cell's name (native/keyspace.pyx).
TYPES: Final = {
    b"s": "string", b"h": "field", b"e": "member", b"z": "member", b"l": "element",
}  # fmt: skip
VALUE_KIND, TOMB_KIND = 0, 2


class Side(msgspec.Struct, frozen=True):
    """One of the writes. `value` is its beginning; None for a removal."""

    r: int
    n: int
    time_ms: int
    value: bytes | None
    edge: str = ""


class Conflict(msgspec.Struct, frozen=True, kw_only=True):
    """One cell in which writes have met.

    id         given by the hub, as is `change`, which grows with every change of any conflict
    kind       VALUE: different values; DELETE_UPDATE: a removal and something it had not seen
    winner     what the cell shows under `strategy`; None: it shows a sum, or nothing
    """

    id: int
    change: int
    key: bytes
    name: bytes
    kind: str
    found_ms: int
    strategy: str
    winner: Side | None
    losers: tuple[Side, ...]
    status: str = OPEN

    @property
    def cell(self) -> str:
        """The cell as people know it: `string`, or `field price`."""
        kind = TYPES.get(self.name[:1], "cell")
        rest = self.name[1:].decode(errors="replace")
        return kind if kind in ("string", "element") else f"{kind} {rest}"

    def involves(self, r: int) -> bool:
        return any(one.r == r for one in (self.winner, *self.losers) if one is not None)


def sides_of(dots: Sequence[Dot], strategy: int) -> tuple[Side | None, tuple[Side, ...]]:
    """Return which of the writes the cell shows, and the others, the highest rank first."""
    best = cells.winner(list(dots), strategy)
    losers = [_side(dot) for dot in dots if dot is not best]
    losers.sort(key=lambda one: (one.time_ms, one.r, one.n), reverse=True)
    return (None if best is None else _side(best)), tuple(losers)


def _side(dot: Dot) -> Side:
    value = None if dot.kind == TOMB_KIND else dot.payload[:PREVIEW_BYTES]
    return Side(dot.r, dot.n, wall_ms_of(dot.hlc), value)


def resolve(
    space: Keyspace, conflict: Conflict, choice: Sequence[bytes], *, value_max: int
) -> None:
    """Write to the cell what was chosen: WINNER, DOT r n, or VALUE v; raises ReplyError."""
    if any(len(word) > value_max for word in choice):
        raise ReplyError(f"ERR a value of over {value_max} bytes")
    dots = space.siblings(conflict.key, conflict.name)
    word = choice[0].upper() if choice else b""
    if cells.meeting_of(dots) == 0:
        raise ReplyError(f"ERR conflict {conflict.id} is resolved: its cell has one value now")
    if word == b"WINNER" and len(choice) == 1:
        best = cells.winner(dots, space.strategy_of(conflict.key))
        chosen = cells.read(dots, space.strategy_of(conflict.key)) if best else None
    elif word == b"DOT" and len(choice) == 3:
        chosen = _dot_value(dots, choice[1:], conflict)
    elif word == b"VALUE" and len(choice) == 2:
        if conflict.name[:1] not in (b"s", b"h"):
            raise ReplyError("ERR VALUE is for strings and fields of hashes; take WINNER or DOT")
        chosen = choice[1]
    else:
        raise ReplyError("ERR syntax error; EDGE.RESOLVE id WINNER | DOT replica number | VALUE v")
    if chosen is None:
        space.remove(conflict.key, conflict.name)
    else:
        space.put(conflict.key, conflict.name, chosen)


def _dot_value(dots: Sequence[Dot], identity: Sequence[bytes], conflict: Conflict) -> bytes | None:
    for dot in dots:
        if [b"%d" % dot.r, b"%d" % dot.n] == list(identity):
            if dot.kind not in (VALUE_KIND, TOMB_KIND):
                raise ReplyError("ERR that write is an amount, which adds up with the others")
            return None if dot.kind == TOMB_KIND else dot.payload
    known = ", ".join(f"{dot.r} {dot.n}" for dot in dots)
    raise ReplyError(f"ERR conflict {conflict.id} is between {known}")


def strategy_name(strategy: int) -> str:
    return Strategy(strategy).name.lower()
