"""Edges that write to keys, as entries of a log; and the hub's keys over them."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from random import Random
from types import MappingProxyType

import msgspec

from edgesync._native.cells import encode_ops
from edgesync._native.edgekeys import EdgeKeys
from edgesync.cells import Argument, as_bytes
from edgesync.cells.commands import Call, carry_out
from edgesync.cells.parts import cut
from edgesync.model import RecordKind
from edgesync_transport.messages import Lane
from hubd.cells import Answers, HubCells
from hubd.log.base import Entry
from hubd.log.memory import MemoryLog
from tests.cells.memory import MemoryView
from tests.hubd.batches import START_NS, Edge

# Of each opening of a store; the hub hears a record of an origin once.
ORIGINS = count(100)


class Till:
    """An edge's keys in memory, far from any network."""

    def __init__(self, name: str) -> None:
        self.space = EdgeKeys(MemoryView())
        self.space.now_ms = START_NS // 1_000_000
        self._call = Call(self.space, Random(1))
        self._edge = Edge(name, Lane.NORMAL, origin=next(ORIGINS))

    def do(self, *request: Argument) -> object:
        return carry_out(self._call, [as_bytes(one) for one in request])

    def entry(self, position: int) -> Entry:
        """What was done since the last entry, as a batch in the hub's log."""
        for body in cut(encode_ops(self.space.r, self.space.take())):
            self._edge.record(RecordKind.CELLS, body)
        return self._edge.entry(position)


def meet(cells: HubCells, *writes: tuple[str, tuple[Argument, ...]]) -> None:
    """Let edges write before any has heard of another: (edge, command)."""
    for edge, request in writes:
        till = Till(edge)
        till.do(*request)
        entry = till.entry(cells.position + 1)
        # Just now: what is old is no open conflict for long.
        entry = msgspec.structs.replace(entry, stored_at_ns=time.time_ns())
        for _ in cells.project(entry):
            cells.note_changes()


@contextmanager
def open_answers(
    folder: Path, grants: Mapping[str, tuple[bytes, ...]] = MappingProxyType({})
) -> Iterator[Answers]:
    hub_log = MemoryLog()
    cells = HubCells(folder, hub_log.generation, 0, random=Random(1))
    try:
        yield Answers(cells, hub_log, grant_of=lambda edge: grants.get(edge, ()))
    finally:
        cells.close()
