"""Packing consecutive records into the payload of a batch, and back, without loss.

docs/batch-format.md describes the bytes. What a receiver can compute is not sent: seq, checksum and
chain of every record come back from (lane, first, prev_chain).
"""

import array
from collections.abc import Sequence
from typing import final

@final
class Record:
    """One record taken out of rows. `body` is as it was appended, unpacked if it was packed."""

    @property
    def kind(self) -> int: ...
    @property
    def origin(self) -> int: ...
    @property
    def number(self) -> int: ...
    @property
    def chain(self) -> int: ...
    @property
    def body(self) -> bytes: ...

def pack(rows: bytes, *, columns: bool = True, prev_chain: int | None = None) -> tuple[int, bytes]:
    """Return (codec, payload), the smaller of ROWS and COLUMNS.

    A chain that does not follow from the record before travels in full; with `prev_chain` that
    holds for the first record too. Raises RecordError if `rows` are not rows, or are more than
    65,536 records or 64 MiB.
    """

def unpack(
    codec: int,
    payload: bytes,
    lane: int,
    first: int,
    prev_chain: int,
    *,
    limit_bytes: int = ...,
    limit_records: int = 65536,
) -> bytes:
    """Return the rows again, checksums and chains recomputed; raises RecordError on bad input."""

def records(rows: bytes) -> list[Record]:
    """Return every record of `rows`; raises RecordError."""

def last_chain(codec: int, payload: bytes, prev_chain: int, *, limit_bytes: int = ...) -> int:
    """Return the running hash after the last record; `prev_chain` if the batch is empty.

    Decodes the whole payload: when it is what the sender's header says, so is every record.
    """

def ids(codec: int, payload: bytes) -> list[tuple[int, int, int]]:
    """Ranges (origin, first number, count) of the event ids in order, without unpacking all."""

@final
class Column:
    """The points of one series in a batch, in record order.

    Values are array("d") for F64, array("q") for I64 and BOOL (0 or 1), list[str] for TEXT.
    """

    @property
    def series(self) -> int: ...
    @property
    def vtype(self) -> int: ...
    @property
    def times(self) -> array.array[int]: ...
    @property
    def values(self) -> array.array[float] | array.array[int] | list[str]: ...

def columns(
    codec: int, payload: bytes, *, limit_bytes: int = ...
) -> tuple[list[Column], list[tuple[int, Record]]]:
    """Return the telemetry by series, and the other records with their index in the batch.

    Columns come in the order in which their series first appear. The chain of the records is 0: it
    needs the batch before. Raises RecordError, also for a READINGS record that is malformed, and
    BatchTooLarge when the rows or the unpacked bodies of the records come to more than the limit.
    """

@final
class Table:
    """The points of many series in arrays, series after series, each in record order.

    series, vtypes, counts   of each series: array("Q"), array("B"), array("I")
    times    array("q")
    values   array("Q"): the bits of f64 and i64, 0 or 1, of a text its place in `texts`
    """

    @property
    def series(self) -> array.array[int]: ...
    @property
    def vtypes(self) -> array.array[int]: ...
    @property
    def counts(self) -> array.array[int]: ...
    @property
    def times(self) -> array.array[int]: ...
    @property
    def values(self) -> array.array[int]: ...
    @property
    def texts(self) -> list[str]: ...

def table(
    codec: int, payload: bytes, *, limit_bytes: int = ...
) -> tuple[Table, list[tuple[int, Record]]]:
    """Return what `columns` does with the telemetry in few arrays; raises as it does."""

def events(codec: int, payload: bytes, *, limit_bytes: int = ...) -> list[tuple[int, Record]]:
    """Return the records that `columns` does, without making columns; raises as it does."""

def raw_size(payload: bytes) -> int:
    """Return how many bytes of rows a payload says it stands for, reading nothing else."""

def readings(
    time_ns: int, vtype: int, series: Sequence[int], values: Sequence[float | int | bool | str]
) -> bytes:
    """Encode the body of a READINGS record: 1 to 1,024 readings of one type, at most 64 KiB.

    Raises RecordError beyond that, and for a value that is not of the type.
    """

def parse_readings(
    body: bytes,
) -> tuple[int, int, list[int], list[float | int | bool | str]]:
    """Decode a READINGS body: (time_ns, vtype, series, values); raises RecordError."""
