# cython: boundscheck=False, wraparound=False
"""A Redis client's connection: requests off its socket, replies onto it, in their order.

A request is answered at once, and the answer sent when what it rests on is on disk (I1): replies
wait behind their *gates*, the commits that must come first. On a small machine most of a server's
time goes by here, so between a request of the common kind and its command there is no Python.

The socket does not block, so the interpreter's lock is kept: to give it away and to get it back
takes longer than the calls.
"""

import logging
from collections import deque

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t
from libc.string cimport memcmp, memmove

from buffer cimport Buf, OK, buf_free, put_bytes

from edgesync._native.commands cimport Command, Runner, table
from edgesync._native.points cimport Columns
from edgesync._native.resp cimport FOUND, OTHER, SHORT, Parser, Word, head, write

from edgesync._native.commands import EvictedReply
from edgesync._native.resp import ReplyError

cdef extern from "<sys/socket.h>" nogil:
    enum:
        MSG_DONTWAIT
        MSG_NOSIGNAL
    Py_ssize_t recv(int fd, void *at, size_t size, int flags)
    Py_ssize_t send(int fd, const void *at, size_t size, int flags)

cdef enum:
    CHUNK_BYTES = 65536
    ROOM_KEPT = 4096  # for replies to come, by a client that has read all
    QUICK_NS = 1_000_000

cdef int64_t AHEAD_NS = 300 * 1_000_000_000  # as in edgesync/store/points.py

log = logging.getLogger(__name__)

# Filled and read at one go: one is enough for all connections.
cdef char chunk[CHUNK_BYTES]


cdef class Connection:
    """See the module. `number` is the socket's, which stays its owner's to close."""

    cdef readonly int number
    cdef public str last      # command; for CLIENT LIST
    cdef readonly Parser parser
    cdef list requests
    cdef Py_ssize_t next      # of `requests`
    cdef object waiting       # (gates, bytes, how many replies they are), in order
    cdef Py_ssize_t waiting_bytes
    cdef Buf out              # replies to be sent
    cdef size_t sent          # ... and how many bytes of them have been

    def __init__(self, int number, Parser parser not None):
        self.number, self.parser, self.last = number, parser, ""

    def __cinit__(self, *_):
        self.requests, self.waiting = [], deque()
        self.out.data, self.out.size, self.out.room = NULL, 0, 0

    def __dealloc__(self):
        buf_free(&self.out)

    # -- requests ----------------------------------------------------------------------------

    def receive(self) -> bool:
        """Read what has come; False when the other end has gone."""
        cdef Py_ssize_t size = recv(self.number, chunk, CHUNK_BYTES, MSG_DONTWAIT)
        if size > 0:
            self.parser.read(chunk, size, self.requests)
        return is_there(size)

    def serve(self, Runner runner not None, int proto, Py_ssize_t unsent_max, gates) -> int:
        """Read what has come, answer it as `answer` does and send what is due.

        Returns GONE, SERVED, HELD when replies wait for a commit, or LEFT when there is something
        left to be done that is more than this.
        """
        cdef Py_ssize_t size = recv(self.number, chunk, CHUNK_BYTES, MSG_DONTWAIT)
        if size > 0:
            self.parser.begin(chunk, size)
            if self.requests or self.answer_points(runner, unsent_max, gates) != SHORT:
                self.parser.finish(self.requests)
            else:
                self.parser.keep()
        elif not is_there(size):
            return GONE
        self.reply(runner, proto, unsent_max, gates)
        if self.parser.error or not self.send_all():
            return LEFT
        return HELD if self.waiting else SERVED

    def release(self, done) -> bool:
        """Do as `open` does and send what is due; False when there is something left to be done."""
        self.let_go(done)
        return not self.waiting and self.send_all()

    cdef bint send_all(self) except -1:
        """Send what is due; whether nothing is left to be sent, and no request."""
        if self.out.size > self.sent and not self.push_out():
            return False
        return self.out.size == self.sent and not self.requests

    @property
    def has_requests(self) -> bool:
        """Whether requests have come that nobody has taken."""
        return len(self.requests) > 0

    def take(self) -> list[bytes]:
        """Take the next request."""
        request = self.requests[self.next]
        self.step()
        return request

    cdef int step(self) except -1:
        self.next += 1
        if self.next == len(self.requests):
            self.requests, self.next = [], 0
        return 0

    def answer(self, Runner runner not None, int proto, Py_ssize_t unsent_max, gates) -> int:
        """Answer requests as long as they are commands of the table; returns how many.

        One that needs values the hub has is left where it is: somebody may wait for them.

        unsent_max   bytes of replies from which on the rest has to wait
        gates        gives those of what was done up to now

        A mistake of ours costs its client an answer, nobody more (I8).
        """
        return self.reply(runner, proto, unsent_max, gates)

    cdef int reply(
        self, Runner runner, int proto, Py_ssize_t unsent_max, object gates,
    ) except -1:
        cdef size_t start = self.out.size, before
        cdef int count = 0
        cdef list request
        cdef Command one
        cdef str last = None
        cdef int64_t now_ns = 0  # of points that come one after the other, asked for once
        while self.requests and self.unsent_bytes() < unsent_max:
            request = self.requests[self.next]
            one = table.get(request[0])
            if one is None:
                if now_ns == 0:
                    now_ns = runner.wall_ns()
                if not self.take_points(runner, request, proto, now_ns):
                    break
                self.step()
                count += 1
                last = "ts.add" if len(request) == 4 else "ts.madd"
                continue
            before, now_ns = self.out.size, 0
            try:
                reply = runner.go(one, request)
                if type(reply) is EvictedReply:
                    break
                write(&self.out, reply, proto)
            except Exception:
                log.exception("a request failed: %.100r", request[0])
                self.out.size = before
                write(&self.out, FAILED, proto)
            self.step()
            count += 1
            last = one.name
        if count:
            self.last = last
            self.hold(start, count, gates())
        return count

    cdef int answer_points(self, Runner runner, Py_ssize_t unsent_max, object gates) except -1:
        """Answer each TS.ADD that has come, up to one of which anything needs a look.

        That is left to be read, as anything else is. Returns SHORT when it is not all there.
        """
        cdef Word[4] words
        cdef Columns columns = runner.columns
        cdef size_t start = self.out.size
        cdef int64_t now_ns = 0, time_ms
        cdef int found = OTHER, count = 0
        if columns is None or 0 <= runner.slow_ns < QUICK_NS:
            return OTHER
        while self.unsent_bytes() < unsent_max:
            found = self.parser.peek(words, 4)
            if found != FOUND or not is_add(&words[0]):
                break
            if now_ns == 0:
                now_ns = runner.wall_ns()
            time_ms = columns.take_text(
                PyBytes_FromStringAndSize(words[1].data, words[1].size), words[2].data,
                words[2].size, words[3].data, words[3].size, now_ns, AHEAD_NS)
            if time_ms < 0:
                break
            columns.told(1)
            head(&self.out, c":", time_ms)
            self.parser.pass_by()
            count += 1
        if count:
            runner.commands += count
            self.last = "ts.add"
            self.hold(start, count, gates())
        return found

    cdef bint take_points(
        self, Runner runner, list request, int proto, int64_t now_ns,
    ) except -1:
        """Answer TS.ADD or TS.MADD where nothing about it needs a look."""
        # A log of commands that are as quick as this is kept by whoever looks at each.
        if runner.columns is None or 0 <= runner.slow_ns < QUICK_NS:
            return False
        reply = (<Columns>runner.columns).answer(request, now_ns, AHEAD_NS)
        if reply is None:
            return False
        write(&self.out, reply, proto)
        runner.commands += 1
        return True

    # -- replies -----------------------------------------------------------------------------

    @property
    def unsent(self) -> int:
        """Bytes of replies that wait for a commit, or for the client."""
        return self.unsent_bytes()

    cdef Py_ssize_t unsent_bytes(self) noexcept:
        return self.waiting_bytes + <Py_ssize_t>(self.out.size - self.sent)

    @property
    def has_due(self) -> bool:
        """Whether there are replies that may be sent."""
        return self.out.size > self.sent

    @property
    def is_waiting(self) -> bool:
        """Whether there are replies that wait for a commit."""
        return len(self.waiting) > 0

    def owe(self, replies, int proto, tuple gates not None) -> None:
        """Send replies behind those before them, once their gates are open."""
        cdef size_t start = self.out.size
        cdef Py_ssize_t count = 0
        try:
            for reply in replies:
                write(&self.out, reply, proto)
                count += 1
        except BaseException:
            self.out.size = start
            raise
        if count:
            self.hold(start, count, gates)

    cdef int hold(self, size_t start, Py_ssize_t count, tuple gates) except -1:
        """Let replies, the end of `out`, wait for their gates, or for those before them."""
        cdef bytes raw
        if not self.waiting and gates == OPEN:
            return 0
        raw = PyBytes_FromStringAndSize(<char *>self.out.data + start, self.out.size - start)
        self.out.size = start
        self.waiting.append((gates, raw, count))
        self.waiting_bytes += PyBytes_GET_SIZE(raw)
        return 0

    def open(self, done) -> None:
        """Let go what rests on nothing but commits up to `done`: the latest of each kind."""
        self.let_go(done)

    cdef int let_go(self, done) except -1:
        cdef bytes raw
        cdef tuple gates
        while self.waiting:
            gates, raw, _ = self.waiting[0]
            if gates[0] > done[0] or gates[1] > done[1]:
                break
            self.waiting.popleft()
            self.waiting_bytes -= PyBytes_GET_SIZE(raw)
            if put_bytes(&self.out, PyBytes_AS_STRING(raw), PyBytes_GET_SIZE(raw)) != OK:
                raise MemoryError
        return 0

    def refuse(self, Py_ssize_t kind, done, problem, int proto) -> None:
        """Put `problem` in place of each reply that rests on a commit of that kind after `done`."""
        cdef Buf made
        cdef tuple gates
        cdef bytes raw
        kept = deque()
        self.waiting_bytes = 0
        for gates, raw, count in self.waiting:
            if gates[kind] > done:
                made.data, made.size, made.room = NULL, 0, 0
                try:
                    for _ in range(count):
                        write(&made, problem, proto)
                    raw = PyBytes_FromStringAndSize(<char *>made.data, made.size)
                finally:
                    buf_free(&made)
                gates = OPEN
            kept.append((gates, raw, count))
            self.waiting_bytes += PyBytes_GET_SIZE(raw)
        self.waiting = kept

    def send(self) -> bool:
        """Send what the socket takes of what is due; False when the other end has gone."""
        return self.push_out()

    cdef bint push_out(self) except -1:
        cdef Py_ssize_t size
        while self.out.size > self.sent:
            size = send(
                self.number, self.out.data + self.sent, self.out.size - self.sent,
                MSG_DONTWAIT | MSG_NOSIGNAL)
            if size < 0:
                if errno == EINTR:
                    continue
                return errno == EAGAIN
            self.sent += size
            if self.sent > self.out.size - self.sent:
                # What is left moves to the front: each byte once at most.
                self.out.size -= self.sent
                memmove(self.out.data, self.out.data + self.sent, self.out.size)
                self.sent = 0
        if self.out.room > ROOM_KEPT:
            buf_free(&self.out)
        return True


cdef bint is_there(Py_ssize_t received) noexcept:
    """Whether the other end is, by what `recv` returned."""
    return received > 0 or (received < 0 and (errno == EAGAIN or errno == EINTR))


cdef bint is_add(const Word *word) noexcept:
    return word.size == 6 and (
        memcmp(word.data, b"TS.ADD", 6) == 0 or memcmp(word.data, b"ts.add", 6) == 0)


OPEN = (0, 0)
# What `serve` returns.
GONE = 0
SERVED = 1
HELD = 2
LEFT = 3
FAILED = ReplyError("ERR internal error at this command; the log says why")
