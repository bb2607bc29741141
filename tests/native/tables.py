"""Readings of many series as `batch.table` gives them, made of lists."""

import array
import struct
from collections.abc import Iterable
from typing import NamedTuple, cast

from edgesync._native import batch
from edgesync.model import Value, ValueType


class _Table(NamedTuple):
    series: "array.array[int]"
    vtypes: "array.array[int]"
    counts: "array.array[int]"
    times: "array.array[int]"
    values: "array.array[int]"
    texts: list[str]


def table(columns: Iterable[tuple[int, int, Iterable[tuple[int, Value]]]]) -> batch.Table:
    """Return (series, vtype, points) of each series in arrays."""
    series, vtypes, counts, times, values = (array.array(code) for code in "QBIqQ")
    made = _Table(series, vtypes, counts, times, values, [])
    for number, vtype, points in columns:
        some = list(points)
        made.series.append(number)
        made.vtypes.append(vtype)
        made.counts.append(len(some))
        for time_ns, value in some:
            made.times.append(time_ns)
            made.values.append(_bits(vtype, value, made.texts))
    return cast("batch.Table", made)


def _bits(vtype: int, value: Value, texts: list[str]) -> int:
    if isinstance(value, str):
        texts.append(value)
        return len(texts) - 1
    code = "<d" if vtype == ValueType.F64 else "<q"
    return int.from_bytes(struct.pack(code, value), "little")
