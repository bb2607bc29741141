"""The version of what this package writes into an environment: `format` in the database `meta`."""

from libc.stdint cimport uint32_t
from libc.string cimport memcpy

from lmdb cimport *

cdef enum:
    FORMAT = 2  # since rows of journals hold runs of records; what 1 wrote is read as it is

cdef inline MDB_val format_key() noexcept nogil:
    cdef MDB_val key
    key.mv_data = <void *><const char *>b"format"
    key.mv_size = 6
    return key

cdef inline int read_format(MDB_txn *txn, uint32_t *found) noexcept nogil:
    """Format that wrote this environment, 0 for a new one; returns LMDB's code."""
    cdef MDB_dbi dbi
    cdef MDB_val key = format_key(), data
    cdef int rc = mdb_dbi_open(txn, b"meta", 0, &dbi)
    found[0] = 0
    if rc == 0:
        rc = mdb_get(txn, dbi, &key, &data)
    if rc == MDB_NOTFOUND:
        return 0
    if rc == 0 and data.mv_size != sizeof(uint32_t):
        return MDB_CORRUPTED
    if rc == 0:
        memcpy(found, data.mv_data, sizeof(uint32_t))
    return rc

cdef inline int write_format(MDB_txn *txn, MDB_dbi meta) noexcept nogil:
    cdef uint32_t version = FORMAT
    cdef MDB_val key = format_key(), data
    data.mv_data = &version
    data.mv_size = sizeof(version)
    return mdb_put(txn, meta, &key, &data, 0)
