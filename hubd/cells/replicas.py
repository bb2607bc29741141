"""Replicas of the keys: the name of each edge that keeps a copy, and what it has confirmed.

r | edge       its replica: see Replica
n | r u32 BE   the edge that replica is, or was

Names are a function of the log. What an edge confirms, with each question that it asks, is not
worth an entry each time: it counts from memory (`confirm`), and goes into the log once in a while.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from operator import itemgetter
from typing import Final

import msgspec

from edgesync._native.cells import Op, is_hub
from edgesync._native.edgekeys import NAMED_FROM, NAMED_TO
from edgesync._native.hubkeys import HubKeys
from edgesync.cells.view import View
from hubd.cells.lineage import Lineage
from hubd.log.base import Entry

HOLES_MAX: Final = 1000


def _hole_of(holes: Sequence[tuple[int, int]], n: int) -> int | None:
    """Return the place of the hole that operation `n` lies in. They are in order and apart."""
    at = bisect_right(holes, n, key=itemgetter(0)) - 1
    return at if at >= 0 and n <= holes[at][1] else None


class Replica(msgspec.Struct, frozen=True):
    """The name of an edge as a replica, and what it has confirmed.

    acked     its operations up to this number are carried out
    base      it has all changes up to here
    seen_ms   when it last asked; wall clock, for giving up those that never come again
    holes     operations (first, last) up to `acked` that never came, in order: their records were
              trimmed
    told      the state it told last that is carried out to its end
    """

    r: int
    incarnation: bytes
    acked: int = 0
    base: int = 0
    seen_ms: int = 0
    holes: tuple[tuple[int, int], ...] = ()
    told: int = 0

    def has(self, n: int) -> bool | None:
        """Return whether operation `n` has come; None for one that was passed over."""
        if n > self.acked:
            return False
        return None if _hole_of(self.holes, n) is not None else True

    def after(self, ops: Sequence[Op], *, is_gapped: bool) -> "Replica":
        """Return it with operations that have come, some of which may be missing before them."""
        holes = list(self.holes)
        if is_gapped and ops[0].n > self.acked + 1:
            holes.append((self.acked + 1, ops[0].n - 1))
        for op in ops:
            at = _hole_of(holes, op.n)
            if at is not None:
                first, last = holes[at]
                parts = ((first, op.n - 1), (op.n + 1, last))
                holes[at : at + 1] = [part for part in parts if part[0] <= part[1]]
        acked = max(self.acked, ops[-1].n)
        return msgspec.structs.replace(self, acked=acked, holes=tuple(holes[:HOLES_MAX]))

    @property
    def whole(self) -> int:
        """Up to which operation all have come."""
        return self.holes[0][0] - 1 if self.holes else self.acked


class Confirmed(msgspec.Struct, frozen=True, array_like=True):
    """The confirmation of an edge as that replica: see Replica."""

    edge: str
    r: int
    base: int
    seen_ms: int


class Replicas:
    """See the module."""

    def __init__(self, rows: View, space: HubKeys, lineage: Lineage) -> None:
        self._rows = rows
        self._space = space
        self._lineage = lineage
        self._replicas: dict[str, Replica] = {}
        self._names: dict[int, str] = {}
        self._confirmed: dict[str, Confirmed] = {}

    def load(self) -> None:
        """Take what is stored, as after a commit that was refused."""
        self._replicas = {
            row[1:].decode(): msgspec.msgpack.decode(value, type=Replica)
            for row, value in self._space.walk(b"r", b"s")
        }
        self._names = {
            int.from_bytes(row[1:], "big"): name.decode()
            for row, name in self._space.walk(b"n", b"o")
        }

    @property
    def count(self) -> int:
        """How many edges have a name."""
        return len(self._replicas)

    def all(self) -> dict[str, Replica]:
        """Return the edges that have a name, by their own, with what they confirmed by now."""
        return {edge: self._now(edge, one) for edge, one in self._replicas.items()}

    def logged(self, edge: str) -> Replica | None:
        """Return an edge's replica with what the log says that it has confirmed."""
        return self._replicas.get(edge)

    def get(self, edge: str) -> Replica | None:
        """Return an edge's replica with what it has confirmed by now."""
        one = self._replicas.get(edge)
        return None if one is None else self._now(edge, one)

    def _said(self, edge: str, one: Replica) -> Confirmed | None:
        found = self._confirmed.get(edge)
        return found if found is not None and found.r == one.r else None

    def _now(self, edge: str, one: Replica) -> Replica:
        found = self._said(edge, one)
        if found is None:
            return one
        return msgspec.structs.replace(
            one, base=max(one.base, found.base), seen_ms=max(one.seen_ms, found.seen_ms)
        )

    def edge_of(self, r: int) -> str:
        """Return which edge a replica is or was; `hub` for the hub's own clients."""
        return "hub" if is_hub(r) else self._names.get(r, "")

    def is_named(self, r: int) -> bool:
        return r in self._names

    def note_name(self, r: int, edge: str) -> None:
        """Note that a replica is that edge, or was."""
        self._names[r] = edge
        self._rows.put(b"n" + r.to_bytes(4, "big"), edge.encode())

    def name(self, edge: str, incarnation: bytes, wanted: int, entry: Entry) -> Replica:
        """Return what the edge is called in this life of its store: a new name for a new one.

        wanted   as which it has written, before it came here
        entry    the one that is carried out
        """
        found = self._replicas.get(edge)
        if found is not None and found.incarnation == incarnation:
            return found
        r, nth = wanted, 0
        while not 0 < r < NAMED_TO or r in self._names:
            digest = hashlib.blake2b(b"%d" % nth + entry.seed, digest_size=8).digest()
            r = NAMED_FROM + int.from_bytes(digest, "big") % (NAMED_TO - NAMED_FROM)
            nth += 1
        found = Replica(r, incarnation, acked=self._lineage.seen(r), seen_ms=self._space.now_ms)
        self.note_name(r, edge)
        self.put(edge, found)
        return found

    def put(self, edge: str, one: Replica) -> None:
        self._replicas[edge] = one
        self._lineage.note(one.r, one.whole)
        self._rows.put(b"r" + edge.encode(), msgspec.msgpack.encode(one))

    def remove(self, edge: str) -> bool:
        """Wait for this edge no longer; whether it was waited for."""
        self._confirmed.pop(edge, None)
        if self._replicas.pop(edge, None) is None:
            return False
        for row in (b"r", b"o", b"l", b"t"):
            self._rows.delete(row + edge.encode())
        return True

    # -- what they confirm ---------------------------------------------------------------------

    def confirm(self, edge: str, base: int, now_ms: int) -> None:
        """The edge has all changes up to `base`; in memory."""
        self._confirmed[edge] = Confirmed(edge, self._replicas[edge].r, base, now_ms)

    def take_confirmed(self, told: Sequence[Confirmed]) -> None:
        """Store what edges have confirmed, as the log says; for names they have no more, nothing.

        It may be less than what is known by now.
        """
        for said in told:
            one = self._replicas.get(said.edge)
            if one is not None and one.r == said.r:
                base, seen_ms = max(one.base, said.base), max(one.seen_ms, said.seen_ms)
                self.put(said.edge, msgspec.structs.replace(one, base=base, seen_ms=seen_ms))

    def forget_confirmed(self, edge: str = "") -> None:
        """Forget what was confirmed, by one edge or by all."""
        if edge:
            self._confirmed.pop(edge, None)
        else:
            self._confirmed.clear()

    def unlogged(self, before_ms: int) -> list[Confirmed]:
        """Return what the log is to know: first confirmations, and of those not seen since then."""
        found = []
        for edge, said in self._confirmed.items():
            one = self._replicas.get(edge)
            if one is None or one.r != said.r or said.base < one.base:
                continue
            is_first = said.base > 0 == one.base
            if is_first or (one.seen_ms < before_ms and one.seen_ms < said.seen_ms):
                found.append(said)
        return found

    def stable(self) -> int:
        """Return the number up to which every edge has confirmed to know all changes."""
        bases = (
            max(one.base, said.base) if (said := self._said(edge, one)) else one.base
            for edge, one in self._replicas.items()
        )
        return min(bases, default=self._space.seq)

    def unseen(self, since_ms: int) -> list[str]:
        """Return the edges that have not asked since."""
        return [
            edge for edge, one in self._replicas.items()
            if one.seen_ms < since_ms
            and not ((said := self._said(edge, one)) and said.seen_ms >= since_ms)
        ]  # fmt: skip
