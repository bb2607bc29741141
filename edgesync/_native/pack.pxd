"""What `cells` takes from `pack`: values without their mark."""

cdef bytes squeeze(bytes value)
cdef bytes expand(const char *source, Py_ssize_t size, Py_ssize_t limit)
