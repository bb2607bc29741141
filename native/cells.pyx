# cython: boundscheck=False, wraparound=False
"""Cells: the unit the local-first store merges, and the rules by which it does (I10).

A cell is a string, a hash field, a set member, a sorted-set member, a list element or an expiry. It
holds *dots*: each is one operation, named by its replica and that replica's count, with what it
wrote. Dots that stand beside each other are siblings: nobody who wrote one had seen the other.

    VALUE    replaces what its writer had seen
    AMOUNT   adds to whatever there is
    TOMB     removes what its writer had seen

Merging never chooses: it only drops what a later operation had seen. Choosing is done when a cell
is read, by ranking its dots under a strategy, so a strategy can be changed without any traffic.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from buffer cimport (
    Buf, Cur, OK, buf_free, left, put8, put64, put_bytes, put_varint, take8, take64, take_varint,
)

import decimal
import re

from edgesync._native.pack cimport expand, squeeze

from edgesync.errors import Evicted, RecordError

cdef enum:
    KIND_MASK = 3
    PENDING = 4
    PACKED = 8
    HAS_SEQ = 16
    SPENT = 32
    EVICTED = 64
    SENT_BITS = 63    # what the hub may send; only edges leave values to others
    KNOWN_BITS = 127
    DOT_BYTES_MIN = 12  # head, replica, number, stamp, size of the payload
    PACK_FROM = 64
    OP_BYTES_MIN = 14  # head, number, stamp, q, three sizes
    NAME_BYTES_MAX = 511
    # Numbers of replicas: edges below 1 << 30, hubs up to 1 << 31, above edges without a name.
    HUB_BIT = 30
    SCORED = 122  # "z", the first byte of the name of a member of a sorted set

# A payload may unpack to this much; presets set lower limits on what is written.
cdef Py_ssize_t VALUE_BYTES_MAX = 512 << 20
cdef object INTEGER = re.compile(rb"(0|-?[1-9][0-9]{0,18})")
cdef object DECIMAL = re.compile(rb"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]{1,3})?")
# Exact for any sum of amounts a command lets in: 18 digits before the point, 17 after it.
cdef object EXACT = decimal.Context(prec=80)


cdef class Dot:
    """One operation as it stands in a cell.

    r, n      its replica and that replica's count of operations; a pair is never used again
    hlc       its stamp
    seq       the hub's sequence number of it; 0 while the hub has not confirmed it here
    pending   an operation of this replica that the hub has not confirmed
    spent     a removal that is noted because others must still hear of it, but no sibling any more:
              a pending one with an amount of ours after it; at the hub, `nothing`
    evicted   a value that only the hub has; all that merging and ranking ask for is here
    """

    def __init__(
        self, uint32_t r, uint64_t n, uint64_t hlc, uint8_t kind, bytes payload = b"",
        *, uint64_t seq = 0, bint pending = False, bint packed = False,
    ):
        if kind > TOMB:
            raise ValueError(f"{kind} is no kind of dot")
        self.r, self.n, self.hlc, self.kind = r, n, hlc, kind
        self.stored, self.seq, self.pending, self.packed = payload, seq, pending, packed

    @property
    def payload(self) -> bytes:
        """What it wrote: a value, or an amount in decimal. Raises Evicted when it is elsewhere."""
        if self.packed:
            return expand(
                PyBytes_AS_STRING(self.stored), PyBytes_GET_SIZE(self.stored), VALUE_BYTES_MAX)
        if self.evicted:
            raise Evicted
        return self.stored

    cpdef Dot at(self, uint64_t seq, bint pending):
        """Return the same operation, confirmed (or not) under that sequence number."""
        cdef Dot made = make(self.r, self.n, self.hlc, self.kind, self.stored)
        made.seq, made.pending, made.packed = seq, pending, self.packed
        made.evicted = self.evicted
        return made

    cpdef Dot stamped(self, uint64_t hlc):
        """Return the same operation with another stamp."""
        cdef Dot made = self.at(self.seq, self.pending)
        made.hlc = hlc
        return made

    cpdef Dot by(self, uint32_t r):
        """Return the same operation as one of replica `r`."""
        cdef Dot made = self.at(self.seq, self.pending)
        made.r = r
        return made

    cpdef Dot with_payload(self, bytes payload):
        """Return it with another payload, as when amounts are folded into one."""
        cdef Dot made = self.at(self.seq, self.pending)
        made.stored, made.packed, made.evicted = payload, False, False
        return made

    cpdef Dot left_to_hub(self):
        """Return a confirmed value without its payload."""
        assert self.kind == VALUE and not self.pending
        cdef Dot made = self.with_payload(b"")
        made.evicted = True
        return made

    def __eq__(self, other: object) -> bool:
        cdef Dot one
        if not isinstance(other, Dot):
            return NotImplemented
        one = <Dot>other
        return (
            self.r == one.r and self.n == one.n and self.hlc == one.hlc and self.kind == one.kind
            and self.seq == one.seq and self.pending == one.pending and self.packed == one.packed
            and self.spent == one.spent and self.evicted == one.evicted
            and self.stored == one.stored)

    __hash__ = None

    def __repr__(self) -> str:
        mark = ", pending" if self.pending else f", seq={self.seq}" if self.seq else ""
        kind = ("VALUE", "AMOUNT", "TOMB")[self.kind]
        what = "evicted" if self.evicted else repr(self.payload)
        return f"Dot({self.r}, {self.n}, hlc={self.hlc}, {kind} {what}{mark})"


cdef inline Dot make(uint32_t r, uint64_t n, uint64_t hlc, uint8_t kind, bytes stored):
    """What the constructor does, without unpacking arguments (a third of the time of a SET)."""
    cdef Dot made = Dot.__new__(Dot)
    made.r, made.n, made.hlc, made.kind, made.stored = r, n, hlc, kind, stored
    return made


cpdef Dot new_dot(uint32_t r, uint64_t n, uint64_t hlc, uint8_t kind, bytes value, bint may_pack):
    """Return a pending dot, its value compressed when that is allowed and helps (pack.pyx)."""
    cdef Dot made = make(r, n, hlc, kind, value)
    cdef bytes squeezed
    made.pending = True
    if may_pack and kind == VALUE and PyBytes_GET_SIZE(value) >= PACK_FROM:
        squeezed = squeeze(value)
        if squeezed is not None:
            made.stored, made.packed = squeezed, True
    return made


cpdef Dot nothing(uint32_t r, uint64_t n, uint64_t hlc, uint64_t seq):
    """Return a dot that says only that a cell has changed, and holds nothing any more."""
    cdef Dot made = make(r, n, hlc, TOMB, b"")
    made.seq, made.spent = seq, True
    return made


cdef inline bint covered(Dot dot, uint32_t r, uint64_t n, uint64_t q) noexcept:
    """Whether the writer of (r, n), who knew the key up to the hub's `q`, had seen `dot`."""
    if (dot.pending or dot.r == r) and dot.n <= n:
        return True
    return dot.seq != 0 and dot.seq <= q


cpdef list apply(list dots, Dot op, uint64_t q):
    """Return the cell after `op`, whose writer knew the key up to the hub's sequence `q`.

    Idempotent, and any order of concurrent operations gives the same list.
    """
    cdef Dot dot
    cdef list kept = []
    cdef bint is_late = False
    for dot in dots:
        if dot.r == op.r and dot.n == op.n:
            return dots
        if covered(dot, op.r, op.n, q):
            if op.kind != AMOUNT:
                continue
            # An amount stands beside what it adds to, and after a removal.
            if dot.kind == TOMB:
                if not dot.pending:
                    continue
                dot = dot.at(dot.seq, True)
                dot.spent = True
        elif dot.r == op.r and dot.n > op.n:
            # One that a hub has lost, told again: what came after it is here already.
            is_late |= dot.kind != AMOUNT or op.kind == TOMB
        kept.append(dot)
    if not is_late:
        insert(kept, op)
    return kept


cpdef insert(list dots, Dot op):
    """Keep the order by (r, n): equal sets of dots are equal lists, and equal bytes."""
    cdef Dot dot
    cdef Py_ssize_t at = len(dots)
    while at > 0:
        dot = dots[at - 1]
        if dot.r < op.r or (dot.r == op.r and dot.n < op.n):
            break
        at -= 1
    dots.insert(at, op)


cpdef bint is_hub(uint32_t r) noexcept:
    """Whether a replica is that of a hub, in whichever life of its keyspace."""
    return r == 0 or r >> HUB_BIT == 1


cdef inline bint outranks(Dot one, Dot other, uint8_t strategy) noexcept:
    if strategy >= CLOUD_WINS and is_hub(one.r) != is_hub(other.r):
        return is_hub(one.r) == (strategy == CLOUD_WINS)
    if one.hlc != other.hlc:
        return one.hlc > other.hlc
    if one.r != other.r:
        return one.r > other.r
    return one.n > other.n


cpdef Dot winner(list dots, uint8_t strategy):
    """Return the dot that ranks highest; None when the cell is absent under this strategy."""
    cdef Dot dot
    cdef Dot best = None
    for dot in dots:
        if dot.spent or (dot.kind == TOMB and strategy == CRDT_MERGE):
            continue  # an addition somebody made without seeing the removal stays
        if best is None or outranks(dot, best, strategy):
            best = dot
    return None if best is None or best.kind == TOMB else best


cpdef Dot base_of(list dots, uint8_t strategy):
    """Return the VALUE amounts add to; None for nothing, that is 0."""
    cdef Dot dot
    cdef Dot best = None
    for dot in dots:
        if dot.spent or dot.kind == AMOUNT or (dot.kind == TOMB and strategy == CRDT_MERGE):
            continue
        if best is None or outranks(dot, best, strategy):
            best = dot
    return None if best is None or best.kind == TOMB else best


cpdef uint8_t meeting_of(list dots):
    """Return what has met in a cell: MEET_NOTHING, MEET_VALUES or MEET_REMOVAL.

    MEET_VALUES    two values that differ, and neither's writer had seen the other
    MEET_REMOVAL   a removal, and what its writer had not seen

    Amounts add up, and two who wrote the same agree: nothing has to be chosen there.
    """
    cdef Dot dot
    cdef Dot value = None
    cdef bint has_tomb = False, has_content = False
    if len(dots) < 2:
        return MEET_NOTHING
    for dot in dots:
        if dot.spent:
            continue
        if dot.kind == TOMB:
            has_tomb = True
            continue
        has_content = True
        if dot.kind == VALUE:
            if value is not None and value.payload != dot.payload:
                return MEET_VALUES
            value = dot
    return MEET_REMOVAL if has_tomb and has_content else MEET_NOTHING


cpdef bint has_value(list dots, uint8_t strategy):
    """Whether the cell has a value, wherever that is."""
    if len(dots) == 1:
        return (<Dot>dots[0]).kind != TOMB
    return winner(dots, strategy) is not None


cpdef bytes read(list dots, uint8_t strategy):
    """Return the cell's value; None when it is absent. Raises Evicted when only the hub has it.

    With amounts: their sum on top of the value. Amounts beside a value that is no number wait
    unseen until somebody replaces it.
    """
    cdef Dot dot
    cdef Dot base
    cdef bint has_amounts = False
    if len(dots) == 1:
        dot = <Dot>dots[0]
        return None if dot.kind == TOMB else dot.payload
    if winner(dots, strategy) is None:
        return None
    for dot in dots:
        has_amounts |= dot.kind == AMOUNT
    base = base_of(dots, strategy)
    if not has_amounts:
        return base.payload
    return add_up(
        b"0" if base is None else base.payload,
        [(<Dot>one).stored for one in dots if (<Dot>one).kind == AMOUNT])


cpdef bytes add_up(bytes base, list amounts):
    """Return `base` plus all `amounts`, exactly, as text; `base` itself when it is no number.

    Decimal, not binary floating point: the sum does not depend on the order, so every replica
    gets the same digits, and folding amounts together changes none.
    """
    if DECIMAL.fullmatch(base) is None:
        return base
    if INTEGER.fullmatch(base) is not None and all(map(INTEGER.fullmatch, amounts)):
        return b"%d" % (int(base) + sum(map(int, amounts)))
    total = decimal.Decimal(base.decode())
    for amount in amounts:
        total = EXACT.add(total, decimal.Decimal(amount.decode()))
    return plain(total)


cdef bytes plain(object total):
    """Return a number as text without exponent and needless zeros."""
    text = f"{total:.17f}".rstrip("0").rstrip(".")
    return b"0" if text in ("-0", "") else text.encode()


cpdef bytes encode(list dots):
    """Return a cell's bytes; equal sets of dots give equal bytes."""
    cdef Buf out
    out.data, out.size, out.room = NULL, 0, 0
    try:
        write_cell(&out, dots)
        return PyBytes_FromStringAndSize(<char *>out.data, out.size)
    finally:
        buf_free(&out)


cdef int write_cell(Buf *out, list dots) except -1:
    cdef Dot dot
    cdef int bad = put_varint(out, len(dots))
    cdef uint8_t head
    for dot in dots:
        head = dot.kind
        if dot.pending:
            head |= PENDING
        if dot.packed:
            head |= PACKED
        if dot.spent:
            head |= SPENT
        if dot.evicted:
            head |= EVICTED
        if dot.seq:
            head |= HAS_SEQ
        bad |= put8(out, head)
        bad |= put_varint(out, dot.r)
        bad |= put_varint(out, dot.n)
        bad |= put64(out, dot.hlc)
        if dot.seq:
            bad |= put_varint(out, dot.seq)
        bad |= put_varint(out, PyBytes_GET_SIZE(dot.stored))
        bad |= put_bytes(out, PyBytes_AS_STRING(dot.stored), PyBytes_GET_SIZE(dot.stored))
    if bad != OK:
        raise MemoryError
    return 0


cpdef list decode(bytes data):
    """Undo `encode`; raises RecordError on anything else."""
    cdef Cur cur
    cur.at = <const uint8_t *>PyBytes_AS_STRING(data)
    cur.end = cur.at + PyBytes_GET_SIZE(data)
    dots = read_cell(&cur, KNOWN_BITS)
    if left(&cur):
        raise RecordError("bytes follow a cell")
    return dots


cdef bint is_score(bytes raw):
    try:
        return float(raw) == float(raw)
    except ValueError:
        return False


cdef int check_score(bytes name, uint8_t kind, bint packed, bytes stored) except -1:
    """Raise RecordError for a member of a sorted set whose value is no number."""
    if name and name[0] == SCORED and kind == VALUE and (packed or not is_score(stored)):
        raise RecordError("a score that is no number")
    return 0


cdef list read_cell(Cur *cur, uint8_t known):
    cdef uint64_t count = 0, r = 0, n = 0, hlc = 0, seq = 0, size = 0, _i
    cdef uint8_t head = 0
    cdef list dots = []
    cdef Dot before = None
    cdef Dot dot
    if not take_varint(cur, &count) or count > left(cur) // DOT_BYTES_MIN:
        raise RecordError("a cell cut short")
    for _i in range(count):
        seq = 0
        if (
            not take8(cur, &head) or head > known or head & KIND_MASK > TOMB
            or not take_varint(cur, &r) or r >> 32
            or not take_varint(cur, &n)
            or not take64(cur, &hlc)
            or (head & HAS_SEQ and (not take_varint(cur, &seq) or seq == 0))
            or not take_varint(cur, &size) or size > left(cur)
        ):
            raise RecordError("a dot cut short or damaged")
        if head & EVICTED and (size or head & (KIND_MASK | PENDING | PACKED | SPENT)):
            raise RecordError("a dot that was evicted and is no confirmed value")
        dot = make(
            <uint32_t>r, n, hlc, head & KIND_MASK,
            PyBytes_FromStringAndSize(<const char *>cur.at, <Py_ssize_t>size))
        dot.seq, dot.pending, dot.packed = seq, (head & PENDING) != 0, (head & PACKED) != 0
        dot.spent, dot.evicted = (head & SPENT) != 0, (head & EVICTED) != 0
        cur.at += size
        if before is not None and (before.r, before.n) >= (dot.r, dot.n):
            raise RecordError("dots out of order")
        if dot.kind == AMOUNT and (dot.packed or DECIMAL.fullmatch(dot.stored) is None):
            raise RecordError("an amount that is no number")
        before = dot
        dots.append(dot)
    return dots


cdef class Op:
    """An operation on its way to the hub: what a dot says, and where it belongs.

    q      the hub's sequence of the key as the writer knew it
    name   of the cell; empty for the whole key
    """

    def __init__(
        self, uint64_t n, uint64_t hlc, uint64_t q, uint8_t kind, bytes key, bytes name,
        bytes stored = b"", bint packed = False,
    ):
        self.n, self.hlc, self.q, self.kind = n, hlc, q, kind
        self.key, self.name, self.stored, self.packed = key, name, stored, packed

    cpdef Dot dot(self, uint32_t r, uint64_t seq):
        """Return it as a dot of that replica, under that sequence number of the hub."""
        cdef Dot made = make(r, self.n, self.hlc, self.kind, self.stored)
        made.seq, made.packed = seq, self.packed
        return made

    def __repr__(self) -> str:
        kind = ("VALUE", "AMOUNT", "TOMB")[self.kind]
        return f"Op({self.n}, q={self.q}, {kind} {self.key!r} {self.name!r} {self.stored!r})"


cdef class Entry:
    """The hub's state of one key: all cells that changed after what an edge confirmed to have.

    position   the hub's sequence of the key's last change
    is_whole   all cells are here, and the key has no others
    tombs      removals of the whole key that somebody may not have seen
    cells      (name, dots)
    """

    def __init__(self, bytes key, uint64_t position, bint is_whole, list tombs, list cells):
        self.key, self.position, self.is_whole = key, position, is_whole
        self.tombs, self.cells = tombs, cells

    def __repr__(self) -> str:
        return f"Entry({self.key!r} at {self.position}, {self.cells}, tombs={self.tombs})"


cdef int put_part(Buf *out, bytes part) noexcept:
    return put_varint(out, PyBytes_GET_SIZE(part)) | put_bytes(
        out, PyBytes_AS_STRING(part), PyBytes_GET_SIZE(part))


cdef bytes take_part(Cur *cur, str what):
    cdef uint64_t size = 0
    if not take_varint(cur, &size) or size > left(cur):
        raise RecordError(f"{what} cut short")
    part = PyBytes_FromStringAndSize(<const char *>cur.at, <Py_ssize_t>size)
    cur.at += size
    return part


def encode_ops(r: int, ops: list[Op]) -> bytes:
    """Return operations of replica `r`, in order, as they travel (docs/cells-format.md)."""
    cdef Buf out
    cdef Op op
    cdef int bad
    cdef uint64_t before = 0
    out.data, out.size, out.room = NULL, 0, 0
    try:
        bad = put_varint(&out, r) | put_varint(&out, len(ops))
        for op in ops:
            if op.n <= before:
                raise ValueError("operations out of order")
            bad |= put8(&out, op.kind | (PACKED if op.packed else 0))
            bad |= put_varint(&out, op.n - before)
            bad |= put64(&out, op.hlc)
            bad |= put_varint(&out, op.q)
            bad |= put_part(&out, op.key) | put_part(&out, op.name) | put_part(&out, op.stored)
            before = op.n
        if bad != OK:
            raise MemoryError
        return PyBytes_FromStringAndSize(<char *>out.data, out.size)
    finally:
        buf_free(&out)


def decode_ops(data: bytes) -> tuple[int, list[Op]]:
    """Undo `encode_ops`: the replica and its operations; raises RecordError on anything else."""
    cdef Cur cur
    cdef uint64_t r = 0, count = 0, step = 0, n = 0, hlc = 0, q = 0, _i
    cdef uint8_t head = 0
    cdef list ops = []
    cur.at = <const uint8_t *>PyBytes_AS_STRING(data)
    cur.end = cur.at + PyBytes_GET_SIZE(data)
    if not take_varint(&cur, &r) or r >> 32 or not take_varint(&cur, &count):
        raise RecordError("operations cut short")
    if count > left(&cur) // OP_BYTES_MIN:
        raise RecordError("operations cut short")
    for _i in range(count):
        if (
            not take8(&cur, &head) or head & ~(KIND_MASK | PACKED) or head & KIND_MASK > TOMB
            or not take_varint(&cur, &step) or step == 0 or n + step < n
            or not take64(&cur, &hlc) or not take_varint(&cur, &q)
        ):
            raise RecordError("an operation cut short or damaged")
        n += step
        key, name = take_part(&cur, "a key"), take_part(&cur, "the name of a cell")
        stored = take_part(&cur, "a value")
        if len(key) > NAME_BYTES_MAX or len(name) > NAME_BYTES_MAX:
            raise RecordError("an operation on a key or cell whose name has no such size")
        if not name and head != TOMB:
            raise RecordError("an operation on a whole key that is no removal")
        if head & KIND_MASK == AMOUNT and (head & PACKED or DECIMAL.fullmatch(stored) is None):
            raise RecordError("an amount that is no number")
        check_score(name, head & KIND_MASK, head & PACKED, stored)
        ops.append(Op(n, hlc, q, head & KIND_MASK, key, name, stored, (head & PACKED) != 0))
    if left(&cur):
        raise RecordError("bytes follow the operations")
    return r, ops


def first_op(data: bytes) -> int:
    """Return the number of the first operation of what may be only the beginning of `encode_ops`.

    Raises RecordError.
    """
    cdef Cur cur
    cdef uint64_t r = 0, count = 0, n = 0
    cdef uint8_t head = 0
    cur.at = <const uint8_t *>PyBytes_AS_STRING(data)
    cur.end = cur.at + PyBytes_GET_SIZE(data)
    if (
        not take_varint(&cur, &r) or not take_varint(&cur, &count) or not count
        or not take8(&cur, &head) or not take_varint(&cur, &n)
    ):
        raise RecordError("operations cut short")
    return n


def encode_entries(entries: list[Entry]) -> bytes:
    """Return the hub's state of some keys as it travels (docs/cells-format.md)."""
    cdef Buf out
    cdef Entry entry
    cdef int bad
    out.data, out.size, out.room = NULL, 0, 0
    try:
        bad = put_varint(&out, len(entries))
        for entry in entries:
            bad |= put_part(&out, entry.key) | put_varint(&out, entry.position)
            bad |= put8(&out, entry.is_whole)
            write_cell(&out, entry.tombs)
            bad |= put_varint(&out, len(entry.cells))
            for name, dots in entry.cells:
                bad |= put_part(&out, name)
                write_cell(&out, dots)
        if bad != OK:
            raise MemoryError
        return PyBytes_FromStringAndSize(<char *>out.data, out.size)
    finally:
        buf_free(&out)


def decode_entries(data: bytes, *, may_be_evicted: bool = False) -> list[Entry]:
    """Undo `encode_entries`; raises RecordError on anything else.

    may_be_evicted   they come from an edge, which may have left values to a hub
    """
    cdef Cur cur
    cdef uint8_t known = KNOWN_BITS if may_be_evicted else SENT_BITS
    cdef uint64_t count = 0, position = 0, size = 0, _i, _j
    cdef uint8_t is_whole = 0
    cdef list entries = []
    cdef list cells, dots
    cdef Dot dot
    cur.at = <const uint8_t *>PyBytes_AS_STRING(data)
    cur.end = cur.at + PyBytes_GET_SIZE(data)
    if not take_varint(&cur, &count) or count > left(&cur):
        raise RecordError("a page of keys cut short")
    for _i in range(count):
        key = take_part(&cur, "a key")
        if len(key) > NAME_BYTES_MAX:
            raise RecordError("a key whose name has no such size")
        if not take_varint(&cur, &position) or not take8(&cur, &is_whole) or is_whole > 1:
            raise RecordError("a key cut short or damaged")
        tombs = read_cell(&cur, known)
        if not take_varint(&cur, &size) or size > left(&cur):
            raise RecordError("a key cut short")
        cells = []
        for _j in range(size):
            name = take_part(&cur, "the name of a cell")
            if not 0 < len(name) <= NAME_BYTES_MAX:
                raise RecordError("a cell whose name has no such size")
            dots = read_cell(&cur, known)
            for dot in dots:
                if not dot.evicted:
                    check_score(name, dot.kind, dot.packed, dot.stored)
            cells.append((name, dots))
        entries.append(Entry(key, position, is_whole != 0, tombs, cells))
    if left(&cur):
        raise RecordError("bytes follow a page of keys")
    return entries
