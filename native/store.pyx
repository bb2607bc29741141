# cython: boundscheck=False, wraparound=False
"""One LMDB environment: everything one process keeps durably.

What may not go wrong here, and where it is held: one transaction and one sync per `apply` (I1, I2,
transact.pxd); positions and checksums of lanes (I3, I14, lanes.pxd); the directory's owner, its
first creation and its size (edgesync/store/directory.py). The map has its full size from the
start, which costs only addresses, so it never moves under a reader; the *file* grows in steps that
are reserved on the disk before they are used, and a little of that is written once, ahead of use.

Never MDB_WRITEMAP: a full disk would end the process with SIGBUS, and a stray write the store.
"""

import os
from pathlib import Path

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport EFBIG, EIO, ENOMEM, ENOSPC
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from format cimport FORMAT, read_format, write_format
from lanes cimport (
    DISK_FULL, INTAKE_FULL, LANE_DAMAGED, MARK_BEYOND_TAIL, NO_JOURNAL, NOT_IN_LANE,
    OUT_OF_MEMORY, LanePos, chain_before, load_lane, mend_lanes,
)
from lmdb cimport *
from scan cimport walk
from transact cimport Env, free_bytes, high_water, intake_limit, make_room, transact

from edgesync._native.write cimport Write

from edgesync.errors import StoreCorrupt, StoreError, StoreFull, StoreUnwritable, StoreVersion
from edgesync.store import directory

cdef enum:
    KEY_BYTES_MAX = 511  # LMDB's own limit

cdef object MAP_BYTES_LEAST = 256 << 10
# Of addresses: more than any 64-bit processor of today can map.
cdef object MAP_BYTES_MOST = 1 << 56

# A cimported type is no attribute of the module; `from edgesync._native.store import Write` is.
globals()["Write"] = Write

cdef extern from "<pthread.h>" nogil:
    int pthread_mutex_init(pthread_mutex_t *mutex, void *attributes)
    int pthread_mutex_lock(pthread_mutex_t *mutex)
    int pthread_mutex_unlock(pthread_mutex_t *mutex)
    int pthread_mutex_destroy(pthread_mutex_t *mutex)
    int pthread_atfork(void (*before)(), void (*parent)(), void (*child)())

cdef extern from "<sys/mman.h>" nogil:
    int madvise(void *address, size_t size, int advice)
    int MADV_DONTNEED

cdef extern from "<unistd.h>" nogil:
    int usleep(unsigned int microseconds)

cdef extern from *:
    """
    #ifdef EDGESYNC_LMDB_FROM
    static const char *edgesync_lmdb_from = EDGESYNC_LMDB_FROM;
    #else
    static const char *edgesync_lmdb_from = "the system";
    #endif
    #ifdef EDGESYNC_LZ4_FROM
    static const char *edgesync_lz4_from = EDGESYNC_LZ4_FROM;
    #else
    static const char *edgesync_lz4_from = "the system";
    #endif
    """
    const char *edgesync_lmdb_from
    const char *edgesync_lz4_from

from lz4 cimport LZ4_versionString

_META_DATABASE = "meta"
_JOURNALS = ("journal.0", "journal.1", "journal.2")
_LANES_DATABASE = "lanes"
_LANE_COUNT = 3

# How often this process is the child of a fork. To ask the kernel for our number takes longer.
cdef long forks = 0

cdef void note_fork() noexcept nogil:
    global forks
    forks += 1

pthread_atfork(NULL, NULL, note_fork)

# Directories this process has open, by device and inode: LMDB forbids a second time, and closing
# the second would drop the locks of the first.
_open_here = set()


cdef class Store:
    """One LMDB environment; the doors to it are thread-safe, and closed to a forked child."""

    def __cinit__(
        self, str path not None, *, databases, integer_databases=(), map_bytes=64 << 20,
        map_bytes_max=1 << 30, sync="always", readonly=False,
    ):
        pthread_mutex_init(&self.mutex, NULL)
        memset(&self.e, 0, sizeof(Env))
        self.lock_fd = -1
        self.forks = forks
        self.closing = True
        self._path = Path(path)
        if sync not in ("always", "meta", "none"):
            raise ValueError(f"sync={sync!r} is not 'always', 'meta' or 'none'")
        names = tuple(dict.fromkeys((*databases, *integer_databases, _META_DATABASE)))
        if _LANES_DATABASE in names:
            # A journal's keys are seqs, whoever lists its databases.
            integer_databases = (*integer_databases, *_JOURNALS)
            names = tuple(dict.fromkeys((*names, *_JOURNALS)))
        page = os.sysconf("SC_PAGE_SIZE")
        limit = max(int(map_bytes_max) // page * page, 4 * page, MAP_BYTES_LEAST)
        step_ = min(max(int(map_bytes) // page * page, page), limit)
        if limit > MAP_BYTES_MOST:
            raise StoreUnwritable(path=path, problem=unmappable(limit))
        self.integers = frozenset(integer_databases)
        self.options = (names, step_, limit, sync, bool(readonly))
        self.open()

    cdef open(self):
        readonly = self.options[4]
        if not readonly:
            self.lock_fd = directory.own(self._path)
        try:
            self.claim()
            if readonly:
                if not directory.is_there(self._path):
                    raise StoreUnwritable(path=str(self._path), problem="no store is there")
            elif not directory.is_there(self._path):
                self.create()
            directory.check_file(self._path)
            self.open_env(str(self._path))
            self.closing = False
        except BaseException:
            self.shut()
            raise

    cdef claim(self):
        with directory.explained(self._path):
            status = os.stat(self._path)
        identity = (status.st_dev, status.st_ino)
        if identity in _open_here:
            raise StoreError(f"{self._path} is already open in this process; share that Store")
        _open_here.add(identity)
        self.identity = identity

    cdef create(self):
        """Make the store aside and move it to its name when it is complete and on disk."""
        child = directory.newborn(self._path)
        self.open_env(str(child))
        mdb_env_sync(self.e.env, 1)
        mdb_env_close(self.e.env)
        self.e.env = NULL
        directory.publish(self._path)

    cdef open_env(self, str path):
        cdef unsigned int flags = MDB_NOTLS
        cdef MDB_stat stat
        cdef int dead = 0, rc
        cdef bytes name = os.fsencode(path)
        names, step_, limit, sync, readonly = self.options
        flags |= {"always": 0, "meta": MDB_NOMETASYNC, "none": MDB_NOSYNC}[sync]
        if readonly:
            flags |= MDB_RDONLY
        else:
            directory.allocate_lock(os.path.join(path, directory.LOCK))
        rc = mdb_env_create(&self.e.env)
        if rc == 0:
            rc = mdb_env_set_maxdbs(self.e.env, len(names) + 8)
        if rc == 0:
            rc = mdb_env_set_mapsize(self.e.env, limit)
        if rc == 0:
            rc = mdb_env_open(self.e.env, name, flags, 0o644)
        if rc == ENOMEM:
            raise StoreUnwritable(path=path, problem=unmappable(limit))
        if rc:
            raise self.failure(rc)
        mdb_reader_check(self.e.env, &dead)
        mdb_env_stat(self.e.env, &stat)
        mdb_env_get_fd(self.e.env, &self.e.fd)
        self.e.page_bytes = stat.ms_psize
        self.e.limit_bytes = limit
        self.e.step_bytes = step_
        self.e.allocated_bytes = os.fstat(self.e.fd).st_size
        if not readonly:
            # Also so that a rotten offset in the last pages, up to 64 KiB and a key long, does not
            # lead behind the end of the file: a copy may end with its last page.
            rc = make_room(&self.e, 0, 0)
            if rc:
                raise self.failure(rc)
        self.open_databases()
        self.e.origin = draw()
        self.e.number = 0
        self.map_at = <void *><size_t>directory.mapped_at(Path(path))

    cdef open_databases(self):
        """Check the format before anything is written, then open, or make, every database."""
        cdef MDB_txn *txn = NULL
        cdef uint32_t found
        cdef int rc
        names, _, _, _, readonly = self.options
        rc = mdb_txn_begin(self.e.env, NULL, MDB_RDONLY, &txn)
        if rc:
            raise self.failure(rc)
        rc = read_format(txn, &found)
        mdb_txn_abort(txn)
        if rc:
            raise self.failure(rc)
        if found > FORMAT:
            raise StoreVersion(path=str(self._path), found=found, known=FORMAT)
        rc = mdb_txn_begin(self.e.env, NULL, MDB_RDONLY if readonly else 0, &txn)
        if rc:
            raise self.failure(rc)
        try:
            self.dbis = self.open_each(txn, names, readonly)
            if found < FORMAT and not readonly:
                rc = write_format(txn, self.dbis[_META_DATABASE])
                if rc:
                    raise self.failure(rc)
            self.find_lanes(txn)
        except BaseException:
            mdb_txn_abort(txn)
            raise
        rc = mdb_txn_commit(txn)
        if rc:
            raise self.failure(rc)

    cdef find_lanes(self, MDB_txn *txn):
        cdef bint mended[3]
        cdef int rc
        self.mended = ()
        self.e.has_lanes = _LANES_DATABASE in self.dbis
        if not self.e.has_lanes:
            return
        self.e.lanes = self.dbis[_LANES_DATABASE]
        for lane in range(_LANE_COUNT):
            self.e.journals[lane] = self.dbis[_JOURNALS[lane]]
        if not self.options[4]:
            rc = mend_lanes(txn, self.e.lanes, self.e.journals, mended)
            if rc:
                raise self.failure(rc)
            self.mended = tuple(lane for lane in range(_LANE_COUNT) if mended[lane])

    cdef dict open_each(self, MDB_txn *txn, names, readonly):
        cdef MDB_dbi dbi
        cdef unsigned int flags
        cdef int rc
        cdef dict result = {}
        cdef bytes raw
        for name in names:
            flags = MDB_INTEGERKEY if name in self.integers else 0
            if not readonly:
                flags |= MDB_CREATE
            raw = name.encode()
            rc = mdb_dbi_open(txn, raw, flags, &dbi)
            if rc == MDB_NOTFOUND and readonly:
                continue  # of a later version of whoever writes it: empty
            if rc:
                raise self.failure(rc)
            result[name] = dbi
        return result

    cdef shut(self):
        self.closing = True
        if self.e.env != NULL and self.forks == forks:
            if self.reader != NULL:
                mdb_txn_abort(self.reader)
                self.reader = NULL
            mdb_env_close(self.e.env)
            self.e.env = NULL
        if self.identity is not None:
            _open_here.discard(self.identity)
            self.identity = None
        if self.lock_fd >= 0:
            os.close(self.lock_fd)
            self.lock_fd = -1

    def __dealloc__(self):
        # In a forked child the environment belongs to the parent still.
        if self.e.env != NULL and self.forks == forks:
            self.shut()
        pthread_mutex_destroy(&self.mutex)

    cdef int enter(self) except -1:
        if self.forks != forks:
            raise StoreError(f"{self._path} was opened before a fork; open it in this process")
        while self.reopening:
            with nogil:
                usleep(500)
        if self.closing:
            raise StoreError(f"{self._path} is closed")
        self.users += 1
        return 0

    cdef void leave(self) noexcept:
        self.users -= 1

    cdef object failure(self, int rc):
        """The exception for what LMDB, the system or a step of ours answered."""
        path = str(self._path)
        if rc in (MDB_MAP_FULL, INTAKE_FULL, MDB_TXN_FULL):
            return StoreFull(used_bytes=self.used(), limit_bytes=self.e.limit_bytes)
        if rc in (ENOSPC, DISK_FULL) or (rc in (EIO, EFBIG) and self.disk_is_full()):
            return StoreFull(
                used_bytes=self.used(), limit_bytes=self.e.limit_bytes, where="disk")
        if rc == MDB_VERSION_MISMATCH:
            return StoreVersion(path=path, found=FORMAT + 1, known=FORMAT)
        if rc == MDB_PANIC:
            return StoreUnwritable(path=path, problem="a write failed before; reopen it")
        if rc in (LANE_DAMAGED, MDB_CORRUPTED, MDB_PAGE_NOTFOUND, MDB_INVALID, MDB_PAGE_FULL,
                  MDB_CURSOR_FULL, MDB_INCOMPATIBLE, MDB_BAD_TXN, MDB_MAP_RESIZED):
            what = "a lane's positions" if rc == LANE_DAMAGED else mdb_strerror(rc).decode()
            return StoreCorrupt(path=path, problem=f"damaged ({what})")
        if rc == MARK_BEYOND_TAIL:
            return ValueError("a floor beyond the tail: the other side has records never written")
        if rc == NOT_IN_LANE:
            return ValueError("no record of the journal has this seq")
        if rc == NO_JOURNAL:
            return ValueError(f"{path} has no lanes: open it with the database 'lanes'")
        if rc == MDB_BAD_VALSIZE:
            return ValueError("the key's size does not suit its database")
        if rc in (OUT_OF_MEMORY, ENOMEM):
            return MemoryError("no memory for the transaction")
        if rc > 0:
            return StoreUnwritable(path=path, problem=os.strerror(rc))
        return StoreError(f"{path}: {mdb_strerror(rc).decode()}")

    cdef disk_is_full(self):
        # A write that only partly fits is reported as an input/output error by LMDB.
        return directory.free_bytes(self._path) < 1 << 20

    cdef size_t used(self) noexcept:
        cdef size_t free_ = 0
        if self.e.env == NULL or self.e.page_bytes == 0:
            return 0
        if free_bytes(&self.e, &free_):
            return high_water(&self.e)
        return high_water(&self.e) - free_

    @property
    def path(self):
        return str(self._path)

    @property
    def mended_lanes(self):
        """Lanes whose positions were damaged and have been derived from their records."""
        return self.mended

    @property
    def origin(self):
        """The random half of the event ids given since this store was opened, or forked."""
        return self.e.origin

    @property
    def used_bytes(self):
        """Bytes of pages in use; what was freed is used again and does not count."""
        self.enter()
        try:
            return self.used()
        finally:
            self.leave()

    @property
    def map_bytes(self):
        """Bytes the file has now."""
        return self.e.allocated_bytes

    @property
    def map_bytes_max(self):
        return self.e.limit_bytes

    @property
    def intake_bytes_max(self):
        """Bytes that intake may fill; the rest is for trimming, marks and deletes."""
        return intake_limit(&self.e)

    @property
    def page_bytes(self):
        """Bytes of one of LMDB's pages: those of the machine that made the store."""
        return self.e.page_bytes

    def take_widest(self):
        """Return the bytes that the widest commit since the last call may have needed at once."""
        self.enter()
        try:
            widest = min(self.e.widest_bytes, self.used())
            self.e.widest_bytes = 0
            return widest
        finally:
            self.leave()

    @property
    def is_durable(self):
        """Whether what `apply` returns from is on disk (`sync="always"`)."""
        return self.options[3] == "always"

    def has_room(self, size_t nbytes):
        """Whether the map has so many bytes below its reserve, and the file has them allocated."""
        cdef size_t wanted
        self.enter()
        wanted = high_water(&self.e) + nbytes
        self.leave()
        return wanted <= intake_limit(&self.e) and wanted <= self.e.allocated_bytes

    @property
    def room_bytes(self):
        """Bytes of the map between the last page ever used and its reserve."""
        self.enter()
        try:
            return max(0, <long long>intake_limit(&self.e) - <long long>high_water(&self.e))
        finally:
            self.leave()

    cdef check_keys(self, Write write):
        cdef Py_ssize_t i
        for name in write.names:
            if name not in self.dbis:
                raise ValueError(f"{self._path} has no database {name!r}")
        integers = [name in self.integers for name in write.names]
        if not any(integers):
            return
        for i in range(write.count):
            if write.ops[i].key_size in (0, 8) or not integers[write.ops[i].db]:
                continue
            # LMDB reads eight bytes of such a key, whatever its size.
            name = write.names[write.ops[i].db]
            raise ValueError(f"{name}: a key's size is 8 bytes, not {write.ops[i].key_size}")

    cdef known_key(self, str db, bytes key):
        if db not in self.options[0]:
            raise ValueError(f"{self._path} has no database {db!r}")
        if key and db in self.integers and len(key) != 8:
            raise ValueError(f"{db}: a key's size is 8 bytes, not {len(key)}")

    def apply(self, Write write not None):
        cdef uint64_t tails[3]
        cdef uint64_t fresh = draw()
        cdef MDB_dbi *dbis
        cdef int rc
        if self.options[4]:
            raise StoreUnwritable(path=str(self._path), problem="opened for reading only")
        if write.spent:
            raise ValueError("this Write has been carried out; make a new one")
        self.check_keys(write)
        self.enter()
        dbis = <MDB_dbi *>malloc((len(write.names) + 1) * sizeof(MDB_dbi))
        try:
            if dbis == NULL:
                raise MemoryError
            for i, name in enumerate(write.names):
                dbis[<Py_ssize_t>i] = self.dbis[name]
            write.spent = True  # also against another thread adding to it meanwhile
            with nogil:
                write.sort()
                pthread_mutex_lock(&self.mutex)
                rc = transact(
                    &self.e, write.ops, write.count, write.reserved, dbis, fresh, tails)
                pthread_mutex_unlock(&self.mutex)
            if rc:
                write.spent = False
                raise self.failure(rc)
        finally:
            free(dbis)
            self.leave()
        return (tails[0], tails[1], tails[2])

    def get(self, str db not None, bytes key not None):
        return self.look(db, key)

    cdef bytes look(self, str db, bytes key):
        # The lock of the interpreter is kept, and the transaction reset for the next one: with a
        # row in memory, each of both would take as long as the look.
        cdef MDB_txn *txn
        cdef MDB_val k, v
        cdef int rc
        found = self.dbis.get(db)
        if found is None or db in self.integers:
            self.known_key(db, key)
        if found is None or not 0 < PyBytes_GET_SIZE(key) <= KEY_BYTES_MAX:
            return None
        self.enter()
        txn, self.reader = self.reader, NULL
        try:
            rc = mdb_txn_renew(txn) if txn != NULL else mdb_txn_begin(
                self.e.env, NULL, MDB_RDONLY, &txn)
            if rc:
                raise self.failure(rc)
            k.mv_size = PyBytes_GET_SIZE(key)
            k.mv_data = PyBytes_AS_STRING(key)
            rc = mdb_get(txn, <MDB_dbi>found, &k, &v)
            if rc == MDB_NOTFOUND:
                return None
            if rc:
                raise self.failure(rc)
            return PyBytes_FromStringAndSize(<char *>v.mv_data, v.mv_size)
        finally:
            self.keep(txn)
            self.leave()

    cdef void keep(self, MDB_txn *txn) noexcept:
        """Let a read transaction hold nothing, and be there for the next reader."""
        if txn != NULL and self.reader == NULL:
            mdb_txn_reset(txn)
            self.reader = txn
        elif txn != NULL:
            mdb_txn_abort(txn)

    def scan(
        self, str db not None, bytes start not None=b"", bytes stop=None, *, limit=1000,
        limit_bytes=4 << 20, reverse=False,
    ):
        """Keys in [start, stop) in order (reverse: from the top of that range)."""
        return self.range_of(db, start, stop, limit, limit_bytes, reverse, False)

    def sizes(
        self, str db not None, bytes start not None=b"", bytes stop=None, *, limit=1000,
        limit_bytes=4 << 20,
    ):
        """Keys in [start, stop) in order, with the sizes of their values."""
        return self.range_of(db, start, stop, limit, limit_bytes, False, True)

    cdef list range_of(
        self, str db, bytes start, bytes stop, Py_ssize_t limit, Py_ssize_t limit_bytes,
        bint reverse, bint is_size,
    ):
        cdef MDB_txn *txn = NULL
        cdef MDB_cursor *cursor = NULL
        cdef int rc
        cdef list rows
        self.known_key(db, start)
        self.known_key(db, stop or b"")
        if db not in self.dbis:
            return []
        self.enter()
        try:
            rc = mdb_txn_begin(self.e.env, NULL, MDB_RDONLY, &txn)
            if rc == 0:
                rc = mdb_cursor_open(txn, self.dbis[db], &cursor)
            if rc:
                raise self.failure(rc)
            rows = walk(
                txn, cursor, self.dbis[db], start, stop, limit, limit_bytes, reverse, is_size,
                &rc)
            if rc:
                raise self.failure(rc)
            return rows
        finally:
            if cursor != NULL:
                mdb_cursor_close(cursor)
            if txn != NULL:
                mdb_txn_abort(txn)
            self.leave()

    def count(self, str db not None):
        cdef MDB_stat stat
        self.stat(db, &stat)
        return stat.ms_entries

    def tree_bytes(self, str db not None):
        cdef MDB_stat stat
        self.stat(db, &stat)
        return self.e.page_bytes * (
            stat.ms_branch_pages + stat.ms_leaf_pages + stat.ms_overflow_pages)

    cdef int stat(self, str db, MDB_stat *stat) except -1:
        cdef MDB_txn *txn = NULL
        cdef int rc
        memset(stat, 0, sizeof(MDB_stat))
        self.known_key(db, b"")
        if db not in self.dbis:
            return 0
        self.enter()
        try:
            rc = mdb_txn_begin(self.e.env, NULL, MDB_RDONLY, &txn)
            if rc == 0:
                rc = mdb_stat(txn, self.dbis[db], stat)
                mdb_txn_abort(txn)
            if rc:
                raise self.failure(rc)
            return 0
        finally:
            self.leave()

    def copy(self, str path not None):
        """Write a consistent compacted copy of the environment into directory `path`."""
        cdef int rc
        cdef bytes raw = os.fsencode(path)
        cdef const char *target = raw
        with directory.explained(Path(path)):
            os.makedirs(path, exist_ok=True)
        self.enter()
        try:
            with nogil:
                rc = mdb_env_copy2(self.e.env, target, MDB_CP_COMPACT)
            if rc:
                raise self.failure(rc)
        finally:
            self.leave()
        with directory.explained(Path(path)):
            directory.sync_file(Path(path) / directory.DATA)
            directory.sync_directory(Path(path))

    def check_readers(self):
        """Free the slots of readers whose process died; returns how many."""
        cdef int dead = 0
        self.enter()
        try:
            mdb_reader_check(self.e.env, &dead)
            return dead
        finally:
            self.leave()

    def release_pages(self):
        """Give the mapped pages back to the page cache; they no longer count as resident."""
        self.enter()
        try:
            if self.map_at != NULL:
                with nogil:
                    madvise(self.map_at, self.e.limit_bytes, MADV_DONTNEED)
        finally:
            self.leave()

    cdef wait_for_users(self):
        self.closing = True
        while self.users:
            with nogil:
                usleep(500)

    def reopen(self):
        """Close and open again, as after an input/output error; a new origin is drawn."""
        self.enter()
        self.reopening = True  # others wait instead of meeting a closed store
        self.leave()
        try:
            self.wait_for_users()
            self.shut()
            self.open()
        finally:
            self.reopening = False

    def close(self):
        """Wait for calls under way, then close; closing twice is no error."""
        if self.closing or self.forks != forks:
            return
        self.wait_for_users()
        self.shut()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.close()


cdef str unmappable(limit):
    return (
        f"a map of {limit} bytes ({limit / (1 << 30):.1f} GiB) cannot be had; lower the limit of "
        "this store in the settings, or raise what the process may map (ulimit -v, LimitAS=)"
    )


cdef uint64_t draw():
    """A random number that is not 0."""
    return int.from_bytes(os.urandom(8), "little") | 1


def versions():
    """Versions of the C libraries linked in, and where they came from."""
    return {
        "lmdb": mdb_version(NULL, NULL, NULL).decode(),
        "lmdb_from": edgesync_lmdb_from.decode(),
        "lz4": LZ4_versionString().decode(),
        "lz4_from": edgesync_lz4_from.decode(),
    }


cdef int read_begin(Env *e, MDB_txn **txn) noexcept nogil:
    return mdb_txn_begin(e.env, NULL, MDB_RDONLY, txn)

cdef void read_end(MDB_txn *txn) noexcept nogil:
    if txn != NULL:
        mdb_txn_abort(txn)

cdef int lane_positions(Env *e, MDB_txn *txn, uint8_t lane, LanePos *pos) noexcept nogil:
    return load_lane(txn, e.lanes, lane, pos)

cdef int lane_chain_before(
    Env *e, MDB_txn *txn, const LanePos *pos, uint64_t seq, uint64_t *chain,
) noexcept nogil:
    return chain_before(txn, e.journals[pos.lane], pos, seq, chain)

cdef int lane_cursor(Env *e, MDB_txn *txn, uint8_t lane, MDB_cursor **cursor) noexcept nogil:
    return mdb_cursor_open(txn, e.journals[lane], cursor)

cdef int cursor_get(
    MDB_cursor *cursor, MDB_val *key, MDB_val *value, MDB_cursor_op op,
) noexcept nogil:
    return mdb_cursor_get(cursor, key, value, op)

cdef void cursor_end(MDB_cursor *cursor) noexcept nogil:
    if cursor != NULL:
        mdb_cursor_close(cursor)
