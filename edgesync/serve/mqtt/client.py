"""One client's socket: bytes in, bytes out, with TLS or without."""

import select
import socket
import ssl
from typing import TYPE_CHECKING, Final

from edgesync.serve.mqtt.connection import Connection
from edgesync.serve.mqtt.decode import Parser

if TYPE_CHECKING:
    from edgesync.serve.mqtt.thingsboard import Device

READ, WRITE = select.EPOLLIN, select.EPOLLOUT
READ_BYTES: Final = 16 << 10
# A record of TLS at most; what is left in it epoll does not know of.
READS_MAX: Final = 4
REFUSALS_MAX: Final = 10
REFUSALS_S: Final = 60.0


class Client:
    """A connection, its socket, and who it is.

    key         of its session: the device, and the client id it named
    events      what epoll waits for
    close_by    when its socket is closed at the latest; inf while it is served
    successor   a client that took it over, and waits until its last message is answered
    children    of a gateway, the devices it spoke for on this connection, the newest last
    """

    __slots__ = (
        "_refusals", "_refused_at", "address", "children", "close_by", "connection", "device",
        "events", "is_due", "is_greeting", "key", "number", "out", "parser", "socket", "successor",
    )  # fmt: skip

    def __init__(
        self, connection: socket.socket, address: str, parser: Parser, protocol: Connection
    ) -> None:
        self.socket = connection
        self.number = connection.fileno()
        self.address = address
        self.parser = parser
        self.connection = protocol
        self.out = bytearray()
        self.events = READ
        self.key: tuple[str, str] | None = None
        self.device: Device | None = None
        self.children: dict[str, None] = {}
        self.successor: Client | None = None
        self.close_by = float("inf")
        self.is_due = False
        self.is_greeting = isinstance(connection, ssl.SSLSocket)
        self._refusals = REFUSALS_MAX
        self._refused_at = 0.0

    @property
    def is_closing(self) -> bool:
        return self.close_by != float("inf")

    def receive(self) -> bytes | None:
        """Return what has arrived, b"" for nothing now, None for the end."""
        found = b""
        for _ in range(READS_MAX):
            try:
                if self.is_greeting:
                    self.socket.do_handshake()  # type: ignore[attr-defined]
                    self.is_greeting = False
                data = self.socket.recv(READ_BYTES)
            except (BlockingIOError, InterruptedError, ssl.SSLWantReadError):
                return found
            except ssl.SSLWantWriteError:
                return found
            except OSError:
                return found or None
            if not data:
                return found or None
            found += data
            if not isinstance(self.socket, ssl.SSLSocket) or not self.socket.pending():
                return found
        return found

    def send(self) -> bool:
        """Send as much as the socket takes; returns False when the connection has ended."""
        try:
            while self.out:
                sent = self.socket.send(self.out)
                del self.out[:sent]
        except (BlockingIOError, InterruptedError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            return True
        except OSError:
            return False
        return True

    def may_be_kept(self, now: float) -> bool:
        """Whether one more refusal of this client's messages is worth an event."""
        if now - self._refused_at >= REFUSALS_S:
            self._refused_at, self._refusals = now, REFUSALS_MAX
        self._refusals -= 1
        return self._refusals >= 0
