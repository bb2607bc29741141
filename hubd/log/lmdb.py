r"""The hub's log in one LMDB environment: the same compiled store as the edge's.

    entries    position u64 BE                     -> header (msgpack) and payload
    lanes      edge \0 incarnation[16] lane u8     -> floor u64, chain u64, safe u64
    sessions   edge                                -> epoch u64
    ids        \0 edge \0 origin u64 BE level u8
                              block u64 BE         -> bits of the numbers, or of the whole blocks:
                                                      (first u16, count u16)*, or 128 bytes of them
    facts      name                                -> generation, those before, the newest backup

Every value begins with the CRC-32 of key and value (I14). Appends that come while a commit is under
way wait and go into the next one together: one sync for all edges.

An earlier version wrote ids as `edge \0 origin u64 BE` -> (first u64, last u64)*; such rows are
taken over once, when the log is opened.
"""

import logging
import secrets
import struct
import time
import zlib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec
import outcome
import trio

from edgesync._native.store import Store
from edgesync._native.write import Write
from edgesync.errors import StoreFull
from edgesync.store.commit import GroupCommit
from edgesync_transport.messages import Codec, Lane, LaneFloor
from hubd.log.base import (
    Append,
    Appended,
    Backup,
    Entry,
    EntrySize,
    LogFull,
    LogStats,
    NotAppended,
    Session,
)
from hubd.log.book import (
    BLOCK_BITS,
    EPOCHS_SKIPPED,
    NUMBERS,
    WHOLE,
    Book,
    Changes,
    IdKey,
    LaneKey,
    Piece,
    blocks_of,
)

log = logging.getLogger(__name__)

ENTRIES, LANES, SESSIONS, IDS, FACTS = "entries", "lanes", "sessions", "ids", "facts"
GENERATION: Final = b"generation"
EARLIER: Final = b"generations before"
BACKUP: Final = b"backup"
CRC: Final = struct.Struct("<I")
U64: Final = struct.Struct("<Q")
LANE_VALUE: Final = struct.Struct("<3Q")
INTERVAL: Final = struct.Struct("<2Q")
RUN: Final = struct.Struct("<2H")
BLOCK_BYTES: Final = BLOCK_BITS // 8
HEADER_LENGTH: Final = struct.Struct("<H")
# Where rows of an earlier version begin: no name of an edge begins with \0, as rows of blocks do.
OLD_IDS: Final = b"\1"

# Batches decided in one go; the rest waits for the next commit (I7).
GROUP_BATCHES_MAX: Final = 1024
GROUP_BYTES_MAX: Final = 32 << 20
# Restores that are remembered.
LIVES_MAX: Final = 100


class Header(msgspec.Struct, frozen=True, array_like=True):
    """What an entry says besides its payload."""

    edge: str
    incarnation: bytes
    lane: int
    first: int
    last: int
    codec: int
    stored_at_ns: int
    reason: str


def seal(key: bytes, value: bytes) -> bytes:
    return CRC.pack(zlib.crc32(value, zlib.crc32(key))) + value


def unseal(key: bytes, sealed: bytes) -> bytes | None:
    """Return the value, or None when its checksum does not fit."""
    value = sealed[CRC.size :]
    if len(sealed) < CRC.size or CRC.unpack_from(sealed)[0] != zlib.crc32(value, zlib.crc32(key)):
        return None
    return value


def position_key(position: int) -> bytes:
    return position.to_bytes(8, "big")


def lane_key(key: LaneKey) -> bytes:
    edge, incarnation, lane = key
    return edge.encode() + b"\0" + incarnation + bytes([lane])


def ids_key(key: IdKey) -> bytes:
    edge, origin, level, block = key
    return b"\0%b\0%b%c%b" % (
        edge.encode(),
        origin.to_bytes(8, "big"),
        level,
        block.to_bytes(8, "big"),
    )


def packed_bits(bits: int) -> bytes:
    """Up to 31 runs of bits as (first, count) each, as nearly all blocks are; else all of them."""
    runs: list[bytes] = []
    rest, at = bits, 0
    while rest and len(runs) < BLOCK_BYTES // RUN.size - 1:
        gap = (rest & -rest).bit_length() - 1
        rest >>= gap
        count = (~rest & rest + 1).bit_length() - 1
        rest >>= count
        runs.append(RUN.pack(at + gap, count))
        at += gap + count
    return bits.to_bytes(BLOCK_BYTES, "little") if rest else b"".join(runs)


def unpacked_bits(value: bytes) -> int:
    if len(value) == BLOCK_BYTES:
        return int.from_bytes(value, "little")
    return sum((1 << count) - 1 << first for first, count in RUN.iter_unpack(value))


class StoreShelf:
    """The durable facts, for the book."""

    def __init__(self, store: Store, on_damage: Callable[[str, bytes], None]) -> None:
        self._store = store
        self._on_damage = on_damage

    def _get(self, db: str, key: bytes) -> bytes | None:
        sealed = self._store.get(db, key)
        if sealed is None:
            return None
        value = unseal(key, sealed)
        if value is None:
            self._on_damage(db, key)
        return value

    def epoch(self, edge: str) -> int:
        value = self._get(SESSIONS, edge.encode())
        return int(U64.unpack(value)[0]) if value else 0

    def lane(self, key: LaneKey) -> LaneFloor | None:
        value = self._get(LANES, lane_key(key))
        if value is None:
            return None
        floor, chain, safe = LANE_VALUE.unpack(value)
        return LaneFloor(floor=floor, chain=chain, safe=safe)

    def ids(self, key: IdKey) -> int:
        return unpacked_bits(self._get(IDS, ids_key(key)) or b"")


class _Asked:
    """Batches of one caller, waiting for a commit."""

    def __init__(self, batches: Sequence[Append]) -> None:
        self.batches = batches
        self.is_essential = all(one.is_essential for one in batches)
        self.answer: outcome.Outcome[Sequence[Appended | NotAppended]] | None = None


class _Opening:
    """An edge that wants a session, waiting for a commit."""

    def __init__(self, edge: str, incarnation: bytes, starts: Sequence[LaneFloor]) -> None:
        self.edge = edge
        self.incarnation = incarnation
        self.starts = starts
        self.answer: outcome.Outcome[Session] | None = None


def _fail(waiting: Iterable[_Asked | _Opening], error: Exception) -> None:
    for one in waiting:
        one.answer = outcome.Error(error)


class LmdbLog:
    """Implements `base.Log`. One process, one object per directory; call from Trio's thread.

    has_backups     as in Book: `backup` makes them
    readonly        for looking into the log of a hub that may be running: nothing is appended
    """

    def __init__(
        self,
        path: Path,
        *,
        map_bytes_max: int = 64 << 30,
        has_backups: bool = False,
        readonly: bool = False,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.path = path
        self._clock_ns = clock_ns
        self._store = Store(
            str(path),
            databases=(ENTRIES, LANES, SESSIONS, IDS, FACTS),
            map_bytes=16 << 20,
            map_bytes_max=map_bytes_max,
            readonly=readonly,
        )
        self._commit = GroupCommit(self._store)
        self._book = Book(StoreShelf(self._store, self._damaged), has_backups=has_backups)
        self._asked: list[_Asked] = []
        self._opening: list[_Opening] = []
        self._turn = trio.Lock()
        self._grown = trio.Event()
        self._damaged_count = 0
        self._is_full = False
        self._refused = 0
        newest = self._store.scan(ENTRIES, reverse=True, limit=1)
        self._head = int.from_bytes(newest[0][0], "big") if newest else 0
        self._written = self._head
        self._oldest, self._oldest_at_ns, self._dropped = self._find_oldest(), 0, 0
        if not readonly:
            self._take_over_intervals()
        self.generation = self._load_generation(readonly)
        self.newest_backup: Backup | None = self._load_backup()

    def _take_over_intervals(self) -> None:
        """Make rows of blocks of those that an earlier version wrote, some in each transaction."""
        while rows := self._store.scan(IDS, OLD_IDS):
            write = Write()
            for key, sealed in rows:
                edge, _, origin = key.partition(b"\0")
                value = unseal(key, sealed)
                if value is None:
                    self._damaged(IDS, key)
                intervals = INTERVAL.iter_unpack(value or b"")
                for (level, block), bits in blocks_of(intervals).items():
                    ids = edge.decode(), int.from_bytes(origin, "big"), level, block
                    new = ids_key(ids)
                    write.put(IDS, new, seal(new, packed_bits(bits)), essential=True)
                write.delete(IDS, key)
            try:
                self._commit.submit_sync(write)
            except StoreFull as error:
                self.close()
                raise LogFull(used_bytes=error.used_bytes, limit_bytes=error.limit_bytes) from error

    def _load_generation(self, readonly: bool) -> bytes:
        sealed = self._store.get(FACTS, GENERATION)
        value = unseal(GENERATION, sealed) if sealed else None
        if value is None and readonly:
            return bytes(16)
        if value is None:
            value = secrets.token_bytes(16)
            write = Write()
            write.put(FACTS, GENERATION, seal(GENERATION, value), essential=True)
            self._commit.submit_sync(write)
        return value

    def _load_backup(self) -> Backup | None:
        sealed = self._store.get(FACTS, BACKUP)
        value = unseal(BACKUP, sealed) if sealed else None
        return msgspec.msgpack.decode(value, type=Backup) if value else None

    def _find_oldest(self) -> int:
        oldest = self.sizes(limit=1)
        return oldest[0].position if oldest else self._head + 1

    def renew_generation(self) -> None:
        """Call on a copy that was restored from a backup, before any edge speaks to it.

        No session has a number that one had before, whatever was lost with the original.
        """
        earlier = self.lives()
        self.generation = secrets.token_bytes(16)
        write = Write()
        packed = msgspec.msgpack.encode(list(earlier.items())[-LIVES_MAX:])
        write.put(FACTS, EARLIER, seal(EARLIER, packed), essential=True)
        write.put(FACTS, GENERATION, seal(GENERATION, self.generation), essential=True)
        start = b""
        while rows := self._store.scan(SESSIONS, start):
            for key, _ in rows:
                epoch = self._book.epoch(key.decode()) + EPOCHS_SKIPPED
                write.put(SESSIONS, key, seal(key, U64.pack(epoch)), essential=True)
            start = rows[-1][0] + b"\0"
        self._commit.submit_sync(write)
        self._book.forget()

    def lives(self) -> dict[bytes, int]:
        """Return the generations this log had, and up to which position; the present one last."""
        sealed = self._store.get(FACTS, EARLIER)
        value = unseal(EARLIER, sealed) if sealed else None
        found = msgspec.msgpack.decode(value, type=list[tuple[bytes, int]]) if value else []
        return {**dict(found), self.generation: self._head}

    def _damaged(self, db: str, key: bytes) -> None:
        self._damaged_count += 1
        log.error("damaged value in the log: db=%s key=%s", db, key.hex())

    @property
    def head(self) -> int:
        return self._head

    @property
    def oldest(self) -> int:
        return self._oldest

    def stats(self) -> LogStats:
        return LogStats(
            entries=self._store.count(ENTRIES),
            damaged=self._damaged_count,
            used_bytes=self._store.used_bytes,
            limit_bytes=self._store.map_bytes_max,
            is_full=self._is_full,
            refused=self._refused,
            oldest=self._oldest,
            oldest_at_ns=self._find_oldest_time(),
            dropped=self._dropped,
            backup=self.newest_backup,
        )

    def _find_oldest_time(self) -> int:
        """Return when the oldest entry that can be read was stored; it is read once."""
        position = self._oldest
        while not self._oldest_at_ns and position <= self._head:
            self._oldest_at_ns = self.stored_at_ns(position) or 0
            position += 1
        return self._oldest_at_ns

    async def open_session(
        self, edge: str, incarnation: bytes, starts: Sequence[LaneFloor]
    ) -> Session:
        """Open it in the next commit, with what else has come: a fleet comes back together."""
        asked = _Opening(edge, incarnation, starts)
        self._opening.append(asked)
        await self._join_commit(asked)
        assert asked.answer is not None
        return asked.answer.unwrap()

    async def append(self, batches: Sequence[Append]) -> Sequence[Appended | NotAppended]:
        """Wait for the commit under way, then commit everything that has come meanwhile."""
        asked = _Asked(batches)
        self._asked.append(asked)
        await self._join_commit(asked)
        assert asked.answer is not None
        return asked.answer.unwrap()

    async def _join_commit(self, asked: "_Asked | _Opening") -> None:
        async with self._turn:
            # Those before it may be more than one commit takes: whoever waited for them is gone.
            while asked.answer is None:
                await self._commit_group()

    async def _commit_group(self) -> None:
        group, opening = self._take_group(), self._opening
        self._opening = []
        # Cancelled or not, those who wait must hear what became of their batches.
        with trio.CancelScope(shield=True):
            try:
                await self._commit_all(group, opening)
            except LogFull as error:
                # What has to go in does not fail with what found no room.
                needed = [one for one in group if one.is_essential]
                _fail([one for one in group if not one.is_essential], error)
                try:
                    await self._commit_all(needed, opening)
                except Exception as again:
                    _fail([*needed, *opening], again)
            except Exception as error:
                _fail([*group, *opening], error)

    async def _commit_all(self, group: Sequence[_Asked], opening: Sequence[_Opening]) -> None:
        changes = Changes()
        sessions = [
            outcome.capture(self._book.open_session, one.edge, one.incarnation, one.starts, changes)
            for one in opening
        ]
        answers = [[self._decide(one, changes) for one in asked.batches] for asked in group]
        await self._store_changes(changes)
        for greeted, session in zip(opening, sessions, strict=True):
            greeted.answer = session
        for asked, mine in zip(group, answers, strict=True):
            asked.answer = outcome.Value(mine)

    def _decide(self, one: Append, changes: Changes) -> Appended | NotAppended:
        before = len(changes.pieces)
        answer = self._book.decide(one, changes)
        if isinstance(answer, Appended):
            stored = len(changes.pieces) > before
            position = self._written + len(changes.pieces) if stored else 0
            answer = msgspec.structs.replace(answer, position=position)
        return answer

    def _take_group(self) -> list[_Asked]:
        group: list[_Asked] = []
        nbytes = count = 0
        while self._asked and (
            not group or (nbytes < GROUP_BYTES_MAX and count < GROUP_BATCHES_MAX)
        ):
            asked = self._asked.pop(0)
            group.append(asked)
            nbytes += sum(len(one.payload) for one in asked.batches)
            count += len(asked.batches)
        return group

    async def _store_changes(self, changes: Changes) -> None:
        """One transaction, one sync (I4). On an error nothing of it has happened."""
        if not (changes.pieces or changes.lanes or changes.epochs):
            return
        try:
            await self._commit.submit(self._written_out(changes))
        except StoreFull as error:
            self._book.forget()
            self._is_full = True
            self._refused += 1
            raise LogFull(used_bytes=error.used_bytes, limit_bytes=error.limit_bytes) from error
        except BaseException:
            # What was decided is not on disk: answered from memory it would be taken for stored.
            self._book.forget()
            raise
        self._is_full = False
        self._book.bound()
        self._written += len(changes.pieces)
        if changes.pieces:
            self._head = self._written
            self._grown.set()
            self._grown = trio.Event()

    def _written_out(self, changes: Changes) -> Write:
        write = Write()
        # A full log refuses what is new; that somebody is there again has to go in.
        is_essential = all(piece.append.is_essential for piece in changes.pieces)
        for offset, piece in enumerate(changes.pieces, start=1):
            key = position_key(self._written + offset)
            write.put(ENTRIES, key, seal(key, self._entry_bytes(piece)), essential=is_essential)
        for edge in changes.epochs:
            key = edge.encode()
            epoch = U64.pack(self._book.epochs[edge])
            write.put(SESSIONS, key, seal(key, epoch), essential=is_essential)
        for lane in changes.lanes:
            key, stands = lane_key(lane), self._book.lanes[lane]
            floors = LANE_VALUE.pack(stands.floor, stands.chain, stands.safe)
            write.put(LANES, key, seal(key, floors), essential=is_essential)
        for ids in changes.ids:
            key, bits = ids_key(ids), self._book.ids[ids]
            if ids[2] == NUMBERS and bits == WHOLE:
                write.delete(IDS, key)  # the block above says it
            else:
                write.put(IDS, key, seal(key, packed_bits(bits)))
        return write

    def _entry_bytes(self, piece: Piece) -> bytes:
        asked = piece.append
        header = msgspec.msgpack.encode(
            Header(
                edge=asked.edge,
                incarnation=asked.incarnation,
                lane=int(asked.lane),
                first=piece.first,
                last=piece.last,
                codec=int(piece.codec),
                stored_at_ns=self._clock_ns(),
                reason=asked.reason[:1024],
            )
        )
        return HEADER_LENGTH.pack(len(header)) + header + piece.payload

    async def read(self, after: int, *, limit_bytes: int = 4 << 20) -> Sequence[Entry]:
        """Entries with position > `after`; a damaged one is reported and left out (I14)."""
        await trio.lowlevel.checkpoint()
        start = position_key(after + 1)
        while rows := self._store.scan(ENTRIES, start, limit_bytes=limit_bytes):
            if entries := list(self._entries(rows)):
                return entries
            start = position_key(int.from_bytes(rows[-1][0], "big") + 1)
        return []

    def _entries(self, rows: Sequence[tuple[bytes, bytes]]) -> Iterator[Entry]:
        for key, sealed in rows:
            value = unseal(key, sealed)
            entry = None if value is None else read_entry(int.from_bytes(key, "big"), value)
            if entry is None:
                self._damaged(ENTRIES, key)
            else:
                yield entry

    async def wait_beyond(self, position: int) -> None:
        while self._head <= position:
            await self._grown.wait()
        await trio.lowlevel.checkpoint()

    # -- what goes -------------------------------------------------------------------------------

    def sizes(self, *, limit: int = 1000, limit_bytes: int = 4 << 20) -> Sequence[EntrySize]:
        rows = self._store.sizes(ENTRIES, limit=limit, limit_bytes=limit_bytes)
        return [EntrySize(int.from_bytes(key, "big"), nbytes) for key, nbytes in rows]

    def stored_at_ns(self, position: int) -> int | None:
        key = position_key(position)
        sealed = self._store.get(ENTRIES, key)
        value = None if sealed is None else unseal(key, sealed)
        entry = None if value is None else read_entry(position, value)
        return None if entry is None else entry.stored_at_ns

    async def drop(self, upto: int) -> None:
        """Drop entries in a transaction of their own, or of appends that wait for the disk as well.

        Their pages are free for what comes, the file does not shrink. The newest stays: positions
        go on from it.
        """
        upto = min(upto, self._head - 1)
        if upto < self._oldest:
            await trio.lowlevel.checkpoint()
            return
        write = Write()
        for position in range(self._oldest, upto + 1):
            write.delete(ENTRIES, position_key(position))
        with trio.CancelScope(shield=True):
            await self._commit.submit(write)
        self._dropped += upto + 1 - self._oldest
        self._oldest, self._oldest_at_ns = upto + 1, 0

    # -- backups -------------------------------------------------------------------------------

    async def backup(
        self,
        path: Path,
        *,
        stored: int = 0,
        before_safe: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Write a consistent copy into `path`, and raise `safe` to what it contains (I3).

        stored        up to where the state that lies beside the copy has the log in rows
        before_safe   completes what the copy is a part of; if it raises, nothing became safe

        Appends go on meanwhile: the copy is one read transaction. Floors are read before it begins,
        so it holds all that is up to them.
        """
        async with self._turn:
            copied, head = dict(self._stored_lanes()), self._head
        await trio.to_thread.run_sync(self._store.copy, str(path))
        if before_safe is not None:
            await before_safe()
        backup = Backup(at_ns=self._clock_ns(), path=str(path), head=head, stored=stored)
        write = Write()
        write.put(FACTS, BACKUP, seal(BACKUP, msgspec.msgpack.encode(backup)), essential=True)
        async with self._turn:
            changes = Changes()
            for key, floor in copied.items():
                stands = self._book.lane(key)
                if stands is not None and stands.safe < floor:
                    self._book.lanes[key] = msgspec.structs.replace(stands, safe=floor)
                    changes.lanes.add(key)
            await self._store_changes(changes)
        # Last: what it permits to be dropped is safe by now.
        await self._commit.submit(write)
        self.newest_backup = backup

    def _stored_lanes(self) -> Iterator[tuple[LaneKey, int]]:
        """Yield each lane with its durable floor."""
        for key, sealed in self._store.scan(LANES, limit=1_000_000, limit_bytes=1 << 30):
            value = unseal(key, sealed)
            if value is None:
                self._damaged(LANES, key)
                continue
            edge, _, rest = key.partition(b"\0")
            yield (edge.decode(), rest[:16], rest[16]), LANE_VALUE.unpack(value)[0]

    async def aclose(self) -> None:
        await trio.to_thread.run_sync(self.close)

    def close(self) -> None:
        self._commit.close()
        self._store.close()


def read_entry(position: int, value: bytes) -> Entry | None:
    """Decode the bytes of an entry; None if they are none."""
    try:
        (length,) = HEADER_LENGTH.unpack_from(value)
        raw = value[HEADER_LENGTH.size : HEADER_LENGTH.size + length]
        header = msgspec.msgpack.decode(raw, type=Header)
        return Entry(
            position=position,
            edge=header.edge,
            incarnation=header.incarnation,
            lane=Lane(header.lane),
            first=header.first,
            last=header.last,
            codec=Codec(header.codec),
            payload=value[HEADER_LENGTH.size + length :],
            stored_at_ns=header.stored_at_ns,
            reason=header.reason,
        )
    except (struct.error, msgspec.DecodeError, ValueError):
        return None
