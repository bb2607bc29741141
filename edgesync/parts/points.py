"""The series of a node that are kept for questions here, and the windows made of them."""

import contextlib
import logging
from collections.abc import Iterator
from typing import Final

import trio

from edgesync.errors import StoreError
from edgesync.parts.part import Part
from edgesync.store.points import PointStore, Staged

log = logging.getLogger(__name__)

WINDOWS_CHECK_S: Final = 1.0


class PointsPart(Part):
    """Owns the point store; opened on first use."""

    store: PointStore

    def open(self) -> None:
        recorder, wanted = self.context.recorder, self.context.settings.series
        self.store = PointStore(
            recorder.store,
            recorder.intake,
            keep=wanted.keep,
            age_ns=round(wanted.age * 1e9),
            rules=wanted.rollup,
            wall_ns=self.context.wall_ns,
        )
        self.context.image.suppliers.append(self.store.latest)

    def close(self) -> None:
        self.context.image.suppliers.clear()

    async def record(self, staged: Staged) -> None:
        """Store what the point store has staged, all or none."""
        recorder = self.context.recorder
        with self.store.carried_out(staged):
            tails = await recorder.store.submit(staged.write)
        recorder.readings += staged.readings
        recorder.note_grown(tails)
        self.flush_soon()
        await self.send_windows()

    def record_sync(self, staged: Staged) -> None:
        """Do as `record` does, from a plain program."""
        recorder = self.context.recorder
        with self.store.carried_out(staged):
            recorder.store.submit_sync(staged.write)
        recorder.readings += staged.readings
        self.flush_sync()
        with _may_wait("windows"), self.store.sending_windows() as write:
            if write is not None:
                recorder.store.submit_sync(write)

    async def send_windows(self) -> None:
        """Store the windows that have closed; without room they wait for the next call."""
        recorder = self.context.recorder
        with _may_wait("windows"), self.store.sending_windows() as write:
            if write is not None:
                recorder.note_grown(await recorder.store.submit(write))

    def flush_sync(self) -> None:
        """Move recent readings into rows of their series, once there are many of them."""
        flushed = self.store.flush()
        if flushed is not None:
            with _may_wait("recent readings"), self.store.carried_out(flushed):
                self.context.recorder.store.submit_sync(flushed.write)

    def flush_soon(self) -> None:
        """Do so in a task: nobody who has stored readings waits for what becomes of them here."""
        flushed = self.store.flush()
        if flushed is not None:
            self.context.parts.start_soon(self._carry_out, flushed)

    async def _carry_out(self, flushed: Staged) -> None:
        with _may_wait("recent readings"), self.store.carried_out(flushed):
            await self.context.recorder.store.submit(flushed.write)


class WindowsPart(Part):
    """Closes the windows of series that fell silent, and those stored before the last end."""

    def open(self) -> None:
        self.context.parts.get("points")

    async def run(self, *, task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        points: PointsPart = self.context.parts.get("points")
        while True:
            await trio.sleep(WINDOWS_CHECK_S)
            await points.send_windows()


@contextlib.contextmanager
def _may_wait(what: str) -> Iterator[None]:
    """The readings in them are stored; an error now would say that they are not."""
    try:
        yield
    except StoreError as error:
        log.warning("%s wait for room: %s", what, error)
