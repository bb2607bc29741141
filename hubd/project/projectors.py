"""All projectors of a hub, and what a state consists of."""

from typing import Final

import trio

from hubd.project.base import Progress, Projector, Source, follow
from hubd.project.events import EventsProjector
from hubd.project.limits import SeriesLimits
from hubd.project.live import Live
from hubd.project.schedule import MEMORY_BYTES
from hubd.project.telemetry import TelemetryProjector
from hubd.project.windows import WindowsProjector
from hubd.state import State

# What a state consists of: each is as far in the log as its cursor says.
VIEWS: Final = (TelemetryProjector.name, EventsProjector.name, WindowsProjector.name)


class Projectors:
    """The projectors of a hub and how far each has come.

    resent   by edge, readings that came once more since the start
    """

    def __init__(
        self, live: Live, *, series: SeriesLimits | None = None, memory_bytes: int = MEMORY_BYTES
    ) -> None:
        self.series = series or SeriesLimits()
        telemetry = TelemetryProjector(live, limits=self.series, memory_bytes=memory_bytes)
        self.resent = telemetry.resent
        self.all: tuple[Projector, ...] = (
            telemetry,
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
