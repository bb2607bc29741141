"""Lanes in LMDB: how a record and a lane's positions are stored and changed, without the GIL.

Stored record (the value; the key is its seq): `crc32c u32 | kind u8 | flags u8 | reserved u16 |
chain u64 | origin u64 | number u64 | body`. The checksum covers seq, lane and all after it (I14).

Positions of a lane: one value in the database `lanes`, under the key of one byte. It carries a
checksum too: a wrong position would lose or double records as surely as a wrong record.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from buffer cimport load32, load64, store32, store64
from crc cimport crc32c
from hash cimport hash_record, mix_chain
from lmdb cimport *

cdef enum:
    LANES = 3
    HEAD_BYTES = 32

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

cdef inline uint32_t record_crc(
    uint8_t lane, uint64_t seq, const uint8_t *record, size_t size,
) noexcept nogil:
    cdef uint8_t key[9]
    store64(key, seq)
    key[8] = lane
    return crc32c(crc32c(0, key, 9), record + 4, size - 4)

cdef inline bint record_fits(uint8_t lane, uint64_t seq, const MDB_val *value) noexcept nogil:
    """True if the value is the record that was stored under this lane and seq (I14)."""
    cdef const uint8_t *record = <const uint8_t *>value.mv_data
    return (
        value.mv_size >= HEAD_BYTES
        and load32(record) == record_crc(lane, seq, record, value.mv_size)
    )

cdef inline uint64_t record_chain(const MDB_val *value) noexcept nogil:
    return load64(<const uint8_t *>value.mv_data + 8)

cdef inline uint64_t write_record(
    uint8_t *at, uint8_t lane, uint64_t seq, uint8_t kind, uint64_t prev_chain,
    uint64_t origin, uint64_t number, const void *body, size_t size,
) noexcept nogil:
    """Write header and body at `at`; returns the running hash at `seq`."""
    cdef uint64_t chain = mix_chain(prev_chain, hash_record(kind, origin, number, body, size))
    memset(at, 0, 8)
    at[4] = kind
    store64(at + 8, chain)
    store64(at + 16, origin)
    store64(at + 24, number)
    if size:
        memcpy(at + HEAD_BYTES, body, size)
    store32(at, record_crc(lane, seq, at, HEAD_BYTES + size))
    return chain

cdef inline int append_record(
    MDB_cursor *cursor, LanePos *pos, uint8_t kind, uint64_t origin, uint64_t number,
    const void *body, size_t size,
) noexcept nogil:
    cdef MDB_val key, data
    cdef uint64_t seq = pos.tail + 1
    cdef int rc
    key.mv_size = 8
    key.mv_data = &seq
    data.mv_size = HEAD_BYTES + size
    data.mv_data = NULL
    rc = mdb_cursor_put(cursor, &key, &data, MDB_APPEND | MDB_RESERVE)
    if rc == MDB_KEYEXIST:
        # A key beyond the tail: a bit of an older key flipped on the disk. It must not stop the
        # lane; reading finds it where its own number is missing.
        data.mv_size = HEAD_BYTES + size
        rc = mdb_cursor_put(cursor, &key, &data, MDB_RESERVE)
    if rc:
        return rc
    pos.tail_chain = write_record(
        <uint8_t *>data.mv_data, <uint8_t>pos.lane, seq, kind, pos.tail_chain,
        origin, number, body, size)
    pos.tail = seq
    pos.stored_bytes += HEAD_BYTES + size
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
    cdef uint64_t seq
    cdef int rc
    if up_to <= pos.trimmed:
        return 0
    rc = mdb_cursor_open(txn, dbi, &cursor)
    if rc:
        return rc
    key.mv_size = 8
    key.mv_data = &up_to
    rc = mdb_cursor_get(cursor, &key, &data, MDB_SET)
    if rc == 0 and data.mv_size >= HEAD_BYTES:
        pos.trimmed_chain = record_chain(&data)
    rc = mdb_cursor_get(cursor, &key, &data, MDB_FIRST)
    while rc == 0:
        if key.mv_size != 8:
            rc = MDB_CORRUPTED
            break
        memcpy(&seq, key.mv_data, 8)
        if seq > up_to:
            break
        if pos.stored_bytes >= data.mv_size:
            pos.stored_bytes -= data.mv_size
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
    cdef uint64_t at = seq - 1
    cdef int rc
    if at == pos.trimmed:
        chain[0] = pos.trimmed_chain
        return 0
    if at == pos.tail:
        chain[0] = pos.tail_chain
        return 0
    key.mv_size = 8
    key.mv_data = &at
    rc = mdb_get(txn, dbi, &key, &data)
    if rc == MDB_NOTFOUND or (rc == 0 and not record_fits(<uint8_t>pos.lane, at, &data)):
        return LANE_DAMAGED
    if rc == 0:
        chain[0] = record_chain(&data)
    return rc

cdef inline int rechain(
    MDB_cursor *cursor, LanePos *pos, uint64_t seq, uint64_t chain,
) noexcept nogil:
    """Let the hashes after `seq` follow from `chain`, its new one, up to the next damaged record.

    Replacing a record changes history; whoever has records above `seq` already will see another
    hash there and ask for them again (R4), and doubles are known by their event ids.
    """
    cdef MDB_val key, data
    cdef uint8_t *copy
    cdef size_t size
    cdef int rc
    while seq < pos.tail:
        seq += 1
        key.mv_size = 8
        key.mv_data = &seq
        rc = mdb_cursor_get(cursor, &key, &data, MDB_SET)
        if rc == MDB_NOTFOUND or (rc == 0 and not record_fits(<uint8_t>pos.lane, seq, &data)):
            return 0  # its own replacement goes on from here
        if rc:
            return rc
        size = data.mv_size
        copy = <uint8_t *>malloc(size)
        if copy == NULL:
            return OUT_OF_MEMORY
        memcpy(copy, data.mv_data, size)
        chain = mix_chain(chain, hash_record(
            copy[4], load64(copy + 16), load64(copy + 24), copy + HEAD_BYTES, size - HEAD_BYTES))
        store64(copy + 8, chain)
        store32(copy, record_crc(<uint8_t>pos.lane, seq, copy, size))
        data.mv_data = copy
        rc = mdb_cursor_put(cursor, &key, &data, MDB_CURRENT)
        free(copy)
        if rc:
            return rc
    pos.tail_chain = chain
    return 0

cdef inline int replace_record(
    MDB_txn *txn, MDB_dbi dbi, LanePos *pos, uint64_t seq, uint8_t kind,
    uint64_t origin, uint64_t number, const void *body, size_t size,
) noexcept nogil:
    cdef MDB_cursor *cursor = NULL
    cdef MDB_val key, data
    cdef uint64_t chain = 0
    cdef int rc
    if seq <= pos.trimmed or seq > pos.tail:
        return NOT_IN_LANE
    rc = chain_before(txn, dbi, pos, seq, &chain)
    if rc:
        return rc
    rc = mdb_cursor_open(txn, dbi, &cursor)
    if rc:
        return rc
    key.mv_size = 8
    key.mv_data = &seq
    if mdb_cursor_get(cursor, &key, &data, MDB_SET) == 0 and pos.stored_bytes >= data.mv_size:
        pos.stored_bytes -= data.mv_size
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
            pos.stored_bytes += data.mv_size
            if record_fits(lane, seq, &data):
                if pos.tail == 0:
                    pos.trimmed = pos.floor = pos.safe = seq - 1
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
