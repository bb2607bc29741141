"""An edge's keys, and what of them the hub has not confirmed.

Besides what `keyspace` keeps:

    d | n u64 BE          an operation the hub has not confirmed:
                          kind u8 | q | size of the key | key | name
    g | seq u64 BE | key  a key that is gone: how far we know it, while the hub remembers it
    q | replica u32 BE    its operations up to this number (u64) are in what is here, or were
                          replaced or removed
    o | n u64 BE          operations from this number on were made in that opening (u32) of the
                          store

An operation is pending from its write until the hub's state of its key has arrived with it in. What
it wrote stands in its cell, marked pending. A later operation on the same cell takes the place of
an earlier one, so what is pending is bounded by the cells, not by the writes. Reads and writes
never wait for the hub.

An operation has the name, replica and number, that it was made under, whatever the hub calls this
edge by the time it is told: so the hub knows it again. A store that was put back to an earlier
state gives numbers another time, before it hears of that; the *opening* tells what is named so
apart.
"""

from itertools import islice

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from buffer cimport (
    Buf, Cur, OK, buf_free, left, put8, put_bytes, put_varint, take8, take_varint,
)

from edgesync._native.cells cimport (
    AMOUNT, Dot, Entry, Op, TOMB, VALUE, add_up, apply, new_dot, decode,
)
from edgesync._native.clock cimport Clock
from edgesync._native.keyspace cimport (
    COUNTERS_ROW, STRING_NAME, TTL_NAME, Key, Keyspace, be64, is_in, mark_of, of_be64,
)

from edgesync.errors import RecordError

cdef enum:
    HASH_TYPE = 104  # ord("h")
    LIST_TYPE = 108  # ord("l")
    BIRTH_BYTES = 8  # at the end of the name of a list element: the number of its first operation
    COUNTERS_BYTES = 64
    STAMP_BITS = 16
    # What is left of a value takes about as much; and no number a client counts with is as long.
    EVICTED_FROM = 24
    # A key comes back whole, while somebody waits for one of its fields.
    EVICTED_CELLS_MAX = 4096
    EVICTED_BYTES_MAX = 4 << 20
    NAMES_A_LOOK = 8  # each comes with its value
    SETTLED = 1000  # in one go; a page has fewer keys

# Where the last opening ends: at no number.
cdef uint64_t ALL_LATER = <uint64_t>-1

# A deadline that never comes.
cdef bytes NO_END = b"\xff" * 8

# An edge names itself, by chance: whoever has an operation of it knows it by the same name, and so
# does any hub. A hub gives another when the edge is not what it was (fork, long absence).
UNNAMED = 1 << 31
NAMED_FROM = 1 << 16
NAMED_TO = 1 << 28


cdef class Pending:
    """An operation the hub has not confirmed; what it wrote stands in its cell.

    n      its number here
    q      the hub's sequence of the key as its writer knew it
    kind   VALUE, AMOUNT or TOMB
    name   of the cell; empty for a removal of the whole key
    """

    cdef readonly uint64_t n
    cdef readonly uint64_t q
    cdef readonly uint8_t kind
    cdef readonly bytes key
    cdef readonly bytes name


cdef bytes pending_row(uint8_t kind, uint64_t q, bytes key, bytes name):
    cdef Buf out
    out.data, out.size, out.room = NULL, 0, 0
    try:
        if (
            put8(&out, kind) | put_varint(&out, q) | put_varint(&out, PyBytes_GET_SIZE(key))
            | put_bytes(&out, PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))
            | put_bytes(&out, PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
        ) != OK:
            raise MemoryError
        return PyBytes_FromStringAndSize(<char *>out.data, out.size)
    finally:
        buf_free(&out)


cdef Pending pending_of(uint64_t n, bytes data):
    cdef Cur cur
    cdef uint64_t size = 0
    cdef Pending made = Pending()
    made.n = n
    cur.at = <const uint8_t *>PyBytes_AS_STRING(data)
    cur.end = cur.at + PyBytes_GET_SIZE(data)
    if (
        not take8(&cur, &made.kind) or made.kind > TOMB or not take_varint(&cur, &made.q)
        or not take_varint(&cur, &size) or size > left(&cur)
    ):
        raise RecordError(f"the record of pending operation {n} is damaged")
    made.key = PyBytes_FromStringAndSize(<const char *>cur.at, <Py_ssize_t>size)
    cur.at += size
    made.name = PyBytes_FromStringAndSize(<const char *>cur.at, left(&cur))
    return made


cdef class EdgeKeys(Keyspace):
    """An edge's replica.

    r         a number drawn by chance, or as a hub has named it
    sent      operations up to this number have been given to the link
    pending   operations not confirmed
    evicted   keys whose values were left to the hub, since the start
    taken_as, taken_in   as which replica, and in which opening of the store, the operations were
                         made that `take` returned last; 0 where that was not noted
    """

    cdef readonly uint64_t sent
    cdef readonly uint64_t pending
    cdef readonly uint64_t evicted
    cdef readonly uint32_t taken_as
    cdef readonly uint32_t taken_in
    cdef uint32_t opening
    cdef bint is_noted  # what is made in it begins somewhere
    # Operations up to this number were made in an earlier opening, or as another replica.
    cdef readonly uint64_t sealed
    cdef uint64_t shift_first, shift_after, shift_last  # see `show_shift`
    cdef int64_t shift_ms
    cdef bytes hand  # `evict` goes on behind this key; None: from the first
    cdef uint64_t life  # how often the hub has given this edge another name

    def load_counters(self) -> None:
        """Take the counters from the view, as after a batch that was not stored."""
        cdef bytes raw = self.fetch(COUNTERS_ROW)
        self.is_noted = False
        if raw is None:
            self.r = <uint32_t>UNNAMED
            self.n = self.sent = self.kids = self.keys = self.pending = self.life = 0
            self.clock = Clock()
            return
        if len(raw) != COUNTERS_BYTES:
            raise RecordError("the counters of the keyspace are damaged")
        self.r = of_be64(raw, 0)
        self.n, self.sent, self.kids = of_be64(raw, 8), of_be64(raw, 16), of_be64(raw, 24)
        self.keys, self.pending = of_be64(raw, 32), of_be64(raw, 40)
        self.clock, self.life = Clock(of_be64(raw, 48)), of_be64(raw, 56)

    def save_counters(self) -> None:
        """Put the counters into the view: once for all that is stored together."""
        self.place(COUNTERS_ROW, b"".join((
            be64(self.r), be64(self.n), be64(self.sent), be64(self.kids), be64(self.keys),
            be64(self.pending), be64(self.clock.last), be64(self.life))))

    def open_as(self, opening: int) -> None:
        """Note of what is made from here on that it was in that opening of the store, by chance.

        What was made before stays as it is, until it is told: a copy of the store has it as well.
        """
        self.opening, self.is_noted, self.sealed = opening, False, self.n

    def call_yourself(self, r: int) -> None:
        """Take a number drawn by chance from NAMED_FROM to NAMED_TO: before the first operation."""
        if self.n or not NAMED_FROM <= r < NAMED_TO:
            raise ValueError(f"{r} is no name for a replica that has made {self.n} operations")
        self.r = r

    def rejoin(self, r: int) -> None:
        """Be the replica the hub has named now: at first contact, after a fork or a long absence.

        What the hub has not confirmed counts as written without having seen anything, and what it
        has delivered so far counts for nothing until it is delivered again: the hub may have
        dropped what would tell "after" from "beside". At worst two values stand beside each other.
        """
        cdef Pending one
        if self.r < UNNAMED:
            self.life += 1
        for row, raw in self.walk(b"d", b"e"):
            one = pending_of(of_be64(row, 1), raw)
            self.place(row, pending_row(one.kind, 0, one.key, one.name))
        self.r, self.sealed = r, self.n

    # -- writing -----------------------------------------------------------------------------

    cdef write(self, Key key, bytes name, uint8_t kind, bytes payload):
        cdef list before = self.dots_of(key, name)
        cdef list after = []
        cdef Dot dot
        if kind == TOMB and (
            self.is_unseen(key)
            or (name[0] == LIST_TYPE and self.is_ours_alone(name, before))
        ):
            # Only we know this cell: it vanishes, and the hub need not hear of it at all.
            self.forget(before)
            self.set_dots(key, name, before, [])
            return
        if kind == AMOUNT:
            for dot in before:
                if dot.pending and dot.kind == AMOUNT and self.is_changeable(dot.n):
                    self.forget_one(dot.n)
                    payload = add_up(dot.stored, [payload])
                elif dot.kind != TOMB or dot.pending:
                    after.append(dot)
        else:
            self.forget(before)
        self.n += 1
        dot = new_dot(self.r, self.n, self.clock.tick(self.now_ms), kind, payload, self.may_pack)
        self.set_dots(key, name, before, apply(after, dot, self.context(key)))
        self.note(kind, key, name)

    cdef bint is_unseen(self, Key key):
        """Whether nobody else ever saw anything of this key: there is no hub, or not yet."""
        return not key.kseq and not key.is_told

    cdef bint is_ours_alone(self, bytes name, list dots):
        """Whether nobody else can have seen this list element: it is as born, and never sent."""
        cdef Dot dot
        cdef Py_ssize_t size = PyBytes_GET_SIZE(name)
        if len(dots) != 1 or size < 1 + BIRTH_BYTES:
            return False
        dot = dots[0]
        return (
            dot.pending and not self.is_on_the_wire(dot.n)
            and dot.n == of_be64(name, size - BIRTH_BYTES))

    cpdef bint is_on_the_wire(self, uint64_t n):
        """Whether the hub may have operation n already: it can be followed, not changed."""
        return n <= self.sent

    cdef bint is_changeable(self, uint64_t n):
        """Whether nobody can have operation n: neither the hub nor a copy of the store."""
        return n > self.sealed and not self.is_on_the_wire(n)

    cpdef uint64_t context(self, Key key):
        """The hub's sequence number up to which a writer here knows the key."""
        return key.kseq if key.life == self.life else 0

    cdef remove_in(self, Key key):
        for dots in (key.string, key.ttl, key.tombs):
            self.forget(dots)
        if key.ttl:
            self.set_dots(key, TTL_NAME, key.ttl, [])
        key.string, key.tombs = [], []
        if key.cells:
            for name, raw in self.rows(key):
                dots = decode(raw)
                self.forget(dots)
                self.set_dots(key, name, dots, [])
        if self.is_unseen(key):
            return
        self.n += 1
        key.tombs = [new_dot(self.r, self.n, self.clock.tick(self.now_ms), TOMB, b"", False)]
        self.note(TOMB, key, b"")

    def reclaim(self, limit: int = 256) -> list[bytes]:
        """Remove keys past their deadline that only this edge knows; returns those it looked at.

        Others stay, unseen, until the hub removes them: it alone knows whether somebody has given
        them more time.
        """
        cdef Key key
        gone = self.expired(limit)
        for name in gone:
            try:
                key = self.load(name)
            except RecordError:
                self.give_up_deadline(name)  # a damaged row costs its key, not the others: I8
                continue
            if key.kseq or key.is_told:
                self.drop(b"x" + be64(self.deadline_in(key)) + name)
            else:
                self.remove_in(key)
                self.save(key)
        return gone

    cdef note(self, uint8_t kind, Key key, bytes name):
        """Remember operation `n`, the one just made, until the hub has confirmed it."""
        self.create(
            b"d" + be64(self.n), pending_row(kind, self.context(key), key.name, name))
        self.pending += 1
        if self.opening and not self.is_noted:
            self.note_opening()

    cdef note_opening(self):
        """Remember that operations were made in this opening, from the one just made on."""
        cdef uint64_t oldest = self.oldest_pending() or self.n
        rows = list(self.walk(b"o", b"p"))
        for (row, _), (after, _) in zip(rows, rows[1:]):
            if of_be64(after, 1) <= oldest:
                self.drop(row)
        self.place(b"o" + be64(self.n), be64(self.opening)[4:])
        self.is_noted = True

    cdef forget(self, list dots):
        """Another operation has taken their place."""
        cdef Dot dot
        for dot in dots:
            if dot.pending:
                self.forget_one(dot.n)

    cdef forget_one(self, uint64_t n):
        self.drop(b"d" + be64(n))
        self.pending -= 1

    # -- to the hub --------------------------------------------------------------------------

    def take(
        self, limit: int = 1000, limit_bytes: int = 1 << 20, *, again: int | None = None,
    ) -> list[Op]:
        """Return the next operations for the link, in order, and count them as sent.

        All of them were made as one replica (`taken_as`), in one opening of the store (`taken_in`).
        From here on they are not merged with later ones, for the hub may have them.

        again   only those behind this number that have been sent, for a hub that lost them
        """
        cdef Pending one
        cdef Key key
        cdef Dot dot
        cdef list ops = []
        cdef Py_ssize_t size = 0
        cdef uint64_t after = self.sent if again is None else again
        cdef uint32_t opening = 0
        cdef uint64_t next_opening = 0  # the number of its first operation
        end = b"e" if again is None else b"d" + be64(self.sent + 1)
        for row, raw in self.walk(b"d" + be64(after + 1), end):
            try:
                one = pending_of(of_be64(row, 1), raw)
                key = self.load(one.key)
                dot = self.dot_of(one, key)
            except RecordError:
                if ops:
                    break  # those before it are given first
                raise
            if one.n >= next_opening:
                opening, next_opening = self.opening_at(one.n)
            if ops and (dot.r != self.taken_as or opening != self.taken_in):
                break
            self.taken_as, self.taken_in = dot.r, opening
            if not key.is_told:
                key.is_told = True
                self.save(key)
            self.sent = max(self.sent, one.n)
            ops.append(
                Op(one.n, dot.hlc, one.q, one.kind, one.key, one.name, dot.stored, dot.packed))
            size += len(one.key) + len(one.name) + len(dot.stored)
            if len(ops) >= limit or size >= limit_bytes:
                break
        return ops

    cdef tuple opening_at(self, uint64_t n):
        """Return the opening of operation `n`, 0 if it was not noted, and where the next begins.

        Others are not read: a store that was opened often while the hub was away has many.
        """
        middle = b"o" + be64(n + 1)
        found = self.view.scan(b"o", middle, limit=1, reverse=True)
        later = self.view.scan(middle, b"p", limit=1)
        return (
            int.from_bytes(found[0][1], "big") if found else 0,
            of_be64(later[0][0], 1) if later else ALL_LATER)

    def oldest_pending(self) -> int:
        """Return the number of the oldest operation the hub has not confirmed; 0 without any."""
        rows = self.view.scan(b"d", b"e", limit=1) if self.pending else []
        return of_be64(rows[0][0], 1) if rows else 0

    def oldest_stamp(self) -> int:
        """Return the stamp of the oldest operation the hub has not confirmed; 0 without any."""
        cdef Pending one
        cdef uint64_t n = self.oldest_pending()
        if not n:
            return 0
        one = self.pending_at(n)
        return self.dot_of(one, self.load(one.key)).hlc

    def has_untaken(self) -> bool:
        """Whether `take` would return anything."""
        return self.n > self.sent and bool(
            self.view.scan(b"d" + be64(self.sent + 1), b"e", limit=1))

    cdef Dot dot_of(self, Pending one, Key key):
        """What a pending operation wrote."""
        cdef Dot dot
        if key is not None:
            for dot in self.dots_of(key, one.name) if one.name else key.tombs:
                if dot.pending and dot.n == one.n:
                    return dot
        raise RecordError(f"pending operation {one.n} is not in its cell of {one.key!r}")

    def restamp(self, after: int, last: int, later_ms: int, limit: int) -> int:
        """Give operations behind number `after` deadlines, and stamps, that much later.

        For a clock that was wrong until now: nobody has seen them, so their order is all that has
        to stay. Those given to the link stay as they are. Stamps are not given earlier, for what is
        written next must not be: the hub takes care of those that are ahead.

        last    the last one made before that was begun (`advance_clock`). Those behind it have
                their stamps; of their deadlines, those have to be later that were given before
                the time of keys was, which is then the last thing to move
        limit   operations looked at in one go

        Returns the number after which to go on; 0 at the end.
        """
        cdef Pending one
        cdef Key key
        cdef Dot dot
        cdef Dot made
        cdef uint64_t later = max(later_ms, 0), n = 0
        cdef bint has_deadline
        end = b"e" if later else b"d" + be64(last + 1)
        rows = self.view.scan(b"d" + be64(max(self.sent, after) + 1), end, limit=limit)
        for row, raw in rows:
            n = of_be64(row, 1)
            try:
                one = pending_of(n, raw)
                has_deadline = one.name == TTL_NAME and one.kind == VALUE
                if not has_deadline and (not later or n > last):
                    continue
                key = self.load(one.key)
                dot = self.dot_of(one, key)
            except RecordError:
                continue  # a damaged row costs its key, not the others: I8
            made = dot.stamped(dot.hlc + (later << STAMP_BITS)) if n <= last else dot
            if has_deadline and dot.payload != NO_END:
                made = made.with_payload(be64(max(1, of_be64(dot.payload, 0) + <object>later_ms)))
            if one.name:
                before = self.dots_of(key, one.name)
                self.set_dots(key, one.name, before, [made if it is dot else it for it in before])
            else:
                key.tombs = [made if it is dot else it for it in key.tombs]
            self.save(key)
        return n if len(rows) == limit else 0

    def show_shift(self, first: int, after: int, last: int, later_ms: int) -> None:
        """Know that operations behind `first` are being given deadlines that much later, and are as
        far as `after`; 0 ms: no more.
        """
        self.shift_first, self.shift_after, self.shift_last = first, after, last
        self.shift_ms = later_ms

    cdef uint64_t shown_deadline(self, Key key):
        cdef Dot dot
        cdef uint64_t latest = 0, end
        cdef bint has_any = False
        if not self.shift_ms:
            return self.deadline_in(key)
        for dot in key.ttl:
            if dot.kind != VALUE or PyBytes_GET_SIZE(dot.stored) != 8:
                continue
            has_any = True
            end = of_be64(dot.stored, 0)
            if dot.pending and dot.stored != NO_END:
                # `now_ms` moves last to what is later, and first to what is earlier.
                if self.shift_ms > 0 and self.shift_first < dot.n <= self.shift_after:
                    end -= min(end, <uint64_t>self.shift_ms)
                elif self.shift_ms < 0 and self.shift_after < dot.n <= self.shift_last:
                    end -= min(end, <uint64_t>-self.shift_ms)
            latest = max(latest, end)
        return latest if has_any else of_be64(NO_END, 0)

    def advance_clock(self, later_ms: int) -> None:
        """Give the next operation a stamp behind all there will be that much later."""
        self.clock.hear(self.clock.last + (<uint64_t>later_ms << STAMP_BITS))

    # -- to a hub that lost what it had ------------------------------------------------------

    def seen(self) -> dict[int, int]:
        """Return up to which number of each replica operations are known here."""
        return {of_be32(row): of_be64(raw, 0) for row, raw in self.walk(b"q", b"r")}

    def note_seen(self, seen: dict[int, int]) -> None:
        """End a pass: operations of each replica up to that number are in what is here now, or
        were replaced or removed before.
        """
        for r, n in seen.items():
            row = b"q" + be64(r)[4:]
            raw = self.fetch(row)
            if raw is None or of_be64(raw, 0) < n:
                self.place(row, be64(n))

    def held(
        self, after: bytes | None, limit: int = 500, limit_bytes: int = 1 << 18, scope=(),
    ) -> tuple[list[Entry], bytes | None]:
        """Return what is here of the keys behind `after` that is not to be told as operations, and
        the last key looked at; None at the end.

        Whole are entries of keys in `scope`: what is not in them is not known here, or gone. Keys
        that are not listed are as one without cells.
        """
        cdef Key key
        cdef Dot dot
        cdef Py_ssize_t size = 0
        cdef bint is_whole
        entries = []
        names = self.names(after, limit=limit)
        for name in names:
            is_whole = is_in(name, scope)
            try:
                key = self.load(name)
                cells = [] if key is None else self.held_in(key)
            except RecordError:
                cells, is_whole = [], False  # what is damaged says nothing of what is gone: I8
            if not cells and is_whole:
                continue
            entries.append(Entry(name, 0, is_whole, [], cells))
            size += PyBytes_GET_SIZE(name)
            for _, dots in cells:
                for dot in dots:
                    size += PyBytes_GET_SIZE(dot.stored) + 24
            if size >= limit_bytes:
                return entries, name
        return entries, names[-1] if len(names) == limit else None

    cdef list held_in(self, Key key):
        cells = [(STRING_NAME, key.string), (TTL_NAME, key.ttl)]
        if key.cells:
            cells += [(name, decode(raw)) for name, raw in self.rows(key)]
        told = [(name, [dot for dot in dots if not (<Dot>dot).pending]) for name, dots in cells]
        return [(name, dots) for name, dots in told if dots]

    # -- from the hub ------------------------------------------------------------------------

    def deliver(self, entries: list[Entry], acked: int) -> None:
        """Take the hub's state of some keys, made with all our operations up to `acked` in it.

        What the hub has not heard of yet is done again on top: nobody sees their own writes go,
        and where the hub knew what we had not seen, both stand beside each other.
        """
        cdef Entry entry
        for entry in entries:
            self.deliver_key(entry, acked)

    cdef list pending_in(self, Key key):
        """Return the pending operations on a key, in order."""
        cdef Dot dot
        cdef Pending one
        cdef list found = []
        if key.cells and key.cells > self.pending:
            for row, raw in self.walk(b"d", b"e"):
                one = pending_of(of_be64(row, 1), raw)
                if one.key == key.name:
                    found.append(one)
            return found
        for dots in (key.string, key.ttl, key.tombs):
            for dot in dots:
                if dot.pending:
                    found.append(self.pending_at(dot.n))
        if key.cells:
            for _, raw in self.rows(key):
                for dot in decode(raw):
                    if dot.pending:
                        found.append(self.pending_at(dot.n))
        found.sort(key=_number_of)
        return found

    cdef Pending pending_at(self, uint64_t n):
        cdef bytes raw = self.fetch(b"d" + be64(n))
        if raw is None:
            raise RecordError(f"pending operation {n} has no record")
        return pending_of(n, raw)

    cdef deliver_key(self, Entry entry, uint64_t acked):
        cdef Key key = self.load(entry.key)
        cdef Pending one
        cdef list ours = []
        cdef dict written = {}
        cdef list waiting = []
        cdef list removals = []
        cdef list done = []
        if key is None:
            key = Key(entry.key)
        else:
            ours = self.pending_in(key)
        for one in ours:
            written[one.n] = self.dot_of(one, key)
        heard = operations_in(entry) if any(
            [(<Dot>dot).r != self.r for dot in written.values()]) else ()
        for one in ours:
            if one.n <= acked or operation(one.name, written[one.n]) in heard:
                self.forget_one(one.n)
                done.append(one)
            elif one.name:
                waiting.append(one)
            else:
                removals.append(one)
        key.tombs = [written[(<Pending>one).n] for one in removals]
        listed = set()
        for name, dots in entry.cells:
            listed.add(name)
            self.hear(dots)
            self.redo(key, name, dots, waiting, removals, written)
        self.hear(entry.tombs)
        for name in {(<Pending>one).name for one in ours}:
            if name and name not in listed:
                self.redo_unknown(key, name, entry, done, waiting, removals, written)
        if entry.is_whole:
            self.keep_only(key, listed | {(<Pending>one).name for one in waiting})
        key.kseq, key.life = entry.position, self.life
        # An operation on its way may be one that a later one has replaced: it is not noted here.
        key.is_told = entry.position != 0 or (key.is_told and acked < self.sent)
        self.save(key)

    def let_go(self, acked: int, scope) -> None:
        """Take operations up to `acked` on keys outside `scope` as done: they do not come back."""
        cdef Key key
        cdef Pending one
        for row, raw in self.walk(b"d", b"d" + be64(acked + 1)):
            one = pending_of(of_be64(row, 1), raw)
            if is_in(one.key, scope):
                continue
            self.forget_one(one.n)
            key = self.load(one.key)
            if one.name:
                before = self.dots_of(key, one.name)
                self.set_dots(key, one.name, before, without_pending(before, one.n))
            else:
                key.tombs = without_pending(key.tombs, one.n)
            self.save(key)

    def forget_unlisted(
        self, acked: int, scope=(), after: bytes | None = None, limit: int = 1000,
    ) -> bytes | None:
        """End a pass from the beginning: what the hub did not list, it does not have.

        Listed are the keys delivered since the hub gave this name: it forgets nothing before an
        edge has confirmed a whole pass. Looks at `limit` keys behind `after`, and returns where to
        go on; None at the end.
        """
        cdef Key key
        names = self.names(after, limit=limit)
        for name in names:
            key = self.load(name)
            if (key.kseq == 0 or key.life != self.life) and is_in(name, scope):
                self.deliver_key(Entry(name, 0, True, [], []), acked)
        return names[-1] if len(names) == limit else None

    def digest(
        self, after: bytes | None = None, limit: int = 1000, scope=(),
    ) -> tuple[int, bytes | None]:
        """Return what stands for keys in `scope` the hub has delivered, behind `after` in order,
        and where to go on; None at the end.

        With all its pages taken and nothing pending the sum is the hub's: the same keys, as of the
        same changes. (What a cell holds is folded at the hub, so it is not part of it.)
        """
        cdef Key key
        cdef uint64_t total = 0
        names = self.names(after, limit=limit)
        for name in names:
            key = self.load(name)
            if key.kseq and key.life == self.life and is_in(name, scope):
                total += mark_of(name, key.kseq)
        return total, names[-1] if len(names) == limit else None

    # -- values left to the hub --------------------------------------------------------------

    def evict(self, wanted: int, looks: int = 1000, scope=()) -> int:
        """Leave values to the hub until `wanted` bytes are free; returns how many are.

        looks   keys looked at, at most
        scope   keys the hub is asked for; others stay

        It goes round through all keys, and passes over those used since it came by last, or the
        time before (`remember`).
        """
        cdef uint64_t freed = 0
        cdef int rounds = 0
        while looks > 0 and freed < wanted:
            names = self.names(self.hand, limit=min(looks, NAMES_A_LOOK))
            if not names:
                self.hand = None
                self.turn()
                rounds += 1
                if rounds == 3:
                    break  # none is recent any more
            for name in names:
                looks -= 1
                self.hand = name
                if self.is_recent(name) or not is_in(name, scope):
                    continue
                try:
                    freed += self.evict_key(name)
                except RecordError:
                    continue  # a damaged row costs its key, not the others: I8
                if freed >= wanted:
                    break
        return freed

    cpdef uint64_t evict_key(self, bytes name):
        """Leave the larger values of a key to the hub; returns how many bytes are free by that.

        None of a key with an operation the hub has not confirmed, or that it has not delivered
        since it gave us this name: only from what it has delivered do we know that it has it.
        """
        cdef Key key = self.load(name)
        cdef uint64_t freed = 0, size = 0
        cdef list cells = []
        if (
            key is None or not key.kseq or key.life != self.life
            or key.cells > EVICTED_CELLS_MAX
        ):
            return 0
        if not all([self.is_clean(dots) for dots in (key.string, key.ttl, key.tombs)]):
            return 0
        if key.cells:
            prefix = b"c" + be64(key.kid)
            for row, raw in self.walk(prefix, prefix + b"\xff"):
                size += len(raw)
                dots = decode(raw)
                if size > EVICTED_BYTES_MAX or not self.is_clean(dots):
                    return 0
                cells.append((row[9:], dots))
        freed = evictable(key.string)
        if freed:
            key.string = without_values(key.string)
        for cell, dots in cells:
            if cell[0] == HASH_TYPE and evictable(dots):
                freed += evictable(dots)
                self.set_dots(key, cell, dots, without_values(dots))
        if freed:
            self.evicted += 1
            self.save(key)
        return freed

    cpdef bint is_clean(self, list dots):
        """Whether the hub has confirmed all of them."""
        cdef Dot dot
        for dot in dots:
            if dot.pending:
                return False
        return True

    # -- care --------------------------------------------------------------------------------

    def settle(self, stable: int) -> None:
        """Forget keys that are gone and that the hub has forgotten too, up to that number.

        At most `SETTLED` of them; a page brings fewer that are gone.
        """
        cdef Key key
        for row, _ in list(islice(self.walk(b"g", b"g" + be64(stable + 1)), SETTLED)):
            self.drop(row)
            key = self.load(row[9:])
            if key is not None and key.is_empty() and key.kseq <= stable:
                self.drop(b"k" + key.name)

    cdef save(self, Key key):
        Keyspace.save(self, key)
        if key.is_empty() and key.kseq:
            self.place(b"g" + be64(key.kseq) + key.name, b"")

    cdef hear(self, list dots):
        cdef Dot dot
        for dot in dots:
            self.clock.hear(dot.hlc)

    cdef redo(
        self, Key key, bytes name, list dots, list waiting, list removals, dict written,
    ):
        """Put what the hub has in place of a cell, and our operations on top."""
        cdef Pending one
        cdef Dot dot
        dots = [dot for dot in dots if not dot.spent]  # it says only that the cell has changed
        todo = sorted(
            [one for one in waiting if (<Pending>one).name == name] + removals, key=_number_of)
        for one in todo:
            dot = written[one.n]
            if any([(<Dot>other).r == dot.r and (<Dot>other).n == dot.n for other in dots]):
                dot = dot.by(self.r)  # a copy of this store has named another operation so
            # A removal of the whole key stays noted with the key, not in each of its cells.
            dots = apply(dots, dot.at(0, len(one.name) != 0), one.q)
        kept = [dot if (<Dot>dot).pending else (<Dot>dot).at(0, False) for dot in dots]
        if not any((<Dot>dot).pending or (<Dot>dot).kind != TOMB for dot in kept):
            kept = []  # the hub remembers removals for all of us
        self.set_dots(key, name, self.dots_of(key, name), kept)

    cdef redo_unknown(
        self, Key key, bytes name, Entry entry, list done, list waiting, list removals,
        dict written,
    ):
        """A cell of ours that the hub did not list.

        Either it has not changed there, and what stands here is right; or the hub does not have it
        (yet), and it begins with what is left of the whole key's removals. It does not have it when
        it listed all it has; and when a removal is new to us, for that would have changed it.
        """
        cdef Dot dot
        cdef Pending one
        cdef uint64_t known = self.context(key)
        tombs = entry.tombs
        if not entry.is_whole and all([dot.seq <= known for dot in tombs]):
            # Of what is done nothing waits any more, as after an operation that went out under the
            # name before this one and that the hub had by then: it changed no cell since.
            for one in done:
                if one.name == name:
                    before = self.dots_of(key, name)
                    self.set_dots(key, name, before, without_pending(before, one.n))
            return
        if not any((<Pending>one).name == name for one in waiting):
            tombs = []
        self.redo(key, name, tombs, waiting, removals, written)

    cdef keep_only(self, Key key, set names):
        """The hub listed all it has: other cells are gone."""
        if key.string and STRING_NAME not in names:
            key.string = []
        if key.ttl and TTL_NAME not in names:
            self.set_dots(key, TTL_NAME, key.ttl, [])
        if key.cells:
            for name, raw in self.rows(key):
                if name not in names:
                    self.set_dots(key, name, decode(raw), [])


cdef tuple operation(bytes name, Dot dot):
    return name, dot.r, dot.n, dot.hlc, dot.kind


cdef set operations_in(Entry entry):
    """What the hub has of a key, some of it told by a copy of this store perhaps."""
    found = {operation(b"", dot) for dot in entry.tombs}
    return found.union([operation(name, dot) for name, dots in entry.cells for dot in dots])


cdef list without_pending(list dots, uint64_t n):
    """A cell of which operation `n` has been done: what it wrote stays, a removal need not."""
    cdef Dot dot
    return [
        dot.at(dot.seq, False) if dot.pending and dot.n == n else dot
        for dot in dots if not (dot.pending and dot.n == n and dot.kind == TOMB)]


cdef uint64_t evictable(list dots):
    """Bytes of values that may be left to the hub."""
    cdef Dot dot
    cdef uint64_t total = 0
    for dot in dots:
        if dot.kind == VALUE and PyBytes_GET_SIZE(dot.stored) >= EVICTED_FROM:
            total += PyBytes_GET_SIZE(dot.stored)
    return total


cdef list without_values(list dots):
    cdef Dot dot
    return [
        dot.left_to_hub()
        if dot.kind == VALUE and PyBytes_GET_SIZE(dot.stored) >= EVICTED_FROM else dot
        for dot in dots]


cdef uint32_t of_be32(bytes row):
    cdef const uint8_t *p = <const uint8_t *>PyBytes_AS_STRING(row) + 1
    return <uint32_t>p[0] << 24 | <uint32_t>p[1] << 16 | <uint32_t>p[2] << 8 | p[3]


def _number_of(one: Pending) -> int:
    return one.n
