# cython: boundscheck=False, wraparound=False
"""The write-ahead log: changes of keys that are on disk before LMDB has them.

A commit of LMDB writes a page for each row and syncs twice; here one commit is one piece of a file
that is there in its full size, and one sync. A thread of its own does both and never asks for the
interpreter's lock, so that the event loop goes on meanwhile and hears of the end by a file
descriptor. From time to time everything logged goes to LMDB in one transaction, and the log begins
again, in a new *lap*: a number drawn at random, which that transaction stores too. An entry that
carries another lap than LMDB's is of no use any more.

LMDB stores two laps: that of what is logged now, and the one after it. The file has two halves, and
while a lap goes to LMDB, entries of the next one are written to the other half. Whoever starts with
a store that has the first of them replays both.

An entry, little-endian:

     0  crc32c   u32   over everything after this field
     4  size     u32   of the rows
     8  lap      u64
    16  number   u64   1, 2, 3 ...; a lap goes on where the one before it ends
    24  rows     size of the key varint | key | size of the value + 1, or 0 for a deleted row
                 varint | value

Entries stand one after the other; what is none ends them. Whoever was answered has had an entry
synced whole, and the next one is written after that: a torn entry is one nobody was told of.

A file that was damaged, or belongs to another state of the store, is read as far as nothing is
missing: an entry says all of its rows and nothing of those it did not change. `unread` says what
stands there beside.
"""

import os

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport EINTR, EIO, errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from buffer cimport (
    Buf, Cur, OK, buf_free, buf_need, left, load32, load64, put_bytes, put_varint, store32,
    store64, take_varint,
)
from crc cimport crc32c

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_t:
        pass
    ctypedef struct pthread_mutex_t:
        pass
    ctypedef struct pthread_cond_t:
        pass
    int pthread_create(pthread_t *thread, void *attributes, void *(*run)(void *), void *of)
    int pthread_join(pthread_t thread, void **result)
    int pthread_setname_np(pthread_t thread, const char *name)
    int pthread_mutex_init(pthread_mutex_t *mutex, void *attributes)
    int pthread_mutex_lock(pthread_mutex_t *mutex)
    int pthread_mutex_unlock(pthread_mutex_t *mutex)
    int pthread_cond_init(pthread_cond_t *wake, void *attributes)
    int pthread_cond_signal(pthread_cond_t *wake)
    int pthread_cond_wait(pthread_cond_t *wake, pthread_mutex_t *mutex)

cdef extern from "<signal.h>" nogil:
    ctypedef struct sigset_t:
        pass
    enum:
        SIG_SETMASK
    int sigfillset(sigset_t *signals)
    int pthread_sigmask(int how, const sigset_t *wanted, sigset_t *before)

cdef extern from "<unistd.h>" nogil:
    Py_ssize_t pwrite(int fd, const void *data, size_t size, long at)
    int fdatasync(int fd)

cdef extern from "<sys/eventfd.h>" nogil:
    enum:
        EFD_CLOEXEC
        EFD_NONBLOCK
    int eventfd(unsigned int count, int flags)
    int eventfd_write(int fd, uint64_t count)
    int eventfd_read(int fd, uint64_t *count)

cdef enum:
    HEADER_BYTES = 24
    LAP_BYTES = 8


cdef struct Work:
    pthread_t thread
    pthread_mutex_t mutex
    pthread_cond_t wake
    pthread_cond_t idle
    bint is_asked      # there is a piece to be written, or it is being written
    bint is_over       # the thread is to end
    int fd
    int done           # an eventfd: a piece has been written, or not
    const uint8_t *data
    size_t size
    uint64_t at
    int problem        # errno of the last piece, or 0


cdef int written(int fd, const uint8_t *data, size_t size, uint64_t at) noexcept nogil:
    """Write all of it and sync; 0 or errno."""
    cdef Py_ssize_t count
    while size:
        count = pwrite(fd, data, size, <long>at)
        if count < 0 and errno == EINTR:
            continue
        if count <= 0:
            return errno if count < 0 else EIO
        data += count
        size -= count
        at += count
    return errno if fdatasync(fd) else 0


cdef void *keep_writing(void *of) noexcept nogil:
    cdef Work *work = <Work *>of
    cdef int problem
    pthread_mutex_lock(&work.mutex)
    while work.is_asked or not work.is_over:
        if not work.is_asked:
            pthread_cond_wait(&work.wake, &work.mutex)
            continue
        pthread_mutex_unlock(&work.mutex)
        problem = written(work.fd, work.data, work.size, work.at)
        pthread_mutex_lock(&work.mutex)
        work.problem = problem
        work.is_asked = False
        pthread_cond_signal(&work.idle)
        # Whoever is woken wants the mutex. Told too late, after the next piece was asked for, it
        # only waits for that one in `landed`.
        pthread_mutex_unlock(&work.mutex)
        eventfd_write(work.done, 1)
        pthread_mutex_lock(&work.mutex)
    pthread_mutex_unlock(&work.mutex)
    return NULL


cdef class Wal:
    """The log in the file at `path`, which is there in its full size (`directory.make_wal`).

    is_usable   whether it may be appended to: from `begin` until something goes wrong

    One thread at a time. Whoever appends asks `landed()` once; it does not have to wait when
    `fileno()` is readable.
    """

    cdef Work *work
    cdef long owner  # process
    cdef uint64_t lap, after, number, at, stop, size
    cdef Buf out
    cdef readonly bint is_usable
    cdef bint is_pending  # an entry whose `landed` nobody has asked yet

    def __cinit__(self, str path not None):
        cdef sigset_t all_, before
        self.work = <Work *>calloc(1, sizeof(Work))
        if self.work == NULL:
            raise MemoryError
        self.work.fd = self.work.done = -1
        self.owner = os.getpid()
        self.work.fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        self.size = os.fstat(self.work.fd).st_size
        self.work.done = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        if self.work.done < 0:
            raise OSError(errno, os.strerror(errno))
        pthread_mutex_init(&self.work.mutex, NULL)
        pthread_cond_init(&self.work.wake, NULL)
        pthread_cond_init(&self.work.idle, NULL)
        # Signals are for Python's own threads.
        sigfillset(&all_)
        pthread_sigmask(SIG_SETMASK, &all_, &before)
        problem = pthread_create(&self.work.thread, NULL, keep_writing, self.work)
        pthread_sigmask(SIG_SETMASK, &before, NULL)
        if problem:
            os.close(self.work.done)
            self.work.done = -1
            raise OSError(problem, os.strerror(problem))
        pthread_setname_np(self.work.thread, "edgesync-wal")

    def __dealloc__(self):
        if self.work == NULL:
            return
        self.end()
        free(self.work)
        buf_free(&self.out)

    cdef void end(self) noexcept:
        """Let the thread finish what it writes, then close."""
        cdef int fd = self.work.fd, done = self.work.done
        self.is_usable = False
        if done >= 0:
            # A forked child has the memory, and not the thread.
            if os.getpid() == self.owner:
                with nogil:
                    pthread_mutex_lock(&self.work.mutex)
                    self.work.is_over = True
                    pthread_cond_signal(&self.work.wake)
                    pthread_mutex_unlock(&self.work.mutex)
                    pthread_join(self.work.thread, NULL)
            os.close(done)
        if fd >= 0:
            os.close(fd)
        self.work.fd = self.work.done = -1

    def close(self) -> None:
        """Wait for what is being written, then close; closing twice is no error."""
        self.end()

    def fileno(self) -> int:
        """Return what becomes readable when an entry has been written, or has not been."""
        return self.work.done

    def begin(self, bytes lap not None) -> None:
        """Start a new lap: all entries up to now are in the store.

        lap   8 bytes, and 8 of the one after it: then that has half of the file
        """
        self.lap, self.after = lap_of(lap, 0), lap_of(lap, 1)
        self.number = self.at = 0
        self.stop = self.size // 2 if self.after else self.size
        self.is_usable = self.work.done >= 0

    def turn(self, bytes lap not None) -> None:
        """Go on with the lap after this one, while what this one has is on its way to the store."""
        if lap_of(lap, 0) != self.after or not self.after:
            raise ValueError("another lap than the one that is stored as the next")
        self.after = lap_of(lap, 1)
        self.lap = lap_of(lap, 0)
        if self.stop == self.size // 2:
            self.at, self.stop = self.size // 2, self.size
        else:
            self.at, self.stop = 0, self.size // 2

    def spoil(self) -> None:
        """Append nothing before the next lap: what the file has is not what was answered."""
        self.is_usable = False

    def append(self, dict rows not None) -> bool:
        """Begin to write an entry; False when there is no room for it, or the log is spoiled.

        False, too, before it is known of the one before whether it has landed.
        """
        cdef uint8_t *head
        cdef uint64_t count
        if not self.is_usable or self.is_pending:
            return False
        self.out.size = 0
        if buf_need(&self.out, HEADER_BYTES) != OK:
            raise MemoryError
        self.out.size = HEADER_BYTES
        for key, value in rows.items():
            self.put(<bytes>key, <bytes?>value if value is not None else None)
            if self.out.size > self.stop - self.at:
                if self.out.room > self.size:
                    buf_free(&self.out)  # one large value took it
                return False
        head = self.out.data
        store32(head + 4, <uint32_t>(self.out.size - HEADER_BYTES))
        store64(head + 8, self.lap)
        store64(head + 16, self.number + 1)
        store32(head, crc32c(0, head + 4, self.out.size - 4))
        eventfd_read(self.work.done, &count)
        pthread_mutex_lock(&self.work.mutex)
        self.work.data = self.out.data
        self.work.size = self.out.size
        self.work.at = self.at
        self.work.is_asked = True
        pthread_mutex_unlock(&self.work.mutex)
        pthread_cond_signal(&self.work.wake)
        self.is_pending = True
        return True

    cdef int put(self, bytes key, bytes value) except -1:
        cdef size_t size = PyBytes_GET_SIZE(key)
        cdef int rc = put_varint(&self.out, size)
        rc |= put_bytes(&self.out, PyBytes_AS_STRING(key), size)
        if value is None:
            rc |= put_varint(&self.out, 0)
        else:
            size = PyBytes_GET_SIZE(value)
            rc |= put_varint(&self.out, size + 1)
            rc |= put_bytes(&self.out, PyBytes_AS_STRING(value), size)
        if rc != OK:
            raise MemoryError
        return 0

    def landed(self) -> bool:
        """Whether the entry appended last is on disk, waiting for it; else the log is spoiled."""
        cdef int problem
        self.is_pending = False
        with nogil:
            pthread_mutex_lock(&self.work.mutex)
            while self.work.is_asked:
                pthread_cond_wait(&self.work.idle, &self.work.mutex)
            problem = self.work.problem
            pthread_mutex_unlock(&self.work.mutex)
        if problem:
            self.is_usable = False
            return False
        self.number += 1
        self.at += self.work.size
        return True


def replay(bytes data not None, bytes lap not None) -> dict:
    """Return the rows that the entries of a lap set, and those of the lap after it, if it names
    one; None for those they delete, as they end up.
    """
    cdef Found found = find(data, lap)
    cdef dict rows = {}
    rows_between(rows, data, found.first_at, found.first.end)
    rows_between(rows, data, found.after_at, found.after.end)
    return rows


def unread(bytes data not None, bytes lap not None) -> list:
    """Return what `replay` passes over, as (byte, lap, whole entries, the rows they set).

    lap   of the entries: b"" for what is none, because it is torn or damaged; then the entries are
          the whole ones behind it that belong to `lap`. Else they are of another state than `lap`
          is, earlier or later
    """
    cdef Found found = find(data, lap)
    cdef Chain chain
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data), start, behind
    cdef list passed = []
    cdef dict rows
    for start in heads_of(data, lap):
        chain = chain_at(data, start, size)
        if chain.first and start not in (found.first_at, found.after_at):
            rows = {}
            rows_between(rows, data, start, chain.end)
            passed.append(
                (start, data[start + 8:start + 16], chain.last - chain.first + 1, rows))
        elif not chain.first and any(data[start:start + HEADER_BYTES]):
            passed.append((start, b"", whole_behind(data, start, lap[:LAP_BYTES]), {}))
    for chain in (found.first, found.after):
        if chain.first:
            behind = whole_behind(data, chain.end, int(chain.lap).to_bytes(LAP_BYTES, "little"))
            if behind or is_next(data, chain, size):
                passed.append((chain.end, b"", behind, {}))
    if found.first.first and not found.after.first:
        behind = whole_behind(data, found.first.end, lap[LAP_BYTES:])
        if behind and lap[LAP_BYTES:] not in [other for _, other, _, _ in passed]:
            passed.append((found.first.end, b"", behind, {}))
    return passed


cdef struct Chain:
    # Entries of one lap, one after the other: numbers, the first 0 when there are none.
    uint64_t lap
    uint64_t first
    uint64_t last
    Py_ssize_t end


cdef struct Found:
    Chain first  # of the lap, and of the one after it
    Chain after
    Py_ssize_t first_at
    Py_ssize_t after_at


cdef list heads_of(bytes data, bytes lap):
    return [0, PyBytes_GET_SIZE(data) // 2] if lap_of(lap, 1) else [0]


cdef Found find(bytes data, bytes lap):
    """Find the entries of a lap, and those of the next one if nothing between is missing."""
    cdef Found found
    cdef Chain chain
    cdef uint64_t first = lap_of(lap, 0), after = lap_of(lap, 1)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data), at
    found.first = found.after = chain_at(data, size, size)
    found.first.lap, found.after.lap = first, after
    found.first_at = found.after_at = size
    for at in heads_of(data, lap):
        chain = chain_at(data, at, size)
        if chain.first and chain.lap == first:
            found.first, found.first_at = chain, at
            break
    if not after or not found.first.first:
        return found
    # It has entries only after the last of the lap before. Not at the half, in a file cut short.
    cdef const uint8_t *start = <const uint8_t *>PyBytes_AS_STRING(data)
    at = data.find(lap[LAP_BYTES:], 8)
    while at >= 0 and size - at >= HEADER_BYTES - 8 and not found.after.first:
        # Nothing else is looked at: there may be as many entries as there is room for.
        if load64(start + at + 8) == found.first.last + 1:
            chain = chain_at(data, at - 8, size)
            if chain.lap == after and chain.first == found.first.last + 1:
                found.after, found.after_at = chain, at - 8
        at = data.find(lap[LAP_BYTES:], at + LAP_BYTES)
    return found


cdef Chain chain_at(bytes data, Py_ssize_t at, Py_ssize_t end):
    cdef const uint8_t *start = <const uint8_t *>PyBytes_AS_STRING(data)
    cdef Chain chain
    cdef Py_ssize_t size
    chain.lap, chain.first, chain.last, chain.end = 0, 0, 0, at
    while (size := entry_bytes(start + chain.end, end - chain.end)) > 0:
        lap, number = load64(start + chain.end + 8), load64(start + chain.end + 16)
        if not chain.first:
            chain.lap, chain.first = lap, number
        elif lap != chain.lap or number != chain.last + 1:
            break
        chain.last = number
        chain.end += size
    return chain


cdef Py_ssize_t entry_bytes(const uint8_t *at, Py_ssize_t room) noexcept:
    """The size of the whole entry that stands there; 0 where there is none."""
    cdef Py_ssize_t size
    if room < HEADER_BYTES:
        return 0
    size = <Py_ssize_t>load32(at + 4) + HEADER_BYTES
    if size > room or not load64(at + 16) or load32(at) != crc32c(0, at + 4, size - 4):
        return 0
    return size


cdef bint is_next(bytes data, Chain chain, Py_ssize_t end):
    """Whether what ends a chain says that it goes on with it."""
    cdef const uint8_t *at = <const uint8_t *>PyBytes_AS_STRING(data) + chain.end
    return (
        chain.first != 0 and end - chain.end >= HEADER_BYTES
        and load64(at + 8) == chain.lap and load64(at + 16) == chain.last + 1)


cdef Py_ssize_t whole_behind(bytes data, Py_ssize_t at, bytes lap):
    """Count whole entries of that lap from there on."""
    cdef const uint8_t *start = <const uint8_t *>PyBytes_AS_STRING(data)
    cdef Py_ssize_t end = PyBytes_GET_SIZE(data), count = 0, size
    at = data.find(lap, at)
    while at >= 0:
        size = entry_bytes(start + at - 8, end - at + 8) if at >= 8 else 0
        count += size > 0
        at = data.find(lap, at + max(size, LAP_BYTES))
    return count


cdef int rows_between(dict found, bytes data, Py_ssize_t at, Py_ssize_t end) except -1:
    """Add the rows of whole entries; up to one that is none of ours."""
    cdef const uint8_t *start = <const uint8_t *>PyBytes_AS_STRING(data)
    cdef Py_ssize_t size
    while at < end:
        size = entry_bytes(start + at, end - at)
        if not is_whole(start + at + HEADER_BYTES, size - HEADER_BYTES):
            break
        add_rows(found, start + at + HEADER_BYTES, size - HEADER_BYTES)
        at += size
    return 0


cdef uint64_t lap_of(bytes lap, int place) except? 0:
    """The lap, or the one after it; 0 where none is named."""
    cdef Py_ssize_t size = PyBytes_GET_SIZE(lap)
    if size != LAP_BYTES and size != 2 * LAP_BYTES:
        raise ValueError(f"a lap is {LAP_BYTES} bytes, and the next as many, not {size}")
    if place * LAP_BYTES >= size:
        return 0
    return load64(PyBytes_AS_STRING(lap) + place * LAP_BYTES)


cdef bint is_whole(const uint8_t *data, size_t size) noexcept:
    """Whether the rows of an entry end where it does."""
    cdef Cur c
    cdef uint64_t part
    c.at, c.end = data, data + size
    while left(&c):
        if not take_varint(&c, &part) or not part or part > left(&c):
            return False
        c.at += part
        if not take_varint(&c, &part) or (part and part - 1 > left(&c)):
            return False
        c.at += part - 1 if part else 0
    return True


cdef int add_rows(dict found, const uint8_t *data, size_t size) except -1:
    """Set the rows of a whole entry."""
    cdef Cur c
    cdef uint64_t part = 0
    cdef bytes key
    c.at, c.end = data, data + size
    while left(&c):
        take_varint(&c, &part)
        key = PyBytes_FromStringAndSize(<const char *>c.at, part)
        c.at += part
        take_varint(&c, &part)
        if not part:
            found[key] = None
            continue
        found[key] = PyBytes_FromStringAndSize(<const char *>c.at, part - 1)
        c.at += part - 1
    return 0
