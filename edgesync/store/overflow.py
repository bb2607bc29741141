"""Overflow policies: the records that give way when a lane is full.

Asked by the store's one writer right before each transaction, so nothing changes a lane between the
decision and the write; what has to go goes in that very transaction, together with the loss record
that says so (I3). A lane is shed from its front only, where the other side can be told of a gap:
what stays of the records there is appended anew under its old event id, by which a hub that had it
after all knows it for a double.
"""

import collections
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import msgspec

from edgesync._native import batch, event
from edgesync._native.journal import DamagedRecord, Journal, LaneState
from edgesync._native.store import Store
from edgesync._native.write import Write
from edgesync.errors import LaneFull, RecordError
from edgesync.model import EventType, Lane, RecordKind
from edgesync.store.settings import Policy

META: Final = "meta"
HEAD_BYTES: Final = 32
# Of a capacity, what goes at once: a loss record for each record would need more room than it gave.
SHARE: Final = 16
SHED_LEAST: Final = 64
# And what goes at most, unless one write needs more: the writer's thread is held up meanwhile.
SHED_RECORDS_MAX: Final = 65_536
SHED_BYTES_MAX: Final = 4 << 20
READ_BYTES: Final = 1 << 20
# Thinning out looks at so many times what is wanted, before the oldest go whole.
HOPE: Final = 4


class Excess(msgspec.Struct, frozen=True):
    """At least so many records and bytes have to go."""

    records: int
    nbytes: int


class Shed(msgspec.Struct, frozen=True, array_like=True):
    """The losses of a lane by its policy, ever: records, readings in them, and how often."""

    records: int = 0
    readings: int = 0
    times: int = 0


def excess(policy: Policy, state: LaneState, records: int, nbytes: int) -> Excess | None:
    """Return what has to go before `records` of `nbytes` come; None while there is room."""
    waiting = state.tail - max(state.floor, state.trimmed)
    over = waiting + records - policy.records if policy.records else 0
    over_bytes = state.stored_bytes + nbytes - policy.nbytes if policy.nbytes else 0
    if over <= 0 and over_bytes <= 0:
        return None
    share = max(policy.records // SHARE, min(policy.records // 2, SHED_LEAST))
    share_bytes = min(policy.nbytes // SHARE, SHED_BYTES_MAX)
    return Excess(
        max(over, min(share, SHED_RECORDS_MAX)) if over > 0 else 0,
        max(over_bytes, share_bytes) if over_bytes > 0 else 0,
    )


class Record(msgspec.Struct, frozen=True):
    """A record at the front of a lane; None in place of one that is damaged."""

    seq: int
    held: batch.Record | None

    @property
    def nbytes(self) -> int:
        return 0 if self.held is None else HEAD_BYTES + len(self.held.body)


class Load(msgspec.Struct):
    """Records taken from the front of a lane, and those of them put back at its end."""

    up_to: int = 0
    records: int = 0
    nbytes: int = 0
    readings: int = 0
    kept: list[tuple[batch.Record, bytes]] = []
    looked: int = 0
    looked_bytes: int = 0

    def take(self, record: Record, body: bytes | None) -> None:
        """Count a record off; `body` is what stays of it, None for nothing."""
        self.up_to = record.seq
        self.looked += 1
        self.looked_bytes += record.nbytes
        self.records += 1
        self.nbytes += record.nbytes
        if record.held is None:
            return
        self.readings += _readings(record.held.kind, record.held.body)
        if body is not None:
            self.records -= 1
            self.nbytes -= HEAD_BYTES + len(body)
            self.readings -= _readings(record.held.kind, body)
            self.kept.append((record.held, body))

    def is_enough(self, wanted: Excess) -> bool:
        return self.records >= wanted.records and self.nbytes >= wanted.nbytes

    def is_hopeless(self, wanted: Excess) -> bool:
        """True if so few records could go so far that the rest will not suffice either."""
        return (
            self.looked > HOPE * max(wanted.records, SHED_LEAST)
            and self.looked_bytes > HOPE * wanted.nbytes
        )


class Overflow:
    """The policies of a store's lanes; on the writer's thread, but for `shed`."""

    def __init__(
        self,
        store: Store,
        policies: Mapping[Lane, Policy],
        *,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._store = store
        self._journal = Journal(store)
        self._policies = policies
        self._bounded = {lane: one for lane, one in policies.items() if one.records or one.nbytes}
        self._clock_ns = clock_ns
        # How many readings of each series were looked at; every `keep_every`th of them stays.
        self._seen: collections.Counter[int] = collections.Counter()
        self.refused = dict.fromkeys(Lane, 0)

    def shed(self, lane: Lane) -> Shed:
        stored = self._store.get(META, _shed_key(lane))
        return msgspec.msgpack.decode(stored, type=Shed) if stored else Shed()

    def filled(self, lane: Lane, state: LaneState) -> float:
        """Return which part of a lane's capacity is taken; 0 for one that has none."""
        policy = self._policies.get(lane)
        if policy is None:
            return 0.0
        waiting = state.tail - max(state.floor, state.trimmed)
        records = waiting / policy.records if policy.records else 0.0
        return max(records, state.stored_bytes / policy.nbytes if policy.nbytes else 0.0)

    def overflow(self, lane: Lane) -> str:
        return self._policies[lane].overflow if lane in self._policies else "refuse"

    def make_room(self, coming: Write) -> Write | None:
        """Return what must be done before `coming`, in its transaction; None for nothing.

        Raises LaneFull where the policy is to refuse.
        """
        room: Write | None = None
        records, nbytes = coming.intake, coming.intake_bytes
        for lane, policy in self._bounded.items():
            if not records[lane]:
                continue
            state = self._journal.state(lane)
            over = excess(policy, state, records[lane], nbytes[lane])
            if over is not None:
                room = Write() if room is None else room
                self._give_way(room, lane, policy, state, over)
        return room

    def relieve(self) -> Write | None:
        """Return what makes room when the whole store is full; None if no lane may give way."""
        states = [
            (self._journal.state(lane), lane)
            for lane, policy in self._policies.items()
            if policy.overflow != "refuse"
        ]
        state, lane = max(states, key=lambda one: one[0].stored_bytes, default=(None, Lane.BULK))
        if state is None or state.tail == state.trimmed:
            return None
        wanted = Excess(1, min(state.stored_bytes // SHARE, SHED_BYTES_MAX))
        room = Write()
        try:
            self._give_way(room, lane, self._policies[lane], state, wanted)
        except LaneFull:
            return None
        return room

    def _give_way(
        self, room: Write, lane: Lane, policy: Policy, state: LaneState, over: Excess
    ) -> None:
        """Let go of what every backup of the hub has, and then of what the policy takes.

        Raises LaneFull when it takes nothing of what is there. One write larger than a whole lane
        finds it empty, and is let in.
        """
        delivered = max(state.safe - state.trimmed, 0)
        mean = state.stored_bytes / max(state.tail - state.trimmed, 1)
        if delivered and not over.records and delivered * mean >= over.nbytes:
            room.trim(lane, min(state.safe, state.trimmed + int(over.nbytes / mean) + 1))
            return
        left = Excess(over.records, max(over.nbytes - int(delivered * mean), 0))
        if policy.overflow == "refuse":
            self.refused[lane] += 1
            raise _lane_full(lane, policy, state)
        first = max(state.trimmed, state.safe) + 1
        load = self._load(lane, policy, first, state.tail, left)
        if load.records or load.readings:
            self._unload(room, lane, policy, first, load)
        elif first <= state.tail:
            self.refused[lane] += 1
            raise _lane_full(lane, policy, state)

    def _load(self, lane: Lane, policy: Policy, first: int, tail: int, wanted: Excess) -> Load:
        """Collect records from `first` on until they are enough."""
        if policy.overflow == "downsample":
            load = Load()
            for record in self._front(lane, first, tail):
                load.take(record, self._thinned(record.held, policy.keep_every))
                if load.is_enough(wanted):
                    return load
                if load.is_hopeless(wanted):
                    break
        load = Load()
        for record in self._front(lane, first, tail):
            load.take(record, _names_of(record.held))
            if load.is_enough(wanted):
                break
        return load

    def _front(self, lane: Lane, first: int, last: int) -> Iterator[Record]:
        while first <= last:
            try:
                rows = self._journal.read(lane, first, limit_bytes=READ_BYTES)
            except DamagedRecord:
                yield Record(first, None)
                first += 1
                continue
            for held in batch.records(rows.data):
                if held.kind == RecordKind.CELLS:
                    return  # operations on keys: the hub needs them in their order, all of them
                yield Record(first, held)
                first += 1
            if not len(rows):
                return

    def _thinned(self, held: batch.Record | None, keep_every: int) -> bytes | None:
        """Return what stays of a record: of readings every so-manieth of its series, all else."""
        if held is None or held.kind != RecordKind.READINGS:
            return None if held is None else held.body
        try:
            time_ns, vtype, series, values = batch.parse_readings(held.body)
        except RecordError:
            return None
        stay = []
        for nth, number in enumerate(series):
            if self._seen[number] % keep_every == 0:
                stay.append(nth)
            self._seen[number] += 1
        if len(stay) == len(series):
            return held.body
        if not stay:
            return None
        return batch.readings(time_ns, vtype, [series[n] for n in stay], [values[n] for n in stay])

    def _unload(self, room: Write, lane: Lane, policy: Policy, first: int, load: Load) -> None:
        now = self._clock_ns()
        loss = {
            "lane": int(lane), "first": first, "last": load.up_to,
            "reason": f"over capacity: {policy.overflow}", "policy": policy.overflow,
            "records": load.records, "readings": load.readings,
        }  # fmt: skip
        body = event.encode(EventType.LOSS, 0, 0, "", msgspec.json.encode(loss), now, now, 0)
        room.drop(lane, load.up_to, RecordKind.EVENT, body, told_in=Lane.CRITICAL)
        for held, kept in load.kept:
            room.append(lane, held.kind, kept, held.origin, held.number, essential=True)
        ever = self.shed(lane)
        ever = Shed(ever.records + load.records, ever.readings + load.readings, ever.times + 1)
        room.put(META, _shed_key(lane), msgspec.msgpack.encode(ever), essential=True)


def _shed_key(lane: Lane) -> bytes:
    return b"shed.%d" % lane


def _lane_full(lane: Lane, policy: Policy, state: LaneState) -> LaneFull:
    waiting = state.tail - max(state.floor, state.trimmed)
    if policy.records and waiting >= policy.records // 2:
        return LaneFull(lane.name.lower(), waiting, policy.records, "records", "capacity")
    return LaneFull(lane.name.lower(), state.stored_bytes, policy.nbytes, "bytes", "capacity_bytes")


def _readings(kind: int, body: bytes) -> int:
    # docs/batch-format.md: time, type and a reserved byte come before the count.
    return int.from_bytes(body[10:12], "little") if kind == RecordKind.READINGS else 0


def _names_of(held: batch.Record | None) -> bytes | None:
    """Return the record if it says what a series is called: without it others mean nothing."""
    if held is None or held.kind != RecordKind.EVENT:
        return None
    try:
        kind = event.decode(held.body)[0]
    except RecordError:
        return None
    return held.body if kind == EventType.SERIES else None
