# cython: boundscheck=False
"""A store's rows with changes on top that are not committed yet.

Commands run one after the other and see each other's work at once; what they changed is committed
together, with one sync, while the next ones already run. So there are two layers: `frozen`, which a
transaction under way carries out, and the changes since. Nobody is told of anything before the
layer it is in has reached the disk (I1).
"""

from bisect import bisect_left, insort

from edgesync._native.write import Write

cdef enum:
    SORT_FROM = 64
    LOOK_BYTES = 4 << 20


cdef class Overlay:
    """The rows of database `db` of a store, changed or not. One thread at a time."""

    cdef object store
    cdef str db
    cdef dict now
    cdef dict frozen
    cdef list order   # keys of both layers, sorted, but for those in `fresh`
    cdef set fresh
    cdef public object touched  # a set that takes note of every row changed, or None

    def __cinit__(self, store, str db not None):
        self.store, self.db = store, db
        self.now, self.frozen = {}, {}
        self.order, self.fresh = [], set()

    @property
    def is_changed(self) -> bool:
        """Whether there is something to commit."""
        return len(self.now) > 0

    @property
    def is_committing(self) -> bool:
        """Whether a frozen layer is under way to the disk."""
        return len(self.frozen) > 0

    def get(self, bytes key not None, /) -> bytes | None:
        """Return the value of a row; None without one."""
        if key in self.now:
            return self.now[key]
        if key in self.frozen:
            return self.frozen[key]
        return self.store.get(self.db, key)

    def put(self, bytes key not None, bytes value not None, /) -> None:
        """Set a row."""
        self.change(key, value)

    def delete(self, bytes key not None, /) -> None:
        """Delete a row; a missing one is no error."""
        self.change(key, None)

    cdef change(self, bytes key, bytes value):
        if key not in self.now and key not in self.frozen:
            self.fresh.add(key)
        self.now[key] = value
        if self.touched is not None:
            self.touched.add(key)

    def scan(
        self, bytes start not None, bytes stop not None, /, *, Py_ssize_t limit,
        bint reverse=False,
    ) -> list[tuple[bytes, bytes]]:
        """Return up to `limit` rows of [start, stop) in order, or the last ones backwards."""
        cdef list changed
        cdef Py_ssize_t gone, want
        self.sort()
        changed = self.order[bisect_left(self.order, start):bisect_left(self.order, stop)]
        if not changed:
            return self.stored(start, stop, limit, reverse)
        layer = {key: self.now[key] if key in self.now else self.frozen[key] for key in changed}
        gone = sum(1 for value in layer.values() if value is None)
        want = limit + gone
        rows = dict(self.stored(start, stop, want, reverse))
        if len(rows) == want:
            # Behind the last one there may be others of the store: nothing from there yet.
            edge = next(reversed(rows))
            layer = {
                key: value for key, value in layer.items()
                if (key >= edge if reverse else key <= edge)}
        rows.update(layer)
        found = sorted((key for key in rows if rows[key] is not None), reverse=reverse)
        return [(key, rows[key]) for key in found[:limit]]

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

    cdef sort(self):
        if len(self.fresh) > SORT_FROM:
            self.order = sorted(set(self.order) | self.fresh)
        else:
            for key in self.fresh:
                insort(self.order, key)
        if self.fresh:
            self.fresh = set()

    def freeze(self) -> Write:
        """Return the changes as one write; further ones go on top of them."""
        write = Write()
        for key, value in self.now.items():
            if value is None:
                write.delete(self.db, key)
            else:
                write.put(self.db, key, value)
        self.frozen, self.now = self.now, {}
        return write

    def freeze_all(self) -> Write:
        """Return a write of both layers, which are one from here on."""
        self.now = {**self.frozen, **self.now}
        return self.freeze()

    def committed(self) -> None:
        """The frozen layer is on disk: the store has it now."""
        self.frozen = {}
        self.order, self.fresh = [], set(self.now)

    def abandon(self) -> None:
        """The frozen layer was refused: neither it nor what was built on it has happened."""
        self.frozen, self.now, self.order, self.fresh = {}, {}, [], set()
