"""Projectors: each reads the log from its own cursor and keeps one view of it in the state.

Nothing here can hold back an acknowledgement: the log is durable before a projector sees it. A
projector that cannot go on lags, says so in its `Progress`, and tries again.
"""

from typing import Final

import trio

from hubd.project.base import Health as Health
from hubd.project.base import Progress as Progress
from hubd.project.base import Projector as Projector
from hubd.project.base import Source as Source
from hubd.project.base import apply_entries as apply_entries
from hubd.project.base import follow
from hubd.project.events import EventsProjector as EventsProjector
from hubd.project.gaps import Gap as Gap
from hubd.project.limits import SeriesLimits as SeriesLimits
from hubd.project.live import Live as Live
from hubd.project.schedule import MEMORY_BYTES as MEMORY_BYTES
from hubd.project.telemetry import TelemetryProjector as TelemetryProjector
from hubd.project.windows import WindowsProjector as WindowsProjector
from hubd.state import State

# What a state consists of: each is as far in the log as its cursor says.
VIEWS: Final = (TelemetryProjector.name, EventsProjector.name, WindowsProjector.name)


class Projectors:
    """The projectors of a hub and how far each has come."""

    def __init__(
        self, live: Live, *, series: SeriesLimits | None = None, memory_bytes: int = MEMORY_BYTES
    ) -> None:
        self.series = series or SeriesLimits()
        self.all: tuple[Projector, ...] = (
            TelemetryProjector(live, limits=self.series, memory_bytes=memory_bytes),
            EventsProjector(live),
            WindowsProjector(),
        )
        self.progress = [Progress(projector.name) for projector in self.all]

    @property
    def position(self) -> int:
        """Up to where the log is projected, in each way."""
        return min(one.position for one in self.progress)

    async def changed(self) -> None:
        """Return after the next change of the projector that is furthest behind."""
        await min(self.progress, key=lambda one: one.position).changed()

    async def reach(self, position: int) -> None:
        """Return once every projector has come to `position` of the log."""
        for progress in self.progress:
            await progress.reach(position)


async def run_projectors(source: Source, state: State, projectors: Projectors) -> None:
    """Follow the log until cancelled; a damaged state is made anew and followed from the start."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(state.keep_whole)
        for projector, progress in zip(projectors.all, projectors.progress, strict=True):
            nursery.start_soon(follow, projector, source, state, progress)
