"""Readings that an edge sends once more, as the hub reads them."""

import array

from edgesync import resend
from edgesync.errors import RecordError
from edgesync.resend import Run
from tests.fuzz.fuzz import Target

TIMES = array.array("q", range(0, 50 * 10**9, 10**9))
RUNS = (
    [Run(7, 0, TIMES, array.array("d", [n / 8 for n in range(50)]))],
    [Run(1 << 63, 1, TIMES[:3], array.array("q", [1, -5, 1 << 40])),
     Run(2, 2, TIMES[:2], array.array("q", [0, 1])), Run(3, 3, TIMES[:2], ["on", "€"])],
)  # fmt: skip


def read(body: bytes) -> None:
    """Read them and write them again; what is read stays within the bounds of a record."""
    runs = resend.decode(body)
    assert sum(len(run.times) for run in runs) <= resend.POINTS_MAX
    assert len(resend.decode(resend.encode(runs))) == len(runs)


TARGETS = [Target("resent readings", tuple(map(resend.encode, RUNS)), read, (RecordError,))]
