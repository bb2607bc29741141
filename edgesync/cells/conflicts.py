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
from edgesync._native.keyspace import STRING, STRING_CELL, Keyspace
from edgesync._native.resp import ReplyError
from edgesync.cells.commands.table import TYPE_NAMES
from edgesync.model import Strategy

PREVIEW_BYTES: Final = 64
OPEN, RESOLVED, EXPIRED = "open", "resolved", "expired"
STATES: Final = (OPEN, RESOLVED, EXPIRED)
KINDS: Final = ("", "VALUE", "DELETE_UPDATE", "TYPE")
MEET_TYPES: Final = 3  # after what cells.meeting_of returns
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
    name       empty for the key as such
    kind       VALUE: different values; DELETE_UPDATE: a removal and something it had not seen;
               TYPE: a key made as different things, whose values are then the names of those
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
        if not self.name:
            return "key"
        kind = TYPES.get(self.name[:1], "cell")
        rest = self.name[1:].decode(errors="replace")
        return kind if kind in ("string", "element") else f"{kind} {rest}"

    def involves(self, r: int) -> bool:
        return any(one.r == r for one in (self.winner, *self.losers) if one is not None)


def meeting_in(
    space: Keyspace, key: bytes, name: bytes
) -> tuple[int, Side | None, tuple[Side, ...]]:
    """Return what has met in a cell, or in the key: its number in KINDS, what is shown, the others.

    The others come with the highest rank first; 0 where nothing has to be chosen.
    """
    strategy = space.strategy_of(key)
    if name:
        dots = space.siblings(key, name)
        meeting = cells.meeting_of(dots)
        sides = [_side(dot) for dot in dots]
    else:
        types = space.types(key)
        dots = list(types.values())
        meeting = MEET_TYPES if types else 0
        sides = [_side(dot, TYPE_NAMES[kind].encode()) for kind, dot in types.items()]
    best = cells.winner(dots, strategy)
    shown = next((side for side, dot in zip(sides, dots, strict=True) if dot is best), None)
    losers = sorted(
        (side for side in sides if side is not shown),
        key=lambda one: (one.time_ms, one.r, one.n), reverse=True,
    )  # fmt: skip
    return meeting, shown, tuple(losers)


def _side(dot: Dot, value: bytes | None = None) -> Side:
    if value is None and dot.kind != TOMB_KIND:
        value = dot.payload[:PREVIEW_BYTES]
    return Side(dot.r, dot.n, wall_ms_of(dot.hlc), value)


def resolve(
    space: Keyspace, conflict: Conflict, choice: Sequence[bytes], *, value_max: int
) -> None:
    """Write to the cell what was chosen: WINNER, DOT r n, or VALUE v; raises ReplyError."""
    if any(len(word) > value_max for word in choice):
        raise ReplyError(f"ERR a value of over {value_max} bytes")
    if not conflict.name:
        _resolve_type(space, conflict, choice)
        return
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


def _resolve_type(space: Keyspace, conflict: Conflict, choice: Sequence[bytes]) -> None:
    """Let the key be one of the things it is, by removing the others."""
    types = space.types(conflict.key)
    if not types:
        raise ReplyError(f"ERR conflict {conflict.id} is resolved: its key is of one type now")
    word = choice[0].upper() if choice else b""
    if word == b"WINNER" and len(choice) == 1:
        kept = space.type_of(conflict.key)
    elif word == b"DOT" and len(choice) == 3:
        kept = next((kind for kind, dot in types.items() if _is_named(dot, choice[1:])), 0)
        if not kept:
            known = ", ".join(
                f"{dot.r} {dot.n} ({TYPE_NAMES[kind]})" for kind, dot in types.items()
            )
            raise ReplyError(f"ERR conflict {conflict.id} is between {known}")
    else:
        raise ReplyError(
            "ERR of a key of several types: EDGE.RESOLVE id WINNER | DOT replica number"
        )
    for kind in types:
        if kind == kept:
            continue
        names = [STRING_CELL] if kind == STRING else [
            bytes([kind]) + name for name in space.cell_names(conflict.key, kind)
        ]  # fmt: skip
        space.remove_many(conflict.key, names)


def _is_named(dot: Dot, identity: Sequence[bytes]) -> bool:
    return [b"%d" % dot.r, b"%d" % dot.n] == list(identity)


def _dot_value(dots: Sequence[Dot], identity: Sequence[bytes], conflict: Conflict) -> bytes | None:
    for dot in dots:
        if _is_named(dot, identity):
            if dot.kind not in (VALUE_KIND, TOMB_KIND):
                raise ReplyError("ERR that write is an amount, which adds up with the others")
            return None if dot.kind == TOMB_KIND else dot.payload
    known = ", ".join(f"{dot.r} {dot.n}" for dot in dots)
    raise ReplyError(f"ERR conflict {conflict.id} is between {known}")


def strategy_name(strategy: int) -> str:
    return Strategy(strategy).name.lower()
