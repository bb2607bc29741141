"""The journal against a dictionary: any sequence of writes, openings and reads gives the same."""

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from edgesync._native.batch import records
from edgesync._native.journal import Journal
from edgesync._native.store import Store, Write

LANES = st.integers(0, 2)
BODIES = st.lists(st.binary(max_size=300), max_size=8)


class Lane:
    def __init__(self) -> None:
        self.records: dict[int, bytes] = {}
        self.tail = self.floor = self.safe = self.trimmed = 0
        self.chains = {0: 0}


class JournalModel(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.lanes = [Lane() for _ in range(3)]
        self.write = Write()
        self.planned: list[tuple[str, int, object]] = []
        self.open()

    def open(self) -> None:
        self.store = Store(
            str(self.folder / "s"),
            databases=("lanes",),
            map_bytes=1 << 16,
            map_bytes_max=8 << 20,
            sync="none",
        )
        self.journal = Journal(self.store)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            shutil.rmtree(self.folder)

    @rule(lane=LANES, bodies=BODIES)
    def append(self, lane: int, bodies: list[bytes]) -> None:
        self.write.append_many(lane, 1, bodies)
        self.planned.append(("append", lane, bodies))

    @rule(lane=LANES, part=st.floats(0, 1), below=st.integers(0, 5))
    def mark(self, lane: int, part: float, below: int) -> None:
        floor = int(self.lanes[lane].tail * part)
        safe = max(0, floor - below)
        self.write.mark(lane, floor, safe)
        self.planned.append(("mark", lane, (floor, safe)))

    @rule(lane=LANES, up_to=st.integers(0, 60))
    def trim(self, lane: int, up_to: int) -> None:
        self.write.trim(lane, up_to)
        self.planned.append(("trim", lane, up_to))

    @rule(lane=LANES, floor=st.integers(0, 60))
    def rewind(self, lane: int, floor: int) -> None:
        self.write.rewind(lane, floor)
        self.planned.append(("rewind", lane, floor))

    @rule()
    def commit(self) -> None:
        tails = self.store.apply(self.write)
        for what, lane, argument in self.planned:
            getattr(self, f"expect_{what}")(self.lanes[lane], argument)
        assert tails == tuple(lane.tail for lane in self.lanes)
        self.write, self.planned = Write(), []

    @precondition(lambda self: self.planned)
    @rule()
    def refused(self) -> None:
        self.write.mark(0, 1 << 40, 0)
        try:
            self.store.apply(self.write)
        except ValueError:
            self.write, self.planned = Write(), []
        else:
            raise AssertionError("a floor beyond the tail was taken")

    @rule()
    def open_again(self) -> None:
        self.store.close()
        self.open()

    def expect_append(self, lane: Lane, bodies: list[bytes]) -> None:
        for body in bodies:
            lane.tail += 1
            lane.records[lane.tail] = body

    def expect_mark(self, lane: Lane, marks: tuple[int, int]) -> None:
        lane.floor = max(lane.floor, marks[0])
        lane.safe = max(lane.safe, min(marks[1], lane.floor))

    def expect_trim(self, lane: Lane, up_to: int) -> None:
        up_to = min(up_to, lane.safe)
        for seq in range(lane.trimmed + 1, up_to + 1):
            del lane.records[seq]
        lane.trimmed = max(lane.trimmed, up_to)

    def expect_rewind(self, lane: Lane, floor: int) -> None:
        lane.floor = min(lane.floor, max(floor, lane.trimmed))
        lane.safe = min(lane.safe, lane.floor)

    @invariant()
    def same(self) -> None:
        if not hasattr(self, "lanes"):
            return
        for number, lane in enumerate(self.lanes):
            state = self.journal.state(number)
            found = (state.tail, state.floor, state.safe, state.trimmed)
            assert found == (lane.tail, lane.floor, lane.safe, lane.trimmed)
            assert state.trimmed <= state.safe <= state.floor <= state.tail  # I3
            rows = self.journal.read(number, lane.trimmed + 1)
            bodies = [one.body for one in records(rows.data)]
            assert bodies == [lane.records[seq] for seq in sorted(lane.records)]
            for seq, one in enumerate(records(rows.data), lane.trimmed + 1):
                # A hash once given stays, through trims, rewinds and openings.
                assert lane.chains.setdefault(seq, one.chain) == one.chain
            assert rows.prev_chain == lane.chains[lane.trimmed] or not bodies
            assert state.stored_bytes == sum(32 + len(body) for body in lane.records.values())


JournalModel.TestCase.settings = settings(max_examples=60, stateful_step_count=30)
TestJournalModel = JournalModel.TestCase
