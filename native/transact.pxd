"""One transaction from begin to commit in one call, without the GIL.

Begin and commit stand in one function on purpose: LMDB ties a write transaction to the thread that
began it, and a Trio task may resume on no thread of its own.
"""

from libc.errno cimport ENOSPC, errno
from libc.stdint cimport int32_t, uint8_t, uint64_t
from libc.string cimport memset

from lanes cimport (
    DISK_FULL, INTAKE_FULL, LANES, NO_JOURNAL, LanePos, append_record, drop_lane, end_run,
    load_lane, move_back, move_mark, replace_record, save_lane, trim_lane,
)
from lmdb cimport *
from records cimport HEAD_BYTES, Run

cdef extern from "<fcntl.h>" nogil:
    int fallocate(int fd, int mode, long offset, long size)

cdef extern from "<unistd.h>" nogil:
    ssize_t pwrite(int fd, const void *data, size_t size, long offset)

cdef extern from *:
    """
    static char edgesync_zeros[65536];
    """
    const char edgesync_zeros[65536]

cdef enum:
    RESERVE_PAGES = 64
    # Some ten commits of 500 readings each; a slow card takes 20 ms for it.
    WRITE_AHEAD_BYTES = 256 << 10

cdef enum Code:
    OP_PUT
    OP_DELETE
    OP_APPEND
    OP_MARK
    OP_REWIND
    OP_TRIM
    OP_REPLACE
    OP_NEW_ORIGIN
    OP_DROP

cdef struct Op:
    uint8_t code
    uint8_t lane
    uint8_t kind
    int32_t db  # index into the Write's own names
    bint essential  # let in although the store is full to 90 %
    const void *key
    size_t key_size
    const void *value
    size_t value_size
    uint64_t a  # origin, floor or up_to
    uint64_t b  # number, safe, seq, or the lane that is told

cdef struct Env:
    MDB_env *env
    int fd
    size_t page_bytes
    size_t limit_bytes  # of the map
    size_t step_bytes  # by which the file grows
    size_t allocated_bytes  # of the file, reserved on the disk
    size_t written_bytes  # of those, known to have been written once
    size_t widest_bytes  # that a commit may have copied, since somebody asked
    MDB_dbi journals[3]
    MDB_dbi lanes
    bint has_lanes
    uint64_t origin
    uint64_t number  # last one given

cdef struct Work:
    MDB_txn *txn
    MDB_cursor *rows  # of the database the last row was of
    MDB_dbi rows_dbi
    MDB_cursor *cursors[3]
    LanePos pos[3]
    Run runs[3]
    bint changed[3]
    uint64_t origin
    uint64_t number

cdef inline size_t high_water(Env *e) noexcept nogil:
    """Bytes up to the last page ever used."""
    cdef MDB_envinfo info
    mdb_env_info(e.env, &info)
    return (info.me_last_pgno + 1) * e.page_bytes

cdef inline int free_bytes(Env *e, size_t *result) noexcept nogil:
    """Bytes of the pages that were given back, from LMDB's own list (database 0)."""
    cdef MDB_txn *txn = NULL
    cdef MDB_cursor *cursor = NULL
    cdef MDB_val key, data
    cdef size_t pages = 0
    cdef int rc = mdb_txn_begin(e.env, NULL, MDB_RDONLY, &txn)
    if rc:
        return rc
    rc = mdb_cursor_open(txn, 0, &cursor)
    while rc == 0:
        rc = mdb_cursor_get(cursor, &key, &data, MDB_NEXT)
        if rc == 0 and data.mv_size >= sizeof(size_t):
            # A list of page numbers, its length first.
            pages += (<size_t *>data.mv_data)[0]
    if cursor != NULL:
        mdb_cursor_close(cursor)
    mdb_txn_abort(txn)
    result[0] = pages * e.page_bytes
    return 0 if rc == MDB_NOTFOUND else rc

cdef inline size_t needed_bytes(Env *e, const Op *ops, size_t count) noexcept nogil:
    """An upper estimate of what the intake among `ops` adds to the file; 0 if there is none."""
    cdef size_t total = 0, one, i
    for i in range(count):
        if ops[i].code != OP_PUT and ops[i].code != OP_APPEND:
            continue
        if ops[i].essential:
            continue  # uses the reserve
        # Node header, key, and a value beside it, or on pages of its own when it is large.
        one = ops[i].value_size + ops[i].key_size + HEAD_BYTES + 24
        if one > e.page_bytes // 2:
            one += e.page_bytes
        total += one
    return total + total // 4

cdef inline size_t intake_limit(Env *e) noexcept nogil:
    """Bytes of the map that intake may fill; the rest is a reserve.

    A tenth; in a small store, or one of large pages, enough of them for what must go on.
    """
    cdef size_t reserve = e.limit_bytes // 10, least = RESERVE_PAGES * e.page_bytes
    if reserve < least:
        reserve = least
    if reserve > e.limit_bytes // 2:
        reserve = e.limit_bytes // 2
    return e.limit_bytes - reserve

cdef inline size_t copied_bytes(Env *e, const Op *ops, size_t count) noexcept nogil:
    """What the rows among `ops` may need at once: LMDB writes pages anew, each row's its own."""
    cdef size_t pages = 0, i
    for i in range(count):
        pages += ops[i].code == OP_PUT or ops[i].code == OP_DELETE
    return pages * e.page_bytes

cdef inline void write_ahead(Env *e, size_t used, size_t need) noexcept nogil:
    """Write zeros where the next pages will be, behind the `used` bytes.

    What is only reserved has no blocks that count before the file system's own journal says so,
    and to wait for that takes as long as to wait for the data (bench/benchmarks/append.py). Nothing
    depends on it: what cannot be written here, the commit itself will tell.
    """
    cdef size_t at = e.written_bytes if e.written_bytes > used else used
    cdef size_t end = used + WRITE_AHEAD_BYTES, size
    if used + need <= at or need > WRITE_AHEAD_BYTES // 2:
        return  # one so large waits for its data
    if end > e.allocated_bytes:
        end = e.allocated_bytes
    while at < end:
        size = end - at if end - at < sizeof(edgesync_zeros) else sizeof(edgesync_zeros)
        if pwrite(e.fd, edgesync_zeros, size, at) != <ssize_t>size:
            break
        at += size
    e.written_bytes = end

cdef inline int make_room(Env *e, size_t need, size_t ahead) noexcept nogil:
    """Refuse intake where the reserve begins, allocate disk space, and write it once."""
    cdef size_t used = high_water(e)
    cdef int rc = reserve_room(e, used, need, ahead)
    if rc == 0:
        write_ahead(e, used, need)
    return rc

cdef inline int reserve_room(Env *e, size_t used, size_t need, size_t ahead) noexcept nogil:
    """Refuse intake where the reserve begins; allocate disk space before it is needed.

    ahead   bytes to be reserved for later, where there is room for them

    The reserve is for trimming, marks and deletes: LMDB needs new pages to free old ones. With
    the space reserved, a disk that others fill up never fails a commit half-way.
    """
    cdef size_t free_ = 0, want, size
    cdef size_t limit = intake_limit(e)
    cdef int rc
    if need and used + need > limit:
        rc = free_bytes(e, &free_)
        if rc:
            return rc
        if used - free_ + need > limit:
            return INTAKE_FULL
    want = used + need + RESERVE_PAGES * e.page_bytes
    if want > e.limit_bytes:
        want = e.limit_bytes
    if want + ahead <= e.allocated_bytes or e.allocated_bytes >= e.limit_bytes:
        return 0
    size = (want + ahead + e.step_bytes - 1) // e.step_bytes * e.step_bytes
    if size > e.limit_bytes:
        size = e.limit_bytes
    if fallocate(e.fd, 0, 0, size) == 0:
        e.allocated_bytes = size
        return 0
    if errno != ENOSPC or want <= e.allocated_bytes:
        return 0  # a file system without reservation: the commit itself will tell
    if fallocate(e.fd, 0, 0, want) == 0:
        e.allocated_bytes = want
        return 0
    if need == 0:
        return 0
    rc = free_bytes(e, &free_)
    if rc == 0 and free_ < need + RESERVE_PAGES * e.page_bytes:
        rc = DISK_FULL
    return rc

cdef inline int lane_of(Env *e, Work *w, uint8_t lane) noexcept nogil:
    if not e.has_lanes:
        return NO_JOURNAL
    w.changed[lane] = True
    return 0

cdef inline int append_op(Env *e, Work *w, const Op *op) noexcept nogil:
    cdef uint64_t origin = op.a, number = op.b
    cdef int rc
    if w.cursors[op.lane] == NULL:
        rc = mdb_cursor_open(w.txn, e.journals[op.lane], &w.cursors[op.lane])
        if rc:
            return rc
    if origin == 0:
        w.number += 1
        origin = w.origin
        number = w.number
    return append_record(
        w.cursors[op.lane], &w.pos[op.lane], &w.runs[op.lane], op.kind, origin, number, op.value,
        op.value_size)

cdef inline int drop_op(Env *e, Work *w, const Op *op) noexcept nogil:
    """Drop, and append the record that says so: neither is ever there without the other (I3)."""
    cdef Op told = op[0]
    cdef int rc = drop_lane(w.txn, e.journals[op.lane], &w.pos[op.lane], op.a)
    told.lane = <uint8_t>op.b
    told.a = told.b = 0
    w.changed[told.lane] = True
    return rc if rc else append_op(e, w, &told)

cdef inline int lane_op(Env *e, Work *w, const Op *op) noexcept nogil:
    cdef LanePos *pos = &w.pos[op.lane]
    cdef int rc
    if op.code == OP_APPEND:
        return append_op(e, w, op)
    # What follows looks at rows.
    rc = end_run(w.cursors[op.lane], pos, &w.runs[op.lane])
    if rc:
        return rc
    if op.code == OP_MARK:
        return move_mark(pos, op.a, op.b)
    if op.code == OP_REWIND:
        move_back(pos, op.a)
        return 0
    if op.code == OP_TRIM:
        return trim_lane(w.txn, e.journals[op.lane], pos, op.a)
    if op.code == OP_DROP:
        return drop_op(e, w, op)
    w.number += 1
    return replace_record(
        w.txn, e.journals[op.lane], pos, op.b, op.kind, w.origin, w.number,
        op.value, op.value_size)

cdef inline int row_op(Work *w, const Op *op, MDB_dbi dbi) noexcept nogil:
    """Put or delete one row, by a cursor: a row of the same page as the last is found at once."""
    cdef MDB_val key, data
    cdef int rc
    if w.rows == NULL or w.rows_dbi != dbi:
        if w.rows != NULL:
            mdb_cursor_close(w.rows)
            w.rows = NULL
        rc = mdb_cursor_open(w.txn, dbi, &w.rows)
        if rc:
            return rc
        w.rows_dbi = dbi
    key.mv_size, key.mv_data = op.key_size, <void *>op.key
    if op.code == OP_PUT:
        data.mv_size, data.mv_data = op.value_size, <void *>op.value
        return mdb_cursor_put(w.rows, &key, &data, 0)
    rc = mdb_cursor_get(w.rows, &key, &data, MDB_SET)
    if rc:
        return 0 if rc == MDB_NOTFOUND else rc
    return mdb_cursor_del(w.rows, 0)

cdef inline int step(
    Env *e, Work *w, const Op *op, const MDB_dbi *dbis, uint64_t fresh_origin,
) noexcept nogil:
    cdef int rc
    if op.code == OP_PUT or op.code == OP_DELETE:
        return row_op(w, op, dbis[op.db])
    if op.code == OP_NEW_ORIGIN:
        w.origin = fresh_origin
        w.number = 0
        return 0
    rc = lane_of(e, w, op.lane)
    return rc if rc else lane_op(e, w, op)

cdef inline int carry_out(
    Env *e, Work *w, const Op *ops, size_t count, const MDB_dbi *dbis, uint64_t fresh_origin,
) noexcept nogil:
    cdef size_t i
    cdef uint8_t lane
    cdef int rc = 0
    if e.has_lanes:
        for lane in range(LANES):
            rc = load_lane(w.txn, e.lanes, lane, &w.pos[lane])
            if rc:
                return rc
    for i in range(count):
        rc = step(e, w, &ops[i], dbis, fresh_origin)
        if rc:
            return rc
    for lane in range(LANES):
        if w.changed[lane]:
            rc = end_run(w.cursors[lane], &w.pos[lane], &w.runs[lane])
            if rc:
                return rc
            rc = save_lane(w.txn, e.lanes, &w.pos[lane])
            if rc:
                return rc
    return 0

cdef inline int transact(
    Env *e, const Op *ops, size_t count, size_t ahead, const MDB_dbi *dbis,
    uint64_t fresh_origin, uint64_t *tails,
) noexcept nogil:
    """Carry out all of `ops` and sync once, or nothing. The caller holds the writer's mutex."""
    cdef Work w
    cdef uint8_t lane
    cdef int rc
    memset(&w, 0, sizeof(Work))
    if e.widest_bytes < copied_bytes(e, ops, count):
        e.widest_bytes = copied_bytes(e, ops, count)
    w.origin = e.origin
    w.number = e.number
    rc = make_room(e, needed_bytes(e, ops, count), ahead)
    if rc:
        return rc
    rc = mdb_txn_begin(e.env, NULL, 0, &w.txn)
    if rc:
        return rc
    rc = carry_out(e, &w, ops, count, dbis, fresh_origin)
    if w.rows != NULL:
        mdb_cursor_close(w.rows)
    for lane in range(LANES):
        if w.cursors[lane] != NULL:
            mdb_cursor_close(w.cursors[lane])
    if rc:
        mdb_txn_abort(w.txn)
        return rc
    rc = mdb_txn_commit(w.txn)
    if rc:
        return rc
    e.origin = w.origin
    e.number = w.number
    for lane in range(LANES):
        tails[lane] = w.pos[lane].tail
    return 0
