"""What keyspaces take from `overlay`: its rows without a call of Python between."""

cdef class Overlay:
    cdef object store  # a Store; its type would bring LMDB into whoever needs rows
    cdef str db
    cdef dict now
    cdef dict frozen
    cdef dict logged
    cdef dict settling
    cdef set born     # rows of `now` that the store does not have
    cdef set born_frozen, born_logged  # ... of the other layers
    # Keys of all layers by their first byte, which is what kind of row it is: sorted, but for those
    # in `fresh`. Most kinds are never looked through, and none before the first look.
    cdef dict order
    cdef dict fresh
    cdef bint is_listed[256]
    cdef list noted_outside  # ... since the marks before it
    cdef list noted   # (row, whether it was in `now`, as what), since `mark`; or None
    cdef public object touched  # a set that takes note of every row changed, or None

    cdef bytes look(self, bytes key)
    cdef int change(self, bytes key, bytes value) except -1
    cdef int create(self, bytes key, bytes value) except -1
    cdef bint is_below(self, bytes key) except -1
    cdef int enlist(self, bytes key) except -1
    cdef int unlist(self, bytes key) except -1
    cdef int enlist_kinds(self, int first, int last) except -1
    cdef int forget_order(self) except -1
    cdef list merged(
        self, bytes start, bytes stop, Py_ssize_t limit, bint reverse, list order, Py_ssize_t low,
        Py_ssize_t high,
    )
    cdef list stored(self, bytes start, bytes stop, Py_ssize_t limit, bint reverse)
    cdef list sorted_of(self, int kind)
    cdef list between(self, bytes start, bytes stop)
