"""Packing consecutive records into the payload of a batch, and back, without loss."""

import array
from collections.abc import Iterator, Sequence
from typing import final

@final
class Record:
    """One record taken out of rows."""

    kind: int
    origin: int
    number: int
    chain: int
    body: bytes

def pack(rows: bytes, *, columns: bool = True) -> tuple[int, bytes]:
    """Return (codec, payload), the smaller of ROWS and COLUMNS."""

def unpack(
    codec: int, payload: bytes, lane: int, first: int, prev_chain: int, *,
    limit_bytes: int = 64 << 20, limit_records: int = 65536,
) -> bytes:
    """Return the rows again, checksums and chains recomputed; raises RecordError on bad input."""

def records(rows: bytes) -> list[Record]: ...
def ids(codec: int, payload: bytes) -> list[tuple[int, int, int]]:
    """Ranges (origin, first number, count) of the event ids in order, without unpacking all."""

@final
class Column:
    """The points of one series in a batch, in record order."""

    series: int
    vtype: int
    times: array.array[int]
    values: array.array[float] | array.array[int] | list[str]

def columns(codec: int, payload: bytes, *, limit_bytes: int = 64 << 20) -> tuple[list[Column], list[tuple[int, Record]]]:
    """Return the telemetry by series, and the EVENT records with their index in the batch."""

def readings(time_ns: int, vtype: int, series: Sequence[int], values: Sequence[float | int | bool | str]) -> bytes:
    """Encode the body of a READINGS record."""

def parse_readings(body: bytes) -> tuple[int, int, list[int], list[float | int | bool | str]]:
    """Decode a READINGS body: (time_ns, vtype, series, values); raises RecordError."""
