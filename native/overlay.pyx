# cython: boundscheck=False
"""A store's rows with changes on top that are not committed yet.

Commands run one after the other and see each other's work at once; what they changed is committed
together, with one sync, while the next ones already run. So there are layers, each going over those
before it: `settling`, which the write-ahead log has and which is under way to the store; `logged`,
which only the log has; `frozen`, which is under way to one of both; and `now`, the changes since.
Nobody is told of anything before the layer it is in has reached the disk (I1).
"""

from bisect import bisect_left, insort

from cpython.dict cimport PyDict_GetItem
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t
from libc.string cimport memset

from edgesync._native.store cimport Store

from edgesync._native.write import Write

cdef enum:
    SORT_FROM = 64
    LOOK_BYTES = 4 << 20
    LOOK_ROWS = 32


cdef class Overlay:
    """The rows of database `db` of a store, changed or not. One thread at a time."""

    def __cinit__(self, Store store not None, str db not None):
        self.store, self.db = store, db
        self.now, self.frozen, self.logged, self.settling = {}, {}, {}, {}
        self.noted_outside = []
        self.forget_order()
        self.born, self.born_frozen, self.born_logged = set(), set(), set()

    @property
    def is_changed(self) -> bool:
        """Whether there is something to commit."""
        return len(self.now) > 0

    @property
    def is_committing(self) -> bool:
        """Whether a frozen layer is under way to the disk."""
        return len(self.frozen) > 0

    @property
    def rows_unstored(self) -> int:
        """Up to how many rows the store does not have as they are."""
        layers = (self.now, self.frozen, self.logged, self.settling)
        return sum([len(<dict>layer) for layer in layers])

    @property
    def rows_logged(self) -> int:
        """How many rows this lap of the write-ahead log has."""
        return len(self.logged)

    def get(self, bytes key not None, /) -> bytes | None:
        """Return the value of a row; None without one."""
        return self.look(key)

    cdef bytes look(self, bytes key):
        cdef PyObject *found = PyDict_GetItem(self.now, key)
        if found == NULL:
            found = PyDict_GetItem(self.frozen, key)
        if found == NULL:
            found = PyDict_GetItem(self.logged, key)
        if found == NULL:
            found = PyDict_GetItem(self.settling, key)
        if found != NULL:
            return <bytes>found
        return (<Store>self.store).look(self.db, key)

    def put(self, bytes key not None, bytes value not None, /) -> None:
        """Set a row."""
        self.change(key, value)

    def delete(self, bytes key not None, /) -> None:
        """Delete a row; a missing one is no error."""
        self.change(key, None)

    cdef int create(self, bytes key, bytes value) except -1:
        """Set a row that the store does not have: deleted soon, it will never have been."""
        self.change(key, value)
        self.born.add(key)
        return 0

    cdef int change(self, bytes key, bytes value) except -1:
        if self.touched is not None:
            self.touched.add(key)
        if self.noted is not None:
            self.noted.append((key, key in self.now, self.now.get(key)))
        elif value is None and key in self.born:
            self.born.remove(key)
            del self.now[key]
            self.unlist(key)
            return 0
        if (
            self.is_listed[<uint8_t>key[0]] and key not in self.now
            and not self.is_below(key)
        ):
            self.enlist(key)
        self.now[key] = value
        return 0

    cdef bint is_below(self, bytes key) except -1:
        """Whether a row is in a layer below `now`."""
        return key in self.frozen or key in self.logged or key in self.settling

    cdef int unlist(self, bytes key) except -1:
        """Take a row that is in no layer any more out of their order."""
        cdef int kind = key[0]
        cdef set fresh
        cdef list order
        if not self.is_listed[kind]:
            return 0
        fresh = self.fresh.get(kind)
        if fresh is not None and key in fresh:
            fresh.remove(key)
        else:
            order = self.order[kind]
            del order[bisect_left(order, key)]
        return 0

    cdef int enlist(self, bytes key) except -1:
        """Take note of a row that is in a layer now, and was in none."""
        cdef int kind = key[0]
        cdef set fresh = self.fresh.get(kind)
        if fresh is None:
            self.fresh[kind] = {key}
        else:
            fresh.add(key)
        return 0

    cdef int enlist_kinds(self, int first, int last) except -1:
        """Take note of all rows of these kinds, from where on `change` does."""
        cdef bytes key
        cdef int kind
        if first == last and self.is_listed[first]:
            return 0
        for layer in (self.settling, self.logged, self.frozen, self.now):
            for key in <dict>layer:
                kind = <uint8_t>key[0]
                if first <= kind <= last and not self.is_listed[kind]:
                    self.enlist(key)
        for kind in range(first, last + 1):
            self.is_listed[kind] = True
        return 0

    cdef int forget_order(self) except -1:
        """A layer is gone: whoever looks through a kind next puts what is left of it in order.

        Until then nobody keeps an order that nobody may ask for.
        """
        self.order, self.fresh = {}, {}
        memset(self.is_listed, 0, sizeof(self.is_listed))
        return 0

    def mark(self) -> None:
        """Note changes from here on, so that `undo` can take them back. Marks are nested."""
        if self.noted is not None:
            self.noted_outside.append(self.noted)
        self.noted = []

    def keep(self) -> None:
        """Changes since the last `mark` stay, as far as that depends on it."""
        cdef list noted = self.noted
        self.noted = self.noted_outside.pop() if self.noted_outside else None
        if self.noted is not None:
            self.noted.extend(noted)

    def undo(self) -> None:
        """Take back what has changed since the last `mark`; nothing was frozen meanwhile."""
        noted = self.noted
        self.noted = self.noted_outside.pop() if self.noted_outside else None
        for key, was_changed, value in reversed(noted):
            if was_changed:
                self.now[key] = value
                continue
            del self.now[key]
            self.born.discard(key)
            if self.touched is not None:
                self.touched.discard(key)
            if not self.is_below(key):
                self.unlist(key)

    def scan(
        self, bytes start not None, bytes stop not None, /, *, Py_ssize_t limit,
        bint reverse=False,
    ) -> list[tuple[bytes, bytes]]:
        """Return up to `limit` rows of [start, stop) in order, or the last ones backwards."""
        cdef Py_ssize_t low, high
        cdef list order = self.between(start, stop)
        low, high = bisect_left(order, start), bisect_left(order, stop)
        if low == high:
            return self.stored(start, stop, limit, reverse)
        return self.merged(start, stop, limit, reverse, order, low, high)

    cdef list merged(
        self, bytes start, bytes stop, Py_ssize_t limit, bint reverse, list order, Py_ssize_t low,
        Py_ssize_t high,
    ):
        """Walk through both at once: `order[low:high]` and the store, which is asked in pieces."""
        cdef list found = []
        cdef list rows = []
        cdef Py_ssize_t at = 0, step = -1 if reverse else 1
        cdef Py_ssize_t place = high - 1 if reverse else low
        cdef bint has_more = True
        cdef bytes key, ours
        while len(found) < limit:
            if at == len(rows) and has_more:
                rows = self.stored(start, stop, max(limit, LOOK_ROWS), reverse)
                at = 0
                has_more = len(rows) == max(limit, LOOK_ROWS)
                if rows:
                    start, stop = (start, rows[-1][0]) if reverse else (rows[-1][0] + b"\0", stop)
            ours = order[place] if low <= place < high else None
            key = rows[at][0] if at < len(rows) else None
            if ours is None and key is None:
                break
            if ours is not None and (key is None or (ours >= key if reverse else ours <= key)):
                at += ours == key  # what stands here goes over what the store has
                place += step
                for layer in (self.now, self.frozen, self.logged, self.settling):
                    if ours in layer:
                        break
                value = layer[ours]
                if value is not None:
                    found.append((ours, value))
            else:
                found.append(rows[at])
                at += 1
        return found

    cdef list stored(self, bytes start, bytes stop, Py_ssize_t limit, bint reverse):
        """Rows of the store; it may need several looks, for one takes a limited size."""
        cdef list rows = []
        cdef list more
        while True:
            more = self.store.scan(
                self.db, start, stop, limit=limit - len(rows), limit_bytes=LOOK_BYTES,
                reverse=reverse)
            if not rows:
                rows = more
            else:
                rows += more
            if len(rows) >= limit or sum(len(value) for _, value in more) < LOOK_BYTES // 2:
                return rows
            if reverse:
                stop = more[-1][0]
            else:
                start = more[-1][0] + b"\0"

    cdef list sorted_of(self, int kind):
        """The keys of one kind that some layer has, in order."""
        cdef set fresh = self.fresh.pop(kind, None)
        cdef list order = self.order.get(kind)
        if order is None:
            order = self.order[kind] = sorted(fresh) if fresh else []
        elif fresh:
            if len(fresh) > SORT_FROM:
                order += sorted(fresh)
                order.sort()  # two runs, which is one pass
            else:
                for key in fresh:
                    insort(order, key)
        return order

    cdef list between(self, bytes start, bytes stop):
        """The keys of the kinds in [start, stop) that some layer has, in order."""
        cdef int first = start[0] if start else 0
        cdef int last
        if not stop or stop <= start:
            return []
        last = stop[0] - (len(stop) == 1)
        self.enlist_kinds(first, last)
        if first == last:
            return self.sorted_of(first)
        order = []
        for kind in sorted(self.order.keys() | self.fresh.keys()):
            if first <= kind <= last:
                order += self.sorted_of(kind)
        return order

    def freeze(self) -> Write:
        """Return the changes, and what is logged, as one write; further ones go on top of them."""
        cdef dict below = {**self.settling, **self.logged}
        write = Write()
        for key in self.now:
            below.pop(key, None)
        write.put_all(self.db, below, essential=True)
        for key, value in self.now.items():
            if value is not None:
                write.put(self.db, key, value)
            elif key not in self.born_logged:
                write.delete(self.db, key)
        self.frozen, self.now, self.born = self.now, {}, set()
        # Once it is under way, the store may have all of them.
        self.born_logged = set()
        return write

    def freeze_all(self) -> Write:
        """Return a write of all layers; those above the logged one are one from here on."""
        self.now = {**self.frozen, **self.now}
        return self.freeze()

    def freeze_into(self, wal) -> bool:
        """Give the changes to the write-ahead log, which may have no room for them."""
        if not wal.append(self.now):
            return False
        self.frozen, self.now = self.now, {}
        self.born_frozen, self.born = self.born, set()
        return True

    def committed(self) -> None:
        """The frozen layer is on disk, and what was logged: the store has it now."""
        self.frozen, self.logged, self.settling, self.born_logged = {}, {}, {}, set()
        self.forget_order()

    def landed(self) -> None:
        """The frozen layer is in the write-ahead log."""
        cdef bytes key
        for key, value in self.frozen.items():
            if value is None and key in self.born_logged:
                # The store need not be told of what it never had.
                self.born_logged.remove(key)
                del self.logged[key]
                if key not in self.now:
                    self.unlist(key)
            else:
                self.logged[key] = value
        self.born_logged |= self.born_frozen
        self.frozen = {}

    def abandon(self) -> None:
        """The frozen layer was refused: neither it nor what was built on it has happened."""
        self.frozen, self.now, self.born = {}, {}, set()
        self.forget_order()
        # A commit said to have failed may have given them to the store.
        self.born_frozen, self.born_logged = set(), set()

    def forget_logged(self) -> None:
        """What is logged is in the store, under what it was changed to since; `abandon` follows."""
        self.logged, self.settling = {}, {}

    def settle(self, bytes lap_row not None, bytes lap not None) -> Write:
        """Return what is logged as a write, with the next lap; further entries go on top of it."""
        write = Write()
        write.put_all(self.db, self.logged, essential=True)
        write.put(self.db, lap_row, lap, essential=True)
        self.settling, self.logged, self.born_logged = self.logged, {}, set()
        return write

    def settled(self, bint is_stored) -> None:
        """The settling layer is in the store, or is only in the log as it was."""
        if not is_stored:
            self.logged = {**self.settling, **self.logged}
        self.settling = {}
        if is_stored:
            self.forget_order()

    def restore(self, dict rows not None) -> None:
        """Take what the write-ahead log has and the store has not, when nothing has changed yet."""
        self.logged = rows
        self.forget_order()
