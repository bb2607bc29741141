"""The second direction of the simulated world: the hub's journal for an edge, and its effects."""

import copy
from collections.abc import Sequence

from edgesync._native import batch
from edgesync.model import RecordKind
from edgesync_transport.lanes.events import DownFloors, Load, Loaded, LoadedNothing, Stored
from edgesync_transport.lanes.sender import LaneSender, Slowdown
from edgesync_transport.lanes.window import LanePositions
from edgesync_transport.messages import Batch, Codec, Lane, LaneFloor, NackCode
from edgesync_transport.receiver import DOWNLINK, DownOffer
from tests.native.rowsmith import Draft, make_rows

NONE = LaneFloor(floor=0, chain=0, safe=0)
ORIGIN = 7


class DownLane:
    def __init__(self) -> None:
        self.records: list[tuple[int, int, int]] = []  # seq, chain, content
        self.tail = self.floor = self.trimmed = self.start = 0
        self.tail_chain = self.trimmed_chain = self.start_chain = 0

    def chain_at(self, seq: int) -> int | None:
        if seq == self.trimmed:
            return self.trimmed_chain
        return next((chain for at, chain, _ in self.records if at == seq), None)

    def positions(self) -> LanePositions:
        return LanePositions(
            tail=self.tail, floor=self.floor, safe=self.floor, trimmed=self.trimmed,
            start=self.start, start_chain=self.start_chain,
        )  # fmt: skip


class SimDownlink:
    """What `hubd.downlink.journal.Journal` does, in memory; every method is one transaction.

    keeps_acked   a mutant: what the edge has is not forgotten
    """

    def __init__(self, incarnation: bytes, *, keeps_acked: bool = False) -> None:
        self.keeps_acked = keeps_acked
        self.incarnation = incarnation
        self.lanes = [DownLane() for _ in Lane]
        self.forks = 0

    def copied(self) -> "SimDownlink":
        return copy.deepcopy(self)

    def contents(self) -> set[int]:
        return {content for lane in self.lanes for _, _, content in lane.records}

    def unacknowledged(self) -> set[int]:
        return {
            content for lane in self.lanes for seq, _, content in lane.records if seq > lane.floor
        }

    def append(self, lane: Lane, content: int) -> int:
        place = self.lanes[lane]
        place.tail += 1
        rows = make_rows([_draft(content, place.tail)], lane, place.tail, place.tail_chain)
        place.tail_chain = batch.records(rows)[0].chain
        place.records.append((place.tail, place.tail_chain, content))
        return place.tail

    def begin(self, theirs: DownFloors, incarnation: bytes) -> DownOffer:
        """... and fork to `incarnation` when the edge has what this journal does not."""
        knows = theirs.incarnation == self.incarnation
        if knows and self._diverges(theirs):
            self.incarnation, self.forks, knows = incarnation, self.forks + 1, False
            for place in self.lanes:
                place.floor = place.start = place.trimmed
                place.start_chain = place.trimmed_chain
        floors = []
        for lane, place, floor in zip(Lane, self.lanes, theirs.lanes, strict=True):
            if not knows:
                at = place.start
                floors.append(LaneFloor(floor=at, chain=place.start_chain, safe=at))
                continue
            self.mark(lane, floor.floor)
            floors.append(floor)
        positions = tuple(place.positions() for place in self.lanes)
        chains = tuple(place.trimmed_chain for place in self.lanes)
        return DownOffer(self.incarnation, positions, tuple(floors), chains)

    def _diverges(self, theirs: DownFloors) -> bool:
        for lane, place, floor in zip(Lane, self.lanes, theirs.lanes, strict=True):

            def chain_at(_lane: Lane, seq: int, place: DownLane = place) -> int | None:
                return place.chain_at(seq)

            sender = LaneSender(lane, place.positions(), DOWNLINK, chain_at, Slowdown())
            if sender.divergence(floor.floor, floor.chain):
                return True
        return False

    def load(self, asked: Load) -> Loaded | LoadedNothing:
        place = self.lanes[asked.lane]
        prev_chain = place.chain_at(asked.first - 1)
        found = [one for one in place.records if asked.first <= one[0] <= asked.last_max]
        found = found[: asked.limit_records]
        if not found or found[0][0] != asked.first or prev_chain is None:
            return LoadedNothing(asked.lane, asked.first, place.trimmed)
        drafts = [_draft(content, seq) for seq, _, content in found]
        rows = make_rows(drafts, asked.lane, asked.first, prev_chain)
        codec, payload = batch.pack(rows, prev_chain=prev_chain)
        return Loaded(
            lane=asked.lane, first=asked.first, last=found[-1][0], prev_chain=prev_chain,
            last_chain=found[-1][1], codec=Codec(codec), payload=payload,
        )  # fmt: skip

    def mark(self, lane: Lane, floor: int) -> None:
        """What the edge has is forgotten."""
        place = self.lanes[lane]
        chain = place.chain_at(floor)
        if floor <= place.floor or chain is None:
            return
        place.floor = floor
        if self.keeps_acked:
            return
        place.trimmed = floor
        place.trimmed_chain = chain
        place.records = [one for one in place.records if one[0] > floor]


class SimEffects:
    """What an edge's disk has of the hub's journal: floors, and the ids of what took effect."""

    def __init__(self) -> None:
        self.floors = DownFloors(b"", (NONE, NONE, NONE))
        self.knows_ids = True
        self.done: set[int] = set()
        self.gaps: list[tuple[int, int]] = []

    def carry_out(
        self, floors: DownFloors, one: Batch
    ) -> tuple[Stored | None, DownFloors, Sequence[int]]:
        """Return a refusal, or the floors and what newly takes effect, all of it durable now."""
        floor = floors.lanes[one.lane]
        is_known = one.incarnation == floors.incarnation
        if not is_known or one.first > floor.floor + 1:
            return Stored(0, 0, 0, code=NackCode.GAP, reason="gap"), floors, ()
        if one.last <= floor.floor:
            return Stored(0, floor.floor, floor.floor), floors, ()
        if one.first != floor.floor + 1 or one.prev_chain != floor.chain:
            return Stored(0, 0, 0, code=NackCode.CHAIN, reason="chain"), floors, ()
        new: list[int] = []
        if one.codec is Codec.GAP:
            self.gaps.append((one.first, one.last))
        else:
            _, records = batch.columns(one.codec, one.payload)
            assert batch.last_chain(one.codec, one.payload, one.prev_chain) == one.last_chain
            new = [int(record.body) for _, record in records]
            if self.knows_ids:
                new = [content for content in new if content not in self.done]
            self.done |= set(new)
        lanes = list(floors.lanes)
        lanes[one.lane] = LaneFloor(floor=one.last, chain=one.last_chain, safe=one.last)
        self.floors = DownFloors(one.incarnation, tuple(lanes))
        return None, self.floors, new


def _draft(content: int, seq: int) -> Draft:
    return Draft(RecordKind.EVENT, b"%d" % content, ORIGIN, seq)
