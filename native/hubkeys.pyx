"""The hub's keys: where the operations of all edges meet, and the feed that tells edges of it.

Besides what `keyspace` keeps:

    f | seq u64 BE    the key whose last change has that sequence number

Every change of the hub takes the next number of one sequence. A cell's last change is the highest
number of its dots, for every operation leaves one, removals too: *tombs* stay until all edges have
confirmed a later state (`collect`). An edge's operation says up to which number of the key its
writer knew; that is all the hub needs to tell "after" from "beside".

A hub that was restored, or begins anew, hears from its edges what they hold (`restore`). Dots say
by their names what they are, whoever tells of them; what the teller has *seen*, by replica, says
whether a dot that only one side has is new to the other, or gone there.
"""

from cpython.bytes cimport PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint64_t

from edgesync._native.cells cimport (
    AMOUNT, Dot, Entry, Op, TOMB, add_up, apply, decode, insert, is_hub, meeting_of,
    new_dot, nothing,
)
from edgesync._native.clock cimport Clock
from edgesync._native.keyspace cimport (
    COUNTERS_ROW, STRING_NAME, TTL_NAME, Key, Keyspace, be64, is_in, mark_of, of_be64,
)

from edgesync.errors import RecordError

cdef enum:
    COUNTERS_BYTES = 48
    STAMP_MS = 1 << 16
    LOOKS = 20
    OPERATION_BYTES = 512  # that one costs besides what it says, in memory and in time

cdef uint64_t ALL_SEEN = <uint64_t>-1


cdef class HubKeys(Keyspace):
    """The hub's replica.

    r         number 0, or as it has called itself: one of a hub
    seq       number of the last change
    clamped   stamps from edges whose clock ran ahead of ours by more than `ahead_ms_max`
    written   bytes of what clients of the hub itself have written since it was opened, about
    met       (key, cell) of each operation that met something its writer had not seen, or that
              changed a cell in `watched`; without a cell where the key is several things at once.
              Whoever is interested empties it
    """

    cdef readonly uint64_t seq
    cdef readonly uint64_t clamped
    cdef readonly uint64_t written
    cdef public uint64_t ahead_ms_max
    cdef public list met
    cdef public object watched

    def __cinit__(self, view, *, strategies=(), bint may_pack=True):
        # Not with the counters: the keyspace loads those before this class has its objects.
        self.met, self.watched = [], ()

    def load_counters(self) -> None:
        """Take the counters from the view, as after a batch that was not stored."""
        cdef bytes raw = self.fetch(COUNTERS_ROW)
        self.r = 0
        self.ahead_ms_max = 5000
        if raw is None:
            self.n = self.seq = self.kids = self.keys = self.clamped = 0
            self.clock = Clock()
            return
        if len(raw) != COUNTERS_BYTES:
            raise RecordError("the counters of the keyspace are damaged")
        self.n, self.seq, self.kids = of_be64(raw, 0), of_be64(raw, 8), of_be64(raw, 16)
        self.keys, self.clamped = of_be64(raw, 24), of_be64(raw, 32)
        self.clock = Clock(of_be64(raw, 40))

    def save_counters(self) -> None:
        """Put the counters into the view: once for all that is stored together."""
        self.place(COUNTERS_ROW, b"".join((
            be64(self.n), be64(self.seq), be64(self.kids), be64(self.keys), be64(self.clamped),
            be64(self.clock.last))))

    def call_yourself(self, r: int) -> None:
        """Write as replica `r`, one of a hub that was never used, from here on."""
        if not is_hub(r):
            raise ValueError(f"{r} is no replica of a hub")
        self.r = r

    # -- writing -----------------------------------------------------------------------------

    cdef write(self, Key key, bytes name, uint8_t kind, bytes payload):
        """An operation of a client of the hub itself, who has seen everything."""
        self.n += 1
        self.seq += 1
        self.written += OPERATION_BYTES + PyBytes_GET_SIZE(name) + PyBytes_GET_SIZE(payload)
        dot = new_dot(self.r, self.n, self.clock.tick(self.now_ms), kind, payload, self.may_pack)
        self.meet(key, name, dot.at(self.seq, False), ALL_SEEN)

    cdef remove_in(self, Key key):
        self.n += 1
        self.seq += 1
        dot = new_dot(self.r, self.n, self.clock.tick(self.now_ms), TOMB, b"", False)
        self.meet(key, b"", dot.at(self.seq, False), ALL_SEEN)

    def hear(self, r: int, op: Op, *, is_known: bool = True) -> None:
        """Carry out an edge's operation. Any order between edges gives the same cells.

        is_known   the edge wrote it as replica r; else (fork, long absence) what it had seen counts
                   for nothing, since what would prove it may be gone

        A stamp from too far in the future counts as now: a wrong clock may not win for days.
        """
        cdef Key key = self.load(op.key)
        cdef Op heard = op
        cdef uint64_t limit = (self.now_ms + self.ahead_ms_max) * STAMP_MS
        cdef uint64_t hlc = heard.hlc
        if key is None:
            key = Key(op.key)
        if hlc > limit:
            self.clamped += 1
            hlc = self.now_ms * STAMP_MS
        else:
            self.clock.hear(hlc)
        self.seq += 1
        self.meet(key, heard.name, heard.dot(r, self.seq).stamped(hlc), heard.q if is_known else 0)
        self.save(key)

    cdef meet(self, Key key, bytes name, Dot dot, uint64_t q):
        cdef list before
        cdef int kind = 0
        if name:
            before = self.dots_of(key, name)
            self.change(key, name, before, apply(self.beginning(key, before), dot, q))
        else:
            if key.string:
                self.change(key, STRING_NAME, key.string, apply(key.string, dot, q))
            if key.ttl:
                self.change(key, TTL_NAME, key.ttl, apply(key.ttl, dot, q))
            if key.cells:
                for cell, raw in self.rows(key):
                    before = decode(raw)
                    self.change(key, cell, before, apply(before, dot, q))
            key.tombs = apply(key.tombs, dot, q)
        self.move(key)
        if self.count_types(key, &kind) > 1 or (self.watched and (key.name, b"") in self.watched):
            self.met.append((key.name, b""))

    cdef change(self, Key key, bytes name, list before, list after):
        self.set_dots(key, name, before, after)
        if name == TTL_NAME:
            return  # the longest time counts: nothing is lost to anybody
        if len(after) > 1 and meeting_of(after):
            self.met.append((key.name, name))
        elif self.watched and (key.name, name) in self.watched:
            self.met.append((key.name, name))

    cpdef list beginning(self, Key key, list before):
        """What a cell holds before an operation: one that begins does so beside the removals of
        its key; one that was there has its own dots of them.
        """
        return before or key.tombs

    def tombs_of(self, key: bytes) -> list[Dot]:
        """Return the removals of a key that somebody may not have seen."""
        cdef Key found = self.load(key)
        return [] if found is None else list(found.tombs)

    cdef move(self, Key key):
        """The key has changed: it is the last in the feed now."""
        if key.kseq:
            self.drop(b"f" + be64(key.kseq))
        key.kseq = self.seq
        self.place(b"f" + be64(key.kseq), key.name)

    # -- what edges hold -----------------------------------------------------------------------

    def restore(self, Entry entry, dict seen, knows) -> bool:
        """Merge what an edge holds of a key; returns whether anything was new here.

        entry   all of its cells there; of one it has no cells of, none
        seen    operations the edge has seen, up to which number of each replica: what is not in
                the entry was replaced or removed there. Empty: it only adds
        knows   (r, n) -> whether that operation has been carried out here, and if it is not there
                any more was replaced or removed; None if it has been passed over, so far

        Doing it twice changes nothing more, and any order of edges gives the same cells.
        """
        cdef Key key = self.load(entry.key)
        cdef int kind = 0
        cdef bint is_changed = False
        if key is None:
            key = Key(entry.key)
        held = dict(entry.cells)
        names = set(held)
        if key.string:
            names.add(STRING_NAME)
        if key.ttl:
            names.add(TTL_NAME)
        if key.cells:
            names.update([name for name, _ in self.rows(key)])
        self.seq += 1
        for name in sorted(names):
            before = self.dots_of(key, name)
            after = self.merged(before, key.tombs, held.get(name, []), seen, knows)
            if after is not None:
                self.change(key, name, before, after)
                is_changed = True
        if not is_changed:
            self.seq -= 1
            return False
        self.move(key)
        if self.count_types(key, &kind) > 1:
            self.met.append((key.name, b""))
        self.save(key)
        return True

    cdef list merged(self, list ours, list tombs, list theirs, dict seen, knows):
        """Return a cell with what an edge holds of it; None when there is nothing to be done.

        tombs   removals of the key, beside which a cell begins
        """
        cdef Dot dot
        cdef Dot other
        cdef list result = []
        cdef list added = []
        cdef dict here
        cdef dict there = {_identity_of(dot): dot for dot in theirs}
        cdef dict have
        cdef uint64_t limit = (self.now_ms + self.ahead_ms_max) * STAMP_MS
        cdef uint64_t hlc = 0
        cdef bint is_gone = False
        cdef bint begins = not ours
        ours = ours or tombs
        here, have = {_identity_of(dot): dot for dot in ours}, highest_of(ours)
        for dot in theirs:
            if _identity_of(dot) in here or dot.evicted or dot.pending:
                continue
            known = knows(dot.r, dot.n)
            if known or (known is not None and dot.n <= have.get(dot.r, 0)):
                continue  # it was here, and what came after it has taken its place
            added.append(dot)
        cdef dict covers = highest_of(added)
        for r in set(have).intersection(seen):
            covers[r] = max(covers.get(r, 0), seen[r])
        # The same sum, folded further on one side: who has seen more of its replica is right.
        cdef set folded_here = set()
        for dot in ours:
            other = there.get(_identity_of(dot))
            if other is None or other.kind != AMOUNT or other.stored == dot.stored:
                continue
            n = covers.get(dot.r, 0)
            if n <= have[dot.r] or knows(dot.r, n):
                folded_here.add(dot.r)
        for dot in ours:
            other = there.get(_identity_of(dot))
            if other is not None:
                if dot.kind == AMOUNT and other.stored != dot.stored and dot.r not in folded_here:
                    dot, is_gone = other.at(self.seq, False), True
                result.append(dot)
            elif dot.n <= covers.get(dot.r, 0) and dot.r not in folded_here:
                hlc, is_gone = max(hlc, dot.hlc), True
            else:
                result.append(dot)
        if not added and (begins or not is_gone):
            return None
        for dot in added:
            if dot.hlc <= limit:
                self.clock.hear(dot.hlc)
            insert(result, dot.at(self.seq, False))
        if not added:  # the feed must tell of it all the same
            self.n += 1
            insert(result, nothing(self.r, self.n, hlc, self.seq))
        return result

    # -- to the edges ------------------------------------------------------------------------

    def page(
        self, base: int, after: int, limit: int = 500, limit_bytes: int = 1 << 20, scope=()
    ) -> tuple[list[Entry], int, bool]:
        """Return keys that changed after `after`, the position there, and whether that is all.

        base          what the edge has confirmed to have in full: of each key, the cells changed
                      since
        limit_bytes   no further key is begun beyond it; one key comes whole, however large
        scope         which keys the edge wants (keyspace.is_in)

        Not cells changed since `after`: a key that changes again moves on in the feed, so within a
        pass an edge is past changes it never got.
        """
        cdef Entry entry
        cdef Py_ssize_t size = 0
        entries = []
        position = after
        # What is not wanted costs a look only; there is a limit to those as well.
        walked = LOOKS * limit if scope else limit
        rows = self.view.scan(b"f" + be64(after + 1), b"g", limit=walked)
        for row, name in rows:
            position = of_be64(row, 1)
            if scope and not is_in(name, scope):
                continue
            entry = self.entry(self.load(name), base)
            entries.append(entry)
            size += size_of(entry)
            if size >= limit_bytes or len(entries) >= limit:
                return entries, position, False
        return entries, position, len(rows) < walked

    def whole(self, keys, limit_bytes: int = 1 << 18) -> list[Entry]:
        """Return all there is of some keys, of those there are.

        It goes with any page, of whatever base: what an edge has done and knows is told by the
        key's own number. No further key is begun beyond `limit_bytes`.
        """
        cdef Key key
        cdef Entry entry
        cdef Py_ssize_t size = 0
        entries = []
        for name in keys:
            try:
                key = self.load(name)
                if key is None or not key.kseq:
                    continue
                entry = self.entry(key, 0)
            except RecordError:
                continue  # a damaged row costs its key, not the others: I8
            entries.append(entry)
            size += size_of(entry)
            if size >= limit_bytes:
                break
        return entries

    def digest(self, after: int = 0, limit: int = 1000, scope=()) -> tuple[int, int | None]:
        """Return what stands for keys in `scope` whose last change is after `after`, and where to
        go on; None at the end. An edge's are these while it knows all of them, see EdgeKeys.
        """
        cdef uint64_t total = 0
        rows = self.view.scan(b"f" + be64(after + 1), b"g", limit=limit)
        for row, name in rows:
            if is_in(name, scope):
                total += mark_of(name, of_be64(row, 1))
        return total, of_be64(rows[-1][0], 1) if len(rows) == limit else None

    cdef Entry entry(self, Key key, uint64_t base):
        cells = []
        if key.string and changed(key.string) > base:
            cells.append((STRING_NAME, key.string))
        if key.ttl and changed(key.ttl) > base:
            cells.append((TTL_NAME, key.ttl))
        if key.cells:
            for name, raw in self.rows(key):
                dots = decode(raw)
                if changed(dots) > base:
                    cells.append((name, dots))
        return Entry(key.name, key.kseq, base == 0, key.tombs, cells)

    # -- care --------------------------------------------------------------------------------

    def collect(self, first: int, stable: int, limit: int = 1000) -> int:
        """Drop what no edge can need any more of keys last changed in (first, stable].

        stable   every edge has confirmed to have all up to here, and what it wrote before is in

        Returns the position reached; call again until that is `stable`. Nobody sees a difference.
        """
        rows = self.view.scan(b"f" + be64(first + 1), b"f" + be64(stable + 1), limit=limit)
        for _, name in rows:
            try:
                self.collect_in(self.load(name))
            except RecordError:
                continue  # a damaged row costs its key, not the others: I8
        return of_be64(rows[-1][0], 1) if len(rows) == limit else stable

    cdef collect_in(self, Key key):
        key.tombs = []
        key.string = folded(key.string)
        self.set_dots(key, TTL_NAME, key.ttl, folded(key.ttl))
        if key.cells:
            for name, raw in self.rows(key):
                before = decode(raw)
                after = folded(before)
                if after != before:
                    self.set_dots(key, name, before, after)
        if key.is_empty():
            self.drop(b"f" + be64(key.kseq))
            key.kseq = 0
        self.save(key)


cdef Py_ssize_t size_of(Entry entry):
    """About how many bytes it has on its way."""
    cdef Dot dot
    cdef Py_ssize_t size = PyBytes_GET_SIZE(entry.key) + 16
    for name, dots in entry.cells:
        size += len(name) + 4
        for dot in dots:
            size += PyBytes_GET_SIZE(dot.stored) + 24
    return size


cdef uint64_t changed(list dots):
    cdef Dot dot
    cdef uint64_t last = 0
    for dot in dots:
        last = dot.seq if dot.seq > last else last
    return last


cdef dict highest_of(list dots):
    """The highest number of each replica in a cell."""
    cdef Dot dot
    cdef dict found = {}
    for dot in dots:
        found[dot.r] = max(dot.n, found.get(dot.r, 0))
    return found


cdef list folded(list dots):
    """A cell without what only told others of changes: tombs alone, and amounts one by one.

    Amounts of one replica become one: its last, with their sum, ranked as the highest of them was.
    Beside other siblings the cell reads as before, under every strategy. Not those of several
    replicas: who has an older state of the cell must be able to tell which of them are in the sum.
    """
    cdef Dot dot
    cdef Dot last
    if not any((<Dot>dot).kind != TOMB for dot in dots):
        return []
    kept = [dot for dot in dots if (<Dot>dot).kind != AMOUNT]
    amounts = {}
    for dot in dots:
        if dot.kind == AMOUNT:
            amounts.setdefault(dot.r, []).append(dot)
    for one in amounts.values():
        if len(one) == 1:
            kept += one
            continue
        last = one[len(one) - 1]  # dots stand in the order of their numbers
        total = add_up(b"0", [(<Dot>dot).payload for dot in one])
        stamp = max([(<Dot>dot).hlc for dot in one])
        kept.append(last.with_payload(total).stamped(stamp).at(changed(one), False))
    return sorted(kept, key=_identity_of)


def _identity_of(dot: Dot) -> tuple[int, int]:
    return dot.r, dot.n
