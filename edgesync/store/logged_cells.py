"""Keys of an edge with a write-ahead log before their store.

Changes go to the log first, as long as it takes them; what goes to LMDB from time to time shares
the one writer of the store, and its syncs, with readings.
"""

import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Final

import msgspec
import trio

from edgesync._native.edgekeys import EdgeKeys
from edgesync._native.overlay import Overlay
from edgesync._native.store import Store
from edgesync._native.wal import Wal
from edgesync._native.write import Write
from edgesync.cells import DATABASE
from edgesync.errors import StoreError
from edgesync.store.cells import CellStore, Disk
from edgesync.store.commit import Tails
from edgesync.store.directory import WAL, make_wal
from edgesync.store.recovery import COUNTERS_ROW, replayed

log = logging.getLogger(__name__)

LAP_ROW: Final = b"w"

# The write-ahead log, of two laps, and the rows in each that go to LMDB in one transaction: the
# more there are, the more share the page that LMDB writes for them. A small store has fewer.
WAL_BYTES: Final = 16 << 20
WAL_BYTES_MIN: Final = 1 << 20
WAL_ROWS: Final = 65536
STORE_A_LOG: Final = 64
STORE_PAGES_A_ROW: Final = 4
# There must be room for both laps. For each, LMDB copies the pages that it changes, one for a row
# and now and then a branch, but no more than there are; and what is new may leave pages half empty,
# with the heads of its rows.
WAL_ROW_PAGES: Final = 9 / 8
WAL_NEW: Final = 5 / 2
# For what is copied, a lap may take a 12th of the store, and a quarter of what is left of it
# when that is less, but not less than a 32nd.
LAP_SHARE_MAX: Final = 12
LAP_SHARE_LEFT: Final = 4
LAP_SHARE_MIN: Final = 32
# For so long changes may be in the log alone: whoever copies the store's file lacks no more.
WAL_S: Final = 5.0


class LapPlan(msgspec.Struct, frozen=True):
    """The rows of a lap of the write-ahead log, and the room that LMDB must have for them.

    room_bytes      both laps, the one on its way to LMDB and the one that is written
    reserved_bytes  what is allocated of the disk with a lap, so that there is room_bytes after it
    """

    rows: int
    room_bytes: int
    reserved_bytes: int


def plan_laps(store: Store, wal_bytes: int) -> LapPlan:
    """Choose laps that suit the store as it is now, for a log of so many bytes."""
    limit, row_bytes = store.map_bytes_max, WAL_ROW_PAGES * store.page_bytes
    rows = min(WAL_ROWS, limit // (STORE_PAGES_A_ROW * store.page_bytes))
    share = max(limit // LAP_SHARE_MIN, store.room_bytes // LAP_SHARE_LEFT)
    share = min(share, limit // LAP_SHARE_MAX)
    new = wal_bytes * WAL_NEW
    # The later lap copies what is new with the other, too.
    copied = store.tree_bytes(DATABASE) + new / 2
    if copied > share:
        rows = min(rows, int(share / row_bytes))
    copied = min(copied, rows * row_bytes)
    return LapPlan(rows, math.ceil(2 * copied + new), math.ceil(3 * copied + 3 / 2 * new))


class LoggedCells(CellStore):
    """See the module.

    make_space  makes the keys, over the rows as they are once the log has been read

    logged      commits that went to the log
    """

    space: EdgeKeys

    def __init__(
        self,
        disk: Disk,
        make_space: Callable[[Overlay], EdgeKeys],
        *,
        value_max: int,
        writable: Sequence[tuple[bytes, bool]],
        random: Random,
        wall_ns: Callable[[], int] = time.time_ns,
        monotonic_ns: Callable[[], int] | None = None,
    ) -> None:
        rows = Overlay(disk.store, DATABASE)
        self.logged = 0
        self._wal: Wal | None = None
        self._is_kept = False  # by `keep_committing`
        self._is_logging = False  # an entry is on its way
        self._wal_path = Path(disk.store.path) / WAL
        limit = disk.store.map_bytes_max
        self._wal_bytes = min(WAL_BYTES, max(WAL_BYTES_MIN, limit // STORE_A_LOG))
        self._plan = self._next_plan = plan_laps(disk.store, self._wal_bytes)
        self._settling: trio.Event | None = None  # a lap is on its way to LMDB
        self._settling_lap: bytes | None = None  # ... which LMDB may have by now
        self._settling_write = Write()
        self._lap = rows.get(LAP_ROW)  # of what is logged
        if self._lap:
            counters = rows.get(COUNTERS_ROW) or b""
            rows.restore(
                replayed(self._wal_path, self._lap, counters, nbytes=self._wal_bytes, lost_s=WAL_S)
            )
        super().__init__(
            disk, rows, make_space(rows),
            value_max=value_max, writable=writable, random=random, wall_ns=wall_ns,
            monotonic_ns=monotonic_ns,
        )  # fmt: skip

    def close(self) -> None:
        """Write no more; to be called before the store is closed."""
        if self._wal is not None:
            self._wal.close()

    def settle(self) -> None:
        """Commit what there is, and let the store have all that is logged: it may be copied then.

        Raises StoreError if something was refused that nobody had been told of.
        """
        self.commit()
        if self.rows.rows_unstored:
            try:
                self._commit_all()
            except StoreError as error:
                log.warning("keys: some stay in the write-ahead log for now: %s", error)

    async def keep_committing(self, every_s: float = 0.0) -> None:
        """Commit what changes, as soon as the commit before is done, or every so often."""
        if not every_s and self._disk.store.is_durable:
            self._wal = await trio.to_thread.run_sync(self._opened_wal)
        if self.rows.rows_unstored:
            self._due_at = trio.current_time()
        self._is_kept = True
        try:
            async with trio.open_nursery() as self._nursery:
                await super().keep_committing(every_s)
        finally:
            self._is_kept = False

    def _opened_wal(self) -> Wal | None:
        try:
            # One of another size, of another version or limit, goes when it is of no use any more.
            make_wal(self._wal_path.parent, self._wal_bytes, is_needed=self.rows.rows_logged > 0)
            return Wal(str(self._wal_path))
        except (OSError, StoreError) as error:
            log.warning("keys: each commit takes longer, there is no write-ahead log: %s", error)
            return None

    async def _commit_changes(self) -> None:
        """Commit what has changed, in the log if it takes it."""
        layers = self.rows.freeze
        while self._may_log():
            if self._is_lap_over():
                self._settle_lap()
                if not self.rows.is_changed:
                    return
            if self._append():
                assert self._wal is not None
                await trio.lowlevel.wait_readable(self._wal)
                if self._is_overtaken() or self._has_landed():
                    return
                layers = self.rows.freeze_all
                break
            # The lap is full. So is the other one, as long as it is on its way.
            if self._settling is not None:
                await self._settling.wait()
                if self._is_overtaken():
                    return
            elif self.rows.rows_logged:
                self._settle_lap()
            else:
                break  # a large value
        while self._settling is not None:  # what comes after it must not be stored before it
            await self._settling.wait()
            if self._is_overtaken():
                return
        await self._submit(layers)
        if self._is_due():  # still: the store refused
            self._due_at = trio.current_time() + WAL_S

    def commit(self) -> None:
        """Return when everything changed so far is on disk; raises StoreError if it was refused."""
        if self._is_logging:
            self._overtaken = True
            self._has_landed()
        # A commit of the store that is under way begins another lap.
        if not self.rows.is_committing and self._append() and self._has_landed():
            return
        super().commit()

    def _may_log(self) -> bool:
        """Return whether changes may go to the log; otherwise they go to LMDB."""
        return (
            self._wal is not None
            and self._wal.is_usable
            and self._is_kept  # else nobody would take it to LMDB in time
            and self._disk.store.has_room(self._plan.room_bytes)
        )

    def _is_lap_over(self) -> bool:
        """Return whether the logged rows should go to LMDB now."""
        if not self.rows.rows_logged or self._settling is not None:
            if self._is_due():
                self._due_at = trio.current_time() + WAL_S
            return False
        return self._is_due() or self.rows.rows_logged > self._plan.rows

    def _settle_lap(self) -> None:
        """Let what is logged go to LMDB, sorted, while the next lap is written."""
        assert self._wal is not None
        assert self._lap is not None
        self._settling, self._due_at = trio.Event(), math.inf
        self._settling_lap = self._lap[8:] + os.urandom(8)
        write = self._settling_write = self.rows.settle(LAP_ROW, self._settling_lap)
        self._reserve_laps(write)
        self._wal.turn(self._settling_lap)
        self._nursery.start_soon(self._keep_settling, write, self._settling)

    async def _keep_settling(self, write: Write, settling: trio.Event) -> None:
        problem: StoreError | None = None
        with trio.CancelScope(shield=True):
            try:
                if self._settling is settling:
                    await self._disk.submit(write)
            except StoreError as error:
                problem = error
        if self._settling is settling:  # else a commit of everything has come meanwhile
            self._settling = None
            self.rows.settled(problem is None)
            if problem is None:
                self._lap, self._plan = self._settling_lap, self._next_plan
            elif self._wal is not None:
                log.warning("keys: some stay in the write-ahead log for now: %s", problem)
                self._wal.spoil()
                self._due_at = min(self._due_at, trio.current_time() + WAL_S)
                self._changed.set()  # that is sooner than the loop knows
        settling.set()

    def _reserve_laps(self, write: Write) -> None:
        """Have room made for the laps that follow on `write`, of a size that suits the store then.

        It counts once that is stored.
        """
        with suppress(StoreError):  # which the write itself will meet
            self._next_plan = plan_laps(self._disk.store, self._wal_bytes)
        write.reserve(self._next_plan.reserved_bytes)

    def _overtake_lap(self) -> None:
        """Forget a lap on its way: LMDB has what is newer, under which it must not be put."""
        if self._settling is not None:
            self._settling_write.clear()
        self._settling = self._settling_lap = None

    def _append(self) -> bool:
        """Begin to log what has changed; False when there is no room in this lap."""
        if (
            not self._may_log()
            or not self.rows.is_changed
            or self.rows.rows_logged > self._plan.rows
            or self._is_due()
        ):
            return False
        self._complete()
        assert self._wal is not None
        if not self.rows.freeze_into(self._wal):
            return False
        self.generation += 1
        self._is_logging = True
        return True

    def _has_landed(self) -> bool:
        """Wait for the pending entry, wake its waiters, and return whether it is in the log."""
        assert self._wal is not None
        self._is_logging = False
        if not self._wal.landed():
            log.warning("keys: the write-ahead log could not be written, going on without it")
            return False
        self.logged += 1
        self.rows.landed()
        self._due_at = min(self._due_at, trio.current_time() + WAL_S)
        self._announce(self.generation - 1, None)
        return True

    def _freeze(self, layers: Callable[[], Write]) -> Write:
        # What is logged is in this write; the log begins again once it is stored. Whoever opens
        # the store without using the log writes on top of what it has, and must say so.
        if self._wal is not None or self.rows.get(LAP_ROW):
            self.rows.put(LAP_ROW, os.urandom(16))
        write = super()._freeze(layers)
        if self._wal is not None:
            self._reserve_laps(write)
        return write

    def _stored(self, tails: Tails) -> None:
        super()._stored(tails)
        self._due_at = math.inf
        self._overtake_lap()
        self._lap = self.rows.get(LAP_ROW)
        if self._wal is not None:
            assert self._lap is not None, "every commit stores one, see `_freeze`"
            self._wal.begin(self._lap)
            self._plan = self._next_plan

    def _refused(self, error: StoreError) -> None:
        if self._wal is not None:
            self._wal.spoil()  # the commit may have been stored all the same, and with it a new lap
        if self._disk.store.get(DATABASE, LAP_ROW) not in (self._lap, self._settling_lap):
            self.rows.forget_logged()  # it was, or the one it overtook: the store has them
            self._overtake_lap()
        super()._refused(error)
