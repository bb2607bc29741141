"""Statistics of the readings of one window of time, which merge: parts give what the whole gives."""

import array
from collections.abc import Iterable
from typing import final

@final
class Window:
    """Readings of one series in one window; times in nanoseconds since 1970.

    count     finite readings
    missing   readings that are no number
    """

    def __new__(cls) -> Window: ...
    @property
    def count(self) -> int: ...
    @property
    def missing(self) -> int: ...
    def add(self, time_ns: int, value: float) -> None:
        """Take one reading; any order of times will do."""

    def add_many(
        self, times: array.array[int] | memoryview, values: array.array[float] | memoryview
    ) -> None:
        """Take readings of two arrays of the same length: int64 times, float64 values."""

    def merge(self, other: Window) -> None:
        """Take in the readings of `other`, which counts as having come later."""

    @property
    def sum(self) -> float:
        """Sum of all readings."""

    @property
    def mean(self) -> float | None:
        """Mean; None without readings."""

    @property
    def variance(self) -> float | None:
        """Variance of the population; None without readings."""

    @property
    def deviation(self) -> float | None:
        """Standard deviation of the population; None without readings."""

    @property
    def min(self) -> tuple[float, int] | None:
        """The lowest reading and when it first was; None without readings."""

    @property
    def max(self) -> tuple[float, int] | None:
        """The highest reading and when it first was; None without readings."""

    @property
    def first(self) -> tuple[float, int] | None:
        """The reading of the earliest time; of several the one that came first."""

    @property
    def last(self) -> tuple[float, int] | None:
        """The reading of the latest time; of several the one that came last."""

    def quantile(self, q: float) -> float | None:
        """Return the value below which a share `q` of the readings is, within 1 % of it.

        None without readings, and where the sketch was left out (`pack_windows`).
        """

    def buckets(self) -> dict[int, int]:
        """Return how many readings are in each bucket: equal for equal readings, in any order.

        Of positive numbers 2 b, of negative ones 2 b + 1; zeros under the key -(1 << 40).
        """

    def encode(self) -> bytes:
        """Return its bytes: `1 | count | missing | 12 × 8 bytes | zeros | buckets above | below`."""

    @classmethod
    def decode(cls, data: bytes) -> Window:
        """Undo `encode`; raises RecordError on anything else."""

def pack_windows(
    width_ns: int,
    start_ns: int,
    revision: int,
    windows: Iterable[tuple[int, Window]],
    *,
    sketch: bool = True,
) -> bytes:
    """Return windows of several series that share width, start and revision, as one small body.

    windows   pairs of a series id and its Window, at most 4,096 and 60 KiB
    sketch    False: without quantiles, at half the size

    `version u8 | width | start / width, zigzag | revision | count`, then each `series u64` and what
    `put_small` says; numbers are varints. Raises RecordError beyond the limits.
    """

def unpack_windows(body: bytes) -> tuple[int, int, int, list[tuple[int, Window]]]:
    """Undo `pack_windows`: (width_ns, start_ns, revision, windows); raises RecordError."""
