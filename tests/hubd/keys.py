"""Edges that write to keys, as entries of a log; and the hub's keys over them."""

import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path
from random import Random
from types import MappingProxyType

import msgspec
import trio

from edgesync._native.cells import encode_ops
from edgesync._native.edgekeys import EdgeKeys
from edgesync.cells import Argument, as_bytes
from edgesync.cells.commands import Call, carry_out
from edgesync.cells.parts import cut
from edgesync.model import RecordKind
from edgesync_transport.messages import Codec, Lane
from hubd.cells import Answers, HubCells
from hubd.cells.proposals import LIFE, Proposal, encode, hub_of
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

    def tell(self, data: bytes) -> None:
        """Have bytes in records of the next entry."""
        for body in cut(data):
            self._edge.record(RecordKind.CELLS, body)

    def entry(self, position: int) -> Entry:
        """What was done since the last entry, as a batch in the hub's log."""
        if ops := self.space.take():
            self.tell(encode_ops(self.space.r, ops))
        return self._edge.entry(position)


def meet(cells: HubCells, *writes: tuple[str, tuple[Argument, ...]]) -> None:
    """Let edges write before any has heard of another: (edge, command)."""
    stands = cells.position
    for edge, request in writes:
        till = Till(edge)
        till.do(*request)
        entry = till.entry(cells.position + 1)
        # Just now: what is old is no open conflict for long.
        entry = msgspec.structs.replace(entry, stored_at_ns=time.time_ns())
        for _ in cells.project(entry):
            cells.note_changes()
    # The log has no such entries: it is to go on from where it is.
    cells.position = stands
    cells._set_mark(position=stands)


def proposed(proposal: Proposal, number: int = 1, position: int = 1) -> Entry:
    """A proposal of the hub, as the log has it."""
    return Entry(
        position=position, edge=hub_of("default"), incarnation=LIFE, lane=Lane.NORMAL,
        first=number, last=number, codec=Codec.PROPOSAL, payload=encode(proposal),
        stored_at_ns=START_NS + position,
    )  # fmt: skip


def begun(cells: HubCells) -> HubCells:
    """Return keys that have begun to be served, though the log knows nothing of it."""
    start = cells.start_proposal()
    cells.carry_out(start, proposed(start))
    cells.commit()
    return cells


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


@asynccontextmanager
async def running(answers: Answers) -> AsyncIterator[Answers]:
    """Carry out what the log has, and what is proposed, until the block ends."""
    async with trio.open_nursery() as nursery:
        await nursery.start(answers.run)
        yield answers
        nursery.cancel_scope.cancel()
