"""The list of conflicts, in the store of the keys; edges keep a copy of what concerns them.

v | id u64 BE         a conflict
y | change u64 BE     its id, by its last change: what an edge has not heard of yet
u                     the last id and the last change
"""

from collections.abc import Callable
from typing import Final

import msgspec

from edgesync._native.hubkeys import HubKeys
from edgesync.cells.conflicts import (
    EXPIRED,
    KINDS,
    OPEN,
    RESOLVED,
    Conflict,
    Side,
    meeting_in,
    strategy_name,
)  # fmt: skip
from edgesync.cells.view import View

# Beyond it the oldest goes; its cell stays as it is.
CONFLICTS_MAX: Final = 10_000
EXPIRED_A_TURN: Final = 256


class Conflicts:
    """See the module. `edge_of` says which edge a replica is."""

    def __init__(self, rows: View, space: HubKeys, edge_of: Callable[[int], str]) -> None:
        self._rows = rows
        self._space = space
        self._edge_of = edge_of
        self._open: dict[tuple[bytes, bytes], int] = {}
        self.load()

    def load(self) -> None:
        """Take what is stored, as after a commit that was refused."""
        self._last, self.change = msgspec.msgpack.decode(
            self._rows.get(b"u") or msgspec.msgpack.encode((0, 0)), type=tuple[int, int]
        )
        found = [_read(raw) for _, raw in self._space.walk(b"v", b"w")]
        self.count = len(found)
        self._open = {(one.key, one.name): one.id for one in found if one.status == OPEN}
        self._space.watched, self._space.met = self._open, []

    @property
    def open_count(self) -> int:
        return len(self._open)

    @property
    def detected(self) -> int:
        """The number of conflicts there ever were."""
        return self._last

    def get(self, number: int) -> Conflict | None:
        raw = self._rows.get(_row(b"v", number))
        return None if raw is None else _read(raw)

    def find(
        self, *, status: str = "", prefix: bytes = b"", after: int = 0, limit: int = 100
    ) -> list[Conflict]:
        """Return conflicts by id."""
        found: list[Conflict] = []
        while len(found) < limit:
            rows = self._rows.scan(_row(b"v", after + 1), b"w", limit=limit)
            page = [_read(raw) for _, raw in rows]
            found += [
                one for one in page
                if status in ("", one.status) and one.key.startswith(prefix)
            ]  # fmt: skip
            if len(rows) < limit:
                break
            after = page[-1].id
        return found[:limit]

    def since(self, change: int, limit: int = 100) -> list[Conflict]:
        """Return conflicts that changed after `change`, in that order."""
        rows = self._rows.scan(_row(b"y", change + 1), b"z", limit=limit)
        found = (self.get(int.from_bytes(raw, "big")) for _, raw in rows)
        return [one for one in found if one is not None]

    def note(self, now_ms: int) -> bool:
        """Look at the cells in which something has met, or that were written to; True if any."""
        met, self._space.met = self._space.met, []
        for key, name in dict.fromkeys(met):
            self._look(key, name, now_ms)
        return bool(met)

    def has_open(self, before_ms: int) -> bool:
        """Return whether an open conflict was found before this time."""
        one = self.get(next(iter(self._open.values()), 0))
        return one is not None and one.found_ms < before_ms

    def expire(self, before_ms: int) -> None:
        """List some that nobody has resolved for long as open no more; cells stay as they are."""
        for number in list(self._open.values())[:EXPIRED_A_TURN]:
            one = self.get(number)
            if one is None or one.found_ms >= before_ms:
                return  # ids are given in the order of time
            self._end(one, EXPIRED)

    def _look(self, key: bytes, name: bytes, now_ms: int) -> None:
        meeting, winner, losers = meeting_in(self._space, key, name)
        number = self._open.get((key, name))
        known = None if number is None else self.get(number)
        if not meeting:
            if known is not None:
                self._end(known, RESOLVED)
            return
        if known is None:
            self._last += 1
            self._make_room()
            self.count += 1
        self._put(
            Conflict(
                id=self._last if known is None else known.id,
                change=0 if known is None else known.change,
                key=key,
                name=name,
                kind=KINDS[meeting],
                found_ms=now_ms if known is None else known.found_ms,
                strategy=strategy_name(self._space.strategy_of(key)),
                winner=self._named(winner),
                losers=tuple(one for loser in losers if (one := self._named(loser)) is not None),
            )
        )

    def _named(self, side: Side | None) -> Side | None:
        return side and msgspec.structs.replace(side, edge=self._edge_of(side.r))

    def _end(self, one: Conflict, status: str) -> None:
        self._put(msgspec.structs.replace(one, status=status))

    def _put(self, one: Conflict) -> None:
        self._rows.delete(_row(b"y", one.change))
        self.change += 1
        one = msgspec.structs.replace(one, change=self.change)
        self._rows.put(_row(b"v", one.id), msgspec.msgpack.encode(one))
        self._rows.put(_row(b"y", one.change), one.id.to_bytes(8, "big"))
        self._rows.put(b"u", msgspec.msgpack.encode((self._last, self.change)))
        if one.status == OPEN:
            self._open[one.key, one.name] = one.id
        else:
            self._open.pop((one.key, one.name), None)

    def _make_room(self) -> None:
        if self.count < CONFLICTS_MAX:
            return
        for _, raw in self._rows.scan(b"v", b"w", limit=1):
            one = _read(raw)
            self._rows.delete(_row(b"v", one.id))
            self._rows.delete(_row(b"y", one.change))
            if self._open.get((one.key, one.name)) == one.id:  # not a later one of that cell
                del self._open[one.key, one.name]
            self.count -= 1


def _row(kind: bytes, number: int) -> bytes:
    return kind + number.to_bytes(8, "big")


def _read(raw: bytes) -> Conflict:
    return msgspec.msgpack.decode(raw, type=Conflict)
