# cython: language_level=3, auto_pickle=False, autotestdict=False
"""Packing consecutive records into the payload of a batch, and back, without loss.

The payload is docs/batch-format.md: an envelope (envelope.pxd) and, by codec, bare rows under LZ4
or the telemetry as columns (columns.pxd). What the receiver can compute is not sent: seq, checksum
and chain of each record come back from (lane, first, prev_chain).
"""

cimport cython
from cpython cimport array
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from collections.abc import Sequence
import array
import struct

from edgesync._native import pack as _pack
from edgesync.errors import BatchTooLarge, RecordError

from bare cimport next_bare, put_bare, take_packed
from buffer cimport (
    DAMAGED, NO_MEMORY, OK, TOO_LARGE, Buf, Cur, buf_free, buf_need, load32, load64, put32, put64,
    put_bytes, store64, take64, take_varint,
)
from columns cimport put_columns, take_columns
from envelope cimport Envelope, count_rows, finish_rows, put_envelope, take_envelope
from group cimport (
    Group, Series, Shape, group_alloc, group_free, group_rows, lists_of, series_of, shapes_of,
    step_of,
)
from lz4 cimport LZ4_MAX_INPUT_SIZE
from rows cimport (
    BODY_BYTES_MAX, FLAG_PACKED, HEADER_BYTES, KIND_READINGS, READINGS_HEAD_BYTES, READINGS_MAX,
    ROW_BYTES, VT_BOOL, VT_F64, VT_I64, VT_TEXT, Row, next_row, readings_count, row_chain,
    row_number, row_origin,
)
from ungroup cimport check_rows_size, put_rows

cdef enum:
    CODEC_ROWS = 0
    CODEC_COLUMNS = 1
    RECORDS_MAX = 65536
    RAW_BYTES_MAX = 64 << 20
    PACKED_LZ4 = 1  # the mark of a packed body, pack.pyx

cdef array.array IDS = array.array("Q")
cdef array.array BYTES = array.array("B")
cdef array.array COUNTS = array.array("I")
cdef array.array INTS = array.array("q")
cdef array.array FLOATS = array.array("d")


cdef int raise_status(int status, str what) except -1:
    if status == NO_MEMORY:
        raise MemoryError
    if status == TOO_LARGE:
        raise BatchTooLarge(f"{what} passes its limits")
    raise RecordError(f"{what} is damaged")


@cython.final
cdef class Record:
    """One record taken out of rows. `body` is as it was appended, decompressed if it was packed."""

    cdef readonly int kind
    cdef readonly object origin
    cdef readonly object number
    cdef readonly object chain
    cdef readonly bytes body

    def __repr__(self) -> str:
        return (
            f"Record(kind={self.kind}, origin={self.origin:#x}, number={self.number}, "
            f"body={len(self.body)} bytes)"
        )


cdef Record make_record(const Row *row):
    cdef Record record = Record.__new__(Record)
    record.kind = row.head[4]
    record.origin = row_origin(row)
    record.number = row_number(row)
    record.chain = row_chain(row)
    record.body = body_of(row)
    return record


cdef bytes body_of(const Row *row):
    body = PyBytes_FromStringAndSize(<const char *>row.body, row.body_size)
    if row.head[5] & FLAG_PACKED:
        return _pack.unpack(body)
    return body


cdef uint64_t body_size(const Row *row) noexcept:
    """Bytes that `body_of` takes, as the record names them, before anything is unpacked."""
    if row.head[5] & FLAG_PACKED and row.body_size > 5 and row.body[0] == PACKED_LZ4:
        return load32(row.body + 1)
    return row.body_size


cdef uint32_t checked_rows(bytes rows) except? 0xFFFFFFFF:
    """Number of records in `rows`; raises RecordError unless they are framed exactly."""
    cdef uint32_t count = 0
    cdef int status = count_rows(
        <const uint8_t *>PyBytes_AS_STRING(rows), PyBytes_GET_SIZE(rows), &count)
    if status != OK:
        raise_status(status, "row")
    return count


def records(rows: bytes) -> list[Record]:
    """Return every record of `rows`; raises RecordError."""
    checked_rows(rows)
    cdef const uint8_t *at = <const uint8_t *>PyBytes_AS_STRING(rows)
    cdef const uint8_t *end = at + PyBytes_GET_SIZE(rows)
    cdef Row row
    cdef list result = []
    while at < end:
        next_row(&at, end, &row)
        result.append(make_record(&row))
    return result


@cython.final
cdef class Column:
    """The points of one series in a batch, in record order.

    Values are array("d") for F64, array("q") for I64 and for BOOL (0 or 1), a list of str for TEXT.
    """

    cdef readonly object series
    cdef readonly int vtype
    cdef readonly object times
    cdef readonly object values


@cython.final
cdef class Table:
    """The points of many series in arrays, series after series, each in record order.

    series, vtypes, counts   of each series: array("Q"), array("B"), array("I")
    times    array("q")
    values   array("Q"): the bits of f64 and i64, 0 or 1, of a text its place in `texts`
    """

    cdef readonly array.array series
    cdef readonly array.array vtypes
    cdef readonly array.array counts
    cdef readonly array.array times
    cdef readonly array.array values
    cdef readonly list texts


# What a payload holds once its parts are checked: columns, and the bare rows beside them.
@cython.final
cdef class _Opened:
    cdef Envelope envelope
    cdef Group group
    cdef Buf bare
    cdef bytes payload  # the envelope's cursors point into it

    def __dealloc__(self) -> None:
        group_free(&self.group)
        buf_free(&self.bare)


cdef _Opened open_payload(int codec, bytes payload, uint64_t limit_bytes, uint64_t limit_records):
    """Check and decode everything a payload says, within the limits; raises RecordError."""
    cdef _Opened o = _Opened.__new__(_Opened)
    cdef Cur c
    cdef int status
    if codec != CODEC_ROWS and codec != CODEC_COLUMNS:
        raise RecordError(f"unknown batch codec {codec}")
    o.payload = payload
    c.at = <const uint8_t *>PyBytes_AS_STRING(payload)
    c.end = c.at + PyBytes_GET_SIZE(payload)
    with nogil:
        status = take_envelope(c, &o.envelope, limit_bytes, limit_records)
        if status == OK:
            c = o.envelope.rest
            status = take_packed(&c, &o.bare, o.envelope.raw_size)
        if status == OK:
            if codec == CODEC_ROWS:
                status = group_alloc(&o.group, o.envelope.records)
            else:
                status = take_columns(&c, &o.group, &o.envelope)
        if status == OK and c.at != c.end:
            status = DAMAGED
        if status == OK:
            status = check_rows_size(&o.group, &o.envelope, cursor(&o.bare))
    if status != OK:
        raise_status(status, "batch payload")
    return o


cdef inline Cur cursor(const Buf *b) noexcept nogil:
    cdef Cur c
    c.at = b.data
    c.end = b.data + b.size
    return c


cdef bytes rows_of(_Opened o, int lane, uint64_t first, uint64_t prev_chain):
    cdef bytes rows = PyBytes_FromStringAndSize(NULL, o.envelope.raw_size)
    cdef uint8_t *to = <uint8_t *>PyBytes_AS_STRING(rows)
    with nogil:
        put_rows(&o.group, &o.envelope, cursor(&o.bare), to)
        finish_rows(&o.envelope, to, prev_chain, True, lane, first)
    return rows


def pack(rows: bytes, *, columns: bool = True, prev_chain: int | None = None) -> tuple[int, bytes]:
    """Return (codec, payload), the smaller of ROWS and COLUMNS.

    With `prev_chain` the first record's chain is checked against it too; any chain that does not
    follow from the one before travels in full. Raises RecordError if `rows` are not rows, hold more
    than 65,536 records or 64 MiB.
    """
    cdef uint32_t count = checked_rows(rows)
    cdef const uint8_t *at = <const uint8_t *>PyBytes_AS_STRING(rows)
    cdef size_t size = PyBytes_GET_SIZE(rows)
    cdef bint knows_chain = prev_chain is not None
    cdef uint64_t chain = prev_chain if knows_chain else 0
    cdef bint try_columns = columns
    cdef int status
    cdef int codec = CODEC_ROWS
    cdef Buf out
    if count > RECORDS_MAX or size > <size_t>min(RAW_BYTES_MAX, LZ4_MAX_INPUT_SIZE):
        raise RecordError(f"{count} records of {size} bytes: more than one batch may hold")
    memset(&out, 0, sizeof(Buf))
    try:
        with nogil:
            status = put_envelope(&out, at, size, count, knows_chain, chain)
            if status == OK:
                status = put_smaller(&out, at, size, count, try_columns, &codec)
        if status != OK:
            raise_status(status, "rows")
        return codec, PyBytes_FromStringAndSize(<const char *>out.data, out.size)
    finally:
        buf_free(&out)


cdef int put_smaller(
    Buf *out, const uint8_t *at, size_t size, uint32_t count, bint try_columns, int *codec,
) noexcept nogil:
    """Write what follows the envelope, as columns if there is telemetry and they are smaller."""
    cdef Buf other
    cdef int status = OK
    memset(&other, 0, sizeof(Buf))
    if try_columns:
        status = columns_of_rows(&other, at, size, count)
    # Rows beat columns only in tiny batches and odd data: where columns came out under an eighth
    # of the rows, LZ4 will not do better and its time is saved.
    if status == OK and (other.size == 0 or other.size * 8 > size):
        status = put_rows_or_columns(out, &other, at, size, codec)
    elif status == OK:
        codec[0] = CODEC_COLUMNS
        status = put_bytes(out, other.data, other.size)
    buf_free(&other)
    return status


cdef int put_rows_or_columns(
    Buf *out, const Buf *columns, const uint8_t *at, size_t size, int *codec,
) noexcept nogil:
    cdef size_t start = out.size
    cdef int status = put_bare(out, at, at + size, NULL)
    if status == OK and columns.size and columns.size < out.size - start:
        out.size = start
        codec[0] = CODEC_COLUMNS
        status = put_bytes(out, columns.data, columns.size)
    return status


cdef int columns_of_rows(
    Buf *out, const uint8_t *at, size_t size, uint32_t count,
) noexcept nogil:
    """Write bare rows and columns; nothing at all when there is no telemetry."""
    cdef Group group
    cdef int status
    memset(&group, 0, sizeof(Group))
    status = group_rows(&group, at, at + size, count)
    if status == OK and group.readings:
        status = put_bare(out, at, at + size, group.order)
        if status == OK:
            status = put_columns(out, &group)
        if status == TOO_LARGE:  # more shapes or series than the format counts: rows will do
            out.size = 0
            status = OK
    group_free(&group)
    return status


def unpack(
    codec: int, payload: bytes, lane: int, first: int, prev_chain: int, *,
    limit_bytes: int = 64 << 20, limit_records: int = 65536,
) -> bytes:
    """Return the rows again, checksums and chains recomputed; raises RecordError on bad input."""
    opened = open_payload(codec, payload, limit_bytes, limit_records)
    return rows_of(opened, lane, first, prev_chain)


def last_chain(
    codec: int, payload: bytes, prev_chain: int, *, limit_bytes: int = 64 << 20,
) -> int:
    """Return the running hash after the last record; `prev_chain` if the batch is empty.

    Decodes the whole payload: when it is what the sender's header says, so is every record.
    """
    cdef _Opened o = open_payload(codec, payload, limit_bytes, RECORDS_MAX)
    cdef uint64_t chain = prev_chain
    cdef Buf rows
    cdef int status
    memset(&rows, 0, sizeof(Buf))
    with nogil:
        status = buf_need(&rows, o.envelope.raw_size + 1)
        if status == OK:
            put_rows(&o.group, &o.envelope, cursor(&o.bare), rows.data)
            chain = finish_rows(&o.envelope, rows.data, chain, False, 0, 0)
        buf_free(&rows)
    if status != OK:
        raise MemoryError
    return chain


def ids(codec: int, payload: bytes) -> list[tuple[int, int, int]]:
    """Ranges (origin, first number, count) of the event ids in order, without unpacking all."""
    cdef Envelope e
    cdef Cur c
    cdef uint64_t origin, first, count
    cdef uint32_t _i
    cdef int status
    if codec != CODEC_ROWS and codec != CODEC_COLUMNS:
        raise RecordError(f"unknown batch codec {codec}")
    c.at = <const uint8_t *>PyBytes_AS_STRING(payload)
    c.end = c.at + PyBytes_GET_SIZE(payload)
    status = take_envelope(c, &e, RAW_BYTES_MAX, RECORDS_MAX)
    if status != OK:
        raise_status(status, "batch payload")
    c = e.range_list
    result = []
    for _i in range(e.ranges):
        take64(&c, &origin)
        take_varint(&c, &first)
        take_varint(&c, &count)
        result.append((origin, first, count))
    return result


def columns(
    codec: int, payload: bytes, *, limit_bytes: int = 64 << 20,
) -> tuple[list[Column], list[tuple[int, Record]]]:
    """Return the telemetry by series, and the other records with their index in the batch.

    Columns come in the order in which their series first appear. The chain of the records is 0:
    it needs the batch before. Raises RecordError, also for a READINGS record that is malformed, and
    BatchTooLarge when the rows or the unpacked bodies of the records come to more than the limit.
    """
    return opened_by(columns_of, codec, payload, limit_bytes)


def table(
    codec: int, payload: bytes, *, limit_bytes: int = 64 << 20,
) -> tuple[Table, list[tuple[int, Record]]]:
    """Return what `columns` does with the telemetry in few arrays; raises as it does."""
    return opened_by(table_of, codec, payload, limit_bytes)


ctypedef object (*Maker)(Group *)


cdef opened_by(Maker make, int codec, bytes payload, uint64_t limit_bytes):
    """Return what `make` makes of all readings of a payload, and its other records."""
    cdef _Opened o = open_payload(codec, payload, limit_bytes, RECORDS_MAX)
    cdef Group again
    cdef bytes rows
    cdef const uint8_t *at
    cdef const uint8_t *end
    cdef int status
    if not bare_has_readings(cursor(&o.bare)):
        return make(&o.group), events_of(o, limit_bytes)
    rows = expanded(rows_of(o, 0, 1, 0), limit_bytes)
    at = <const uint8_t *>PyBytes_AS_STRING(rows)
    end = at + PyBytes_GET_SIZE(rows)
    memset(&again, 0, sizeof(Group))
    try:
        with nogil:
            status = group_rows(&again, at, end, o.envelope.records)
        if status != OK:
            raise_status(status, "batch payload")
        check_all_grouped(&again, rows)
        return make(&again), events_of(o, limit_bytes)
    finally:
        group_free(&again)


def events(
    codec: int, payload: bytes, *, limit_bytes: int = 64 << 20,
) -> list[tuple[int, Record]]:
    """Return the records that `columns` does, without making columns; raises as it does."""
    return events_of(open_payload(codec, payload, limit_bytes, RECORDS_MAX), limit_bytes)


def raw_size(payload: bytes) -> int:
    """Return how many bytes of rows a payload says it stands for, reading nothing else."""
    if len(payload) < 4:
        raise RecordError("batch payload is damaged")
    return load32(<const uint8_t *>PyBytes_AS_STRING(payload))


cdef bint bare_has_readings(Cur c) noexcept nogil:
    cdef Row row
    while next_bare(&c, &row):
        if row.head[4] == KIND_READINGS:
            return True
    return False


cdef bytes expanded(bytes rows, uint64_t limit_bytes):
    """`rows` with the packed bodies of READINGS records decompressed."""
    cdef const uint8_t *at = <const uint8_t *>PyBytes_AS_STRING(rows)
    cdef const uint8_t *end = at + PyBytes_GET_SIZE(rows)
    cdef Row row
    cdef list parts = []
    cdef uint64_t total = 0
    while at < end:
        next_row(&at, end, &row)
        body = body_of(&row) if row.head[4] == KIND_READINGS else b""
        total += ROW_BYTES + <uint64_t>len(body)
        if total > limit_bytes:
            raise BatchTooLarge(f"batch passes the limit of {limit_bytes} bytes")
        head = struct.pack("<IIBBHQQQ", HEADER_BYTES + len(body), 0, row.head[4], 0, 0, 0, 0, 0)
        parts.append(head + body)
    return b"".join(parts)


cdef int check_all_grouped(const Group *g, bytes rows) except -1:
    cdef const uint8_t *at = <const uint8_t *>PyBytes_AS_STRING(rows)
    cdef const uint8_t *end = at + PyBytes_GET_SIZE(rows)
    cdef Row row
    cdef uint32_t i
    for i in range(g.records):
        next_row(&at, end, &row)
        if row.head[4] == KIND_READINGS and not g.order[i]:
            raise RecordError(f"record {i} of the batch: its readings are malformed")
    return 0


cdef list events_of(_Opened o, uint64_t limit_bytes):
    cdef Cur bare = cursor(&o.bare)
    cdef Cur ranges = o.envelope.range_list
    cdef uint64_t origin = 0, number = 0, count = 0, total = 0
    cdef uint32_t i
    cdef Row row
    cdef Record record
    cdef list result = []
    if not o.bare.size:
        return result
    for i in range(o.envelope.records):
        if count == 0:
            take64(&ranges, &origin)
            take_varint(&ranges, &number)
            take_varint(&ranges, &count)
        if not o.group.order[i]:
            next_bare(&bare, &row)
            if row.head[4] != KIND_READINGS:
                total += body_size(&row)
                if total > limit_bytes:
                    raise BatchTooLarge(f"records pass the limit of {limit_bytes} bytes")
                record = Record.__new__(Record)
                record.kind, record.origin, record.number = row.head[4], origin, number
                record.chain = 0
                record.body = body_of(&row)
                result.append((i, record))
        number += 1
        count -= 1
    return result


cdef object columns_of(Group *g):
    """One Column per series; the copying runs on pointers, the objects are made before it."""
    cdef list result = []
    cdef Series *s = series_of(g)
    cdef Column column
    cdef array.array times
    cdef Buf places
    cdef uint32_t i
    memset(&places, 0, sizeof(Buf))
    try:
        if buf_need(&places, g.series_count * sizeof(void *)) != OK:
            raise MemoryError
        for i in range(g.series_count):
            times = array.clone(INTS, s[i].count, False)
            column = Column.__new__(Column)
            column.series, column.vtype, column.times = s[i].id, s[i].vtype, times
            column.values = values_of(g.values + s[i].start, s[i].count, s[i].vtype)
            (<int64_t **>places.data)[i] = <int64_t *>times.data.as_longlongs
            result.append(column)
        with nogil:
            spread_times(g, <int64_t **>places.data)
    finally:
        buf_free(&places)
    return result


cdef object table_of(Group *g):
    cdef Table t = Table.__new__(Table)
    cdef Series *s = series_of(g)
    cdef Py_ssize_t n = g.series_count, i, at = 0
    cdef Buf places
    cdef uint64_t *values
    cdef int64_t *times
    t.series, t.vtypes = array.clone(IDS, n, False), array.clone(BYTES, n, False)
    t.counts = array.clone(COUNTS, n, False)
    for i in range(n):
        at += s[i].count
    t.times, t.values, t.texts = array.clone(INTS, at, False), array.clone(IDS, at, False), []
    times, values = <int64_t *>t.times.data.as_longlongs, <uint64_t *>t.values.data.as_voidptr
    memset(&places, 0, sizeof(Buf))
    try:
        if buf_need(&places, n * sizeof(void *)) != OK:
            raise MemoryError
        at = 0
        for i in range(n):
            (<uint64_t *>t.series.data.as_voidptr)[i] = s[i].id
            (<uint8_t *>t.vtypes.data.as_voidptr)[i] = s[i].vtype
            (<uint32_t *>t.counts.data.as_voidptr)[i] = s[i].count
            (<int64_t **>places.data)[i] = times + at
            if s[i].vtype == VT_TEXT:
                take_in_texts(t.texts, values + at, g.values + s[i].start, s[i].count)
            else:
                memcpy(values + at, g.values + s[i].start, s[i].count * sizeof(uint64_t))
            at += s[i].count
        with nogil:
            spread_times(g, <int64_t **>places.data)
    finally:
        buf_free(&places)
    return t


cdef int take_in_texts(
    list texts, uint64_t *to, const uint64_t *addresses, uint32_t count,
) except -1:
    """Add texts, and set the place of each in the list; one for each distinct address."""
    cdef const char *text
    cdef uint32_t i
    cdef dict made = {}
    for i in range(count):
        place = made.get(addresses[i])
        if place is None:
            text = <const char *>addresses[i]
            place = made[addresses[i]] = len(texts)
            texts.append(decode_text(text + 4, load32(text)))
        to[i] = place
    return 0


cdef object values_of(const uint64_t *values, uint32_t count, uint8_t vtype):
    cdef array.array column
    cdef const char *text
    cdef uint32_t i
    if vtype != VT_TEXT:
        column = array.clone(FLOATS if vtype == VT_F64 else INTS, count, False)
        if count:
            memcpy(column.data.as_voidptr, values, count * sizeof(uint64_t))
        return column
    texts = []
    made = {}  # one object for each distinct text of a decoded dictionary
    for i in range(count):
        known = made.get(values[i])
        if known is None:
            text = <const char *>values[i]
            known = made[values[i]] = decode_text(text + 4, load32(text))
        texts.append(known)
    return texts


cdef str decode_text(const char *text, uint32_t size):
    try:
        return PyUnicode_DecodeUTF8(text, size, NULL)
    except UnicodeDecodeError as error:
        raise RecordError(f"a text reading is not UTF-8: {error.reason}") from error


cdef void spread_times(const Group *g, int64_t **places) noexcept nogil:
    """Write each record's time to the columns of all its series, moving `places` on."""
    cdef const Shape *shape
    cdef const uint32_t *members
    cdef uint32_t i, j
    for i in range(g.records):
        if g.order[i]:
            shape = shapes_of(g) + g.order[i] - 1
            members = lists_of(g) + shape.start
            for j in range(shape.count):
                places[members[j]][0] = g.times[i]
                places[members[j]] += 1


def readings(
    time_ns: int, vtype: int, series: Sequence[int], values: Sequence[float | int | bool | str],
) -> bytes:
    """Encode the body of a READINGS record.

    1 to 1,024 readings of one type; at most 64 KiB. Raises RecordError beyond that, and for a value
    that is not of the type.
    """
    cdef Py_ssize_t n = len(series)
    cdef Buf out
    if n != len(values) or not 1 <= n <= READINGS_MAX:
        raise RecordError(f"{n} series with {len(values)} values; 1..{READINGS_MAX} of each")
    if not 0 <= vtype <= VT_TEXT:
        raise RecordError(f"unknown value type {vtype}")
    memset(&out, 0, sizeof(Buf))
    try:
        if buf_need(&out, READINGS_HEAD_BYTES + 16 * n) != OK:
            raise MemoryError
        store64(out.data, <uint64_t><int64_t>time_ns)
        store64(out.data + 8, <uint64_t>vtype | <uint64_t>n << 16)
        out.size = READINGS_HEAD_BYTES
        for one, value in zip(series, values):
            put_reading(&out, vtype, one, value)
        if out.size > BODY_BYTES_MAX:
            raise RecordError(f"readings of {out.size} bytes; at most {BODY_BYTES_MAX} in a record")
        return PyBytes_FromStringAndSize(<const char *>out.data, out.size)
    except (OverflowError, TypeError, UnicodeEncodeError) as error:
        raise RecordError(f"not a reading of type {vtype}: {error}") from error
    finally:
        buf_free(&out)


cdef int put_reading(Buf *out, int vtype, uint64_t series, object value) except -1:
    cdef uint64_t bits
    cdef double number
    cdef bytes text
    if vtype == VT_TEXT:
        text = (<str?>value).encode()
        bits = <uint64_t>PyBytes_GET_SIZE(text)
        if bits > BODY_BYTES_MAX:
            raise RecordError(f"text of {bits} bytes; at most {BODY_BYTES_MAX} in a record")
        if put64(out, series) or put32(out, <uint32_t>bits):
            raise MemoryError
        if put_bytes(out, PyBytes_AS_STRING(text), bits) != OK:
            raise MemoryError
        return 0
    if vtype == VT_F64:
        number = value
        memcpy(&bits, &number, 8)
    elif not isinstance(value, int) or (vtype == VT_BOOL and value not in (0, 1)):
        raise TypeError(f"{type(value).__name__} {value!r}")
    else:
        bits = <uint64_t><int64_t>value
    if put64(out, series) or put64(out, bits):
        raise MemoryError
    return 0


def parse_readings(
    body: bytes,
) -> tuple[int, int, list[int], list[float] | list[int] | list[bool] | list[str]]:
    """Decode a READINGS body: (time_ns, vtype, series, values); raises RecordError."""
    cdef const uint8_t *at = <const uint8_t *>PyBytes_AS_STRING(body)
    cdef int n = readings_count(at, <uint32_t>min(PyBytes_GET_SIZE(body), BODY_BYTES_MAX + 1))
    cdef uint8_t vtype
    cdef int64_t time_ns
    cdef list series = []
    cdef list values = []
    cdef double number
    cdef int _i
    if n < 0:
        raise RecordError("the body of a READINGS record is malformed")
    time_ns = <int64_t>load64(at)
    vtype = at[8]
    at += READINGS_HEAD_BYTES
    for _i in range(n):
        series.append(load64(at))
        if vtype == VT_F64:
            memcpy(&number, at + 8, 8)
            values.append(number)
        elif vtype == VT_I64:
            values.append(<int64_t>load64(at + 8))
        elif vtype == VT_BOOL:
            values.append(load64(at + 8) == 1)
        else:
            values.append(decode_text(<const char *>at + 12, load32(at + 8)))
        at += step_of(at, vtype)
    return time_ns, vtype, series, values
