"""BLPOP and its like: clients that wait for an element, in the order in which they came.

They wait on this edge's own view: an element that another site pushed serves them when it arrives
here, and as with LPOP another site may have popped the same one.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final

import trio

from edgesync._native.commands import WRONG_TYPE
from edgesync._native.keyspace import KEY_BYTES_MAX, LIST, ZSET
from edgesync._native.resp import NullArray, ReplyError
from edgesync.cells import Reply
from edgesync.cells.changes import Change
from edgesync.cells.commands.table import counted_keys, floating
from edgesync.serve.resp.edge import Later

if TYPE_CHECKING:
    from edgesync.serve.resp.session import House, Session

# Keys that one client may wait for at once, and all together.
KEYS_MAX: Final = 1000
WAITING_MAX: Final = 200_000
TIMEOUT_MAX_S: Final = 366 * 86_400.0
NOT_A_TIMEOUT: Final = "ERR timeout is not a float or out of range"


class Waiter:
    """A client that waits, for one of several keys of one type.

    take         pops from a key that has something
    at_timeout   what it is answered when nothing comes
    """

    def __init__(
        self, keys: Sequence[bytes], kind: int, take: Callable[[bytes], Reply], at_timeout: Reply
    ) -> None:
        self.keys = tuple(dict.fromkeys(keys))
        self.kind = kind
        self.take = take
        self.reply: Reply = at_timeout
        self.served = trio.Event()

    def finish(self, reply: Reply) -> None:
        self.reply = reply
        self.served.set()

    def time_out(self) -> None:
        """Answer it as if its time were over."""
        self.served.set()


class Waiters:
    """All clients that wait; each key serves those who came first."""

    def __init__(self, house: "House") -> None:
        self._house = house
        self._of_keys: dict[bytes, dict[Waiter, None]] = {}
        self._ready: deque[bytes] = deque()
        self._is_serving = False
        self._places = 0
        self.count = 0

    def add(self, waiter: Waiter) -> None:
        if len(waiter.keys) > KEYS_MAX or self._places + len(waiter.keys) > WAITING_MAX:
            raise ReplyError(
                f"ERR too many keys are waited for: at most {KEYS_MAX} by one client and "
                f"{WAITING_MAX} by all"
            )
        if not self.count:
            self._house.cells.changes.listen(self._changed)
        for key in waiter.keys:
            self._of_keys.setdefault(key, {})[waiter] = None
        self._places += len(waiter.keys)
        self.count += 1

    def remove(self, waiter: Waiter) -> None:
        """Forget one; one that has been forgotten already is left alone."""
        if waiter not in self._of_keys.get(waiter.keys[0], ()):
            return
        for key in waiter.keys:
            there = self._of_keys[key]
            del there[waiter]
            if not there:
                del self._of_keys[key]
        self._places -= len(waiter.keys)
        self.count -= 1
        if not self.count:
            self._house.cells.changes.leave(self._changed)

    def _changed(self, changes: Iterable[Change]) -> None:
        self._ready += [change.key for change in changes if change.key in self._of_keys]
        self.serve()

    def serve(self) -> None:
        """Serve those whose keys have something; not between the commands of a transaction."""
        if self._is_serving or self._house.is_in_exec:
            return
        self._is_serving = True
        try:
            while self._ready:
                key = self._ready.popleft()
                for waiter in list(self._of_keys.get(key, ())):
                    kind = self._house.cells.space.type_of(key)
                    if not kind:
                        break
                    if kind == waiter.kind:
                        self.remove(waiter)
                        waiter.finish(waiter.take(key))
        finally:
            self._is_serving = False


def _wait(
    session: "Session",
    raw_timeout: bytes,
    keys: Sequence[bytes],
    kind: int,
    take: Callable[[bytes], Reply],
    at_timeout: Reply,
) -> Reply:
    """Take what there is now, or wait for it; in a transaction nobody waits."""
    house = session.house
    timeout_s = _timeout_s(raw_timeout)
    for key in keys:
        if len(key) > KEY_BYTES_MAX:
            raise ReplyError(f"ERR a key of {len(key)} bytes; at most {KEY_BYTES_MAX}")
        house.refresh_time()
        found = house.cells.space.type_of(key)
        if found and found != kind:
            raise ReplyError(WRONG_TYPE)
        if found:
            return take(key)
    if house.is_in_exec:
        return at_timeout
    waiter = Waiter(keys, kind, take, at_timeout)
    house.waiters.add(waiter)
    session.waiter = waiter

    async def wait() -> Reply:
        try:
            with trio.move_on_after(timeout_s):
                await waiter.served.wait()
        finally:
            house.waiters.remove(waiter)
            session.waiter = None
        return waiter.reply

    return Later(wait, at_timeout)


def _timeout_s(raw: bytes) -> float:
    seconds = floating(raw, NOT_A_TIMEOUT)
    if seconds < 0:
        raise ReplyError("ERR timeout is negative")
    if seconds > TIMEOUT_MAX_S:
        raise ReplyError(NOT_A_TIMEOUT)
    return seconds or float("inf")


def _popping(session: "Session", *command: bytes) -> Callable[[bytes], Reply]:
    """Return what pops by a command with the key in its second place."""

    def take(key: bytes) -> Reply:
        reply = session.house.cells.run([command[0], key, *command[1:]])
        if isinstance(reply, ReplyError):
            return reply
        if isinstance(reply, list):  # of a member and its score
            member, score = reply
            return [key, member, score]
        return [key, reply]

    return take


def blpop(session: "Session", args: Sequence[bytes]) -> Reply:
    return _wait(session, args[-1], args[:-1], LIST, _popping(session, b"lpop"), NullArray)


def brpop(session: "Session", args: Sequence[bytes]) -> Reply:
    return _wait(session, args[-1], args[:-1], LIST, _popping(session, b"rpop"), NullArray)


def bzpopmin(session: "Session", args: Sequence[bytes]) -> Reply:
    return _wait(session, args[-1], args[:-1], ZSET, _popping(session, b"zpopmin"), NullArray)


def bzpopmax(session: "Session", args: Sequence[bytes]) -> Reply:
    return _wait(session, args[-1], args[:-1], ZSET, _popping(session, b"zpopmax"), NullArray)


def brpoplpush(session: "Session", args: Sequence[bytes]) -> Reply:
    return _move(session, args[0], [b"rpoplpush", *args[:2]], args[2])


def blmove(session: "Session", args: Sequence[bytes]) -> Reply:
    if any(side.lower() not in (b"left", b"right") for side in args[2:4]):
        raise ReplyError("ERR syntax error")
    return _move(session, args[0], [b"lmove", *args[:4]], args[4])


def _move(session: "Session", source: bytes, request: list[bytes], timeout: bytes) -> Reply:
    def take(_key: bytes) -> Reply:
        return session.house.cells.run(list(request))

    return _wait(session, timeout, [source], LIST, take, None)


def blmpop(session: "Session", args: Sequence[bytes]) -> Reply:
    return _pop_many(session, b"lmpop", args, LIST)


def bzmpop(session: "Session", args: Sequence[bytes]) -> Reply:
    return _pop_many(session, b"zmpop", args, ZSET)


def _pop_many(session: "Session", name: bytes, args: Sequence[bytes], kind: int) -> Reply:
    keys, rest = counted_keys(args[1:], "ERR syntax error")
    # What is wrong with the rest is said at once: of a key that is absent nothing else is.
    checked = session.house.cells.run([name, b"1", b"", *rest]) if rest else ReplyError("")
    if isinstance(checked, ReplyError):
        raise ReplyError(str(checked) or "ERR syntax error")

    def take(key: bytes) -> Reply:
        return session.house.cells.run([name, b"1", key, *rest])

    return _wait(session, args[0], keys, kind, take, NullArray)


COMMANDS: Final = {
    b"blpop": (blpop, -3),
    b"brpop": (brpop, -3),
    b"blmove": (blmove, 6),
    b"brpoplpush": (brpoplpush, 4),
    b"blmpop": (blmpop, -5),
    b"bzpopmin": (bzpopmin, -3),
    b"bzpopmax": (bzpopmax, -3),
    b"bzmpop": (bzmpop, -5),
}
