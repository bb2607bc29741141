"""The upkeep of a node: steps of the clock, readers that died, and what the hub hears of it."""

import contextlib
import logging
from typing import TYPE_CHECKING, Final

import trio

from edgesync.errors import StoreError
from edgesync.parts.part import Part
from edgesync.status import resident_bytes

if TYPE_CHECKING:
    from edgesync.parts.keys import KeysPart
    from edgesync.parts.resources import ResourcesPart

log = logging.getLogger(__name__)

CLOCK_CHECK_S: Final = 1.0
# A step larger than this between two looks is a step, not a slow machine or an NTP slew.
CLOCK_STEP_S: Final = 2.0
READER_CHECK_S: Final = 60.0
# Store, memory and level for the hub's page of this edge: six records an hour, more when a level
# changes; not at once, for an edge that only comes and goes.
REPORT_FIRST_S: Final = 60.0
REPORT_S: Final = 600.0


class UpkeepPart(Part):
    """See the module."""

    async def run(self, *, task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED) -> None:
        for task in (self._watch_clock, self._check_readers, self._report_resources):
            self.context.parts.start_soon(task)
        task_status.started()

    async def _watch_clock(self) -> None:
        """Report steps of the wall clock: order does not mind, people reading times do (S25)."""
        wall_ns, monotonic_ns = self.context.wall_ns, self.context.monotonic_ns
        offset_s = (wall_ns() - monotonic_ns()) / 1e9
        while True:
            await trio.sleep(CLOCK_CHECK_S)
            now_s = (wall_ns() - monotonic_ns()) / 1e9
            if abs(now_s - offset_s) > CLOCK_STEP_S:
                step = {"step_s": round(now_s - offset_s, 3)}
                log.warning("wall clock stepped: by %.3f s", step["step_s"])
                keys: KeysPart | None = self.context.parts.find("keys")
                if keys is not None:
                    keys.cells.now_ms()  # notices it
                await self.context.recorder.report("clock_stepped", step)
            offset_s = now_s

    async def _check_readers(self) -> None:
        """Free the slots of processes that read the store and died."""
        while True:
            await trio.sleep(READER_CHECK_S)
            with contextlib.suppress(StoreError):  # it is just opened again, after its disk refused
                await trio.to_thread.run_sync(self.context.recorder.store.store.check_readers)

    async def _report_resources(self) -> None:
        """Tell the hub of this edge's own resources now and then, and when their level changes."""
        await trio.sleep(REPORT_FIRST_S)
        reported, at_s, report = "", float("-inf"), self.context.recorder.report
        while True:
            level, worst = self._level()
            now_s = trio.current_time()
            is_due = level != reported or now_s - at_s >= REPORT_S
            # A store that is full, say, is asked again with the next look.
            if is_due and await report("resources", self._facts(level, worst)):
                reported, at_s = level, now_s
            await trio.sleep(REPORT_FIRST_S)

    def _level(self) -> tuple[str, str]:
        """Return the worst level of all resources, and those that have it."""
        resources: ResourcesPart | None = self.context.parts.find("resources")
        if resources is None:
            return "unwatched", ""
        return resources.monitor.level, ", ".join(resources.monitor.worst)

    def _facts(self, level: str, worst: str) -> dict[str, str | int | float]:
        store = self.context.recorder.store.store
        return {
            "level": level,
            "worst": worst,
            "store_used_bytes": store.used_bytes,
            "store_limit_bytes": store.map_bytes_max,
            "rss_bytes": resident_bytes(),
        }
