"""Walking the keys of one database, in either direction, within limits."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize

from lmdb cimport *

cdef inline MDB_val as_val(bytes key):
    cdef MDB_val val
    val.mv_size = len(key)
    val.mv_data = PyBytes_AS_STRING(key)
    return val

cdef inline int seek(
    MDB_cursor *cursor, MDB_val *key, MDB_val *value, const MDB_val *low, const MDB_val *high,
    bint reverse,
) noexcept:
    """Stand on the first key of the range in the direction asked; `high` NULL: no upper end."""
    cdef int rc
    if reverse and high == NULL:
        return mdb_cursor_get(cursor, key, value, MDB_LAST)
    if high != NULL and high.mv_size == 0:
        return MDB_NOTFOUND
    if not reverse and low.mv_size == 0:
        return mdb_cursor_get(cursor, key, value, MDB_FIRST)
    key[0] = high[0] if reverse else low[0]
    rc = mdb_cursor_get(cursor, key, value, MDB_SET_RANGE)
    if reverse:
        # The first key not below `high`, or none: the one before it is the top of the range.
        return mdb_cursor_get(cursor, key, value, MDB_PREV if rc == 0 else MDB_LAST)
    return rc

cdef inline list walk(
    MDB_txn *txn, MDB_cursor *cursor, MDB_dbi dbi, bytes start, bytes stop,
    Py_ssize_t limit, Py_ssize_t limit_bytes, bint reverse, bint is_size, int *status,
):
    """Return (key, value) pairs of [start, stop); `status` is 0 or what LMDB said.

    is_size   in place of the value its size: a large one is not read from the disk for it
    """
    cdef MDB_val key, value
    cdef MDB_val low = as_val(start)
    cdef MDB_val high = as_val(stop or b"")
    cdef bint bounded = stop is not None
    cdef Py_ssize_t total = 0
    cdef list rows = []
    cdef int rc = seek(cursor, &key, &value, &low, &high if bounded else NULL, reverse)
    while rc == 0 and len(rows) < limit:
        if reverse and low.mv_size and mdb_cmp(txn, dbi, &key, &low) < 0:
            break
        if not reverse and bounded and mdb_cmp(txn, dbi, &key, &high) >= 0:
            break
        total += key.mv_size + value.mv_size
        if rows and total > limit_bytes:
            break
        rows.append((
            PyBytes_FromStringAndSize(<char *>key.mv_data, key.mv_size),
            value.mv_size if is_size else
            PyBytes_FromStringAndSize(<char *>value.mv_data, value.mv_size),
        ))
        rc = mdb_cursor_get(cursor, &key, &value, MDB_PREV if reverse else MDB_NEXT)
    status[0] = 0 if rc == MDB_NOTFOUND else rc
    return rows
