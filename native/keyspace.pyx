"""Keys: cells on top of an ordered map of bytes, the *view*.

Everything lives in that one map, so that a fact and what follows from it are one transaction (I2),
whoever keeps the map:

    k | key                         what a key is: see `encode_key`
    c | kid u64 BE | name           a cell of a collection; its name begins with its type
    z | kid | score | member        a sorted set by score
    x | deadline ms u64 BE | key    keys that expire
    a                               counters
    b                               bytes of keys and values: see `data`

Strings come last: keys made one after the other then fill their pages, and do not halve them.

`edgekeys` and `hubkeys` say what writing means on either side. Nothing here looks at a clock:
`now_ms` is set by the caller (I13). Cells may stand beside cells of other types, as they will after
two edges made one key differently; callers check `type_of` before they write.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcpy

from buffer cimport (
    Buf, Cur, OK, buf_free, left, put8, put_bytes, put_varint, take8, take_varint,
)

from edgesync._native.cells cimport (
    AMOUNT, CRDT_MERGE, Dot, TOMB, VALUE, decode, encode, has_value, read, winner,
)

from edgesync.errors import RecordError

cdef enum:
    HAS_STRING = 1
    HAS_TTL = 2
    HAS_TOMBS = 4
    HAS_CELLS = 8
    IS_TOLD = 16
    HAS_LIFE = 32
    HAS_STRATEGY = 64
    KNOWN_BITS = 127
    FIRST_LOOK = 16
    NEXT_LOOKS = 256
    # Names in a generation, see `remember`: a quarter of all keys, or a part would never get old.
    TOUCHED_MIN = 16
    TOUCHED_MAX = 4096

# The type of a cell is the first byte of its name; a key has that of what it holds.
STRING = ord("s")
HASH = ord("h")
SET = ord("e")
ZSET = ord("z")
LIST = ord("l")
STRING_CELL = b"s"
TTL_CELL = b"t"
NEVER = (1 << 64) - 1
KEY_BYTES_MAX = 500
NAME_BYTES_MAX = 480  # with the type; LMDB's keys end at 511 bytes
WEIGHT_ROW = b"b"

# In the name of a list element each place in the tree of inserts: side, stamp, replica, number.
PLACE_BYTES = 21

STRING_NAME = STRING_CELL
TTL_NAME = TTL_CELL
COUNTERS_ROW = b"a"
cdef bytes COLLECTIONS = b"hezl"
cdef uint64_t NO_DEADLINE = <uint64_t>-1


class WrongType(Exception):
    """A key is of another type than was asked for."""


cdef bytes be64(uint64_t number):
    cdef uint8_t raw[8]
    cdef int i
    for i in range(8):
        raw[7 - i] = <uint8_t>(number & 0xFF)
        number >>= 8
    return PyBytes_FromStringAndSize(<char *>raw, 8)


cdef uint64_t of_be64(bytes data, Py_ssize_t at):
    cdef const uint8_t *p = <const uint8_t *>PyBytes_AS_STRING(data) + at
    cdef uint64_t number = 0
    cdef int i
    for i in range(8):
        number = number << 8 | p[i]
    return number


cpdef bytes sortable(double score):
    """Return eight bytes that sort as the numbers do."""
    cdef uint64_t bits = 0
    if score == 0:
        score = 0.0  # there is one zero
    memcpy(&bits, &score, 8)
    bits = ~bits if bits >> 63 else bits | (<uint64_t>1 << 63)
    return be64(bits)


cpdef double score_of(bytes data):
    """Undo `sortable`."""
    cdef uint64_t bits = of_be64(data, 0)
    cdef double score = 0
    bits = bits & ~(<uint64_t>1 << 63) if bits >> 63 else ~bits
    memcpy(&score, &bits, 8)
    return score


cdef class Key:
    """What one key is, apart from the cells of a collection."""

    def __cinit__(self, bytes name):
        self.name = name
        self.string, self.ttl, self.tombs = [], [], []

    cdef bint is_empty(self):
        return not (self.string or self.ttl or self.tombs or self.cells)

    cdef bint is_choosy(self):
        """Whether it may be absent under one strategy and present under another."""
        return self.cells != 0 or len(self.string) > 1

    cdef bint is_present(self):
        """Whether it counts as present, by the strategy under which its cells were counted."""
        cdef int i
        if self.string and has_value(self.string, self.strategy):
            return True
        for i in range(4):
            if self.counts[i]:
                return True
        return False


cdef bytes encode_key(Key key):
    """`flags u8 | kseq | [life] | [kid cells 4×count] | [strategy] | [ttl] | [tombs] | [string]`.

    Numbers are varints. Expiry and removals follow their length; a string reaches to the end. The
    strategy is there with cells, and with a string that has siblings: in flags where that is alone.
    """
    cdef Buf out
    cdef int bad, i
    cdef bytes part
    out.data, out.size, out.room = NULL, 0, 0
    try:
        bad = put8(
            &out, (HAS_STRING if key.string else 0) | (HAS_TTL if key.ttl else 0)
            | (HAS_TOMBS if key.tombs else 0) | (HAS_CELLS if key.cells else 0)
            | (IS_TOLD if key.is_told else 0) | (HAS_LIFE if key.life else 0)
            | (HAS_STRATEGY if key.is_choosy() and not key.cells else 0))
        bad |= put_varint(&out, key.kseq)
        if key.life:
            bad |= put_varint(&out, key.life)
        if key.cells:
            bad |= put_varint(&out, key.kid)
            bad |= put_varint(&out, key.cells)
            for i in range(4):
                bad |= put_varint(&out, key.counts[i])
        if key.is_choosy():
            bad |= put8(&out, key.strategy)
        for dots in (key.ttl, key.tombs):
            if dots:
                part = encode(dots)
                bad |= put_varint(&out, PyBytes_GET_SIZE(part))
                bad |= put_bytes(&out, PyBytes_AS_STRING(part), PyBytes_GET_SIZE(part))
        if key.string:
            part = encode(key.string)
            bad |= put_bytes(&out, PyBytes_AS_STRING(part), PyBytes_GET_SIZE(part))
        if bad != OK:
            raise MemoryError
        return PyBytes_FromStringAndSize(<char *>out.data, out.size)
    finally:
        buf_free(&out)


cdef Key decode_key(bytes name, bytes data):
    cdef Cur cur
    cdef Key key = Key(name)
    cdef uint8_t flags = 0
    cdef bint is_whole
    cdef int i
    cur.at = <const uint8_t *>PyBytes_AS_STRING(data)
    cur.end = cur.at + PyBytes_GET_SIZE(data)
    is_whole = take8(&cur, &flags) and flags <= KNOWN_BITS and take_varint(&cur, &key.kseq)
    key.is_told = (flags & IS_TOLD) != 0
    if is_whole and flags & HAS_LIFE:
        is_whole = take_varint(&cur, &key.life)
    if is_whole and flags & HAS_CELLS:
        is_whole = take_varint(&cur, &key.kid) and take_varint(&cur, &key.cells)
        for i in range(4):
            is_whole = is_whole and take_varint(&cur, &key.counts[i])
    key.has_strategy = (flags & (HAS_CELLS | HAS_STRATEGY)) != 0
    if key.has_strategy:
        is_whole = is_whole and take8(&cur, &key.strategy)
    if not is_whole:
        raise RecordError(f"the record of key {name!r} is damaged")
    if flags & HAS_TTL:
        key.ttl = take_part(&cur)
    if flags & HAS_TOMBS:
        key.tombs = take_part(&cur)
    if flags & HAS_STRING:
        key.string = decode(PyBytes_FromStringAndSize(<const char *>cur.at, left(&cur)))
    elif left(&cur):
        raise RecordError(f"bytes follow the record of key {name!r}")
    return key


cdef int64_t weight_of(bytes name, list dots):
    """Bytes of a cell's name and of all that its dots hold, as they are kept."""
    cdef Dot dot
    cdef int64_t total = PyBytes_GET_SIZE(name)
    for dot in dots:
        total += PyBytes_GET_SIZE(dot.stored)
    return total if dots else 0


cdef int64_t key_weight(Key key):
    """Bytes of a key's name, while anything is kept under it, and of its string."""
    return 0 if key.is_empty() else PyBytes_GET_SIZE(key.name) + weight_of(b"", key.string)


cdef list take_part(Cur *cur):
    cdef uint64_t size = 0
    if not take_varint(cur, &size) or size > left(cur):
        raise RecordError("the record of a key is cut short")
    cur.at += size
    return decode(PyBytes_FromStringAndSize(<const char *>cur.at - size, <Py_ssize_t>size))


cdef class Keyspace:
    """The keys of one replica, in `view`.

    strategies   (prefix, strategy), the longest prefix counts; the empty one is the default
    may_pack     compress values where that helps

    r            this replica; 0 is the hub, and an edge has none before a hub has named it
    n            operations made here
    keys         keys present, those past their deadline too until they are removed
    """

    def __cinit__(self, view, *, strategies=(), bint may_pack=True):
        self.view = view
        self.overlay = view if type(view) is Overlay else None
        self.may_pack = may_pack
        self.choose(strategies)
        self.load_counters()
        if self.keys and view.get(WEIGHT_ROW) is None:
            self.weight_before = self.weigh()  # written before there was the row

    def choose(self, strategies) -> None:
        """Rank siblings by these from now on; needs no traffic, and can be undone."""
        rules = sorted(strategies, key=lambda rule: -len(rule[0]))
        self.fallback = next((int(one) for prefix, one in rules if not prefix), CRDT_MERGE)
        self.rules = tuple((bytes(prefix), int(one)) for prefix, one in rules if prefix)

    def strategies(self) -> list[tuple[bytes, int]]:
        """Return the rules, the longest prefix first and the default last."""
        return [*self.rules, (b"", self.fallback)]

    cpdef uint8_t strategy_of(self, bytes key):
        """Return the strategy that ranks this key's siblings."""
        for prefix, strategy in self.rules:
            if key.startswith(prefix):
                return strategy
        return self.fallback

    def load_counters(self) -> None:
        """Take the counters from the view, as after a batch that was not stored."""
        raise NotImplementedError

    @property
    def data(self):
        """Bytes of all keys, members and values, as they are kept: packed, siblings each."""
        cdef bytes raw = self.fetch(WEIGHT_ROW)
        return self.weight_before if raw is None else of_be64(raw, 0)

    def weigh(self) -> int:
        """Count `data` anew, row by row."""
        cdef Key key
        total = 0
        for row, raw in self.walk(b"k", b"l"):
            key = decode_key(row[1:], raw)
            total += key_weight(key)
            if key.cells:
                total += sum(weight_of(name, decode(one)) for name, one in self.rows(key))
        return total

    # -- rows --------------------------------------------------------------------------------

    cdef bytes fetch(self, bytes row):
        return self.overlay.look(row) if self.overlay is not None else self.view.get(row)

    cdef place(self, bytes row, bytes value):
        if self.overlay is not None:
            self.overlay.change(row, value)
        else:
            self.view.put(row, value)

    cdef create(self, bytes row, bytes value):
        """Place a row that is not there, under a name that was never used."""
        if self.overlay is not None:
            self.overlay.create(row, value)
        else:
            self.view.put(row, value)

    cdef drop(self, bytes row):
        if self.overlay is not None:
            self.overlay.change(row, None)
        else:
            self.view.delete(row)

    # -- reading -----------------------------------------------------------------------------

    cdef Key load(self, bytes key):
        """The key as stored, past its deadline or not; None without a record.

        What its cells count for is up to date: whether somebody has looked at a key between two
        changes of its strategy is nothing that may be seen afterwards.
        """
        cdef bytes raw = self.fetch(b"k" + key)
        cdef Key found
        if raw is None:
            return None
        found = decode_key(key, raw)
        found.weight = key_weight(found)
        if not found.is_choosy():
            found.was_present = found.is_present()
            return found
        if not found.has_strategy:
            found.strategy = self.strategy_of(key)  # written before that was noted of strings
        found.was_present = found.is_present()
        if found.strategy != self.strategy_of(key):
            self.recount(found)
        return found

    cdef Key alive(self, bytes key):
        """The key as readers see it: None when it is absent, or past its deadline."""
        cdef Key found = self.load(key)
        if found is None or (found.ttl and self.deadline_in(found) <= self.now_ms):
            return None
        return found

    cdef uint64_t deadline_in(self, Key key):
        """The latest of the siblings: the longer of two wins, and "never" over both."""
        cdef Dot dot
        cdef uint64_t latest = 0
        cdef uint64_t one
        cdef bint has_any = False
        for dot in key.ttl:
            if dot.kind == VALUE and PyBytes_GET_SIZE(dot.stored) == 8:
                has_any = True
                one = of_be64(dot.stored, 0)
                latest = one if one > latest else latest
        return latest if has_any else NO_DEADLINE

    cdef uint64_t shown_deadline(self, Key key):
        """The same by `now_ms`, whatever time it was stored by."""
        return self.deadline_in(key)

    cpdef int type_of(self, bytes key):
        """Return STRING, HASH, SET, ZSET or LIST; 0 when the key is absent."""
        cdef Key found = self.alive(key)
        return 0 if found is None else self.type_in(found)

    cdef int type_in(self, Key key):
        cdef int only = 0
        return only if self.count_types(key, &only) < 2 else self.ranked_type(key)

    cdef int count_types(self, Key key, int *one):
        """How many things a key is at once; `one` is set to one of them."""
        cdef int i, count = 0
        if key.string and winner(key.string, self.strategy_of(key.name)) is not None:
            count, one[0] = 1, STRING
        if key.cells:
            for i in range(4):
                if key.counts[i]:
                    count += 1
                    one[0] = COLLECTIONS[i]
        return count

    def types(self, key: bytes) -> dict[int, Dot]:
        """Return the types a key is of at once, each with its highest dot; none when it is of one.

        Two edges made it as different things. It shows as what `winner` of these dots is.
        """
        cdef Key found = self.alive(key)
        cdef int one = 0
        if found is None or self.count_types(found, &one) < 2:
            return {}
        return {kind: dot for kind, dot in self.highest(found).items() if dot is not None}

    cdef int ranked_type(self, Key key):
        """Two edges made one key as different things: it is what its highest dot is."""
        tops = self.highest(key)
        top = winner([dot for dot in tops.values() if dot is not None], self.strategy_of(key.name))
        return next((kind for kind, dot in tops.items() if dot is top), 0)

    cdef dict highest(self, Key key):
        cdef uint8_t strategy = self.strategy_of(key.name)
        cdef Dot best, before
        tops = {STRING: winner(key.string, strategy)}
        for name, raw in self.rows(key):
            best = winner(decode(raw), strategy)
            before = tops.get(name[0])
            if best is not None and (before is None or winner([before, best], strategy) is best):
                tops[name[0]] = best
        return tops

    cpdef bytes get(self, bytes key, bytes name):
        """Return the value of a cell; None when it is absent. Raises Evicted."""
        cdef Key found = self.alive(key)
        if found is None:
            return None
        if self.touched is not None:
            self.touch(key)
        return read(self.dots_of(found, name), self.strategy_of(key))

    cpdef bint has(self, bytes key, bytes name):
        """Whether a cell is present, wherever its value is."""
        cdef Key found = self.alive(key)
        return found is not None and has_value(
            self.dots_of(found, name), self.strategy_of(key))

    cpdef bytes get_string(self, bytes key):
        """Return a string; None when it is absent. Raises Evicted, and WrongType for others."""
        cdef Key found = self.alive(key)
        cdef int kind
        if found is None:
            return None
        if self.touched is not None:
            self.touch(key)
        if found.cells:
            kind = self.type_in(found)
            if kind and kind != STRING:
                raise WrongType
        return read(found.string, self.strategy_of(key))

    def deadline(self, key: bytes) -> int | None:
        """Return when the key expires, in Unix ms; NEVER, or None when the key is absent."""
        cdef Key found = self.alive(key)
        if found is None or not self.type_in(found):
            return None
        return self.shown_deadline(found)

    def stored_bytes(self, key: bytes) -> int | None:
        """Return how many bytes of rows a key takes; None when it is absent."""
        cdef Key found = self.alive(key)
        if found is None or not self.type_in(found):
            return None
        rows = self.rows(found) if found.cells else []
        size = len(key) + len(encode_key(found))
        return size + sum(8 + len(name) + len(raw) for name, raw in rows)

    def siblings(self, key: bytes, name: bytes) -> list[Dot]:
        """Return the dots of a cell: more than one live is a conflict somebody may resolve."""
        cdef Key found = self.load(key)
        return [] if found is None else list(self.dots_of(found, name))

    def is_evicted(self, key: bytes) -> bool:
        """Whether only the hub has some value of a key."""
        cdef Key found = self.load(key)
        if found is None:
            return False
        if any([(<Dot>dot).evicted for dot in found.string]):
            return True
        rows = self.rows(found) if found.cells else []
        return any([(<Dot>dot).evicted for _, raw in rows for dot in decode(raw)])

    cpdef uint64_t count(self, bytes key, int kind):
        """Return how many cells of that type are present."""
        cdef Key found = self.alive(key)
        if found is None or not found.cells:
            return 0
        return found.counts[COLLECTIONS.index(kind)]

    def cells(
        self, key: bytes, kind: int, start: bytes = b"", stop: bytes | None = None, *,
        reverse: bool = False,
    ):
        """Yield (name without its type, value) of present cells in [start, stop), in order.

        Raises Evicted at the first value that only the hub has.
        """
        cdef Key found = self.alive(key)
        if found is None or not found.cells:
            return
        if self.touched is not None:
            self.touch(key)
        strategy = self.strategy_of(key)
        prefix = b"c" + be64(found.kid)
        mark = prefix + bytes([kind])
        end = prefix + bytes([kind + 1]) if stop is None else mark + stop
        for row, raw in self.walk(mark + start, end, reverse):
            value = read(decode(raw), strategy)
            if value is not None:
                yield row[10:], value

    def cell_names(self, key: bytes, kind: int, start: bytes = b""):
        """Yield the names, without their type, of present cells from `start` on, in order."""
        cdef Key found = self.alive(key)
        if found is None or not found.cells:
            return
        strategy = self.strategy_of(key)
        prefix = b"c" + be64(found.kid)
        for row, raw in self.walk(prefix + bytes([kind]) + start, prefix + bytes([kind + 1])):
            if has_value(decode(raw), strategy):
                yield row[10:]

    def by_score(
        self, key: bytes, low: bytes = b"", high: bytes = b"\xff" * 9, *, reverse: bool = False
    ):
        """Yield (score, member) in order, from `low` to before `high`: sortable score | member."""
        cdef Key found = self.alive(key)
        if found is None or not found.cells:
            return
        prefix = b"z" + be64(found.kid)
        for row, _ in self.walk(prefix + low, prefix + high, reverse):
            yield score_of(row[9:17]), row[17:]

    def names(
        self, after: bytes | None = None, prefix: bytes = b"", limit: int = 1000
    ) -> list[bytes]:
        """Return up to `limit` keys with that prefix behind `after`, present or not, in order."""
        start = b"k" + (prefix if after is None else max(prefix, after + b"\0"))
        return [row[1:] for row, _ in self.view.scan(start, _behind(b"k" + prefix), limit=limit)]

    def expired(self, limit: int = 1000) -> list[bytes]:
        """Return keys past their deadline that are still kept."""
        rows = self.view.scan(b"x", b"x" + be64(self.now_ms + 1), limit=limit)
        return [row[9:] for row, _ in rows]

    def give_up_deadline(self, key: bytes) -> None:
        """Take a key that cannot be read off the list of deadlines: it would be first for ever."""
        for row, _ in self.walk(b"x", b"x" + be64(self.now_ms + 1)):
            if row[9:] == key:
                self.drop(row)
                return

    cdef list dots_of(self, Key key, bytes name):
        cdef bytes raw
        if name == STRING_NAME:
            return key.string
        if name == TTL_NAME:
            return key.ttl
        if not key.cells:
            return []
        raw = self.fetch(b"c" + be64(key.kid) + name)
        return [] if raw is None else decode(raw)

    cdef list rows(self, Key key):
        """(name, record) of every cell of a collection."""
        prefix = b"c" + be64(key.kid)
        return [(row[9:], raw) for row, raw in self.walk(prefix, prefix + b"\xff")]

    def walk(self, start: bytes, stop: bytes, reverse: bool = False):
        """Yield rows of the view in [start, stop), some at a time."""
        limit = FIRST_LOOK
        while True:
            rows = self.view.scan(start, stop, limit=limit, reverse=reverse)
            yield from rows
            if len(rows) < limit:
                return
            if reverse:
                stop = rows[-1][0]
            else:
                start = rows[-1][0] + b"\0"
            limit = NEXT_LOOKS

    # -- what was used lately ----------------------------------------------------------------

    def remember(self) -> None:
        """Note from here on which keys are read and written.

        Not when, and not of each: names are put into a set, and one that is full takes the place of
        the one before it. What is in neither was not used for a while.
        """
        self.touched, self.touched_before = set(), set()

    cdef int touch(self, bytes key) except -1:
        cdef uint64_t most = self.keys // 4 + TOUCHED_MIN
        self.touched.add(key)
        if <uint64_t>len(self.touched) >= (TOUCHED_MAX if most > TOUCHED_MAX else most):
            self.turn()
        return 0

    cdef int turn(self) except -1:
        """Let a generation begin."""
        if self.touched is not None:
            self.touched, self.touched_before = set(), self.touched
        return 0

    cdef bint is_recent(self, bytes key):
        return self.touched is not None and (key in self.touched or key in self.touched_before)

    # -- writing -----------------------------------------------------------------------------

    cdef Key open_key(self, bytes key):
        """The key to write to; one past its deadline is removed first, so that it begins anew."""
        cdef Key found
        if PyBytes_GET_SIZE(key) > KEY_BYTES_MAX:
            raise RecordError(f"a key of {len(key)} bytes; at most {KEY_BYTES_MAX}")
        if self.touched is not None:
            self.touch(key)
        found = self.load(key)
        if found is None:
            return Key(key)
        if found.ttl and self.deadline_in(found) <= self.now_ms:
            self.remove_in(found)
        return found

    cpdef put(self, bytes key, bytes name, bytes value):
        """Set a cell: what it held is replaced."""
        cdef Key found = self.open_key(key)
        self.write(found, name, VALUE, value)
        self.save(found)

    def push(self, key: bytes, side: int, values) -> None:
        """Put values at an end of a list, one after the other: 0 is the left end, 1 the right."""
        cdef Key found = self.open_key(key)
        for value in values:
            self.write(found, self.element_name(side), VALUE, value)
        self.save(found)

    cdef bytes element_name(self, int side):
        """The name of the next element: elements stand in the order of their names.

        On the right end later ones come last, on the left end, which sorts before, first.
        """
        cdef uint64_t stamp = self.clock.tick(self.now_ms)
        return b"l" + bytes([side]) + be64(stamp if side else ~stamp) + be64(
            <uint64_t>self.r)[4:] + be64(self.n + 1)

    def insert(self, key: bytes, low: bytes, high: bytes, value: bytes) -> bool:
        """Put a value between two elements of a list that are neighbours, given by their names.

        False when there is no name left between theirs: they were parted too often.
        """
        cdef Key found = self.open_key(key)
        cdef bytes name = self.name_between(low, high)
        if name is None:
            return False
        self.write(found, name, VALUE, value)
        self.save(found)
        return True

    cdef bytes name_between(self, bytes low, bytes high):
        """The shortest name that sorts between two: one of their places, and a place below it.

        Below a place later ones stand farther out, as at the ends of a list. Right below `low` on
        its left side there is always room, but for the length of a name.
        """
        cdef list tails = [self.element_name(1)[1:], self.element_name(0)[1:]]
        cdef bytes name
        for size in range(1, max(len(low), len(high)) + 1, PLACE_BYTES):
            for place in (low[:size], high[:size]):
                for tail in tails:
                    name = place + tail
                    if low < name < high:
                        return name if len(name) <= NAME_BYTES_MAX else None
        return None

    cpdef set_string(self, bytes key, bytes value, bint keep_ttl=False):
        """Make the key this string, whatever it was; without a deadline unless that is kept."""
        cdef Key found = self.open_key(key)
        cdef uint64_t deadline
        if found.cells and self.type_in(found) != STRING:
            deadline = self.shown_deadline(found)
            self.remove_in(found)
            if keep_ttl and deadline != NO_DEADLINE:
                self.write(found, TTL_NAME, VALUE, be64(deadline))
        if found.ttl and not keep_ttl and self.deadline_in(found) != NO_DEADLINE:
            self.write(found, TTL_NAME, VALUE, be64(NO_DEADLINE))
        self.write(found, STRING_NAME, VALUE, value)
        self.save(found)

    def put_many(self, key: bytes, items) -> None:
        """Set several cells of one key."""
        cdef Key found = self.open_key(key)
        for name, value in items:
            self.write(found, name, VALUE, value)
        self.save(found)

    cpdef remove(self, bytes key, bytes name):
        """Remove a cell; the caller knows that it is present."""
        self.remove_many(key, (name,))

    def remove_many(self, key: bytes, names) -> None:
        """Remove several cells of one key that are present; none changes nothing."""
        if not names:
            return
        cdef Key found = self.open_key(key)
        for name in names:
            self.write(found, name, TOMB, b"")
        if found.ttl and self.deadline_in(found) != NO_DEADLINE and not self.type_in(found):
            # Without its last member the key is gone, and its deadline with it.
            self.write(found, TTL_NAME, TOMB, b"")
        self.save(found)

    cpdef add(self, bytes key, bytes name, bytes amount):
        """Add a decimal amount to a cell; nothing anybody adds elsewhere is lost by it."""
        cdef Key found = self.open_key(key)
        self.write(found, name, AMOUNT, amount)
        self.save(found)

    cpdef delete(self, bytes key):
        """Remove a key with all its cells."""
        cdef Key found = self.load(key)
        if found is not None:
            self.remove_in(found)
            self.save(found)

    def expire(self, key: bytes, deadline_ms: int) -> None:
        """Let the key end at that time, in Unix ms; NEVER lets it stay."""
        self.put(key, TTL_NAME, be64(deadline_ms))

    cdef write(self, Key key, bytes name, uint8_t kind, bytes payload):
        """Carry out one operation on a cell of an open key."""
        raise NotImplementedError

    cdef remove_in(self, Key key):
        """Carry out the removal of all that an open key holds."""
        raise NotImplementedError

    cdef set_dots(self, Key key, bytes name, list before, list after):
        """Put the dots of a cell in place, with the indices that follow from them."""
        cdef bytes row
        cdef bytes old
        cdef bytes new
        cdef uint8_t strategy
        cdef int at
        if name == STRING_NAME:
            key.string = after
            return
        if name == TTL_NAME:
            self.set_ttl(key, after)
            return
        if not name or COLLECTIONS.find(name[0]) < 0 or PyBytes_GET_SIZE(name) > NAME_BYTES_MAX:
            raise RecordError(f"{name[:40]!r} is no name of a cell: a type, then at most 479 bytes")
        strategy = self.strategy_of(key.name)
        if not key.cells:
            if not after:
                return
            self.kids += 1
            key.kid = self.kids
        row = b"c" + be64(key.kid) + name
        if after:
            self.place(row, encode(after))
            key.cells += not before
        elif before:
            self.drop(row)
            key.cells -= 1
        key.grown += weight_of(name, after) - weight_of(name, before)
        at = COLLECTIONS.index(name[0])
        key.counts[at] += has_value(after, strategy) - has_value(before, strategy)
        if name[0] != ZSET:
            return
        old, new = read(before, strategy), read(after, strategy)
        if old != new:
            if old is not None:
                self.drop(b"z" + be64(key.kid) + sortable(float(old)) + name[1:])
            if new is not None:
                self.place(b"z" + be64(key.kid) + sortable(float(new)) + name[1:], b"")

    cdef set_ttl(self, Key key, list after):
        cdef uint64_t before = self.deadline_in(key)
        cdef uint64_t now
        key.ttl = after
        now = self.deadline_in(key)
        if before == now:
            return
        if before != NO_DEADLINE:
            self.drop(b"x" + be64(before) + key.name)
        if now != NO_DEADLINE:
            self.place(b"x" + be64(now) + key.name, b"")

    cdef recount(self, Key key):
        """The strategy has changed: whether it is present follows anew, and which of its cells."""
        if key.cells:
            self.recount_cells(key)
        self.store_key(key)

    cdef recount_cells(self, Key key):
        cdef uint8_t strategy = self.strategy_of(key.name)
        cdef int i
        prefix = b"z" + be64(key.kid)
        for row, _ in list(self.walk(prefix, prefix + b"\xff" * 9)):
            self.drop(row)
        for i in range(4):
            key.counts[i] = 0
        for name, raw in self.rows(key):
            dots = decode(raw)
            if not has_value(dots, strategy):
                continue
            key.counts[COLLECTIONS.index(name[0])] += 1
            if name[0] == ZSET:
                score = float(read(dots, strategy))
                self.place(prefix + sortable(score) + name[1:], b"")

    cdef save(self, Key key):
        """Put the key's record in place, or away when nothing of it is left to be known."""
        if key.is_empty() and not key.kseq and not key.is_told:
            self.count_key(key)
            self.drop(b"k" + key.name)
        else:
            self.store_key(key)

    cdef store_key(self, Key key):
        self.count_key(key)
        self.place(b"k" + key.name, encode_key(key))

    cdef count_key(self, Key key):
        cdef bint is_present
        cdef int64_t weight = key_weight(key)
        cdef int64_t change = weight - key.weight + key.grown
        if key.is_choosy():
            key.strategy = self.strategy_of(key.name)
        is_present = key.is_present()
        if is_present != key.was_present:
            self.keys += 1 if is_present else -1
            key.was_present = is_present
        if change:
            # In the view and nowhere else: what becomes of a change becomes of its count.
            self.place(WEIGHT_ROW, be64(<uint64_t>(<int64_t>self.data + change)))
            key.weight, key.grown = weight, 0


cdef uint64_t mark_of(bytes key, uint64_t seq):
    """A number for a key and its last change, as good as drawn by chance (FNV-1a, splitmix64)."""
    cdef const uint8_t *at = <const uint8_t *>PyBytes_AS_STRING(key)
    cdef Py_ssize_t i
    cdef uint64_t mark = <uint64_t>0xCBF29CE484222325
    for i in range(PyBytes_GET_SIZE(key)):
        mark = (mark ^ at[i]) * <uint64_t>0x100000001B3
    mark ^= seq * <uint64_t>0x9E3779B97F4A7C15
    mark = (mark ^ (mark >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    mark = (mark ^ (mark >> 27)) * <uint64_t>0x94D049BB133111EB
    return mark ^ (mark >> 31)


cpdef bint is_in(bytes key, scope):
    """Whether a key is in a scope: (prefix, whether those with it are), the longest first.

    The first prefix that fits counts; a key with none of them is in it.
    """
    cdef bytes prefix
    for prefix, is_wanted in scope:
        if key.startswith(prefix):
            return is_wanted
    return True


def _behind(prefix: bytes) -> bytes:
    """Return the first bytes behind all that begin with `prefix`."""
    trimmed = prefix.rstrip(b"\xff")
    return trimmed[:-1] + bytes([trimmed[-1] + 1])
