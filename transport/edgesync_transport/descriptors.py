"""File descriptors: as many as the system lets us have, with a reserve that no peer can take.

Who runs out of them may lose more than the next connection: libzmq ends the process when it cannot
make a socket, and a store that cannot open a file fails. So whatever lets peers in stops doing so
before the last ones are gone (I7), and says so.

The kernel gives out the lowest free number. A connection whose number lies within the reserve
therefore means that all numbers below are taken, and as long as such connections are closed again,
the numbers of the reserve stay free for everything else.
"""

import errno
import logging
import os
import resource
import time
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from edgesync_transport.places import Places
from edgesync_transport.seldom import Seldom

log = logging.getLogger(__name__)

# More is of no use to us, and a limit of a billion makes programs slow that close all of them.
WANTED: Final = 65_536
# Stores, backups and a link made anew take about 20.
RESERVE: Final = 48
# Of it, for questions after health while all else is refused.
QUESTIONS: Final = 4
OPEN: Final = "/proc/self/fd"
# How long nobody is let in after they ran short.
PAUSE_S: Final = 0.1
# How long that is told: who looks at health once a minute shall see it.
TOLD_S: Final = 60.0
EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
# accept(2) hands on errors of the connection; what is left is an error of the listening socket.
LISTENING_BROKEN: Final = (errno.EBADF, errno.ENOTSOCK, errno.EINVAL, errno.EOPNOTSUPP)

_seldom = Seldom()
_short_at = float("-inf")
# Doors that are or were full lately: name -> until when, and how many it lets in.
_full: dict[str, tuple[float, int]] = {}


def raise_limit(wanted: int = WANTED) -> int:
    """Have the soft limit raised as far as the hard one allows; returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return limit()


def limit() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return WANTED if soft == resource.RLIM_INFINITY else soft


def free() -> int:
    """Return how many are left, exactly."""
    try:
        if in_use := os.stat(OPEN).st_size:  # Linux counts them since 6.2
            return limit() - in_use
        return limit() - len(os.listdir(OPEN)) + 1  # that of the listing itself
    except OSError as error:
        return 0 if error.errno in EXHAUSTED else limit()


def are_short() -> bool:
    """Whether only the reserve is left; costs two system calls."""
    try:
        lowest = os.eventfd(0)
    except OSError:
        return True
    os.close(lowest)
    return is_reserved(lowest)


def is_reserved(number: int) -> bool:
    """Whether a descriptor that was just given out is one of the reserve."""
    return number >= limit() - reserve()


def reserve() -> int:
    return min(RESERVE, limit() // 4)


def note_shortage(door: str) -> None:
    """Say that somebody was not let in, in the log and for a while in `problems`."""
    global _short_at  # like the descriptors, it is the process'
    _short_at = time.monotonic()
    if (again := _seldom.ask(door)) is not None:
        log.warning(
            "%s: nobody is let in for now, %d descriptors are nearly all in use; "
            "raise the limit (LimitNOFILE=, ulimit -n); %d times more before",
            door, limit(), again,
        )  # fmt: skip


def problems() -> list[str]:
    now = time.monotonic()
    found = [
        f"{door}: {most} connections, as many as are let in; new ones wait"
        for door, (at, most) in _full.items()
        if now - at <= TOLD_S
    ]
    if now - _short_at <= TOLD_S or are_short():
        found.append(
            f"file descriptors are short: of {limit()} only a reserve is free, new peers wait"
        )
    return found


class Door:
    """Lets peers in through its listening sockets, at most so many at a time.

    connections_max  others wait, one of each socket here and the rest in the kernel's queue, until
                     one of them has gone
    places           whose holders give way for those who wait; without, nobody does
    reserved_max     so many at a time may have of the reserve: whoever asks why nobody is let in
    """

    def __init__(
        self,
        name: str,
        connections_max: int,
        *,
        reserved_max: int = 0,
        places: Places | None = None,
    ) -> None:
        self.name = name
        self.reserved_max = reserved_max
        self.connections_max = connections_max
        self.connections = 0
        self._places = places
        self._reserved = 0
        self._gone = trio.lowlevel.ParkingLot()

    async def serve(
        self,
        listening: trio.socket.SocketType,
        handle: Callable[[trio.socket.SocketType], Awaitable[None]],
        nursery: trio.Nursery,
    ) -> None:
        """Start `handle` in `nursery` for each peer, until cancelled; it closes the connection."""
        while True:
            connection = await self._accept(listening)
            try:
                await self._wait_for_room()
            except BaseException:
                connection.close()
                raise
            self.connections += 1
            if self.connections >= self.connections_max:
                _full[self.name] = float("inf"), self.connections_max  # as long as it takes
            self._reserved += (has_reserved := is_reserved(connection.fileno()))
            nursery.start_soon(self._handle, handle, connection, has_reserved)

    async def _wait_for_room(self) -> None:
        while self.connections >= self.connections_max:
            if (again := _seldom.ask((self.name, "full"))) is not None:
                log.warning(
                    "%s: %d connections, others wait; %d times more before",
                    self.name, self.connections_max, again,
                )  # fmt: skip
            may_give_way = self._places is not None and not self._places.make_room()
            with trio.move_on_after(PAUSE_S if may_give_way else float("inf")):
                await self._gone.park()

    async def _accept(self, listening: trio.socket.SocketType) -> trio.socket.SocketType:
        while True:
            try:
                connection, _ = await listening.accept()
            except OSError as error:
                if error.errno in LISTENING_BROKEN:
                    raise
                if error.errno in EXHAUSTED:
                    note_shortage(self.name)
                    await trio.sleep(PAUSE_S)
                continue
            if self._reserved < self.reserved_max or not is_reserved(connection.fileno()):
                return connection
            connection.close()
            note_shortage(self.name)
            await trio.sleep(PAUSE_S)

    async def _handle(
        self,
        handle: Callable[[trio.socket.SocketType], Awaitable[None]],
        connection: trio.socket.SocketType,
        has_reserved: bool,
    ) -> None:
        try:
            await handle(connection)
        except Exception:  # One bad peer must never end the others (I8).
            log.exception("%s: a connection failed", self.name)
        finally:
            connection.close()
            if self.connections >= self.connections_max:
                _full[self.name] = time.monotonic(), self.connections_max
            self.connections -= 1
            self._reserved -= has_reserved
            self._gone.unpark()
