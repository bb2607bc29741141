"""Who may connect: the table of known keys, and the ZAP handler that asks it.

ZAP is ZeroMQ's question "may this key in?", put once a connection, in the handshake, over
inproc://zeromq.zap.01 (rfc.zeromq.org/spec/27). It cannot end a connection that is already in,
so `router.py` asks the same table again for every message: removing a key takes effect at once.
"""

import logging
from collections.abc import Mapping
from typing import Final

import zmq
from zmq.utils import z85

from edgesync_transport import descriptors, pump
from edgesync_transport.keys import is_key
from edgesync_transport.seldom import Seldom

log = logging.getLogger(__name__)

ENDPOINT: Final = "inproc://zeromq.zap.01"
VERSION: Final = b"1.0"
DOMAIN: Final = "edgesync"
KEY_BYTES: Final = 32
# "Internal error": the peer hears of it at once, and comes again (300 would leave it waiting).
SHORT: Final = 500


class KeyTable:
    """Public keys in Z85 and the edge each one speaks for. Changes hold from the next message on.

    An edge may have several keys for a while, so that one can be replaced without a gap.
    """

    def __init__(self, edges: Mapping[str, str] | None = None) -> None:
        self._edges: dict[str, str] = {}
        self._addresses: dict[str, str] = {}
        self._guests: Mapping[str, str] = {}
        for public, edge in (edges or {}).items():
            self.add(public, edge)

    def __len__(self) -> int:
        return len(self._edges)

    def add(self, public: str, edge: str) -> None:
        """Let `public` speak for `edge`. A key speaks for one edge: another one is a ValueError."""
        if not is_key(public):
            raise ValueError(f"{public!r} is not 40 characters of Z85")
        if not edge:
            raise ValueError("an edge has a name")
        if self._edges.setdefault(public, edge) != edge:
            raise ValueError(f"the key already speaks for {self._edges[public]}")

    def remove(self, public: str) -> bool:
        """Revoke one key; True if it was known."""
        return self._edges.pop(public, None) is not None

    def remove_edge(self, edge: str) -> int:
        """Revoke every key of `edge`; returns how many there were."""
        gone = [public for public, owner in self._edges.items() if owner == edge]
        for public in gone:
            del self._edges[public]
        return len(gone)

    def edge_of(self, public: str) -> str | None:
        return self._edges.get(public)

    def set_guests(self, guests: Mapping[str, str]) -> None:
        """Let these keys in as guests: public key -> the enrolment that it may redeem."""
        self._guests = guests

    def guest_of(self, public: str) -> str | None:
        """Return the enrolment a key may redeem; it may do nothing else, and is no edge's."""
        return self._guests.get(public)

    def came_from(self, edge: str, address: str) -> None:
        self._addresses[edge] = address

    def address_of(self, edge: str) -> str:
        """The IP address of the edge's latest handshake; empty before the first."""
        return self._addresses.get(edge, "")


class Zap:
    """Answers the handshakes of every CURVE server socket of one ZeroMQ context.

    A context has room for one: a second one there is a ZMQError with EADDRINUSE.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], keys: KeyTable) -> None:
        self._keys = keys
        self._seldom = Seldom()
        self.accepted = 0
        self.refused = 0
        self._socket = context.socket(zmq.REP)
        self._socket.linger = 0
        try:
            self._socket.bind(ENDPOINT)
        except zmq.ZMQError:
            self._socket.close()
            raise

    async def run(self) -> None:
        """Answer until cancelled, then close the socket; handshakes wait for an answer."""
        try:
            await pump.serve(self._socket, self._answer)
        finally:
            self.close()

    def close(self) -> None:
        self._socket.close()

    def _answer(self, request: pump.Frames) -> None:
        status, text, user = self._judge(request)
        request_id = request[1] if len(request) > 1 else b""
        self._socket.send_multipart([VERSION, request_id, status, text, user, b""])

    def _judge(self, request: pump.Frames) -> tuple[bytes, bytes, bytes]:
        """Return status, its text and the User-Id, which is the key itself in Z85."""
        # version, request id, domain, address, routing id, mechanism, client key
        if len(request) != 7 or request[0] != VERSION or request[5] != b"CURVE":
            return self._refuse(b"", "not a CURVE request")
        _, _, domain, address, _, _, key = request
        if len(key) != KEY_BYTES or domain != DOMAIN.encode():
            return self._refuse(address, "not a CURVE request of this hub")
        public = z85.encode(key)
        edge = self._keys.edge_of(public.decode())
        is_guest = edge is None and self._keys.guest_of(public.decode()) is not None
        if (edge is not None or is_guest) and descriptors.are_short():
            # libzmq accepts as long as there are any: here is where the link's door closes.
            descriptors.note_shortage("link")
            self.refused += 1
            return b"%d" % SHORT, b"short of descriptors", b""
        if is_guest:
            log.debug("handshake: a guest from %s", address.decode("ascii", "replace"))
            self.accepted += 1
            return b"200", b"OK", public
        if edge is None:
            return self._refuse(address, f"unknown key {public.decode()}")
        self.accepted += 1
        self._keys.came_from(edge, address.decode("ascii", "replace"))
        log.debug("handshake: edge=%s from %s", edge, self._keys.address_of(edge))
        return b"200", b"OK", public

    def _refuse(self, address: bytes, why: str) -> tuple[bytes, bytes, bytes]:
        self.refused += 1
        if (again := self._seldom.ask(address)) is not None:
            where = address.decode("ascii", "replace")
            log.warning("refused: %s from %s; %d more before", why, where, again)
        return b"400", b"refused", b""
