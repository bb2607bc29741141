"""Events that a connection takes besides packets, and effects that it asks for.   [sans-IO]"""

from collections.abc import Callable

import msgspec

from edgesync.serve.mqtt.packets import BadPacket, Connect, Packet, Publish, Reason, Will
from edgesync.serve.mqtt.sessions import Session

# -- events, besides packets -------------------------------------------------------------------


class Admitted(msgspec.Struct, frozen=True):
    """The client is who it says, and `session` is its own.

    grants     which topic filters it may subscribe to
    client_id  given to a client that named none
    """

    session: Session
    is_present: bool
    grants: Callable[[str], bool]
    client_id: str = ""


class Denied(msgspec.Struct, frozen=True):
    reason: Reason
    problem: str = ""


class Answered(msgspec.Struct, frozen=True, gc=False):
    """The message of `token` is on disk; or refused, if `reason` is a failure."""

    token: int
    reason: int = 0
    problem: str = ""


class Deliver(msgspec.Struct, frozen=True):
    """Send a message, if it is subscribed to; its acknowledgement is `Delivered(ticket)`, if > 0.

    Messages with a ticket are forgotten when the connection ends: who gave it sends them again.
    """

    topic: str
    payload: bytes
    ticket: int = 0


class Reply(msgspec.Struct, frozen=True):
    """Send what the client has just asked for, with QoS 0: it is large, and is asked for again.

    Whatever it subscribes to: tb-mqtt-client takes firmware without a filter that matches.
    """

    topic: str
    payload: bytes


class Elapsed(msgspec.Struct, frozen=True):
    """Time has passed; `Connection.deadline` says when this is of interest.

    is_unread  nothing is read from the client for now, so that its silence says nothing
    """

    is_unread: bool = False


class Garbage(msgspec.Struct, frozen=True):
    error: BadPacket


class Lost(msgspec.Struct, frozen=True):
    """The network connection has ended."""


class Expelled(msgspec.Struct, frozen=True):
    """The server ends the connection."""

    reason: Reason
    problem: str = ""
    is_will_due: bool = False


Event = (
    Packet | Admitted | Denied | Answered | Deliver | Reply | Elapsed | Garbage | Lost | Expelled
)  # fmt: skip


# -- effects -----------------------------------------------------------------------------------


class Send(msgspec.Struct, frozen=True, gc=False):
    packet: Packet


class Authenticate(msgspec.Struct, frozen=True):
    connect: Connect


class Accept(msgspec.Struct, frozen=True, gc=False):
    """Store `publish`, then report `Answered(token)`; or that it is refused."""

    token: int
    publish: Publish


class Delivered(msgspec.Struct, frozen=True):
    """The client has acknowledged the message of `ticket`."""

    ticket: int


class Subscribed(msgspec.Struct, frozen=True):
    """The client's subscriptions have changed."""


class Release(msgspec.Struct, frozen=True):
    """The session has no connection any more; keep it for `expiry_s`, and see to its will."""

    session: Session
    expiry_s: float
    will: Will | None


class Close(msgspec.Struct, frozen=True):
    """End the network connection, when what is to be sent has been."""


Effect = Send | Authenticate | Accept | Delivered | Subscribed | Release | Close
