"""Lanes in LMDB: how a lane's records and positions are changed, without the GIL.

What a row holds is told in records.pxd. Positions of a lane: one value in the database `lanes`,
under the key of one byte. It carries a checksum too: a wrong position would lose or double records
as surely as a wrong record.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from buffer cimport load64, store32, store64
from crc cimport crc32c
from lmdb cimport *
from records cimport (
    HEAD_BYTES, RUN_BODY_MAX, RUN_HEAD_BYTES, Run, Walk, add_to_run, bytes_of, chain_again,
    chain_inside, first_of, is_run, record_chain, record_crc, record_fits, run_takes, step_run,
    walk, write_record,
)

cdef enum:
    LANES = 3

# Failures that are not LMDB's own; its codes lie below -30000 or are positive errno values.
cdef enum Refusal:
    LANE_DAMAGED = -1
    MARK_BEYOND_TAIL = -2
    NOT_IN_LANE = -3
    OUT_OF_MEMORY = -4
    INTAKE_FULL = -5
    DISK_FULL = -6
    NO_JOURNAL = -7

cdef struct LanePos:
    uint32_t crc
    uint32_t lane
    uint64_t tail
    uint64_t tail_chain
    uint64_t floor
    uint64_t safe
    uint64_t trimmed
    uint64_t trimmed_chain
    uint64_t stored_bytes

cdef inline uint32_t pos_crc(const LanePos *pos) noexcept nogil:
    return crc32c(0, <const uint8_t *>pos + 4, sizeof(LanePos) - 4)

cdef inline int load_lane(MDB_txn *txn, MDB_dbi dbi, uint8_t lane, LanePos *pos) noexcept nogil:
    """Read the positions of `lane`; a lane never written to is all zero."""
    cdef MDB_val key, data
    cdef int rc
    memset(pos, 0, sizeof(LanePos))
    pos.lane = lane
    key.mv_size = 1
    key.mv_data = &lane
    rc = mdb_get(txn, dbi, &key, &data)
    if rc == MDB_NOTFOUND:
        return 0
    if rc:
        return rc
    if data.mv_size != sizeof(LanePos):
        return LANE_DAMAGED
    memcpy(pos, data.mv_data, sizeof(LanePos))
    if pos_crc(pos) != pos.crc or pos.lane != lane:
        return LANE_DAMAGED
    return 0

cdef inline int save_lane(MDB_txn *txn, MDB_dbi dbi, LanePos *pos) noexcept nogil:
    cdef MDB_val key, data
    cdef uint8_t lane = <uint8_t>pos.lane
    pos.crc = pos_crc(pos)
    key.mv_size = 1
    key.mv_data = &lane
    data.mv_size = sizeof(LanePos)
    data.mv_data = pos
    return mdb_put(txn, dbi, &key, &data, 0)

cdef inline int new_row(
    MDB_cursor *cursor, uint64_t seq, size_t size, uint8_t **row,
) noexcept nogil:
    """Make room for a row at the end of a lane."""
    cdef MDB_val key, data
    cdef int rc
    key.mv_size = 8
    key.mv_data = &seq
    data.mv_size = size
    data.mv_data = NULL
    rc = mdb_cursor_put(cursor, &key, &data, MDB_APPEND | MDB_RESERVE)
    if rc == MDB_KEYEXIST:
        # A key beyond the tail: a bit of an older key flipped on the disk. It must not stop the
        # lane; reading finds it where its own number is missing.
        data.mv_size = size
        rc = mdb_cursor_put(cursor, &key, &data, MDB_RESERVE)
    row[0] = <uint8_t *>data.mv_data
    return rc

cdef inline int append_record(
    MDB_cursor *cursor, LanePos *pos, Run *run, uint8_t kind, uint64_t origin, uint64_t number,
    const void *body, size_t size,
) noexcept nogil:
    """Append a record: to the run if it is small, which is a row after `end_run`."""
    cdef uint8_t *row
    cdef int rc
    if run.count and (
        size > RUN_BODY_MAX or not run_takes(run, kind, origin, number, size)
    ):
        rc = end_run(cursor, pos, run)
        if rc:
            return rc
    if size <= RUN_BODY_MAX:
        pos.tail_chain = add_to_run(run, kind, pos.tail_chain, origin, number, body, size)
        pos.tail += 1
        pos.stored_bytes += HEAD_BYTES + size
        return 0
    rc = new_row(cursor, pos.tail + 1, HEAD_BYTES + size, &row)
    if rc:
        return rc
    pos.tail += 1
    pos.stored_bytes += HEAD_BYTES + size
    pos.tail_chain = write_record(
        row, <uint8_t>pos.lane, pos.tail, kind, pos.tail_chain, origin, number, body, size)
    return 0

cdef inline int end_run(MDB_cursor *cursor, LanePos *pos, Run *run) noexcept nogil:
    """Let what is in the run be a row; one record alone is one as it always was."""
    cdef uint32_t count = run.count
    cdef uint8_t *row
    cdef size_t size
    cdef int rc
    run.count = 0
    if count == 0:
        return 0
    size = run.size if count > 1 else HEAD_BYTES + run.size - RUN_HEAD_BYTES - 2
    rc = new_row(cursor, pos.tail, size, &row)
    if rc:
        return rc
    if count == 1:
        write_record(
            row, <uint8_t>pos.lane, pos.tail, run.data[4], load64(run.data + 32),
            load64(run.data + 16), load64(run.data + 24), run.data + RUN_HEAD_BYTES + 2,
            size - HEAD_BYTES)
        return 0
    memcpy(row, run.data, size)
    store32(row, record_crc(<uint8_t>pos.lane, pos.tail, row, size))
    return 0

cdef inline int move_mark(LanePos *pos, uint64_t floor, uint64_t safe) noexcept nogil:
    """Let floor and safe grow; safe <= floor <= tail stays true (I3)."""
    if floor > pos.tail:
        return MARK_BEYOND_TAIL
    if floor > pos.floor:
        pos.floor = floor
    if safe > pos.floor:
        safe = pos.floor
    if safe > pos.safe:
        pos.safe = safe
    return 0

cdef inline void move_back(LanePos *pos, uint64_t floor) noexcept nogil:
    """The other side lost what was above `floor`; below `trimmed` nothing is left to send again."""
    if floor < pos.trimmed:
        floor = pos.trimmed
    if floor < pos.floor:
        pos.floor = floor
    if pos.safe > pos.floor:
        pos.safe = pos.floor

cdef inline int trim_lane(
    MDB_txn *txn, MDB_dbi dbi, LanePos *pos, uint64_t up_to,
) noexcept nogil:
    """Delete the records up to `up_to`, but none above safe (I3)."""
    return delete_up_to(txn, dbi, pos, up_to if up_to < pos.safe else pos.safe)

cdef inline int drop_lane(
    MDB_txn *txn, MDB_dbi dbi, LanePos *pos, uint64_t up_to,
) noexcept nogil:
    """Delete the records up to `up_to` although nobody may have them: a policy says so (I3).

    The floor stays where the other side is: what was dropped is never taken for delivered, and the
    range between the two is declared to it as a gap.
    """
    return delete_up_to(txn, dbi, pos, up_to if up_to < pos.tail else pos.tail)

cdef inline int delete_up_to(
    MDB_txn *txn, MDB_dbi dbi, LanePos *pos, uint64_t up_to,
) noexcept nogil:
    cdef MDB_cursor *cursor = NULL
    cdef MDB_val key, data
    cdef uint64_t seq, gone
    cdef int rc
    if up_to <= pos.trimmed:
        return 0
    rc = mdb_cursor_open(txn, dbi, &cursor)
    if rc:
        return rc
    key.mv_size = 8
    key.mv_data = &up_to
    rc = mdb_cursor_get(cursor, &key, &data, MDB_SET_RANGE)
    if rc == 0 and data.mv_size >= HEAD_BYTES and key.mv_size == 8:
        memcpy(&seq, key.mv_data, 8)
        if seq == up_to:
            pos.trimmed_chain = record_chain(&data)
        elif record_fits(<uint8_t>pos.lane, seq, &data) and first_of(seq, &data) <= up_to:
            # A run stays until all of it may go.
            chain_inside(&data, first_of(seq, &data), up_to, &pos.trimmed_chain)
    rc = mdb_cursor_get(cursor, &key, &data, MDB_FIRST)
    while rc == 0:
        if key.mv_size != 8:
            rc = MDB_CORRUPTED
            break
        memcpy(&seq, key.mv_data, 8)
        gone = bytes_of(&data, seq, pos.trimmed, up_to)
        if pos.stored_bytes >= gone:
            pos.stored_bytes -= gone
        if seq > up_to:
            break
        rc = mdb_cursor_del(cursor, 0)
        if rc == 0:
            # After a delete the cursor stands before the next one; FIRST is as cheap and sure.
            rc = mdb_cursor_get(cursor, &key, &data, MDB_FIRST)
    mdb_cursor_close(cursor)
    if rc and rc != MDB_NOTFOUND:
        return rc
    pos.trimmed = up_to
    return 0

cdef inline int chain_before(
    MDB_txn *txn, MDB_dbi dbi, const LanePos *pos, uint64_t seq, uint64_t *chain,
) noexcept nogil:
    """The running hash at `seq - 1`; LANE_DAMAGED when that record is."""
    cdef MDB_val key, data
    cdef uint64_t at = seq - 1, found
    cdef int rc
    if at == pos.trimmed:
        chain[0] = pos.trimmed_chain
        return 0
    if at == pos.tail:
        chain[0] = pos.tail_chain
        return 0
    rc = row_of(txn, dbi, pos, at, &key, &data)
    if rc:
        return rc
    memcpy(&found, key.mv_data, 8)
    if found == at:
        chain[0] = record_chain(&data)
    elif not chain_inside(&data, first_of(found, &data), at, chain):
        return LANE_DAMAGED
    return 0

cdef inline int row_of(
    MDB_txn *txn, MDB_dbi dbi, const LanePos *pos, uint64_t seq, MDB_val *key, MDB_val *data,
) noexcept nogil:
    """Find the row that has record `seq`; LANE_DAMAGED when none does, or it does not fit."""
    cdef MDB_cursor *cursor = NULL
    cdef uint64_t found
    cdef int rc = mdb_cursor_open(txn, dbi, &cursor)
    if rc:
        return rc
    key.mv_size = 8
    key.mv_data = &seq
    rc = mdb_cursor_get(cursor, key, data, MDB_SET_RANGE)
    mdb_cursor_close(cursor)
    if rc:
        return LANE_DAMAGED if rc == MDB_NOTFOUND else rc
    if key.mv_size != 8:
        return MDB_CORRUPTED
    memcpy(&found, key.mv_data, 8)
    if not record_fits(<uint8_t>pos.lane, found, data) or first_of(found, data) > seq:
        return LANE_DAMAGED
    return 0

cdef inline int rechain(
    MDB_cursor *cursor, LanePos *pos, uint64_t seq, uint64_t chain,
) noexcept nogil:
    """Let the hashes after `seq` follow from `chain`, its new one, up to the next damaged record.

    Replacing a record changes history; whoever has records above `seq` already will see another
    hash there and ask for them again (R4), and doubles are known by their event ids.
    """
    cdef MDB_val key, data
    cdef uint64_t found
    cdef uint8_t *copy
    cdef size_t size
    cdef int rc
    while seq < pos.tail:
        seq += 1
        key.mv_size = 8
        key.mv_data = &seq
        rc = mdb_cursor_get(cursor, &key, &data, MDB_SET_RANGE)
        if rc == MDB_NOTFOUND:
            return 0
        if rc:
            return rc
        memcpy(&found, key.mv_data, 8)
        if not record_fits(<uint8_t>pos.lane, found, &data) or first_of(found, &data) != seq:
            return 0  # its own replacement goes on from here
        seq = found
        size = data.mv_size
        copy = <uint8_t *>malloc(size)
        if copy == NULL:
            return OUT_OF_MEMORY
        memcpy(copy, data.mv_data, size)
        chain = chain_again(copy, size, chain)
        store32(copy, record_crc(<uint8_t>pos.lane, seq, copy, size))
        key.mv_data = &seq
        data.mv_data = copy
        rc = mdb_cursor_put(cursor, &key, &data, MDB_CURRENT)
        free(copy)
        if rc:
            return rc
    pos.tail_chain = chain
    return 0

cdef inline int split_run(
    MDB_txn *txn, MDB_dbi dbi, MDB_cursor *cursor, LanePos *pos, uint64_t seq,
) noexcept nogil:
    """Make a row of each record of the run that has `seq`, if there is one that fits."""
    cdef MDB_val key, data, one
    cdef uint8_t *copy
    cdef uint64_t last, at, chain
    cdef Walk w
    cdef int rc = row_of(txn, dbi, pos, seq, &key, &data)
    if rc == LANE_DAMAGED or (rc == 0 and not is_run(&data)):
        return 0
    if rc:
        return rc
    memcpy(&last, key.mv_data, 8)
    at = first_of(last, &data)
    copy = <uint8_t *>malloc(data.mv_size)
    if copy == NULL:
        return OUT_OF_MEMORY
    memcpy(copy, data.mv_data, data.mv_size)
    data.mv_data = copy
    walk(&w, &data, 0)
    chain = w.chain
    key.mv_size = 8
    while rc == 0 and step_run(&w):
        one.mv_size, one.mv_data = HEAD_BYTES + w.size, NULL
        key.mv_data = &at
        # The last one takes the place of the run.
        rc = mdb_cursor_put(cursor, &key, &one, MDB_RESERVE)
        if rc == 0:
            write_record(<uint8_t *>one.mv_data, <uint8_t>pos.lane, at, w.kind, chain,
                         w.origin, w.number, w.body, w.size)
        chain = w.chain
        at += 1
    free(copy)
    return rc

cdef inline int replace_record(
    MDB_txn *txn, MDB_dbi dbi, LanePos *pos, uint64_t seq, uint8_t kind,
    uint64_t origin, uint64_t number, const void *body, size_t size,
) noexcept nogil:
    cdef MDB_cursor *cursor = NULL
    cdef MDB_val key, data
    cdef uint64_t chain = 0, gone
    cdef int rc
    if seq <= pos.trimmed or seq > pos.tail:
        return NOT_IN_LANE
    rc = chain_before(txn, dbi, pos, seq, &chain)
    if rc == LANE_DAMAGED:
        rc = 0  # so is the one before: when that is replaced, the hashes follow from there
    if rc:
        return rc
    rc = mdb_cursor_open(txn, dbi, &cursor)
    if rc:
        return rc
    rc = split_run(txn, dbi, cursor, pos, seq)
    if rc:
        mdb_cursor_close(cursor)
        return rc
    key.mv_size = 8
    key.mv_data = &seq
    if mdb_cursor_get(cursor, &key, &data, MDB_SET) == 0:
        gone = bytes_of(&data, seq, pos.trimmed, seq)
        if pos.stored_bytes >= gone:
            pos.stored_bytes -= gone
    data.mv_size = HEAD_BYTES + size
    data.mv_data = NULL
    rc = mdb_cursor_put(cursor, &key, &data, MDB_RESERVE)
    if rc == 0:
        pos.stored_bytes += HEAD_BYTES + size
        chain = write_record(
            <uint8_t *>data.mv_data, <uint8_t>pos.lane, seq, kind, chain,
            origin, number, body, size)
        rc = rechain(cursor, pos, seq, chain)
    mdb_cursor_close(cursor)
    return rc

cdef inline int rebuild_lane(
    MDB_txn *txn, MDB_dbi journal, uint8_t lane, LanePos *pos,
) noexcept nogil:
    cdef MDB_cursor *cursor = NULL
    cdef MDB_val key, data
    cdef uint64_t seq
    cdef int rc
    memset(pos, 0, sizeof(LanePos))
    pos.lane = lane
    rc = mdb_cursor_open(txn, journal, &cursor)
    while rc == 0:
        rc = mdb_cursor_get(cursor, &key, &data, MDB_NEXT)
        if rc == 0 and key.mv_size == 8:
            memcpy(&seq, key.mv_data, 8)
            pos.stored_bytes += bytes_of(&data, seq, 0, seq)
            if record_fits(lane, seq, &data):
                if pos.tail == 0:
                    pos.trimmed = pos.floor = pos.safe = first_of(seq, &data) - 1
                pos.tail = seq
                pos.tail_chain = record_chain(&data)
    if cursor != NULL:
        mdb_cursor_close(cursor)
    return 0 if rc == MDB_NOTFOUND else rc

cdef inline int mend_lanes(
    MDB_txn *txn, MDB_dbi lanes, const MDB_dbi *journals, bint *mended,
) noexcept nogil:
    """Derive a lane's positions from its records where the stored ones are damaged.

    What the other side has is not in the records: floor falls back to `trimmed`, and the next
    greeting tells it again. The hash at `trimmed` is lost with them; it matters only to a side that
    stands exactly there, which then asks for all that is kept.
    """
    cdef LanePos pos
    cdef uint8_t lane
    cdef int rc
    for lane in range(LANES):
        rc = load_lane(txn, lanes, lane, &pos)
        mended[lane] = rc == LANE_DAMAGED
        if mended[lane]:
            rc = rebuild_lane(txn, journals[lane], lane, &pos)
            if rc == 0:
                rc = save_lane(txn, lanes, &pos)
        if rc:
            return rc
    return 0
