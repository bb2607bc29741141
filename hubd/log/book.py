"""What the log knows about each edge, and what follows from it for a batch.              [sans-IO]

One set of decisions for every implementation of the log: gap, chain, epoch, doubles. `Shelf` is
where what is not in memory is looked up; what a decision changes is listed in `Changes`, to be
written in the same step as the entries (I4).

Event ids that are stored are known for ever, in blocks of 1,024 numbers of an origin, one bit a
number. A block that is whole is one bit of a block of blocks and needs no row of its own, so a
million records in sequence leave a row or two. What a batch costs follows from its own numbers,
however many are known (I7).
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Protocol

import msgspec

from edgesync._native import batch
from edgesync.errors import RecordError
from edgesync_transport.messages import Codec, Lane, LaneFloor, NackCode
from hubd.log.base import Append, Appended, NotAppended, Session

# rows: u32 length, then crc u32, kind u8, flags u8, reserved u16, chain u64, origin u64, number u64
ROW: Final = struct.Struct("<I8xQQQ")
LENGTH_BYTES: Final = 4

LaneKey = tuple[str, bytes, int]
# edge, origin, level, block; bits stand for numbers at level 0, for whole blocks at level 1
IdKey = tuple[str, int, int, int]

NUMBERS, BLOCKS = 0, 1
BLOCK_BITS: Final = 1024
WHOLE: Final = (1 << BLOCK_BITS) - 1

# Cold keys kept in memory: beyond it the book forgets and looks up again (I7).
CACHED_MAX: Final = 100_000
# More sessions than an edge begins between a backup and its restore: no number of one comes back,
# so that what was said in a lost session never counts in a new one (R2).
EPOCHS_SKIPPED: Final = 1_000_000


class Shelf(Protocol):
    """Where the durable facts are."""

    def epoch(self, edge: str) -> int: ...
    def lane(self, key: LaneKey) -> LaneFloor | None: ...
    def ids(self, key: IdKey) -> int: ...


class Piece(msgspec.Struct, frozen=True):
    """What of a batch is stored: records `first .. last`, none of them stored before."""

    append: Append
    first: int
    last: int
    codec: Codec
    payload: bytes


class Changes(msgspec.Struct):
    """What one group of decisions has to write."""

    pieces: list[Piece] = []
    epochs: set[str] = set()
    lanes: set[LaneKey] = set()
    ids: set[IdKey] = set()


class Book:
    """Facts about all edges; forget() after a write that failed.

    has_backups     safe is what the newest registered backup contains; otherwise it is the floor
    """

    def __init__(self, shelf: Shelf, *, has_backups: bool = False) -> None:
        self.has_backups = has_backups
        self._shelf = shelf
        self.epochs: dict[str, int] = {}
        self.lanes: dict[LaneKey, LaneFloor] = {}
        self.ids: dict[IdKey, int] = {}

    def forget(self) -> None:
        self.epochs.clear()
        self.lanes.clear()
        self.ids.clear()

    def bound(self) -> None:
        """Keep memory bounded; call it between groups, when everything is durable.

        A block of ids is 128 bytes of bits at the most, whatever numbers an edge chooses; of those
        that are far from each other each is in a block of its own. Beyond the bound all is
        forgotten, of all edges, and their next batches look up their lanes and blocks once.
        """
        if len(self.lanes) + len(self.ids) + len(self.epochs) > CACHED_MAX:
            self.forget()

    def epoch(self, edge: str) -> int:
        if edge not in self.epochs:
            self.epochs[edge] = self._shelf.epoch(edge)
        return self.epochs[edge]

    def lane(self, key: LaneKey) -> LaneFloor | None:
        if key not in self.lanes:
            stored = self._shelf.lane(key)
            if stored is None:
                return None
            self.lanes[key] = stored
        return self.lanes[key]

    def open_session(
        self, edge: str, incarnation: bytes, starts: Sequence[LaneFloor], changes: Changes
    ) -> Session:
        epoch = self.epoch(edge) + 1
        self.epochs[edge] = epoch
        changes.epochs.add(edge)
        floors: list[LaneFloor] = []
        for lane, start in zip(Lane, starts, strict=True):
            key = (edge, incarnation, int(lane))
            known = self.lane(key)
            if known is None:
                known = LaneFloor(floor=start.floor, chain=start.chain, safe=start.floor)
                self.lanes[key] = known
                changes.lanes.add(key)
            floors.append(msgspec.structs.replace(known, safe=self._safe(known)))
        return Session(epoch=epoch, floors=(floors[0], floors[1], floors[2]))

    def decide(self, asked: Append, changes: Changes) -> Appended | NotAppended:
        """Judge one batch and note what it changes; the answer counts once that is durable."""
        key = (asked.edge, asked.incarnation, int(asked.lane))
        stands = self.lane(key) or LaneFloor(floor=0, chain=0, safe=0)
        floor = stands.floor
        if asked.epoch != self.epoch(asked.edge):
            return NotAppended(code=None, floor=floor, reason="a newer session has begun")
        if asked.last <= floor:
            return Appended(position=0, floor=floor, safe=self._safe(stands))
        if asked.first > floor + 1:
            return NotAppended(code=NackCode.GAP, floor=floor, reason=f"expected {floor + 1}")
        try:
            pieces, numbers = self._fresh(asked, stands)
        except ChainDiffers:
            reason = f"another history at {floor}"
            return NotAppended(code=NackCode.CHAIN, floor=floor, reason=reason)
        except RecordError as error:
            return NotAppended(code=NackCode.POISON, floor=floor, reason=str(error))
        self._add_ids(asked.edge, numbers, changes)
        stands = LaneFloor(floor=asked.last, chain=asked.last_chain, safe=stands.safe)
        self.lanes[key] = stands
        changes.lanes.add(key)
        changes.pieces += pieces
        return Appended(position=0, floor=stands.floor, safe=self._safe(stands))

    def _safe(self, stands: LaneFloor) -> int:
        return stands.safe if self.has_backups else stands.floor

    def _fresh(
        self, asked: Append, stands: LaneFloor
    ) -> tuple[list[Piece], list[tuple[int, int, int]]]:
        """Return what of a batch was never stored, and the event ids in it."""
        is_whole = asked.first == stands.floor + 1
        if is_whole and asked.prev_chain != stands.chain:
            raise ChainDiffers
        if asked.codec in (Codec.DEAD, Codec.GAP, Codec.PROPOSAL):
            if not is_whole:
                raise RecordError("a dead letter, a gap or a proposal begins after the floor")
            return [Piece(asked, asked.first, asked.last, asked.codec, asked.payload)], []
        numbers = [
            (origin, first, first + count - 1)
            for origin, first, count in batch.ids(asked.codec, asked.payload)
        ]
        if sum(last - first + 1 for _, first, last in numbers) != asked.last - asked.first + 1:
            raise RecordError("the payload holds another number of records than the batch says")
        if is_whole and not any(self._is_known(asked.edge, ids) for ids in numbers):
            piece = Piece(asked, asked.first, asked.last, asked.codec, asked.payload)
            return [piece], numbers
        return self._sifted(asked, stands), numbers

    def _sifted(self, asked: Append, stands: LaneFloor) -> list[Piece]:
        """Cut a batch into the runs of records that are new: after a fork, or a cut resend."""
        rows = batch.unpack(asked.codec, asked.payload, asked.lane, asked.first, asked.prev_chain)
        pieces: list[Piece] = []
        run: list[bytes] = []
        seq = asked.first - 1
        for row, chain, origin, number in _split(rows):
            seq += 1
            if seq == stands.floor and chain != stands.chain:
                raise ChainDiffers
            if seq > stands.floor and not self._is_known(asked.edge, (origin, number, number)):
                run.append(row)
                continue
            pieces += _packed(asked, run, seq - 1)
            run = []
        return pieces + _packed(asked, run, seq)

    def _block(self, key: IdKey) -> int:
        if key not in self.ids:
            self.ids[key] = WHOLE if self._is_whole(key) else self._shelf.ids(key)
        return self.ids[key]

    def _is_whole(self, key: IdKey) -> bool:
        edge, origin, level, block = key
        if level == BLOCKS:
            return False
        above, bit = divmod(block, BLOCK_BITS)
        return bool(self._block((edge, origin, BLOCKS, above)) >> bit & 1)

    def _is_known(self, edge: str, ids: tuple[int, int, int]) -> bool:
        """Whether any number of the range is stored already."""
        origin, first, last = ids
        for block, bits in bits_by_block(first, last):
            if self._block((edge, origin, NUMBERS, block)) & bits:
                return True
        return False

    def _add_ids(
        self, edge: str, numbers: Iterable[tuple[int, int, int]], changes: Changes
    ) -> None:
        """Note what is stored now; each block is set once, however many ranges came."""
        fresh: dict[tuple[int, int], int] = {}
        for origin, first, last in numbers:
            for block, bits in bits_by_block(first, last):
                fresh[origin, block] = fresh.get((origin, block), 0) | bits
        for (origin, block), bits in fresh.items():
            self._set((edge, origin, NUMBERS, block), bits, changes)

    def _set(self, key: IdKey, bits: int, changes: Changes) -> None:
        before = self._block(key)
        self.ids[key] = after = before | bits
        if after == before:
            return
        changes.ids.add(key)
        edge, origin, level, block = key
        if level == NUMBERS and after == WHOLE:
            above, bit = divmod(block, BLOCK_BITS)
            self._set((edge, origin, BLOCKS, above), 1 << bit, changes)


class ChainDiffers(Exception):
    """The batch does not continue what is stored."""


def bits_by_block(first: int, last: int) -> Iterator[tuple[int, int]]:
    """Yield each block that has numbers of `first .. last`, and their bits in it."""
    while first <= last:
        block, bit = divmod(first, BLOCK_BITS)
        count = min(last + 1 - first, BLOCK_BITS - bit)
        yield block, (1 << count) - 1 << bit
        first += count


def blocks_of(intervals: Iterable[tuple[int, int]]) -> dict[tuple[int, int], int]:
    """Return (level, block) with its bits, of ranges of numbers between which there are others.

    What it costs does not follow from how long a range is, as whole blocks are ranges themselves.
    """
    found: dict[tuple[int, int], int] = {}

    def add(level: int, first: int, last: int) -> None:
        for block, bits in bits_by_block(first, last):
            found[level, block] = found.get((level, block), 0) | bits

    for first, last in intervals:
        begin, end = -(-first // BLOCK_BITS), (last + 1) // BLOCK_BITS
        if begin < end:
            add(NUMBERS, first, begin * BLOCK_BITS - 1)
            add(BLOCKS, begin, end - 1)
            add(NUMBERS, end * BLOCK_BITS, last)
        else:
            add(NUMBERS, first, last)
    return found


def _split(rows: bytes) -> Iterable[tuple[bytes, int, int, int]]:
    at = 0
    while at < len(rows):
        length, chain, origin, number = ROW.unpack_from(rows, at)
        end = at + LENGTH_BYTES + length
        yield rows[at:end], chain, origin, number
        at = end


def _packed(asked: Append, run: Sequence[bytes], last: int) -> list[Piece]:
    if not run:
        return []
    codec, payload = batch.pack(b"".join(run))
    return [Piece(asked, last - len(run) + 1, last, Codec(codec), payload)]
