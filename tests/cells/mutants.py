"""Eleven plausible rules that are wrong; a suite that lets one of them live is not good enough.

They are the shortcuts a careful engineer would try; each was somebody's design once.
"""

from edgesync._native import cells
from edgesync._native.cells import Dot, Entry
from edgesync._native.edgekeys import EdgeKeys
from edgesync._native.hubkeys import HubKeys
from edgesync._native.keyspace import Key
from tests.cells.memory import MemoryView
from tests.cells.oracle import AMOUNT
from tests.cells.world import Edge, Request, World


class TombsEveryTime(HubKeys):
    """A removal of the key stands beside every later operation, also in cells that were there."""

    def beginning(self, key: Key, before: list[Dot]) -> list[Dot]:
        found = list(before)
        known = {(dot.r, dot.n) for dot in found}
        found += [dot for dot in self.tombs_of(key.name) if (dot.r, dot.n) not in known]
        return sorted(found, key=lambda dot: (dot.r, dot.n))


class CursorAsContext(World):
    """Somebody "has seen everything up to the cursor": what a writer knew is the pull cursor."""

    def make(self, view: MemoryView) -> EdgeKeys:
        edges = self.edges_by_view

        class Mutant(EdgeKeys):
            def context(self, key: Key) -> int:
                edge = edges.get(id(view))
                return edge.position if edge is not None else 0

        return Mutant(view)

    def __init__(self, seed: int) -> None:
        self.edges_by_view: dict[int, Edge] = {}
        super().__init__(seed, make_edge=self.make)
        self.edges_by_view.update({id(edge.view): edge for edge in self.edges})


class DeltaSinceCursor(World):
    """Of each key, the cells that changed since the cursor, which is past some never delivered."""

    def page(self, request: Request) -> tuple[list[Entry], int, bool]:
        base = request.after if request.base else 0
        return self.hub.page(base, request.after, self.page_limit)


class MergesWhatWasSent(EdgeKeys):
    """Amounts are merged although the first is on the wire already."""

    def is_on_the_wire(self, n: int) -> bool:
        return False


class FoldsKeysThatMoved(World):
    """Amounts below the stable point are folded although their key has changed since."""

    def collect(self) -> None:
        super().collect()
        stable = self.stable()
        for row, raw in self.view.scan(b"c", b"d", limit=10_000):
            dots = cells.decode(raw)
            old = [dot for dot in dots if dot.kind == AMOUNT and dot.seq <= stable]
            if len(old) > 1:
                total = cells.add_up(b"0", [dot.payload for dot in old])
                last = max(old, key=lambda dot: dot.seq)
                kept = [dot for dot in dots if dot not in old or dot is last]
                kept[kept.index(last)] = last.with_payload(total)
                self.view.put(row, cells.encode(kept))


class StableWhenSent(World):
    """What the hub has sent counts as had, before the edge confirms it."""

    def confirm(self, r: int, request: Request) -> None:
        super().confirm(r, request)
        _, position, is_all = self.page(request)
        if is_all:
            self.bases[r] = position


class EvictsWhatIsPending(EdgeKeys):
    """The oldest values go to the hub, also those it has not heard of."""

    def is_clean(self, dots: list[Dot]) -> bool:
        return True


class WantedSinceBase(World):
    """Of a key that was evicted, the cells that changed since the edge's base, as of any other."""

    def wanted_by(self, request: Request) -> list[Entry]:
        entries, _, _ = self.hub.page(request.base, 0, 1000)
        return [one for one in entries if one.key in request.wants]


class Losing(World):
    """A world whose hub is lost now and then."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed, losing=True)


class TellsItsOperationsOnly(Losing):
    """A hub that was lost is sent again what waits for it, and not what it once confirmed."""

    def restore(self, edge: Edge) -> None:
        pass


class HidesWhatItHasSeen(Losing):
    """What an edge holds is added to what the hub has, and nothing that was removed goes."""

    def seen_by(self, edge: Edge) -> dict[int, int]:
        return {}


class CountsAgain(Losing):
    """Operations told again are carried out whether or not they came already."""

    def is_new(self, r: int, n: int) -> bool:
        return True

    def knows(self, r: int, n: int) -> bool | None:
        return False


def tombs_every_time(seed: int) -> World:
    return World(seed, make_hub=TombsEveryTime)


def merges_what_was_sent(seed: int) -> World:
    return World(seed, make_edge=MergesWhatWasSent)


def evicts_what_is_pending(seed: int) -> World:
    return World(seed, make_edge=EvictsWhatIsPending)


MUTANTS = (
    tombs_every_time,
    CursorAsContext,
    DeltaSinceCursor,
    merges_what_was_sent,
    FoldsKeysThatMoved,
    StableWhenSent,
    evicts_what_is_pending,
    WantedSinceBase,
    TellsItsOperationsOnly,
    HidesWhatItHasSeen,
    CountsAgain,
)
