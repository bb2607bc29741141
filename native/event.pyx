# cython: language_level=3, auto_pickle=False, autotestdict=False
"""The Cap'n Proto `Event` record by hand, both directions, total on hostile input.

pycapnp takes 2 to 10 us an event, this 0.1 (bench/benchmarks/event.py), and pycapnp stays the
oracle in the tests. The layout is that of schema/event.capnp, one segment, framed:

    word 0      segment count - 1 (u32, 0), segment size in words (u32)
    word 1      pointer to the struct: 4 data words, 2 pointers, directly behind
    word 2..5   type u16, action u16, entityType u16, 0 | timeNs | createdNs | hlc
    word 6, 7   pointers to entityId (with its NUL) and body, null when empty

A decoder must take what any writer of the schema may produce: sections longer (a newer schema) or
shorter (trailing defaults cut), content anywhere in the segment. It refuses several segments and
far pointers, which no writer needs for one event, and whatever leaves the segment.
Source: https://capnproto.org/encoding.html
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_AsUTF8AndSize, PyUnicode_DecodeUTF8
from libc.stdint cimport int32_t, int64_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from buffer cimport load16, load32, load64, store64

from edgesync.errors import RecordError

cdef enum:
    FRAME_BYTES = 8
    DATA_WORDS = 4
    POINTERS = 2
    FIXED_WORDS = 1 + DATA_WORDS + POINTERS  # with the root pointer
    BYTES_MAX = 64 << 20
    LIST_OF_BYTES = 2

# A run of bytes inside a message; `at` is NULL for a null pointer.
cdef struct Span:
    const char *at
    uint32_t size


cdef inline uint64_t list_pointer(int64_t offset, uint64_t count) noexcept:
    return 1 | <uint64_t>(offset << 2) & 0xFFFFFFFF | <uint64_t>LIST_OF_BYTES << 32 | count << 35


def encode(
    uint16_t type, uint16_t action, uint16_t entity_type, str entity_id not None,
    bytes body not None, int64_t time_ns, int64_t created_ns, uint64_t hlc,
) -> bytes:
    """Return the framed message; raises RecordError beyond 64 MiB, OverflowError past a field."""
    cdef Py_ssize_t id_size = 0
    cdef const char *id_text = PyUnicode_AsUTF8AndSize(entity_id, &id_size)
    cdef Py_ssize_t body_size = PyBytes_GET_SIZE(body)
    cdef Py_ssize_t id_words, body_words, words
    cdef bytes message
    cdef char *to
    if id_size > BYTES_MAX or body_size > BYTES_MAX or id_size + body_size > BYTES_MAX - 128:
        raise RecordError(f"event of {id_size + body_size} bytes; at most {BYTES_MAX}")
    id_words = (id_size + 1 + 7) // 8 if id_size else 0
    body_words = (body_size + 7) // 8
    words = FIXED_WORDS + id_words + body_words
    message = PyBytes_FromStringAndSize(NULL, FRAME_BYTES + 8 * words)
    to = PyBytes_AS_STRING(message)
    store64(to, <uint64_t>words << 32)
    store64(to + 8, <uint64_t>DATA_WORDS << 32 | <uint64_t>POINTERS << 48)
    store64(to + 16, type | <uint64_t>action << 16 | <uint64_t>entity_type << 32)
    store64(to + 24, <uint64_t>time_ns)
    store64(to + 32, <uint64_t>created_ns)
    store64(to + 40, hlc)
    # Offsets count words from the end of the pointer itself.
    store64(to + 48, list_pointer(1, id_size + 1) if id_size else 0)
    store64(to + 56, list_pointer(id_words, body_size) if body_size else 0)
    to += 64
    if id_words:
        store64(to + 8 * (id_words - 1), 0)
        memcpy(to, id_text, id_size)
        to += 8 * id_words
    if body_words:
        store64(to + 8 * (body_words - 1), 0)
        memcpy(to, PyBytes_AS_STRING(body), body_size)
    return message


cdef bint find_list(
    const char *segment, int64_t words, int64_t index, Span *found,
) noexcept nogil:
    """Follow the pointer at word `index` to a list of bytes; False if it is anything else."""
    cdef uint64_t pointer = load64(segment + 8 * index)
    cdef int64_t start
    found.at = NULL
    found.size = 0
    if pointer == 0:
        return True
    if pointer & 3 != 1 or (pointer >> 32) & 7 != LIST_OF_BYTES:
        return False
    start = index + 1 + (<int32_t><uint32_t>pointer >> 2)
    found.size = <uint32_t>(pointer >> 35)
    if start < 0 or start > words or (<int64_t>found.size + 7) // 8 > words - start:
        return False
    found.at = segment + 8 * start
    return True


def decode(bytes data not None) -> tuple[int, int, int, str, bytes, int, int, int]:
    """Return the fields in the order `encode` takes them; raises RecordError."""
    cdef const char *segment = PyBytes_AS_STRING(data) + FRAME_BYTES
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
    cdef int64_t words, start
    cdef uint64_t root
    cdef uint32_t data_words, pointers
    cdef char fields[8 * DATA_WORDS]
    cdef Span id_span, body_span
    if size < FRAME_BYTES + 8 or size > BYTES_MAX:
        raise RecordError(f"an event of {size} bytes")
    words = load32(segment - 4)
    if load32(segment - FRAME_BYTES) != 0 or 8 * words != size - FRAME_BYTES:
        raise RecordError("the event is not one segment of the size it names")
    root = load64(segment)
    if root & 3:
        raise RecordError("the event's root is not a struct")
    start = 1 + (<int32_t><uint32_t>root >> 2)
    data_words = <uint32_t>(root >> 32) & 0xFFFF
    pointers = <uint32_t>(root >> 48)
    if root and (start < 0 or start > words or data_words + pointers > words - start):
        raise RecordError("the event's struct leaves the message")
    memset(fields, 0, sizeof(fields))
    if data_words:
        memcpy(fields, segment + 8 * start, 8 * min(data_words, DATA_WORDS))
    memset(&id_span, 0, sizeof(Span))
    memset(&body_span, 0, sizeof(Span))
    start += data_words
    if pointers > 0 and not find_list(segment, words, start, &id_span):
        raise RecordError("the event's entityId is not a text inside the message")
    if pointers > 1 and not find_list(segment, words, start + 1, &body_span):
        raise RecordError("the event's body is not data inside the message")
    return (
        load16(fields), load16(fields + 2), load16(fields + 4),
        text_of(&id_span), PyBytes_FromStringAndSize(body_span.at, body_span.size),
        <int64_t>load64(fields + 8), <int64_t>load64(fields + 16), load64(fields + 24),
    )


cdef str text_of(const Span *span):
    if span.at == NULL:
        return ""
    if span.size == 0 or span.at[span.size - 1]:
        raise RecordError("the event's entityId does not end in NUL")
    try:
        return PyUnicode_DecodeUTF8(span.at, span.size - 1, NULL)
    except UnicodeDecodeError as error:
        raise RecordError(f"the event's entityId is not UTF-8: {error.reason}") from error
