"""ESB1: packed points of one series (docs/block-format.md)."""

import array
from typing import final

@final
class Stats:
    count: int
    time_first: int
    time_last: int
    first: float
    last: float
    min: float
    max: float
    sum: float
    mean: float
    m2: float

def encode(series: int, vtype: int, times: array.array[int], values: array.array[float] | array.array[int] | list[str] | list[bytes], *, stats: bool = True) -> bytes: ...
def decode(block: bytes) -> tuple[int, int, array.array[int], array.array[float] | array.array[int] | list[str]]:
    """Return (series, vtype, times, values); raises RecordError on anything that is not a block."""

def stats(block: bytes) -> Stats | None: ...
def rollup(times: array.array[int], values: array.array[float] | array.array[int], width_ns: int) -> list[tuple[int, int, float, float, float, float, float]]:
    """Aggregate into aligned buckets: (bucket start, count, min, max, sum, first, last)."""
