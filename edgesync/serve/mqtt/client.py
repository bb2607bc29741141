"""One client's socket: bytes in, bytes out, with TLS or without."""

import select
import socket
import ssl
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import trio

from edgesync.serve.devices.certificates import validity_problem
from edgesync.serve.mqtt.connection import Connection
from edgesync.serve.mqtt.decode import Parser

if TYPE_CHECKING:
    from edgesync.serve.devices.thingsboard import Device

READ, WRITE = select.EPOLLIN, select.EPOLLOUT
READ_BYTES: Final = 16 << 10
# A record of TLS at most; what is left in it epoll does not know of.
READS_MAX: Final = 4
# Bytes on their way to one client before nothing more is read from it.
UNSENT_MAX: Final = 256 << 10
REFUSALS_MAX: Final = 10
REFUSALS_S: Final = 60.0


class Client:
    """A connection, its socket, and who it is.

    key         of its session: the device, and the client id it named
    events      what epoll waits for
    is_given_up a message of it was not stored, and not acknowledged: it comes again
    tls_problem why the certificate that it has shown was refused
    close_by    when its socket is closed at the latest; inf while it is served
    chunks      of firmware that it has asked for and not taken
    expires_at  when it is sent away, if it only came to be provisioned
    is_blocked  its socket takes no more for now: it does not read
    provisions  what it has asked for then
    since       when it came
    successor   a client that took it over, and waits until its last message is answered
    children    of a gateway, the devices it spoke for on this connection, the newest last
    """

    __slots__ = (
        "_marks", "_refusals", "_refused_at", "_taken", "address", "children", "chunks", "close_by",
        "connection", "device", "events", "expires_at", "is_blocked", "is_due", "is_given_up",
        "is_greeting", "key", "number", "out", "parser", "provisions", "sent_bytes", "since",
        "socket", "successor", "tls_problem",
    )  # fmt: skip

    def __init__(
        self, connection: socket.socket, address: str, parser: Parser, protocol: Connection, *,
        since: float,
    ) -> None:  # fmt: skip
        self.socket = connection
        self.number = connection.fileno()
        self.address = address
        self.parser = parser
        self.connection = protocol
        self.since = since
        self.out = bytearray()
        self.events = READ
        self.key: tuple[str, str] | None = None
        self.device: Device | None = None
        self.children: dict[str, None] = {}
        self.successor: Client | None = None
        self.close_by = self.expires_at = float("inf")
        self.chunks = self.provisions = self.sent_bytes = 0
        self.tls_problem = ""
        self._taken: trio.Event | None = None
        self._marks: deque[tuple[int, Callable[[], None]]] = deque()
        self.is_blocked = False
        self.is_due = self.is_given_up = False
        self.is_greeting = isinstance(connection, ssl.SSLSocket)
        self._refusals = REFUSALS_MAX
        self._refused_at = 0.0

    @property
    def host(self) -> str:
        """The peer's address, without the port."""
        return self.address.rpartition(":")[0]

    @property
    def is_closing(self) -> bool:
        return self.close_by != float("inf")

    @property
    def has_room(self) -> bool:
        """True if it takes one more message now."""
        return self.connection.has_room and not self.is_blocked and len(self.out) < UNSENT_MAX

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
            except ssl.SSLCertVerificationError as error:
                self.tls_problem = f"certificate: {error.verify_message}"
                self._end_tls()
                return None
            except OSError:
                return found or None
            if not data:
                return found or None
            found += data
            if not isinstance(self.socket, ssl.SSLSocket) or not self.socket.pending():
                return found
        return found

    @property
    def certificate(self) -> bytes | None:
        """The certificate it has shown, in DER; the handshake proved that it has the key."""
        if not isinstance(self.socket, ssl.SSLSocket):
            return None
        return self.socket.getpeercert(binary_form=True)

    def validity_problem(self, now_s: float) -> str:
        """Return why that does not hold now, "" if it does."""
        assert isinstance(self.socket, ssl.SSLSocket)
        return validity_problem(self.socket.getpeercert() or {}, now_s)

    def _end_tls(self) -> None:
        """Go on without: what is still sent is read, or the client would not get the alert."""
        self.socket = socket.socket(fileno=self.socket.detach())
        self.socket.setblocking(False)
        self.is_greeting = False

    def send(self) -> bool:
        """Send as much as the socket takes; returns False when the connection has ended."""
        try:
            while self.out:
                sent = self.socket.send(self.out)
                self.sent_bytes += sent
                del self.out[:sent]
        except (BlockingIOError, InterruptedError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            pass
        except OSError:
            return False
        self.is_blocked = bool(self.out)
        while self._marks and self._marks[0][0] <= self.sent_bytes:
            self._marks.popleft()[1]()
        if not self.out:
            self.note_taken()
        return True

    def when_sent(self, told: Callable[[], None]) -> None:
        """Call `told` when the socket has all that is to be sent now; never if that ends before."""
        self._marks.append((self.sent_bytes + len(self.out), told))

    def will_be_taken(self) -> trio.Event:
        """Return what is set when all that is to be sent has been, or never will be."""
        if self._taken is None:
            self._taken = trio.Event()
        return self._taken

    def note_taken(self) -> None:
        if self._taken is not None:
            self._taken.set()
            self._taken = None

    def may_be_kept(self, now: float) -> bool:
        """Count a refusal of this client's messages; return whether it is worth an event."""
        if now - self._refused_at >= REFUSALS_S:
            self._refused_at, self._refusals = now, REFUSALS_MAX
        self._refusals -= 1
        return self._refusals >= 0
