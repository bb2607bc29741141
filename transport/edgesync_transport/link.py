"""What a shell must offer so that the cores can talk: a link that may lose anything.

Implementations: `memory.py` (loses, delays, doubles, reorders, cuts, on purpose), `dealer.py` and
`router.py` (ZeroMQ with CURVE). Neither promises delivery; the cores are built for that.
"""

from typing import Protocol

import msgspec

from edgesync_transport.messages import Message


class LinkClosed(Exception):
    """The link is gone; nothing more will come.

    retry_after_s   nobody has answered: connect again after so long. None when somebody has, and
                    who connects again owes it a pause.
    """

    retry_after_s: float | None = None


class Link(Protocol):
    """One connection attempt of an edge to its hub."""

    async def wait_up(self) -> None:
        """Return once the hub's end is there to be talked to; raises LinkClosed."""
        ...

    async def send(self, message: Message) -> None:
        """Hand `message` to the link; returns before it has arrived, raises LinkClosed."""
        ...

    async def receive(self) -> Message:
        """Return the next valid message; raises LinkClosed."""
        ...

    async def aclose(self) -> None: ...


class Connect(Protocol):
    async def __call__(self, look_s: float | None = None) -> Link:
        """Start a connection; returns at once, `wait_up` finds out whether anybody answers.

        look_s   look for the hub about so often until it is there; None to try once
        """
        ...


class Peer(msgspec.Struct, frozen=True):
    """Where a message came from: a route for answers, and the identity the key proved (I12)."""

    route: bytes
    edge: str


class Hearing(Protocol):
    """The hub's side: one socket, many edges."""

    async def send(self, peer: Peer, message: Message) -> None:
        """Hand over an answer; it is dropped when the peer's queue is full or the peer is gone.

        So is what comes after `aclose`, from tasks that have not heard of it.
        """
        ...

    async def receive(self) -> tuple[Peer, Message]:
        """Return the next valid message and who sent it; raises LinkClosed after `aclose`."""
        ...

    async def aclose(self) -> None: ...
