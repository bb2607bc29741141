# cython: boundscheck=False, wraparound=False, cdivision=True
"""What every command goes through, from its request to its reply.

A command itself is a function of a `Call` and its arguments (edgesync/cells/commands). To find it,
to count it and to see whether it may run took twice the time of a GET when it was Python.
"""

import logging
from functools import partial
from itertools import islice

from cpython.list cimport PyList_GET_SIZE
from libc.stdint cimport int64_t
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from edgesync._native.keyspace cimport Keyspace, is_in

from edgesync._native.keyspace import WrongType
from edgesync._native.resp import TOO_LARGE, ReplyError
from edgesync.errors import EdgesyncError, Evicted, RecordError

log = logging.getLogger(__name__)

# By name, in the spellings of most clients: `get` and `GET`.
TABLE = {}
WRONG_TYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"

# As many keys are asked for together (edgesync_transport/wire.py).
LACKING_MAX = 64

cdef enum:
    NS_A_MS = 1_000_000
    STEP_NS = 1_000_000_000  # of the machine's clock; less is what NTP slews

table = TABLE


cdef class Command:
    """One row of the table; `arity` counts the name too, negative: at least that many.

    keys     first, last and step of the arguments that are keys
    grows    whether it may add data: Redis' flag `denyoom`
    movable  finds those that are keys in other places; None for none
    """

    def __init__(
        self, str name, run, Py_ssize_t arity, bint writes, tuple keys, bint grows, movable=None,
    ):
        self.name, self.run, self.arity = name, run, arity
        self.writes, self.keys, self.grows, self.movable = writes, keys, grows, movable


class EvictedReply(ReplyError):
    """What a command says that needs values only the hub has. Nothing of it has happened.

    keys   that it names and that lack values, some of them if there are many
    """

    def __init__(self, keys):
        shown = b"".join(keys[:1])[:128].decode(errors="replace")
        super().__init__(
            f"EVICTED '{shown}' was moved to the hub to make room; "
            "it is read again when the hub can be reached")
        self.keys = keys


cpdef object carry_out(object call, list request):
    """Carry out one command of the table and return its reply, which may be a ReplyError."""
    cdef Command one = found(request)
    return unknown(request) if one is None else go(one, call, request)


cdef Command found(list request):
    return table.get(request[0]) or table.get(request[0].lower())


cdef inline bint is_counted(Py_ssize_t arity, Py_ssize_t count) noexcept:
    return count == arity or (arity < 0 and count >= -arity)


cdef object go(Command one, object call, list request):
    if not is_counted(one.arity, PyList_GET_SIZE(request)):
        return miscounted(one.name, one.arity, request)
    if one.writes:
        if call.writable and (refused := unwritable(call, one, request)) is not None:
            return refused
        if one.grows:
            guard = call.guard
            if guard is not None and (guard.refusal or guard.limits):
                return guard.carry_out(partial(run, one, call, request))
    return run(one, call, request)


cpdef object run(Command one, object call, list request):
    """Run a command that may run; what it raises is its reply."""
    try:
        return one.run(call, request[1:])
    except ReplyError as error:
        return error
    except WrongType:
        return ReplyError(WRONG_TYPE)
    except Evicted:
        # Commands read all they need before they write anything.
        lacking = filter(call.space.is_evicted, keys_of(one, request))
        return EvictedReply(list(islice(lacking, LACKING_MAX)))
    except RecordError as error:
        return ReplyError(f"ERR {error}")
    except EdgesyncError:
        raise
    except Exception:
        # A mistake of ours is told as one: it costs one client an answer, nobody more (I8).
        log.exception("a command failed: %.100r", request[0])
        return ReplyError("ERR internal error at this command; the log says why")


cpdef list keys_of(Command one, list request):
    """Return the arguments of a request that are keys."""
    first, last, step = one.keys
    found = request[first : last + 1 or None : step] if first else []
    return found if one.movable is None else found + one.movable(request)


cdef object unwritable(object call, Command one, list request):
    for key in keys_of(one, request):
        if not is_in(key, call.writable):
            shown = key[:128].decode(errors="replace")
            return ReplyError(f"READONLY '{shown}' is only changed at the hub, by its prefix")
    return None


def miscounted(name: str, arity: int, request: object) -> object:
    """Return what is to be said when a command comes with too few or too many arguments."""
    if is_counted(arity, len(request)):
        return None
    return ReplyError(f"ERR wrong number of arguments for '{name}' command")


def unknown(request: object) -> object:
    """Return what is to be said of a command that there is none, or that was too large to read."""
    if request[0] == TOO_LARGE:
        name = request[1][:128].decode(errors="replace")
        return ReplyError(
            f"ERR '{name}' is larger than this edge takes ({int(request[2])} bytes); "
            "see [cells] value_limit")
    # As far as a string of C goes, like Redis.
    names = [raw.partition(b"\0")[0][:128].decode(errors="replace") for raw in request[:8]]
    shown = [f"'{name}'" for name in names]
    return ReplyError(
        f"ERR unknown command {shown[0]}, with args beginning with: {' '.join([*shown[1:], ''])}")


cdef class Runner:
    """Runs commands on the keys of a store, each at its time.

    wall_ns     the machine's clock
    behind_ms   how much it is, as far as that is known: keys go by `now_ms`
    generation  number of the commit that will store what the next command changes
    commands    run since the start; `errors` of them were answered by one. One that lacks values
                has not been run: whoever waits for them runs it again.
    on_change   is called with the name and the request of a command that has changed rows somebody
                listens for (overlay.touched); None while nobody does
    on_slow     is called with a request that took longer than `slow_ns`, and how long: ns
    is_noted    `note_changes` has been called, and nobody has taken note since
    wanted      … nor is it called before this operation has been made
    columns     takes points of series; None while no client has asked for any
    """

    def __init__(self, Keyspace space not None, call, wall_ns, monotonic_ns=None):
        self.space, self.call, self.wall_ns = space, call, wall_ns
        self.monotonic_ns = monotonic_ns
        if monotonic_ns is not None:
            self.gap_ns = <int64_t>wall_ns() - <int64_t>monotonic_ns()
        self.generation = 1
        self.slow_ns = -1

    cpdef int64_t now_ms(self) except? -1:
        """Return the time that stamps and deadlines go by.

        A step of the machine's clock is noticed here, before anything is compared with it.
        """
        cdef int64_t wall = self.wall_ns()
        cdef int64_t gap, step
        if self.monotonic_ns is not None:
            gap = wall - <int64_t>self.monotonic_ns()
            step = gap - self.gap_ns
            self.gap_ns = gap
            if step > STEP_NS or step < -STEP_NS:
                self.clock_stepped(step // NS_A_MS)
        return wall // NS_A_MS + self.behind_ms

    def clock_stepped(self, by_ms: int) -> None:
        """Learn that the machine's clock was set, by so much."""

    def note_changes(self) -> None:
        """Learn that there is something to be committed: called once for all until it is."""
        raise NotImplementedError

    def gate(self) -> int:
        """Return the generation whose commit a reply given now has to wait for; 0 for none."""
        if self.is_changed():
            return self.generation
        return self.generation - 1 if self.is_committing() else 0

    def run(self, request: list[bytes]) -> object:
        """Carry out a command; its reply may be given away when `gate` says so."""
        cdef Command one = found(request)
        return unknown(request) if one is None else self.go(one, request)

    cdef bint is_changed(self):
        return self.space.overlay is not None and len(self.space.overlay.now) > 0

    cdef bint is_committing(self):
        return self.space.overlay is not None and len(self.space.overlay.frozen) > 0

    cdef object go(self, Command one, list request):
        cdef int64_t begun = clock_ns() if self.slow_ns >= 0 else 0
        cdef int64_t took
        self.space.now_ms = self.now_ms()
        if self.on_change is not None and self.space.overlay.touched:
            self.space.overlay.touched.clear()  # by what is no command, as telling the hub is
        reply = go(one, self.call, request)
        if self.slow_ns >= 0:
            took = clock_ns() - begun
            if took >= self.slow_ns:
                self.on_slow(request, took)
        if type(reply) is EvictedReply:
            return reply
        self.commands += 1
        if not self.is_noted and self.space.n >= self.wanted and self.is_changed():
            self.is_noted = True
            self.note_changes()
        if type(reply) is ReplyError:
            self.errors += 1
        if self.on_change is not None and one.writes and self.space.overlay.touched:
            self.on_change(one.name, request)
        return reply


cdef int64_t clock_ns() noexcept:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t>now.tv_sec * 1_000_000_000 + now.tv_nsec
