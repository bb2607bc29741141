"""What survives in the simulated world: an edge's journal, the hub's log. Copyable, crashable."""

import copy
from collections.abc import Iterable

from edgesync._native import batch
from edgesync.model import RecordKind
from edgesync_transport.lanes.window import LanePositions
from edgesync_transport.messages import Lane, LaneFloor
from hubd.log.base import Append, Appended, NotAppended, Session
from hubd.log.book import Book, Changes, IdKey, LaneKey, Piece
from tests.native.rowsmith import Draft, make_rows
from tests.sim.downlink import SimEffects

POISON = b"poison"


class Record:
    """One record of a journal; `content` is unique in the world, whatever ids it travels under."""

    __slots__ = ("chain", "content", "draft", "seq")

    def __init__(self, seq: int, draft: Draft, chain: int, content: int) -> None:
        self.seq = seq
        self.draft = draft
        self.chain = chain
        self.content = content


def content_of(body: bytes) -> int:
    return int(body.partition(b":")[2])


class SimLane:
    def __init__(self) -> None:
        self.records: list[Record] = []
        self.tail = self.floor = self.safe = self.trimmed = 0
        self.tail_chain = self.trimmed_chain = 0
        self.start = self.start_chain = 0


class SimJournal:
    """An edge's disk. Every method is one transaction: it happens whole or, in a crash, not."""

    def __init__(self, incarnation: bytes) -> None:
        self.incarnation = incarnation
        self.lanes = {lane: SimLane() for lane in Lane}
        self.effects = SimEffects()

    def image(self) -> "SimJournal":
        """Return a copy, as a disk image or a cloned card is one."""
        return copy.deepcopy(self)

    def append(self, lane: Lane, origin: int, number: int, content: int, *, poison: bool) -> None:
        place = self.lanes[lane]
        body = (POISON if poison else b"sound") + b":%d" % content
        draft = Draft(RecordKind.EVENT, body, origin, number)
        chain = _chained(place.tail_chain, draft)
        place.tail += 1
        place.tail_chain = chain
        place.records.append(Record(place.tail, draft, chain, content))

    def read(self, lane: Lane, first: int, count: int) -> list[Record]:
        place = self.lanes[lane]
        at = first - place.trimmed - 1
        return place.records[at : at + count] if at >= 0 else []

    def chain_at(self, lane: Lane, seq: int) -> int | None:
        place = self.lanes[lane]
        if seq == place.trimmed:
            return place.trimmed_chain
        found = self.read(lane, seq, 1) if place.trimmed < seq <= place.tail else []
        return found[0].chain if found else None

    def mark(self, lane: Lane, floor: int, safe: int, *, trim_to: int) -> list[Record]:
        """Remember the floor, trim; returns what is gone now."""
        place = self.lanes[lane]
        place.floor = max(place.floor, min(floor, place.tail))
        place.safe = max(place.safe, min(safe, place.floor))
        gone = [record for record in place.records if record.seq <= trim_to]
        if gone:
            place.trimmed, place.trimmed_chain = gone[-1].seq, gone[-1].chain
            place.records = place.records[len(gone) :]
        self.check()
        return gone

    def rewind(self, lane: Lane, floor: int) -> None:
        place = self.lanes[lane]
        place.floor = max(floor, place.trimmed)
        place.safe = min(place.safe, place.floor)
        # What is trimmed was safe once; a restore from something older breaks that promise (R8).
        place.safe = max(place.safe, place.trimmed)
        place.floor = max(place.floor, place.safe)

    def fork(self, incarnation: bytes) -> None:
        self.incarnation = incarnation
        for place in self.lanes.values():
            place.start, place.start_chain = place.trimmed, place.trimmed_chain
            place.floor = place.safe = place.trimmed

    def positions(self) -> tuple[LanePositions, LanePositions, LanePositions]:
        critical, normal, bulk = (
            LanePositions(
                tail=place.tail,
                floor=place.floor,
                safe=place.safe,
                trimmed=place.trimmed,
                start=place.start,
                start_chain=place.start_chain,
            )
            for place in self.lanes.values()
        )
        return (critical, normal, bulk)

    def check(self) -> None:
        for place in self.lanes.values():
            assert place.trimmed <= place.safe <= place.floor <= place.tail  # I3


def _chained(prev: int, draft: Draft) -> int:
    rows = make_rows([draft], Lane.BULK, 1, prev)
    return batch.records(rows)[0].chain


def rows_of(records: list[Record], lane: Lane, prev_chain: int) -> bytes:
    return make_rows([record.draft for record in records], lane, records[0].seq, prev_chain)


class Stored:
    """What the hub's disk holds."""

    def __init__(self, generation: bytes) -> None:
        self.generation = generation
        self.epochs: dict[str, int] = {}
        self.lanes: dict[LaneKey, LaneFloor] = {}
        self.ids: dict[IdKey, int] = {}
        self.pieces: list[Piece] = []

    def epoch(self, edge: str) -> int:
        return self.epochs.get(edge, 0)

    def lane(self, key: LaneKey) -> LaneFloor | None:
        return self.lanes.get(key)


class _Shelf:
    def __init__(self, stored: Stored) -> None:
        self._stored = stored

    def epoch(self, edge: str) -> int:
        return self._stored.epoch(edge)

    def lane(self, key: LaneKey) -> LaneFloor | None:
        return self._stored.lane(key)

    def ids(self, key: IdKey) -> int:
        return self._stored.ids.get(key, 0)


class SimLog:
    """The hub's log: decisions by the real book, durable only after `commit`."""

    def __init__(self, generation: bytes, make_book: type[Book] = Book) -> None:
        self.stored = Stored(generation)
        self._make_book = make_book
        self.book = make_book(_Shelf(self.stored))

    def reopen(self, stored: Stored) -> None:
        """Forget everything that was not durable."""
        self.stored = stored
        self.book = self._make_book(_Shelf(stored), has_backups=self.book.has_backups)

    def backup(self) -> Stored:
        return copy.deepcopy(self.stored)

    def raise_safe(self, backup: Stored) -> None:
        """The newest backup holds all of this: edges may forget it (R6)."""
        for key, held in backup.lanes.items():
            now = self.stored.lanes.get(key)
            if now is not None:
                safe = min(held.floor, now.floor)
                self.stored.lanes[key] = LaneFloor(floor=now.floor, chain=now.chain, safe=safe)
        self.book.forget()

    def open_session(
        self, edge: str, incarnation: bytes, starts: Iterable[LaneFloor], changes: Changes
    ) -> Session:
        return self.book.open_session(edge, incarnation, list(starts), changes)

    def decide(self, asked: Append, changes: Changes) -> Appended | NotAppended:
        return self.book.decide(asked, changes)

    def commit(self, changes: Changes) -> None:
        for edge in changes.epochs:
            self.stored.epochs[edge] = self.book.epochs[edge]
        for lane in changes.lanes:
            self.stored.lanes[lane] = self.book.lanes[lane]
        for ids in changes.ids:
            self.stored.ids[ids] = self.book.ids[ids]
        self.stored.pieces += changes.pieces


def contents_in(piece: Piece) -> list[tuple[int, int, int]]:
    """(origin, number, content) of every record of a piece, in order."""
    _, events = batch.columns(piece.codec, piece.payload)
    return [(one.origin, one.number, content_of(one.body)) for _, one in events]
