# cython: boundscheck=False, wraparound=False
"""The longest common subsequence of two strings, by the table everybody uses."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport uint16_t

cdef enum:
    TABLE_CELLS_MAX = 4 << 20  # 8 MiB and some 20 ms

CELLS_MAX = TABLE_CELLS_MAX


def common(bytes one not None, bytes other not None):
    """Return the subsequence, and where it stands in both, from the end to the beginning.

    Each range is (first, last, first, last) of bytes that follow each other in both. Raises
    ValueError when the table would have more than CELLS_MAX cells.
    """
    cdef Py_ssize_t height = PyBytes_GET_SIZE(one), width = PyBytes_GET_SIZE(other)
    cdef uint16_t *table
    if (height + 1) * (width + 1) > TABLE_CELLS_MAX:
        raise ValueError(f"{height} and {width} bytes")
    # The common part is no longer than the shorter one, of 2047 bytes at most.
    table = <uint16_t *>PyMem_Malloc((height + 1) * (width + 1) * sizeof(uint16_t))
    if table == NULL:
        raise MemoryError
    try:
        fill(table, PyBytes_AS_STRING(one), height, PyBytes_AS_STRING(other), width)
        return read(table, one, height, other, width)
    finally:
        PyMem_Free(table)


cdef void fill(
    uint16_t *table, const char *one, Py_ssize_t height, const char *other, Py_ssize_t width,
) noexcept:
    """Each cell: the length that the first i and the first j bytes have in common."""
    cdef Py_ssize_t i, j
    cdef uint16_t *row = table
    cdef uint16_t *above
    for j in range(width + 1):
        row[j] = 0
    for i in range(height):
        above, row = row, row + width + 1
        row[0] = 0
        for j in range(width):
            if one[i] == other[j]:
                row[j + 1] = above[j] + 1
            else:
                row[j + 1] = above[j + 1] if above[j + 1] > row[j] else row[j]


cdef tuple read(
    const uint16_t *table, bytes one, Py_ssize_t height, bytes other, Py_ssize_t width,
):
    cdef const char *left = PyBytes_AS_STRING(one)
    cdef const char *top = PyBytes_AS_STRING(other)
    cdef Py_ssize_t i = height, j = width, room = width + 1, size = 0
    cdef list ranges = []
    while i > 0 and j > 0:
        if left[i - 1] == top[j - 1]:
            size += 1
            i -= 1
            j -= 1
            # Redis begins a new range once one reaches the first byte of either string.
            if i == 0 or j == 0 or left[i - 1] != top[j - 1]:
                ranges.append((i, i + size - 1, j, j + size - 1))
                size = 0
        elif table[(i - 1) * room + j] > table[i * room + j - 1]:
            i -= 1
        else:
            j -= 1
    return b"".join([one[first:last + 1] for first, last, _, _ in reversed(ranges)]), ranges
