"""ESB1: packed points of one series (docs/block-format.md)."""

import array
from collections.abc import Sequence
from typing import final

@final
class Stats:
    """What a block says about its points without being decoded.

    Of f64, i64 and bool, as doubles; a block with a nan has none. m2 is the sum of squared
    distances from the mean, so that blocks can be merged.
    """

    @property
    def count(self) -> int: ...
    @property
    def time_first(self) -> int: ...
    @property
    def time_last(self) -> int: ...
    @property
    def first(self) -> float: ...
    @property
    def last(self) -> float: ...
    @property
    def min(self) -> float: ...
    @property
    def max(self) -> float: ...
    @property
    def sum(self) -> float: ...
    @property
    def mean(self) -> float: ...
    @property
    def m2(self) -> float: ...

def encode(
    series: int,
    vtype: int,
    times: array.array[int],
    values: array.array[float] | array.array[int] | Sequence[str] | Sequence[bytes],
    *,
    stats: bool = True,
) -> bytes:
    """Pack 1 to 8,192 points; the codecs are those that come out smallest.

    times   array("q"), nanoseconds since 1970 UTC, in any order
    values  array("d") for F64, array("q") for I64 and for BOOL (0 or 1), str or bytes for TEXT
    stats   keep aggregates in the block (72 bytes)

    Raises RecordError for other numbers of points, unequal lengths and values of another type.
    """

def decode(
    block: bytes,
) -> tuple[
    int,
    int,
    array.array[int],
    array.array[float] | array.array[int] | list[str] | list[bytes],
]:
    """Return (series, vtype, times, values); raises RecordError on anything that is not a block.

    Texts come back as str, or as bytes where they were given as bytes.
    """

def encode_run(
    vtype: int,
    times: array.array[int],
    values: array.array[float] | array.array[int] | Sequence[str],
    base_ns: int,
) -> bytes:
    """Pack 1 to 8,192 points without checksum, name and statistics; raises as `encode` does."""

def decode_run(
    run: bytes, base_ns: int
) -> tuple[int, array.array[int], array.array[float] | array.array[int] | list[str]]:
    """Return (vtype, times, values) of what `encode_run` made; raises RecordError."""

def stats(block: bytes) -> Stats | None:
    """Return the block's aggregates, None where it has none; the points stay packed.

    Raises RecordError on anything that is not a block.
    """

def rollup(
    times: array.array[int], values: array.array[float] | array.array[int], width_ns: int
) -> list[tuple[int, int, float, float, float, float, float]]:
    """Aggregate into aligned buckets: (bucket start, count, min, max, sum, first, last).

    A bucket begins at a multiple of `width_ns`. Points need not be in order of time: first and
    last are those of the earliest and the latest time, of equal ones the one given first and last.
    nan is no number and is left out. Buckets come in order; raises RecordError if width_ns < 1.
    """
