"""The edge's store: three lanes of records, and what must survive beside them.

The incarnation names the life of this store. It is random and changes whenever history may have
branched (R5): when the hub finds other records than it was sent, and when a store that could not be
read is replaced. Records keep their event ids through a fork, so the hub knows doubles.
"""

import logging
import os
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

import msgspec
import trio

from edgesync._native import event
from edgesync._native.journal import DamagedRecord, Journal, LaneState, Rows
from edgesync._native.store import Store
from edgesync._native.write import Write
from edgesync.errors import StoreCorrupt
from edgesync.model import EventType, Lane, RecordKind
from edgesync.store.commit import GroupCommit, Tails
from edgesync.store.directory import explained, sync_directory
from edgesync.store.overflow import Overflow
from edgesync.store.series import DATABASE as SERIES
from edgesync.store.series import SeriesTable
from edgesync.store.settings import Policy

log = logging.getLogger(__name__)

META: Final = "meta"
LATEST: Final = "latest"
QUARANTINE: Final = "quarantine"
INCARNATION_KEY: Final = b"incarnation"
STARTS_KEY: Final = b"starts"
STARTS: Final = struct.Struct("<6Q")

# Records deleted in one transaction. LMDB needs new pages to free old ones, and a store that is
# nearly full has few; 50 deletes at once have failed in a map filled to the last page.
TRIM_STEP: Final = 65_536
TRIM_STEP_PRESSED: Final = 2048
# Above this part of what intake may fill, the retained range gives way: new facts come first.
PRESSED: Final = 0.8


class Retain(msgspec.Struct, frozen=True, kw_only=True):
    """The amount of safe records that stays for a hub restored from an even older backup."""

    records: int = 0
    nbytes: int = 0


NOTHING_EXTRA: Final = Retain()


class LaneStart(msgspec.Struct, frozen=True):
    """The begin of this incarnation in a lane: the seq before its first record, and its chain."""

    seq: int
    chain: int


class EdgeStore:
    """Everything an edge keeps, behind one door. Thread-safe where not said otherwise.

    path        directory of the store; made when missing
    clock_ns    wall clock for loss records; data, never order (I5)
    overflow    what gives way in a lane that is full; by default whoever writes is refused
    moved_to    where an unreadable store went, when `replace_unreadable` had to move one
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        map_bytes: int = 16 << 20,
        map_bytes_max: int = 1 << 30,
        sync: Literal["always", "meta", "none"] = "always",
        readonly: bool = False,
        retain: Retain = NOTHING_EXTRA,
        databases: Iterable[str] = (),
        replace_unreadable: bool = False,
        clock_ns: Callable[[], int] = time.time_ns,
        overflow: Mapping[Lane, Policy] | None = None,
    ) -> None:
        self.retain = retain
        self.moved_to: Path | None = None
        self._clock_ns = clock_ns
        self._trimming = trio.Lock()

        def opened() -> Store:
            return Store(
                os.fspath(path),
                databases=("lanes", META, QUARANTINE, *databases),
                integer_databases=(SERIES, LATEST),
                map_bytes=map_bytes,
                map_bytes_max=map_bytes_max,
                sync=sync,
                readonly=readonly,
            )

        try:
            self.store = opened()
            self._load(readonly)
        except StoreCorrupt as error:
            if not replace_unreadable or readonly:
                raise
            self.moved_to = move_aside(Path(path))
            log.error("store unreadable, moved to %s: %s", self.moved_to, error)
            self.store = opened()
            self._load(readonly)
            self._tell_of_loss(f"store unreadable, moved to {self.moved_to.name}")
        self.overflow = Overflow(self.store, overflow or {}, clock_ns=clock_ns)
        self.commit = GroupCommit(self.store, room=self.overflow)

    def _load(self, readonly: bool) -> None:
        try:
            self.journal = Journal(self.store)
            for lane in self.store.mended_lanes:
                log.error("positions derived from the records: lane=%d", lane)
            incarnation = self.store.get(META, INCARNATION_KEY)
            starts = self.store.get(META, STARTS_KEY)
            for lane in Lane:
                self.journal.state(lane)
            if incarnation is None and not readonly:
                incarnation, starts = os.urandom(16), bytes(STARTS.size)
                write = Write()
                write.put(META, INCARNATION_KEY, incarnation, essential=True)
                write.put(META, STARTS_KEY, starts, essential=True)
                self.store.apply(write)
            self.incarnation = incarnation or bytes(16)
            self.starts = _starts(starts or bytes(STARTS.size))
            self.series = SeriesTable(self.store, self.incarnation)
        except BaseException:
            self.store.close()
            raise

    def _tell_of_loss(self, reason: str) -> None:
        """Begin every lane of a new life with what the hub must know of the old one (D4)."""
        write = Write()
        for lane in Lane:
            # Which records they were is not known any more: 0 to 0.
            write.append(lane, RecordKind.EVENT, self._loss(lane, 0, reason))
        self.store.apply(write)

    def _loss(self, lane: Lane, seq: int, reason: str, *, last: int = 0) -> bytes:
        loss = {"lane": int(lane), "first": seq, "last": last or seq, "reason": reason}
        now = self._clock_ns()
        return event.encode(EventType.LOSS, 0, 0, "", msgspec.json.encode(loss), now, now, 0)

    @property
    def path(self) -> str:
        return self.store.path

    def close(self) -> None:
        """Carry out what is queued, then close; nothing is acknowledged after it."""
        self.commit.close()
        self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def submit(self, write: Write) -> Tails:
        return await self.commit.submit(write)

    def submit_sync(self, write: Write) -> Tails:
        return self.commit.submit_sync(write)

    def state(self, lane: Lane) -> LaneState:
        return self.journal.state(lane)

    def start(self, lane: Lane) -> LaneStart:
        return self.starts[lane]

    def read(
        self, lane: Lane, first: int, *, limit_records: int = 65536, limit_bytes: int = 4 << 20
    ) -> Rows:
        """Return verified records from `first` on; `len() == 0` means none is there (yet).

        A damaged record is quarantined on the way, so this may commit: call it from a thread, or
        where a pause of one commit does not matter. Never returns a record that does not verify.
        """
        while True:
            try:
                return self.journal.read(
                    lane, first, limit_records=limit_records, limit_bytes=limit_bytes
                )
            except DamagedRecord as damaged:
                self.quarantine(lane, damaged.seq)

    def rows(self, database: str) -> Iterator[tuple[bytes, bytes]]:
        """Return all rows of a database; the store gives 4 MiB of them at once."""
        start = b""
        while rows := self.store.scan(database, start):
            yield from rows
            start = rows[-1][0] + b"\0"

    def quarantine(self, lane: Lane, seq: int) -> None:
        """Put a loss record in place of the damaged record, and its bytes aside (I14)."""
        write = Write()
        raw = self.journal.raw(lane, seq) or b""
        write.put(QUARANTINE, bytes([lane]) + seq.to_bytes(8, "big"), raw, essential=True)
        write.replace(lane, seq, RecordKind.EVENT, self._loss(lane, seq, "damaged on disk"))
        self.commit.submit_sync(write)
        log.error("damaged record quarantined: lane=%d seq=%d", lane, seq)

    def quarantined(self, *, limit: int = 1000) -> list[tuple[Lane, int, bytes]]:
        rows = self.store.scan(QUARANTINE, limit=limit)
        return [(Lane(key[0]), int.from_bytes(key[1:], "big"), raw) for key, raw in rows]

    async def acknowledge(self, lane: Lane, floor: int, safe: int) -> None:
        """Remember what the hub has, and delete what it will not ask for again (I3).

        Raises ValueError when `floor` is beyond the tail: then histories differ, and `fork` is due.
        """
        await self.commit.submit(self._acknowledged(lane, floor, safe))

    def acknowledge_sync(self, lane: Lane, floor: int, safe: int) -> None:
        self.commit.submit_sync(self._acknowledged(lane, floor, safe))

    def _acknowledged(self, lane: Lane, floor: int, safe: int) -> Write:
        write = Write()
        write.mark(lane, floor, safe)
        up_to = self._trim_to(self.state(lane), safe)
        if up_to:
            write.trim(lane, up_to)
        return write

    def _trim_to(self, state: LaneState, safe: int) -> int:
        """Up to which seq records may go in one transaction; 0 for none."""
        pressed = self.store.used_bytes > PRESSED * self.store.intake_bytes_max
        held = state.tail - state.trimmed
        mean = state.stored_bytes / held if held else 1.0
        keep = 0 if pressed else max(self.retain.records, int(self.retain.nbytes / mean))
        step = TRIM_STEP_PRESSED if pressed else TRIM_STEP
        up_to = min(max(safe, state.safe) - keep, state.trimmed + step)
        return up_to if up_to > state.trimmed else 0

    async def trim(self) -> int:
        """Delete whatever may go in all lanes, in small steps; returns how many records went."""
        gone = 0
        for lane in Lane:
            async with self._trimming:
                state = self.state(lane)
                while up_to := self._trim_to(state, state.safe):
                    write = Write()
                    write.trim(lane, up_to)
                    await self.commit.submit(write)
                    gone += up_to - state.trimmed
                    state = self.state(lane)
        return gone

    def rewind(self, lane: Lane, floor: int) -> None:
        """The hub lost what was above `floor` (restored from a backup); send it again (S32)."""
        write = Write()
        write.rewind(lane, floor)
        self.commit.submit_sync(write)

    async def fork(self) -> bytes:
        """Take a new incarnation: every retained record is sent again under it (R4, R5).

        Returns it. Nobody trims meanwhile: the lanes' starts are read before the write, and what
        went in between would be a gap in the new life.
        """
        async with self._trimming:
            return await trio.to_thread.run_sync(self.fork_sync)

    def fork_sync(self) -> bytes:
        """Do as `fork` does, for a plain thread while no task trims."""
        incarnation = os.urandom(16)
        write = Write()
        starts = []
        for lane in Lane:
            state = self.state(lane)
            trimmed = state.trimmed
            if state.floor < trimmed:
                # The new life begins after it: no gap will tell.
                reason = "dropped by a policy before a fork"
                write.append(
                    Lane.CRITICAL, RecordKind.EVENT,
                    self._loss(lane, state.floor + 1, reason, last=trimmed),
                )  # fmt: skip
            starts += [trimmed, self.journal.chain_at(lane, trimmed) or 0]
            write.rewind(lane, trimmed)
        write.put(META, INCARNATION_KEY, incarnation, essential=True)
        write.put(META, STARTS_KEY, STARTS.pack(*starts), essential=True)
        write.new_origin()
        self.commit.submit_sync(write)
        self.incarnation = incarnation
        self.starts = _starts(STARTS.pack(*starts))
        self.series.forget_told(incarnation)
        log.warning("new incarnation: %s", incarnation.hex())
        return incarnation


def _starts(raw: bytes) -> tuple[LaneStart, ...]:
    values = STARTS.unpack(raw)
    return tuple(LaneStart(values[2 * lane], values[2 * lane + 1]) for lane in Lane)


def move_aside(path: Path) -> Path:
    """Rename an unreadable store, never delete it (D7); returns its new name."""
    with explained(path):
        number = 1
        while (target := path.with_name(f"{path.name}.damaged-{number}")).exists():
            number += 1
        path.rename(target)
        sync_directory(path.parent)
    return target
