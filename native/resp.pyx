# cython: boundscheck=False, wraparound=False
"""RESP: requests of Redis clients out of bytes, and replies into bytes.

The parser is fed whatever a socket gave and holds no more than one unfinished command, within
limits that are checked before memory is taken. A command beyond them is read to its end and thrown
away: `TOO_LARGE` stands in its place, so that those before and behind it are answered. Errors read
as Redis' own; after one the connection is to be closed, for nobody knows where the next command
begins.

Source: the RESP specification (redis.io, "RESP protocol description"), versions 2 and 3.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport int64_t, uint64_t, uint8_t
from libc.string cimport memchr

from buffer cimport Buf, OK, buf_free, put8, put_bytes

cdef enum:
    COUNT_LINE_MAX = 65536
    DIGITS_MAX = 20  # of a number of 64 bits, with its sign
    INLINE_MAX = 65536
    STRANGER_ARGUMENTS_MAX = 10
    STRANGER_BYTES_MAX = 16384
    CR = 13
    LF = 10
    BAD_NUMBER = -2
    UNKNOWN = -1
    SKIPPED_BYTES_MAX = 512 << 20  # of one argument; Redis takes no larger ones either
    PEEKED_BYTES = 512  # of a short command, as many as any limit lets through

# The name of what stands for a command that was thrown away; then come its own, and the limit.
TOO_LARGE = b"\0too large"


cdef class Parser:
    """Requests of one connection.

    arguments_max   of one command
    bytes_max       of one argument
    command_max     bytes of all arguments of one command
    is_stranger     not authenticated yet: 10 arguments of 16 KiB are all it may send
    error           why no more can be read; "" while all is well
    """

    def __cinit__(
        self, *, int64_t arguments_max = 1 << 20, int64_t bytes_max = 512 << 20,
        int64_t command_max = 1 << 30,
    ):
        self.arguments = []
        self.bulk = UNKNOWN
        self.error = ""
        self.arguments_max, self.bytes_max = arguments_max, bytes_max
        self.command_max = command_max
        self.kept.data, self.kept.size, self.kept.room = NULL, 0, 0

    def __dealloc__(self):
        buf_free(&self.kept)

    @property
    def held_bytes(self) -> int:
        """Bytes held for a command that is not complete."""
        return self.kept.size + (0 if self.excess else self.size)

    def feed(self, bytes chunk not None) -> list[list[bytes]]:
        """Return the commands that are complete now; then look at `error`."""
        cdef list commands = []
        self.read(PyBytes_AS_STRING(chunk), PyBytes_GET_SIZE(chunk), commands)
        return commands

    cdef int read(self, const char *chunk, Py_ssize_t size, list commands) except -1:
        """Do as `feed` does, with bytes that are somebody else's."""
        self.begin(chunk, size)
        return self.finish(commands)

    cdef int begin(self, const char *chunk, Py_ssize_t size) except -1:
        """Take bytes that stay where they are until `finish`, behind those that were kept."""
        self.at, self.data, self.end = 0, chunk, 0 if self.error else size
        if self.kept.size and self.end:
            if put_bytes(&self.kept, chunk, size) != OK:
                raise MemoryError
            self.data, self.end = <const char *>self.kept.data, self.kept.size
        return 0

    cdef int finish(self, list commands) except -1:
        """Read all that is complete; the rest is kept."""
        try:
            while not self.error and self.step(commands):
                pass
        finally:
            self.keep()
        return 0

    cdef int peek(self, Word *words, int count) noexcept:
        """Find the words of a short command of so many; it stays to be read, or to be passed by.

        Returns FOUND, OTHER for anything else, or SHORT when what there is may be its beginning.
        """
        cdef Py_ssize_t have = min(self.end - self.at, PEEKED_BYTES)
        cdef const char *at = self.data + self.at
        cdef const char *end = at + have
        cdef const char *digits
        cdef int missing = SHORT if have < PEEKED_BYTES else OTHER
        cdef int i
        cdef Py_ssize_t size
        if self.missing or self.error or self.is_stranger:
            return OTHER
        for i in range(-1, count):
            if at == end:
                return missing
            if at[0] != (c"*" if i < 0 else c"$"):
                return OTHER
            at += 1
            digits, size = at, 0
            while at < end and c"0" <= at[0] <= c"9":
                size = min(10 * size + (at[0] - c"0"), PEEKED_BYTES)
                at += 1
            if end - at < 2:
                return missing
            if at == digits or (digits[0] == c"0" and at > digits + 1) or at[0] != CR:
                return OTHER
            at += 2
            if i < 0:
                if size != count:
                    return OTHER
                continue
            if end - at < size + 2:
                return missing
            words[i].data, words[i].size = at, size
            at += size + 2
        self.peeked = at - self.data
        return FOUND

    cdef void pass_by(self) noexcept:
        """Count what `peek` found as read."""
        self.at = self.peeked

    cdef int keep(self) except -1:
        """Hold on to what has not been read yet, and to nothing that is not needed."""
        cdef Buf rest
        rest.data, rest.size, rest.room = NULL, 0, 0
        if self.error:
            self.arguments = []
        elif self.data == <const char *>self.kept.data and self.at == 0:
            return 0
        elif put_bytes(&rest, self.data + self.at, self.end - self.at) != OK:
            raise MemoryError
        buf_free(&self.kept)
        self.kept = rest
        return 0

    cdef bint step(self, list commands) except -1:
        """Read one thing; False when it is not all there, or wrong."""
        cdef Py_ssize_t end
        cdef int64_t number
        if self.missing == 0:
            if self.at >= self.end:
                return False
            if self.data[self.at] != 42:  # "*"
                return self.inline(commands)
            end = self.line_end(COUNT_LINE_MAX, "too big mbulk count string")
            if end < 0:
                return False
            number = self.number(self.at + 1, end)
            if number > self.arguments_max or number == BAD_NUMBER:
                return self.fail("invalid multibulk length")
            if self.is_stranger and number > STRANGER_ARGUMENTS_MAX:
                return self.fail("unauthenticated multibulk length")
            self.at = end + 2
            if number > 0:
                self.missing, self.size = number, 0
            return True
        if self.bulk < 0:
            end = self.line_end(COUNT_LINE_MAX, "too big bulk count string")
            if end < 0:
                return False
            if self.data[self.at] != 36:  # "$"
                found = chr(<uint8_t>self.data[self.at])
                return self.fail(f"expected '$', got '{found if found.isprintable() else '?'}'")
            number = self.number(self.at + 1, end)
            if number < 0 or number > max(self.bytes_max, SKIPPED_BYTES_MAX):
                return self.fail("invalid bulk length")
            if self.is_stranger and number > STRANGER_BYTES_MAX:
                return self.fail("unauthenticated bulk length")
            self.size += number
            if number > self.bytes_max or self.size > self.command_max:
                self.excess = self.bytes_max if number > self.bytes_max else self.command_max
                self.arguments = self.arguments[:1]
            self.bulk = number
            self.at = end + 2
        if self.excess:
            return self.skip(commands)
        if self.end - self.at < self.bulk + 2:
            return False
        self.arguments.append(
            PyBytes_FromStringAndSize(self.data + self.at, self.bulk))
        self.at += self.bulk + 2
        self.bulk = UNKNOWN
        self.missing -= 1
        if self.missing == 0:
            commands.append(self.arguments)
            self.arguments, self.size = [], 0
        return True

    cdef bint skip(self, list commands) except -1:
        """Read on in an argument that is thrown away, with the line's end behind it."""
        cdef Py_ssize_t size = min(self.end - self.at, self.bulk + 2 - self.skipped)
        self.at += size
        self.skipped += size
        if self.skipped < self.bulk + 2:
            return False
        self.bulk, self.skipped = UNKNOWN, 0
        self.missing -= 1
        if self.missing == 0:
            name = self.arguments[0] if self.arguments else b""
            commands.append([TOO_LARGE, name, b"%d" % self.excess])
            self.arguments, self.size, self.excess = [], 0, 0
        return True

    cdef bint fail(self, str why) except -1:
        self.error = f"Protocol error: {why}"
        return False

    cdef Py_ssize_t line_end(self, Py_ssize_t limit, str why) except -2:
        """Where the CR of this line stands; -1 when it has not come."""
        cdef const char *start = self.data + self.at
        cdef Py_ssize_t have = self.end - self.at
        cdef const char *found = <const char *>memchr(start, CR, have)
        if found == NULL:
            if have > limit:
                self.fail(why)
            return -1
        if found - start + 1 >= have:
            return -1
        return self.at + (found - start)

    cdef int64_t number(self, Py_ssize_t at, Py_ssize_t end) except? -3:
        """A decimal integer without spaces or leading zeros; BAD_NUMBER for anything else.

        All negative ones are -1: no command has use for one.
        """
        cdef const char *digits = self.data
        cdef int64_t value = 0
        cdef bint is_negative = at < end and digits[at] == 45
        if is_negative:
            at += 1
        if at >= end or end - at > 18 or (digits[at] == 48 and end - at > 1):
            return BAD_NUMBER
        while at < end:
            if digits[at] < 48 or digits[at] > 57:
                return BAD_NUMBER
            value = value * 10 + (digits[at] - 48)
            at += 1
        return -1 if is_negative else value

    cdef bint inline(self, list commands) except -1:
        """A command typed as a line, with quotes as in a shell."""
        cdef const char *start = self.data + self.at
        cdef Py_ssize_t have = self.end - self.at
        cdef const char *found = <const char *>memchr(start, LF, have)
        if found == NULL:
            if have > INLINE_MAX:
                return self.fail("too big inline request")
            return False
        if found - start > INLINE_MAX:
            return self.fail("too big inline request")
        line = PyBytes_FromStringAndSize(start, found - start)
        arguments = split(line)
        if arguments is None:
            return self.fail("unbalanced quotes in request")
        self.at += found - start + 1
        if arguments:
            commands.append(arguments)
        return True


cdef list split(bytes line):
    """The words of a line; None when a quote is not closed, or closed inside a word."""
    cdef Py_ssize_t at = 0, end = len(line)
    cdef list words = []
    cdef bytearray word
    while True:
        while at < end and line[at:at + 1].isspace():
            at += 1
        if at >= end:
            return words
        word = bytearray()
        while at < end and not line[at:at + 1].isspace():
            if line[at] in b"\"'":
                at = quoted(line, at, word)
                if at < 0:
                    return None
            else:
                word.append(line[at])
                at += 1
        words.append(bytes(word))


cdef dict ESCAPES = {
    ord("n"): ord("\n"), ord("r"): ord("\r"), ord("t"): ord("\t"), ord("b"): 8, ord("a"): 7}


cdef Py_ssize_t quoted(bytes line, Py_ssize_t at, bytearray word) except -2:
    """Take a quoted part; where it ends, or -1 when it does not, or not at the end of a word."""
    cdef int quote = line[at]
    cdef Py_ssize_t end = len(line)
    at += 1
    while at < end:
        if line[at] == quote:
            return -1 if at + 1 < end and not line[at + 1:at + 2].isspace() else at + 1
        if line[at] == 92 and at + 1 < end:  # a backslash
            if quote == 39:
                if line[at + 1] == 39:
                    at += 1
            elif line[at + 1] == 120 and is_hex(line[at + 2:at + 4]):
                word.append(int(line[at + 2:at + 4], 16))
                at += 4
                continue
            else:
                word.append(ESCAPES.get(line[at + 1], line[at + 1]))
                at += 2
                continue
        word.append(line[at])
        at += 1
    return -1


cdef bint is_hex(bytes digits):
    return len(digits) == 2 and all(one in b"0123456789abcdefABCDEF" for one in digits)


class ReplyError(Exception):
    """A reply that says what went wrong: `ERR`, `WRONGTYPE`, … and why."""


class NullArray:
    """No array, which RESP2 tells from no string."""


class Pairs(list):
    """Pairs, as of member and score: RESP2 has them flat."""


class Push:
    """What comes without having been asked for, as a published message does."""

    def __init__(self, items: list[object]) -> None:
        self.items = items


cdef inline int put(Buf *out, const char *raw, Py_ssize_t size) except -1:
    if put_bytes(out, raw, size) != OK:
        raise MemoryError
    return 0


cdef inline int text(Buf *out, bytes raw) except -1:
    return put(out, PyBytes_AS_STRING(raw), PyBytes_GET_SIZE(raw))


cdef int line(Buf *out, uint8_t mark, const char *raw, Py_ssize_t size) except -1:
    if put8(out, mark) != OK:
        raise MemoryError
    put(out, raw, size)
    return put(out, b"\r\n", 2)


cdef int head(Buf *out, uint8_t mark, int64_t number) except -1:
    """Put a line of a mark and a number, from its last digit on."""
    cdef char digits[DIGITS_MAX]
    cdef int at = DIGITS_MAX
    cdef uint64_t rest = <uint64_t>number if number >= 0 else -<uint64_t>number
    while True:
        at -= 1
        digits[at] = <char>(c"0" + <char>(rest % 10))
        rest //= 10
        if rest == 0:
            break
    if number < 0:
        at -= 1
        digits[at] = c"-"
    return line(out, mark, digits + at, DIGITS_MAX - at)


cdef int bulk(Buf *out, bytes raw) except -1:
    head(out, c"$", PyBytes_GET_SIZE(raw))
    text(out, raw)
    return put(out, b"\r\n", 2)


def number_text(value: float) -> bytes:
    """Return a double as Redis writes it: 17 digits at most, integers without a point."""
    if value != value:
        return b"nan"
    if value in (float("inf"), float("-inf")):
        return b"inf" if value > 0 else b"-inf"
    if value == int(value) and abs(value) < 1e17:
        return b"%d" % int(value)
    shortest = repr(value)
    return shortest.encode()


cdef int write(Buf *out, object reply, int proto) except -1:
    cdef const char *raw
    cdef Py_ssize_t size = 0
    if type(reply) is bytes:
        bulk(out, <bytes>reply)
    elif type(reply) is str:
        raw = PyUnicode_AsUTF8AndSize(reply, &size)
        line(out, c"+", raw, size)
    elif type(reply) is bool:
        if proto == 3:
            text(out, b"#t\r\n" if reply else b"#f\r\n")
        else:
            head(out, c":", reply)
    elif type(reply) is int:
        head(out, c":", reply)
    elif reply is None:
        text(out, b"_\r\n" if proto == 3 else b"$-1\r\n")
    elif type(reply) is float:
        if proto == 3:
            text(out, b"," + number_text(reply) + b"\r\n")
        else:
            bulk(out, number_text(reply))
    elif type(reply) is list or type(reply) is tuple:
        head(out, c"*", len(reply))
        for one in reply:
            write(out, one, proto)
    elif type(reply) is dict:
        if proto == 3:
            head(out, c"%", len(reply))
        else:
            head(out, c"*", 2 * len(reply))
        for key, value in reply.items():
            write(out, key, proto)
            write(out, value, proto)
    elif type(reply) is set or type(reply) is frozenset:
        head(out, c"~" if proto == 3 else c"*", len(reply))
        for one in reply:
            write(out, one, proto)
    elif type(reply) is Pairs:
        head(out, c"*", len(reply) if proto == 3 else 2 * len(reply))
        for first, second in reply:
            if proto == 3:
                head(out, c"*", 2)
            write(out, first, proto)
            write(out, second, proto)
    elif isinstance(reply, ReplyError):
        text(out, b"-" + str(reply).encode(errors="replace").replace(b"\r", b" ").replace(
            b"\n", b" ") + b"\r\n")
    elif reply is NullArray:
        text(out, b"_\r\n" if proto == 3 else b"*-1\r\n")
    elif isinstance(reply, Push):
        head(out, c">" if proto == 3 else c"*", len(reply.items))
        for one in reply.items:
            write(out, one, proto)
    else:
        raise TypeError(f"{type(reply).__name__} is no reply")
    return 0


def encode(replies, proto: int) -> bytes:
    """Return replies in a row, in protocol version 2 or 3.

    bytes is a bulk string, str a simple one, None nothing; int, float, bool, list, dict and set are
    themselves, a ReplyError an error.
    """
    cdef Buf out
    out.data, out.size, out.room = NULL, 0, 0
    try:
        for reply in replies:
            write(&out, reply, proto)
        return PyBytes_FromStringAndSize(<char *>out.data, out.size)
    finally:
        buf_free(&out)
