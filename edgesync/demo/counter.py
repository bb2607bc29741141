"""Readings by position: how many the records of a journal up to a seq hold.

Positions count records, and a record holds every reading of one poll; the ledger on the screen is
in readings throughout, so that its columns can be compared.
"""

from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path

from edgesync._native import batch
from edgesync.errors import EdgesyncError
from edgesync.model import Lane, RecordKind
from edgesync.store.journal import EdgeStore


class ReadingCounter:
    """Follows the journal of an edge, which may be running, from outside."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seqs: dict[Lane, list[int]] = {lane: [0] for lane in Lane}
        self._sums: dict[Lane, list[int]] = {lane: [0] for lane in Lane}

    @property
    def total(self) -> int:
        return sum(sums[-1] for sums in self._sums.values())

    def up_to(self, seqs: Sequence[int]) -> int:
        """Return how many readings the records up to these positions hold, a position a lane."""
        return sum(
            self._sums[lane][bisect_right(self._seqs[lane], seq) - 1]
            for lane, seq in zip(Lane, seqs, strict=True)
        )

    def look(self) -> None:
        """Count what has been stored since the last look; does nothing while no store is there."""
        try:
            with EdgeStore(self._path, readonly=True) as store:
                for lane in Lane:
                    self._count(store, lane)
        except EdgesyncError:
            return

    def _count(self, store: EdgeStore, lane: Lane) -> None:
        seqs, sums = self._seqs[lane], self._sums[lane]
        while len(rows := store.read(lane, max(seqs[-1], store.state(lane).trimmed) + 1)):
            for seq, record in enumerate(batch.records(rows.data), start=rows.first):
                if record.kind == RecordKind.READINGS:
                    seqs.append(seq)
                    sums.append(sums[-1] + len(batch.parse_readings(record.body)[2]))
            last = rows.first + len(rows) - 1
            if seqs[-1] < last:  # the newest are no readings
                seqs.append(last)
                sums.append(sums[-1])
