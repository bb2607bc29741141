"""Points that clients bring, stored together: one commit for all that came during the last one.

What is gathered is staged when somebody asks a question, or when the commit begins; so an answer is
of everything before it, committed or not, and whoever gets it waits for the commit (I1).
"""

from collections.abc import Awaitable, Callable, Mapping

import trio

from edgesync._native.points import Columns
from edgesync.errors import StoreError
from edgesync.store.points import PointStore, Staged


class Gather:
    """See the module.

    record    what carries a staged write out
    every_s   seconds between commits; 0 is as soon as possible

    columns      what has come and is not staged; the names of series clients have used

    generation   number of the commit that will store what comes next
    """

    def __init__(
        self,
        points: PointStore,
        record: Callable[[Staged], Awaitable[None]],
        *,
        every_s: float = 0.0,
    ) -> None:
        self.points = points
        self._record = record
        self._every_s = every_s
        self.generation = 1
        self._changed = trio.Event()
        self.columns = Columns(lambda: self._changed.set())
        self._staged: Staged | None = None
        self._is_committing = False
        self._listener: Callable[[int, StoreError | None], None] = lambda _generation, _error: None

    def add(self, place: int, time_ns: int, value: float) -> None:
        """Take one point."""
        self.columns.add(place, time_ns, value)

    def create(self, place: int, labels: Mapping[str, str]) -> None:
        """Make a series, and say what it is; raises RecordError for labels that are too many."""
        staged = self._staged or Staged()
        self.points.stage_metadata(staged, place, labels)
        self._staged = staged
        self._changed.set()

    def settle(self) -> None:
        """Stage what has been gathered: questions see it from here on."""
        if len(self.columns):
            self._staged = self.points.stage(*self.columns.take(), self._staged)

    @property
    def is_changed(self) -> bool:
        return len(self.columns) > 0 or self._staged is not None

    def gate(self) -> int:
        """Return the generation whose commit a reply given now has to wait for; 0 for none."""
        if self.is_changed:
            return self.generation
        return self.generation - 1 if self._is_committing else 0

    def on_commit(self, listener: Callable[[int, StoreError | None], None]) -> None:
        """Call `listener` with each generation on disk, or why it and all after it failed."""
        self._listener = listener

    async def keep_committing(self) -> None:
        """Commit what comes; what there is when this is cancelled, too."""
        try:
            while True:
                await self._changed.wait()
                await trio.sleep(self._every_s)
                await self.commit()
        finally:
            # Cut short inside a commit, nobody would know whether it is stored.
            with trio.CancelScope(shield=True):
                await self.commit()

    async def commit(self) -> None:
        """Store everything gathered so far."""
        self._changed = trio.Event()
        self.settle()
        staged, self._staged = self._staged, None
        if staged is None:
            return
        number, self.generation = self.generation, self.generation + 1
        self._is_committing = True
        try:
            with trio.CancelScope(shield=True):
                await self._record(staged)
        except StoreError as error:
            self._is_committing = False
            self._abandon()
            self._listener(self.generation, error)
            return
        self._is_committing = False
        self._listener(number, None)

    def _abandon(self) -> None:
        """What came after a refused commit has not happened either: answers were built on it."""
        self.columns.take()
        self.columns.names.clear()  # a series whose first commit was refused is not there
        if self._staged is not None:
            self.points.withdraw(self._staged)
            self._staged = None
