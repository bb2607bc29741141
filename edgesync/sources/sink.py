"""What sources write to: readings of many devices that come together are one commit."""

from collections.abc import Awaitable, Sequence
from typing import Final, Protocol

import trio

from edgesync.errors import RecordError, StoreError, StoreFull
from edgesync.model import Event, Reading

# Readings of several devices that arrive within this time are stored by one commit …
GATHER_S: Final = 0.05
GATHER_MAX: Final = 10_000  # … of at most so many


class Node(Protocol):
    def ingest(self, readings: Sequence[Reading]) -> Awaitable[None]: ...

    def emit(self, event: Event) -> Awaitable[None]: ...

    def within_limit(self, readings: Sequence[Reading]) -> Sequence[Reading]: ...


class _Batch:
    """Readings that wait for one commit."""

    def __init__(self, readings: list[Reading]) -> None:
        self.readings = readings
        self.problem: Exception | None = None
        self.done = trio.Event()


class GatheringSink:
    """Implements `edgesync.sources.base.Sink` for a node."""

    def __init__(self, node: Node, nursery: trio.Nursery) -> None:
        self._node = node
        self._nursery = nursery
        self._batch: _Batch | None = None

    async def readings(self, readings: Sequence[Reading]) -> None:
        """Store readings; those of series beyond `[series] max` are left out and counted."""
        batch = self._batch
        if batch is not None and len(batch.readings) + len(readings) <= GATHER_MAX:
            batch.readings.extend(readings)
        else:
            self._batch = batch = _Batch(list(readings))
            # A task of its own: stopping one source must not fail what others wrote with it.
            self._nursery.start_soon(self._commit, batch)
        await batch.done.wait()
        if batch.problem is None:
            return
        if len(batch.readings) == len(readings) or isinstance(batch.problem, StoreFull):
            raise batch.problem
        # Whichever of the batch cannot be stored, says so here.
        await self._node.ingest(self._node.within_limit(readings))

    async def _commit(self, batch: _Batch) -> None:
        await trio.sleep(GATHER_S)
        if self._batch is batch:
            self._batch = None
        try:
            await self._node.ingest(self._node.within_limit(batch.readings))
        except (StoreError, RecordError) as problem:
            batch.problem = problem
        batch.done.set()

    async def event(self, event: Event) -> None:
        await self._node.emit(event)
