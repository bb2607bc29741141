"""Batches of what a real journal stores: both sides mean the same checksum and the same chain."""

from pathlib import Path

import pytest

from edgesync._native import batch, event
from edgesync._native.journal import Journal
from edgesync._native.store import Store, Write

BULK, EVENT, READINGS = 2, 1, 2
START = 1_700_000_000_000_000_000


def fill(store: Store) -> None:
    for round_ in range(3):
        write = Write()
        write.append(BULK, EVENT, event.encode(2, 0, 2, "meter0", b"x" * 200, START, START, 0))
        for i in range(100):
            time_ns = START + (round_ * 100 + i) * 10**9
            write.append(BULK, READINGS, batch.readings(time_ns, 0, [1, 2], [i / 10, -i / 100]))
        store.apply(write)


@pytest.mark.feature("S13")
def test_rows_of_a_journal_come_back_from_the_middle_of_a_lane(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"), databases=("lanes",))
    fill(store)
    journal = Journal(store)
    for first in (1, 2, 150):
        rows = journal.read(BULK, first)
        assert rows.last == 303
        for columns in (True, False):
            codec, payload = batch.pack(rows.data, columns=columns, prev_chain=rows.prev_chain)
            assert batch.unpack(codec, payload, BULK, first, rows.prev_chain) == rows.data
            # One origin, numbers without a gap: one range.
            assert batch.ids(codec, payload) == [(journal.origin, first, 304 - first)]
        assert batch.records(rows.data)[-1].chain == rows.last_chain
    store.close()
