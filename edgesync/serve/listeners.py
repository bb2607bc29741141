"""Listening sockets of a door whose clients are all served by one task, on one epoll."""

import logging
import select
import socket
from collections.abc import Iterator
from typing import Final

import trio

from edgesync_transport import descriptors

log = logging.getLogger(__name__)

ACCEPTS_A_TURN: Final = 64  # a handshake of TLS takes about a millisecond
BACKLOG: Final = 1024

Address = tuple[str, int]


class Listeners:
    """Lets connections in while there are descriptors.

    door   its name in the log
    """

    def __init__(self, door: str, epoll: select.epoll) -> None:
        self._door = door
        self._epoll = epoll
        self._sockets: dict[int, socket.socket] = {}

    def __contains__(self, number: int) -> bool:
        return number in self._sockets

    def listen(self, host: str, port: int) -> int:
        """Listen there, on a free port for 0; returns the socket's number."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family, backlog=BACKLOG)
        listening.setblocking(False)
        number = listening.fileno()
        self._sockets[number] = listening
        self._epoll.register(number, select.EPOLLIN)
        return number

    def ports(self) -> list[int]:
        return [one.getsockname()[1] for one in self._sockets.values()]

    def accept(self, number: int, nursery: trio.Nursery) -> Iterator[tuple[socket.socket, Address]]:
        """Yield the connections that wait, which do not block; raises OSError for a broken socket.

        When descriptors are short, nobody is let in for a moment, which a task of `nursery` ends:
        whoever waits would be seen again at each turn.
        """
        listening = self._sockets[number]
        for _ in range(ACCEPTS_A_TURN):
            try:
                connection, address = listening.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in descriptors.LISTENING_BROKEN:
                    raise
                if error.errno in descriptors.EXHAUSTED:
                    self._pause(number, nursery)
                    return
                continue  # of that connection
            if descriptors.is_reserved(connection.fileno()):
                connection.close()
                self._pause(number, nursery)
                return
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            yield connection, address

    def _pause(self, number: int, nursery: trio.Nursery) -> None:
        descriptors.note_shortage(self._door)
        self.rest(number, nursery)

    def rest(self, number: int, nursery: trio.Nursery) -> None:
        """Let nobody in for a moment."""
        self._epoll.unregister(number)  # at once: the door may have its next turn before the task
        nursery.start_soon(self._resume, number)

    async def _resume(self, number: int) -> None:
        await trio.sleep(descriptors.PAUSE_S)
        self._epoll.register(number, select.EPOLLIN)

    def close(self) -> None:
        for listening in self._sockets.values():
            listening.close()
        self._sockets.clear()


def clients_limit(door: str, wanted: int) -> int:
    """Raise the limit of descriptors, and return how many clients that leaves room for."""
    descriptors.raise_limit()
    most = max(1, descriptors.limit() - 2 * descriptors.reserve())
    if wanted > most:
        log.warning("%s: %d clients, not %d: descriptors are limited", door, most, wanted)
    return min(wanted, most)
