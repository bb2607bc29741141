from buffer cimport DAMAGED, TOO_LARGE, Buf, Cur
from envelope cimport Envelope
from group cimport Group

cdef inline int put_columns(Buf *out, Group *g) noexcept nogil:
    return TOO_LARGE

cdef inline int take_columns(Cur *c, Group *g, const Envelope *e) noexcept nogil:
    return DAMAGED
