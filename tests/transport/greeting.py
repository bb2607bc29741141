"""An edge that has greeted a hub, without a line between them."""

from random import Random

from edgesync_transport import sender
from edgesync_transport.lanes.window import LanePositions
from edgesync_transport.messages import Hello, LaneFloor, Welcome


def greeted(
    *, hub_knows: bool, objects: bool = False, tunnels: bool = False
) -> tuple[sender.Sender, Hello]:
    """Return an edge with these features after its Welcome, and the Hello it said.

    hub_knows   whether the hub has each feature of the Hello, or none
    """
    nothing = LanePositions(tail=0, floor=0, safe=0, trimmed=0)
    edge = sender.Sender(
        (nothing, nothing, nothing), incarnation=bytes(16), chain_at=lambda _lane, _seq: 0,
        wall_ns=lambda: 0, random=Random(1), objects=objects, tunnels=tunnels,
    )  # fmt: skip
    (asked,) = edge.step(sender.LinkUp(), 0.0)
    assert isinstance(asked, sender.Transmit)
    hello = asked.message
    assert isinstance(hello, Hello)
    floor = LaneFloor(floor=0, chain=0, safe=0)
    welcome = Welcome(
        nonce=hello.nonce, protocol=1, epoch=1, generation=b"g" * 16, lanes=(floor,) * 3,
        clock_ns=0, features=hello.features if hub_knows else 0,
    )  # fmt: skip
    edge.step(sender.Received(welcome), 0.0)
    return edge, hello
