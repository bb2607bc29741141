"""The hub's own past: its starts, and the operations carried out by each.

i | start u64 BE      where the feed stood when that start of the hub was over, in number and order
q | r u32 BE          operations of that replica up to this number are carried out here, or were
                      told of by an edge that had seen them; and the feed's number when it was noted
w | r u32 BE          in which openings of its store that replica made them: pairs of the number of
                      the first, and the opening

A store of an edge that was put back to an earlier state, or copied, names operations as it has
named others before, until the hub gives it another name. By the opening they are told apart: what
is known by its name and its opening is the same operation, told by whoever has it.

A hub whose folder was copied back does not remember some of its starts, or ended them earlier than
an edge has seen: what that edge knows is of a life that is lost. Numbers of edges are looked up by
what each has heard last: an answer tells what has changed since.
"""

from typing import Final

import msgspec

from edgesync._native.hubkeys import HubKeys
from edgesync.cells.view import View

# Older ones are forgotten: an edge that was away for longer tells all it has.
STARTS_MAX: Final = 1000
SEEN_MAX: Final = 3000
OPENINGS_MAX: Final = 200
HUB: Final = 1 << 30


class Lineage:
    """See the module.

    start   random, of this start
    r       the replica as which the hub's own clients write, from this start on
    """

    def __init__(self, rows: View, space: HubKeys) -> None:
        self._rows = rows
        self._space = space
        self.start, self.r = 0, HUB
        self._ends: dict[int, int] = {}
        self._seen: dict[int, tuple[int, int]] = {}
        self._openings: dict[int, list[tuple[int, int]]] = {}

    def load(self, start: int, r: int) -> None:
        """Take what is stored, as after a commit that was refused."""
        self.begin(start, r or HUB)
        decode = msgspec.msgpack.decode
        ends = [
            (*decode(raw, type=tuple[int, int]), int.from_bytes(row[1:], "big"))
            for row, raw in self._space.walk(b"i", b"j")
        ]
        self._ends = {start: end for _, end, start in sorted(ends)}
        found = [
            (decode(raw, type=tuple[int, int]), int.from_bytes(row[1:], "big"))
            for row, raw in self._space.walk(b"q", b"r")
        ]
        self._seen = {r: one for one, r in sorted(found, key=lambda it: it[0][1])}
        self._openings = {}

    def begin(self, start: int, r: int) -> None:
        """From here on it is this start, and the hub's clients write as that replica."""
        self.start, self.r = start, r
        self._space.call_yourself(r)

    def end(self, start: int) -> None:
        """Note that an earlier start is over."""
        order = len(self._ends) and 1 + decode_order(self._rows, next(reversed(self._ends)))
        self._ends.pop(start, None)  # one that is told again is the last of them, as it is stored
        self._ends[start] = self._space.seq
        self._rows.put(_row(start), msgspec.msgpack.encode((order, self._space.seq)))
        while len(self._ends) > STARTS_MAX:
            oldest = next(iter(self._ends))
            del self._ends[oldest]
            self._rows.delete(_row(oldest))

    def has_told(self, start: int, base: int) -> bool:
        """Return whether what that start told an edge, up to `base`, is part of this past."""
        if start in (0, self.start):  # 0: an edge that does not say
            return base <= self._space.seq
        return base <= self._ends.get(start, -1)

    def seen(self, r: int) -> int:
        """Return up to which operation of a replica all have come."""
        return self._seen.get(r, (0, 0))[0]

    def note(self, r: int, n: int) -> None:
        """Operations of that replica up to `n` have come."""
        if n > self.seen(r):
            self._seen.pop(r, None)
            self._seen[r] = n, self._space.seq
            row = b"q" + r.to_bytes(4, "big")
            self._rows.put(row, msgspec.msgpack.encode((n, self._space.seq)))

    def opening_of(self, r: int, n: int) -> int:
        """Return in which opening of its store a replica made operation `n`; 0: not noted."""
        found = [opening for first, opening in self._openings_of(r) if first <= n]
        return found[-1] if found else 0

    def note_opening(self, r: int, n: int, opening: int) -> None:
        """Operations of that replica from `n` on were made in that opening."""
        openings = self._openings_of(r)
        first, newest = openings[-1] if openings else (0, 0)
        if newest == opening or first >= n:
            return
        openings = self._openings[r] = [*openings, (n, opening)][-OPENINGS_MAX:]
        self._rows.put(_openings_row(r), msgspec.msgpack.encode(openings))

    def _openings_of(self, r: int) -> list[tuple[int, int]]:
        if r not in self._openings:
            raw = self._rows.get(_openings_row(r))
            self._openings[r] = (
                msgspec.msgpack.decode(raw, type=list[tuple[int, int]]) if raw else []
            )
        return self._openings[r]

    def seen_since(self, base: int) -> list[tuple[int, int]]:
        """Return (replica, number) of what was noted after `base`, the newest first."""
        found = [(self.r, self._space.n)]
        for r, (n, at) in reversed(self._seen.items()):
            if at < base or len(found) >= SEEN_MAX:
                break
            found.append((r, n))
        return found


def decode_order(rows: View, start: int) -> int:
    return msgspec.msgpack.decode(rows.get(_row(start)) or b"", type=tuple[int, int])[0]


def _row(start: int) -> bytes:
    return b"i" + start.to_bytes(8, "big")


def _openings_row(r: int) -> bytes:
    return b"w" + r.to_bytes(4, "big")
