# cython: boundscheck=False, wraparound=False
"""Lanes of records over a Store: reading ranges, verifying every record read (I14).

Writing is `Write.append` and `Store.apply`; here nothing is changed. A range is copied out of the
map into one `bytes` while its checksums are verified, in one short read transaction without the
GIL: a transaction held longer would keep LMDB from using freed pages again.
"""

from cpython.object cimport PyObject
from cpython.ref cimport Py_XDECREF
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from buffer cimport store32
from lanes cimport LANE_DAMAGED, LanePos
from lmdb cimport MDB_NEXT, MDB_NOTFOUND, MDB_SET_RANGE, MDB_cursor, MDB_txn, MDB_val
from records cimport (
    HEAD_BYTES, Walk, first_of, is_run, record_chain, record_fits, step_run, walk, write_record,
)

from edgesync._native.store cimport (
    Store, cursor_end, cursor_get, lane_chain_before, lane_cursor, lane_positions, read_begin,
    read_end,
)

cdef extern from "Python.h":
    # As plain pointers: a bytes object may be resized only while nobody else has seen it.
    PyObject *new_bytes "PyBytes_FromStringAndSize"(const char *data, Py_ssize_t size) except NULL
    char *bytes_data "PyBytes_AS_STRING"(PyObject *value) nogil
    int _PyBytes_Resize(PyObject **value, Py_ssize_t size) except -1

cdef enum:
    TOO_LARGE = -100  # the first record alone passes the buffer; `needed` says its size
    BUFFER_FULL = -101


class DamagedRecord(Exception):
    """A stored record whose checksum does not fit; it was not delivered (I14)."""

    def __init__(self, lane, seq):
        super().__init__(f"lane {lane}: the record {seq} is damaged")
        self.lane = lane
        self.seq = seq


cdef class LaneState:
    """A snapshot: trimmed <= safe <= floor <= tail."""

    cdef readonly uint64_t tail
    cdef readonly uint64_t floor
    cdef readonly uint64_t safe
    cdef readonly uint64_t trimmed
    cdef readonly uint64_t tail_chain
    cdef readonly uint64_t stored_bytes


cdef class Rows:
    """Consecutive records `first .. last` as they are stored (see rows in native/README.md)."""

    cdef readonly uint64_t first
    cdef readonly uint64_t last
    cdef readonly uint64_t prev_chain
    cdef readonly uint64_t last_chain
    cdef readonly bytes data

    def __len__(self):
        return self.last + 1 - self.first


cdef struct Reading:
    uint8_t *at
    size_t room
    size_t used
    uint64_t first
    uint64_t records_max
    uint64_t count
    uint64_t prev_chain
    uint64_t last_chain
    uint64_t damaged  # seq, 0 for none
    size_t needed


cdef int read_range(Store store, uint8_t lane, Reading *r) noexcept nogil:
    """Copy records from r.first on into r.at; 0, TOO_LARGE, LANE_DAMAGED or an LMDB code."""
    cdef MDB_txn *txn = NULL
    cdef MDB_cursor *cursor = NULL
    cdef LanePos pos
    cdef int rc = read_begin(&store.e, &txn)
    if rc == 0:
        rc = lane_positions(&store.e, txn, lane, &pos)
    if rc == 0 and r.first > pos.trimmed and r.first <= pos.tail:
        rc = lane_chain_before(&store.e, txn, &pos, r.first, &r.prev_chain)
        if rc == LANE_DAMAGED:
            # The hash before the first record is in a record that does not verify.
            r.damaged = r.first - 1
            rc = 0
        elif rc == 0:
            rc = lane_cursor(&store.e, txn, lane, &cursor)
            if rc == 0:
                rc = copy_range(cursor, &pos, r)
    cursor_end(cursor)
    read_end(txn)
    return rc


cdef int copy_range(MDB_cursor *cursor, const LanePos *pos, Reading *r) noexcept nogil:
    cdef MDB_val key, value
    cdef uint64_t seq = r.first, found
    cdef int rc
    key.mv_size = 8
    key.mv_data = &seq
    rc = cursor_get(cursor, &key, &value, MDB_SET_RANGE)
    while rc == 0 and seq <= pos.tail and r.count < r.records_max:
        memcpy(&found, key.mv_data, 8)
        if not record_fits(<uint8_t>pos.lane, found, &value) or first_of(found, &value) > seq:
            break
        rc = copy_row(pos, r, first_of(found, &value), &value)
        if rc:
            return 0 if rc == BUFFER_FULL else rc
        seq = r.first + r.count
        if seq <= found:
            break  # the last records of the run are damaged, or not asked for
        rc = cursor_get(cursor, &key, &value, MDB_NEXT)
    if rc and rc != MDB_NOTFOUND:
        return rc
    if seq <= pos.tail and r.count < r.records_max:
        r.damaged = seq  # damaged, or its key is: no record carries this seq
    return 0


cdef int copy_row(
    const LanePos *pos, Reading *r, uint64_t first, const MDB_val *value,
) noexcept nogil:
    """Copy what is wanted of a row; 0, TOO_LARGE or BUFFER_FULL."""
    cdef Walk w
    cdef uint64_t chain
    cdef int rc
    if not is_run(value):
        rc = room_for(r, 4 + value.mv_size)
        if rc == 0:
            memcpy(r.at + r.used + 4, value.mv_data, value.mv_size)
            took_row(r, value.mv_size, record_chain(value))
        return rc
    walk(&w, value, 0)
    chain = w.chain
    while r.count < r.records_max and first <= pos.tail and step_run(&w):
        if first == r.first + r.count:
            rc = room_for(r, 4 + HEAD_BYTES + w.size)
            if rc:
                return rc
            write_record(
                r.at + r.used + 4, <uint8_t>pos.lane, first, w.kind, chain, w.origin, w.number,
                w.body, w.size)
            took_row(r, HEAD_BYTES + w.size, w.chain)
        chain = w.chain
        first += 1
    return 0


cdef int room_for(Reading *r, size_t size) noexcept nogil:
    if size <= r.room - r.used:
        return 0
    if r.count:
        return BUFFER_FULL
    r.needed = size
    return TOO_LARGE


cdef void took_row(Reading *r, size_t size, uint64_t chain) noexcept nogil:
    store32(r.at + r.used, <uint32_t>size)
    r.used += 4 + size
    r.last_chain = chain
    r.count += 1


cdef class Journal:
    """The three lanes of one store."""

    cdef Store store

    def __cinit__(self, Store store not None):
        if not store.e.has_lanes:
            raise ValueError(f"{store.path} has no lanes: open it with the database 'lanes'")
        self.store = store

    @property
    def origin(self):
        """The random half of the event ids given since this store was opened."""
        return self.store.e.origin

    cdef int lane(self, Py_ssize_t lane) except -1:
        if not 0 <= lane < 3:
            raise ValueError(f"lane {lane} is not 0, 1 or 2")
        return <int>lane

    def state(self, Py_ssize_t lane):
        cdef MDB_txn *txn = NULL
        cdef LanePos pos
        cdef uint8_t which = self.lane(lane)
        cdef LaneState state
        cdef int rc
        self.store.enter()
        try:
            with nogil:
                rc = read_begin(&self.store.e, &txn)
                if rc == 0:
                    rc = lane_positions(&self.store.e, txn, which, &pos)
                read_end(txn)
            if rc:
                raise self.store.failure(rc)
        finally:
            self.store.leave()
        state = LaneState.__new__(LaneState)
        state.tail = pos.tail
        state.floor = pos.floor
        state.safe = pos.safe
        state.trimmed = pos.trimmed
        state.tail_chain = pos.tail_chain
        state.stored_bytes = pos.stored_bytes
        return state

    def read(
        self, Py_ssize_t lane, uint64_t first, *, Py_ssize_t limit_records=65536,
        Py_ssize_t limit_bytes=4 << 20,
    ):
        """Return records from `first` on: at least one if there is any, none past the limits.

        Verifies every checksum; raises DamagedRecord with the seq of a bad one if it is the first,
        else stops before it. Rows.first > Rows.last means there is nothing at `first`.
        """
        cdef Reading r
        cdef uint8_t which = self.lane(lane)
        cdef Py_ssize_t room = min(max(limit_bytes, 4 + HEAD_BYTES), 64 << 20)
        cdef LaneState state = self.state(lane)
        cdef PyObject *data = NULL
        cdef int rc = TOO_LARGE
        if first == 0:
            raise ValueError("seqs begin at 1")
        # Not more than the lane holds: an idle lane is asked often and must cost little.
        room = min(room, <Py_ssize_t>(state.stored_bytes + 36 * (state.tail - state.trimmed) + 64))
        self.store.enter()
        try:
            while rc == TOO_LARGE:
                Py_XDECREF(data)
                data = NULL
                data = new_bytes(NULL, room)
                r = Reading(
                    at=<uint8_t *>bytes_data(data), room=room, used=0, first=first,
                    records_max=max(limit_records, 1), count=0, prev_chain=0, last_chain=0,
                    damaged=0, needed=0)
                with nogil:
                    rc = read_range(self.store, which, &r)
                room = r.needed
            if rc:
                raise self.store.failure(rc)
            if r.damaged and not r.count:
                raise DamagedRecord(lane, r.damaged)
            _PyBytes_Resize(&data, r.used)
            return rows_of(&r, <bytes>data)
        finally:
            Py_XDECREF(data)
            self.store.leave()

    def chain_at(self, Py_ssize_t lane, uint64_t seq):
        """The running hash at `seq`; None when seq is beyond the tail or below what is retained."""
        cdef MDB_txn *txn = NULL
        cdef LanePos pos
        cdef uint8_t which = self.lane(lane)
        cdef uint64_t chain = 0
        cdef bint there = False
        cdef int rc
        self.store.enter()
        try:
            with nogil:
                rc = read_begin(&self.store.e, &txn)
                if rc == 0:
                    rc = lane_positions(&self.store.e, txn, which, &pos)
                if rc == 0 and seq >= pos.trimmed and seq <= pos.tail:
                    there = True
                    rc = lane_chain_before(&self.store.e, txn, &pos, seq + 1, &chain)
                read_end(txn)
            if there and rc == LANE_DAMAGED:
                raise DamagedRecord(lane, seq)
            if rc:
                raise self.store.failure(rc)
        finally:
            self.store.leave()
        return chain if there else None

    def raw(self, Py_ssize_t lane, uint64_t seq):
        """The stored bytes at `seq` as they are, unverified; None when no key carries it."""
        cdef uint8_t which = self.lane(lane)
        return self.store.get(f"journal.{which}", seq.to_bytes(8, "little"))


cdef Rows rows_of(const Reading *r, bytes data):
    cdef Rows rows = Rows.__new__(Rows)
    rows.first = r.first
    rows.last = r.first + r.count - 1
    rows.prev_chain = r.prev_chain
    rows.last_chain = r.last_chain if r.count else r.prev_chain
    rows.data = data
    return rows
