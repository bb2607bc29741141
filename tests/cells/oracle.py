"""What cells should hold, from the full history: which operation its writer had seen which.

Slow, and obviously right: every fact carries the set of facts its writer knew of that key. No
sequence numbers, no cursors, nothing is ever dropped.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from edgesync.model import Strategy

VALUE, AMOUNT, TOMB = 0, 1, 2


@dataclass(eq=False)
class Fact:
    """One operation. `name` is empty for the removal of a whole key; the hub is writer 0.

    own   facts of the same writer it came after
    hub   facts it came after that its writer had from the hub, and can show to have had
    r     the replica it was written as; `hub_r` the one the hub heard it as
    """

    writer: int
    n: int
    key: bytes
    name: bytes
    kind: int
    payload: bytes
    hlc: int
    r: int
    own: frozenset["Fact"] = field(default_factory=frozenset, repr=False)
    hub: frozenset["Fact"] = field(default_factory=frozenset, repr=False)
    hub_hlc: int | None = None  # not `hlc` when the hub thought the clock wrong
    hub_r: int | None = None

    @property
    def seen(self) -> set["Fact"]:
        """A writer who got another name is another writer, for what the hub heard before."""
        r = self.r if self.hub_r is None else self.hub_r
        return {fact for fact in self.own if fact.hub_r in (None, r)} | self.hub

    def stamp(self, confirmed: bool) -> tuple[int, int]:
        if confirmed and self.hub_hlc is not None and self.hub_r is not None:
            return self.hub_hlc, self.hub_r
        return self.hlc, self.r


def standing(history: Iterable[Fact], name: bytes) -> list[Fact]:
    """Facts on a cell that no later one there had seen."""
    here = [fact for fact in history if fact.name in (name, b"")]
    gone = set()
    for fact in here:
        if fact.kind == AMOUNT:
            gone |= {one for one in fact.seen if one.kind == TOMB}
        else:
            gone |= fact.seen
    return [fact for fact in here if fact not in gone]


def deadline_of(history: Iterable[Fact]) -> bytes | None:
    """The longest of the deadlines that stand beside each other."""
    facts = standing(history, b"t")
    return max((fact.payload for fact in facts if fact.kind == VALUE), default=None)


def value_of(
    history: Iterable[Fact], name: bytes, strategy: int, confirmed: "set[Fact] | None" = None
) -> bytes | None:
    """The value of a cell; `confirmed` are the facts known from the hub (None: all are)."""

    def rank(fact: Fact) -> tuple[int, tuple[int, int], int]:
        prefer = {Strategy.CLOUD_WINS: fact.writer == 0, Strategy.EDGE_WINS: fact.writer != 0}
        stamp = fact.stamp(confirmed is None or fact in confirmed)
        return (int(prefer.get(Strategy(strategy), False)), stamp, fact.n)

    facts = standing(history, name)
    if strategy == Strategy.CRDT_MERGE:
        facts = [fact for fact in facts if fact.kind != TOMB]
    if not facts or max(facts, key=rank).kind == TOMB:
        return None
    amounts = [int(fact.payload) for fact in facts if fact.kind == AMOUNT]
    bases = [fact for fact in facts if fact.kind != AMOUNT]
    best = max(bases, key=rank, default=None)
    base = b"0" if best is None or best.kind == TOMB else best.payload
    if not amounts or not base.lstrip(b"-").isdigit():
        return base
    return b"%d" % (int(base) + sum(amounts))
