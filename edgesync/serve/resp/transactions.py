"""MULTI, EXEC and WATCH."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from edgesync._native.commands import TABLE, miscounted, unknown
from edgesync._native.keyspace import KEY_BYTES_MAX
from edgesync._native.resp import NullArray, ReplyError
from edgesync.cells import Reply
from edgesync.cells.changes import Change
from edgesync.cells.commands.table import REPLY_MAX, weight_of
from edgesync.serve.resp.edge import Later

if TYPE_CHECKING:
    from edgesync.serve.resp.session import House, Own, Session

QUEUE_MAX: Final = 65_536
# Behind as many no command is queued; the last one may be as large as any other.
QUEUE_BYTES_MAX: Final = 64 << 20
# Of an argument besides what stands in it.
ARGUMENT_BYTES: Final = 48
WATCHED_MAX: Final = 1000
NOT_IN_MULTI: Final = (
    b"subscribe", b"unsubscribe", b"psubscribe", b"punsubscribe", b"shutdown", b"monitor",
)  # fmt: skip
REPLIES_TOO_LARGE: Final = ReplyError(
    f"ERR replies of a transaction of more than {REPLY_MAX} bytes; ask for less at once"
)
AT_ONCE: Final = (b"exec", b"discard", b"multi", b"watch", b"quit", b"reset")


class Watched:
    """Who watches which keys, until one of them changes."""

    def __init__(self, house: "House") -> None:
        self._house = house
        self._of_keys: dict[bytes, set[Session]] = {}

    @property
    def clients(self) -> int:
        return len({session for there in self._of_keys.values() for session in there})

    def add(self, session: "Session", key: bytes) -> None:
        if not self._of_keys:
            self._house.cells.changes.listen(self._changed)
        session.watched.setdefault(key, self._house.cells.space.type_of(key))
        self._of_keys.setdefault(key, set()).add(session)

    def remove(self, session: "Session") -> None:
        for key in session.watched:
            there = self._of_keys[key]
            there.discard(session)
            if not there:
                del self._of_keys[key]
        session.watched, session.is_spoiled = {}, False
        if not self._of_keys:
            self._house.cells.changes.leave(self._changed)

    def _changed(self, changes: Sequence[Change]) -> None:
        for change in changes:
            for session in self._of_keys.get(change.key, ()):
                session.is_spoiled = True


def enqueue(session: "Session", name: bytes, request: list[bytes], own: "Own") -> Reply:
    """Put a command into the transaction of a client, or say why it is none now."""
    assert session.queue is not None
    error = _refused(session, name, request, own)
    if error is None and len(session.queue) >= QUEUE_MAX:
        error = ReplyError(f"ERR a transaction of more than {QUEUE_MAX} commands")
    if error is None and session.queue_bytes >= QUEUE_BYTES_MAX:
        error = ReplyError(f"ERR a transaction of more than {QUEUE_BYTES_MAX} bytes")
    if error is not None:
        session.queue_is_bad = True
        return error
    session.queue.append(request)
    session.queue_bytes += sum(map(len, request)) + ARGUMENT_BYTES * len(request)
    return "QUEUED"


def _refused(
    session: "Session", name: bytes, request: Sequence[bytes], own: "Own"
) -> ReplyError | None:
    if name in NOT_IN_MULTI:
        return ReplyError("ERR Command not allowed inside a transaction")
    if name in own:
        arity = own[name][1]
    elif name in TABLE:
        arity = TABLE[name].arity
    else:
        return unknown(request)
    return miscounted(name.decode(), arity, request) or _no_room(session, [request])


def _no_room(session: "Session", requests: Sequence[Sequence[bytes]]) -> ReplyError | None:
    """Why these may not be carried out at present: they add, and nothing may be added."""
    guard = session.house.cells.call.guard
    if guard is None or guard.refusal is None:
        return None
    names = (request[0].lower() for request in requests)
    grows = any(name in TABLE and TABLE[name].grows for name in names)
    return guard.refused() if grows else None


def multi(session: "Session", _args: Sequence[bytes]) -> Reply:
    if session.queue is not None:
        raise ReplyError("ERR MULTI calls can not be nested")
    session.queue, session.queue_bytes, session.queue_is_bad = [], 0, False
    return "OK"


def exec_(session: "Session", _args: Sequence[bytes]) -> Reply:
    if session.queue is None:
        raise ReplyError("ERR EXEC without MULTI")
    house, queue, session.queue = session.house, session.queue, None
    house.refresh_time()
    is_spoiled = session.is_spoiled or any(
        house.cells.space.type_of(key) != kind for key, kind in session.watched.items()
    )
    house.watched.remove(session)
    if session.queue_is_bad:
        raise ReplyError("EXECABORT Transaction discarded because of previous errors.")
    if is_spoiled:
        return NullArray
    if no_room := _no_room(session, queue):
        raise ReplyError(f"EXECABORT Transaction discarded because of: {no_room}")
    # Nothing comes between: no command waits, and one commit takes all of them.
    house.is_in_exec = True
    try:
        replies = _carry_out(session, queue)
    finally:
        house.is_in_exec = False
    house.waiters.serve()
    return [one.at_once if isinstance(one, Later) else one for one in replies]


def _carry_out(session: "Session", queue: Sequence[list[bytes]]) -> list[Reply]:
    """Carry out commands until their replies take too much; the rest is answered by an error."""
    replies, left = list[Reply](), REPLY_MAX
    for request in queue:
        if left < 0:
            replies.append(REPLIES_TOO_LARGE)
            continue
        name = request[0].lower()
        found = session.carry_out(name, request)
        left -= weight_of(found)
        # What was taken away has to be given, however large.
        is_given = left >= 0 or (name in TABLE and TABLE[name].writes)
        replies += found if is_given else [REPLIES_TOO_LARGE]
    return replies


def discard(session: "Session", _args: Sequence[bytes]) -> Reply:
    if session.queue is None:
        raise ReplyError("ERR DISCARD without MULTI")
    session.queue = None
    session.house.watched.remove(session)
    return "OK"


def watch(session: "Session", args: Sequence[bytes]) -> Reply:
    if session.queue is not None:
        raise ReplyError("ERR WATCH inside MULTI is not allowed")
    if len(session.watched.keys() | set(args)) > WATCHED_MAX:
        raise ReplyError(f"ERR too many keys are watched: at most {WATCHED_MAX} by one client")
    for key in args:
        if len(key) > KEY_BYTES_MAX:
            raise ReplyError(f"ERR a key of {len(key)} bytes; at most {KEY_BYTES_MAX}")
        session.house.watched.add(session, key)
    return "OK"


def unwatch(session: "Session", _args: Sequence[bytes]) -> Reply:
    session.house.watched.remove(session)
    return "OK"


COMMANDS: Final = {
    b"multi": (multi, 1),
    b"exec": (exec_, 1),
    b"discard": (discard, 1),
    b"watch": (watch, -2),
    b"unwatch": (unwatch, 1),
}
