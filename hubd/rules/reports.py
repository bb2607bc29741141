"""What edges tell of their rule chains: what they hold and run, and what nodes have counted.

In memory, fed by the events projector: an edge tells all of it again with each session. What it
holds is an event, too, and found among those by a hub that has just started.
"""

from collections.abc import Iterable
from typing import Final

import msgspec

from edgesync.model import Action, EventType

# Of one edge, which tells no more, and of all: some 300 bytes each (I7). Beyond, an edge's counters
# are not shown.
NODES_MAX: Final = 2000
ALL_NODES_MAX: Final = 200_000
# Of what an edge says: a node with names of a record's size would be a thousand others.
NAME_CHARS_MAX: Final = 255
ERROR_CHARS_MAX: Final = 500
TOO_OLD: Final = "the edge's version takes no rule chains from a hub; upgrade it"


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What an edge holds and runs; bundles by their digest, "" for none.

    held      what it was assigned last, as it knows; refused: why it does not run that
    running   what was good last; bundle, version and since_ns are of it
    source    what decides there now: local, hub or none; is_local: the settings name chains
    problem   why chains in files of its own do not run
    """

    held: str = ""
    running: str = ""
    bundle: str = ""
    version: int = 0
    since_ns: int = 0
    refused: tuple[str, ...] = ()
    source: str = "none"
    is_local: bool = False
    root: str = ""
    chains: tuple[str, ...] = ()
    problem: str = ""


class NodeCounts(msgspec.Struct, kw_only=True):
    """What a node of a chain has counted since the edge started."""

    chain: str
    id: str
    name: str
    type: str
    messages: int
    failures: int
    last_error: str
    last_error_ns: int


class KnownRules(msgspec.Struct, kw_only=True):
    """What is known of one edge; report is None before it told of any.

    is_too_old   it did not know what it was sent
    """

    report: Report | None = None
    report_ns: int = 0
    is_too_old: bool = False
    nodes: list[NodeCounts] = []
    nodes_ns: int = 0
    life: int = 0


class _Counted(msgspec.Struct, frozen=True):
    life: int
    first: int = 0
    nodes: tuple[tuple[str, str, str, str, int, int, str, int], ...] | None = None
    changed: tuple[tuple[int, int, int, str, int], ...] = ()


class Reports:
    """See the module. In Trio's thread. `version` grows with whatever is applied."""

    def __init__(self) -> None:
        self.version = 0
        self._edges: dict[str, KnownRules] = {}
        self._looked_up: set[str] = set()

    def of(self, edge: str) -> KnownRules | None:
        """Return what an edge has told; None when that is nothing, as far as is known."""
        return self._edges.get(edge)

    def edges(self) -> Iterable[str]:
        return tuple(self._edges)

    def apply(self, edge: str, event: int, action: int, body: bytes, at_ns: int) -> None:
        """Apply an event of an edge; one that cannot be read changes nothing."""
        known = self._edges.setdefault(edge, KnownRules())
        self.version += 1
        if event != EventType.RULES:
            known.is_too_old = b"downlink_unknown" in body  # else it has started, perhaps anew
            return
        try:
            if action == Action.UPDATED:
                self._count(known, msgspec.json.decode(body, type=_Counted), at_ns)
                return
            known.report = msgspec.json.decode(body, type=Report)
        except (msgspec.DecodeError, RecursionError):
            return
        known.report_ns, known.is_too_old = at_ns, False
        if known.report.source == "none":
            known.nodes = []

    def note_looked_up(self, edge: str, body: bytes | None, at_ns: int) -> None:
        """Apply the newest event that the state has of an edge, unless a newer one was applied."""
        if self.is_unknown(edge):
            self._looked_up.add(edge)
            if body is not None:
                self.apply(edge, EventType.RULES, Action.NONE, body, at_ns)

    def is_unknown(self, edge: str) -> bool:
        """Whether the state may know of an edge what was not heard."""
        known = self._edges.get(edge)
        return (known is None or known.report is None) and edge not in self._looked_up

    def _count(self, known: KnownRules, counted: _Counted, at_ns: int) -> None:
        if counted.nodes is not None:
            if counted.first == 0:
                known.nodes, known.life = [], counted.life
            if counted.life != known.life or counted.first != len(known.nodes):
                return  # the beginning was not heard; the next session tells all of it
            if sum(len(one.nodes) for one in self._edges.values()) >= ALL_NODES_MAX:
                return
            known.nodes += [
                NodeCounts(chain=chain[:NAME_CHARS_MAX], id=id_[:NAME_CHARS_MAX],
                           name=name[:NAME_CHARS_MAX], type=kind[:NAME_CHARS_MAX],
                           messages=messages, failures=failures,
                           last_error=error[:ERROR_CHARS_MAX], last_error_ns=error_ns)
                for chain, id_, name, kind, messages, failures, error, error_ns in counted.nodes
            ][: NODES_MAX - len(known.nodes)]  # fmt: skip
        elif counted.life != known.life:
            return
        for at, messages, failures, error, error_ns in counted.changed:
            if 0 <= at < len(known.nodes):
                node = known.nodes[at]
                node.messages, node.failures = messages, failures
                node.last_error, node.last_error_ns = error[:ERROR_CHARS_MAX], error_ns
        known.nodes_ns = at_ns


def is_of_rules(event: int, body: bytes) -> bool:
    """Whether an event tells of rule chains: an edge that knows none calls them unknown.

    One that has started may be of a later version.
    """
    if event == EventType.LIFECYCLE:
        is_unknown = b'"what":"downlink_unknown"' in body
        return b'"what":"started"' in body or (
            is_unknown and b'"type":%d,' % EventType.RULES in body
        )
    return event == EventType.RULES
