"""How a row of a journal holds a record, or a run of small ones.

A row: `crc32c u32 | kind u8 | flags u8 | count u16 | chain u64 | origin u64 | number u64 | body`;
its key is the seq. The checksum covers key, lane and all after itself (I14).

A *run* is a row of consecutive records of one kind with consecutive numbers, as one transaction
brings them: flag 2, `count` records, the key is the seq of the last one, `chain` that after it and
`number` that of the first one. Its body is `chain before the first u64`, then each record as
`size u16 | body`. As rows of their own, readings that share no time take 80 bytes each, here 34.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from buffer cimport load16, load32, load64, store32, store64
from crc cimport crc32c
from hash cimport hash_record, mix_chain
from lmdb cimport MDB_val

cdef extern from *:
    """
    #ifndef EDGESYNC_STORE16
    #define EDGESYNC_STORE16
    static inline void edgesync_store16(unsigned char *at, unsigned value) {
        at[0] = (unsigned char)value;
        at[1] = (unsigned char)(value >> 8);
    }
    #endif
    """
    void store16 "edgesync_store16"(uint8_t *at, unsigned int value) noexcept nogil

cdef enum:
    HEAD_BYTES = 32
    RUN_HEAD_BYTES = 40
    # Two such rows fill a page of 4 KiB; LMDB gives larger ones pages of their own.
    RUN_BYTES_MAX = 2016
    RUN_BODY_MAX = 480
    FLAG_RUN = 2

# Records of a transaction that will be one row.
cdef struct Run:
    uint32_t count
    size_t size
    uint8_t data[RUN_BYTES_MAX]

# The records of one row, in order.
cdef struct Walk:
    const uint8_t *at
    const uint8_t *end
    uint8_t kind
    uint64_t origin
    uint64_t number  # of the record taken last
    uint64_t chain  # after that record
    const uint8_t *body
    size_t size

cdef inline uint32_t record_crc(
    uint8_t lane, uint64_t seq, const uint8_t *record, size_t size,
) noexcept nogil:
    cdef uint8_t key[9]
    store64(key, seq)
    key[8] = lane
    return crc32c(crc32c(0, key, 9), record + 4, size - 4)

cdef inline bint is_run(const MDB_val *value) noexcept nogil:
    return (<const uint8_t *>value.mv_data)[5] & FLAG_RUN

cdef inline bint record_fits(uint8_t lane, uint64_t seq, const MDB_val *value) noexcept nogil:
    """True if the row is what was stored under this lane and seq (I14)."""
    cdef const uint8_t *record = <const uint8_t *>value.mv_data
    return (
        value.mv_size >= HEAD_BYTES
        and load32(record) == record_crc(lane, seq, record, value.mv_size)
        and (not is_run(value) or (
            value.mv_size >= RUN_HEAD_BYTES and 0 < load16(record + 6) <= seq))
    )

cdef inline uint64_t record_chain(const MDB_val *value) noexcept nogil:
    """The running hash after the last record of a row."""
    return load64(<const uint8_t *>value.mv_data + 8)

cdef inline uint64_t first_of(uint64_t key, const MDB_val *value) noexcept nogil:
    """The seq of the first record of a row that fits."""
    return key + 1 - load16(<const uint8_t *>value.mv_data + 6) if is_run(value) else key

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

cdef inline bint run_takes(
    const Run *run, uint8_t kind, uint64_t origin, uint64_t number, size_t size,
) noexcept nogil:
    """True if the next record may be in the run."""
    return (
        run.data[4] == kind and load64(run.data + 16) == origin
        and load64(run.data + 24) + run.count == number
        and run.size + 2 + size <= RUN_BYTES_MAX
    )

cdef inline uint64_t add_to_run(
    Run *run, uint8_t kind, uint64_t prev_chain, uint64_t origin, uint64_t number,
    const void *body, size_t size,
) noexcept nogil:
    """Put a record into the run, which takes it or is empty; returns the running hash after it."""
    cdef uint64_t chain = mix_chain(prev_chain, hash_record(kind, origin, number, body, size))
    if run.count == 0:
        memset(run.data, 0, 8)
        run.data[4] = kind
        run.data[5] = FLAG_RUN
        store64(run.data + 16, origin)
        store64(run.data + 24, number)
        store64(run.data + 32, prev_chain)
        run.size = RUN_HEAD_BYTES
    run.count += 1
    store16(run.data + 6, run.count)
    store64(run.data + 8, chain)
    store16(run.data + run.size, <unsigned int>size)
    memcpy(run.data + run.size + 2, body, size)
    run.size += 2 + size
    return chain

cdef inline void walk(Walk *w, const MDB_val *value, uint64_t prev_chain) noexcept nogil:
    """Begin before the first record of a row that fits; a run knows its hash before better."""
    cdef const uint8_t *record = <const uint8_t *>value.mv_data
    w.kind, w.origin, w.number = record[4], load64(record + 16), load64(record + 24) - 1
    w.end = record + value.mv_size
    w.at = record + HEAD_BYTES
    w.chain = prev_chain
    if is_run(value):
        w.chain = load64(w.at)
        w.at = record + RUN_HEAD_BYTES

cdef inline bint step_run(Walk *w) noexcept nogil:
    """Take the next record of a run; False after the last one."""
    if w.end - w.at < 2 or w.end - w.at - 2 < load16(w.at):
        return False
    w.size, w.body = load16(w.at), w.at + 2
    w.at = w.body + w.size
    w.number += 1
    w.chain = mix_chain(w.chain, hash_record(w.kind, w.origin, w.number, w.body, w.size))
    return True

cdef inline bint chain_inside(
    const MDB_val *value, uint64_t first, uint64_t seq, uint64_t *chain,
) noexcept nogil:
    """Find the running hash after record `seq` of a run whose first one is `first`."""
    cdef Walk w
    walk(&w, value, 0)
    while first <= seq:
        if not step_run(&w):
            return False
        first += 1
    chain[0] = w.chain
    return True

cdef inline uint64_t bytes_of(
    const MDB_val *value, uint64_t key, uint64_t after, uint64_t up_to,
) noexcept nogil:
    """Bytes of a row's records with after < seq <= up_to, each with a header, as they are read."""
    cdef const uint8_t *at = <const uint8_t *>value.mv_data + RUN_HEAD_BYTES
    cdef const uint8_t *end = <const uint8_t *>value.mv_data + value.mv_size
    cdef uint64_t total = 0, seq
    if value.mv_size < RUN_HEAD_BYTES or not is_run(value):
        return value.mv_size if after < key <= up_to else 0
    seq = first_of(key, value)
    while end - at >= 2 and end - at - 2 >= load16(at):
        if after < seq <= up_to:
            total += HEAD_BYTES + load16(at)
        at += 2 + load16(at)
        seq += 1
    return total

cdef inline uint64_t chain_again(uint8_t *record, size_t size, uint64_t prev) noexcept nogil:
    """Let a row's hashes follow from `prev`; returns the last one. Its checksum is the caller's."""
    cdef MDB_val value
    cdef Walk w
    value.mv_data, value.mv_size = record, size
    if is_run(&value):
        store64(record + HEAD_BYTES, prev)
        walk(&w, &value, prev)
        while step_run(&w):
            pass
        prev = w.chain
    else:
        prev = mix_chain(prev, hash_record(
            record[4], load64(record + 16), load64(record + 24), record + HEAD_BYTES,
            size - HEAD_BYTES))
    store64(record + 8, prev)
    return prev
