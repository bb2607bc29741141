"""The sources that run now, each with a way to stop it alone."""

from collections.abc import Hashable, Mapping
from random import Random

import trio

from edgesync.sources.base import BreakerState, Sink, Source, SourceStatus
from edgesync.supervise import keep_running


class _Running:
    def __init__(self, source: Source) -> None:
        self.source = source
        self.scope = trio.CancelScope()
        self.ended = trio.Event()

    async def run(self, sink: Sink, random: Random) -> None:
        try:
            with self.scope:
                await keep_running(self.source, sink, random)
        finally:
            self.ended.set()


class RunningSources:
    """Runs sources by a key that says all of them: equal keys are the same source.

    `change_to` stops those whose key is gone, and starts the new ones; the others are not touched.
    Of changes that meet, each begins when the one before has ended.
    """

    def __init__(self, nursery: trio.Nursery, sink: Sink, random: Random) -> None:
        self._nursery = nursery
        self._sink = sink
        self._random = random
        self._running: dict[Hashable, _Running] = {}
        self._changing = trio.Lock()

    def statuses(self) -> tuple[SourceStatus, ...]:
        """Return how every device is."""
        return tuple(s for one in self._running.values() for s in one.source.statuses())

    def retry_now(self) -> None:
        """Ask devices that are away at once, whatever their back-off says."""
        for one in self._running.values():
            for status in one.source.statuses():
                if status.breaker is not BreakerState.CLOSED:
                    one.source.retry_now(status.name)

    async def change_to(self, wanted: Mapping[Hashable, Source]) -> tuple[int, int]:
        """Run exactly the sources of `wanted`; returns how many were stopped and started."""
        async with self._changing:
            gone = [key for key in self._running if key not in wanted]
            for key in gone:
                self._running[key].scope.cancel()
            for key in gone:
                await self._running[key].ended.wait()  # its connection is free for what comes
            running = {key: one for key, one in self._running.items() if key in wanted}
            new = [key for key in wanted if key not in running]
            started = {key: _Running(wanted[key]) for key in new}
            self._running = {key: running.get(key) or started[key] for key in wanted}
            for one in started.values():
                self._nursery.start_soon(one.run, self._sink, self._random)
            return len(gone), len(new)
