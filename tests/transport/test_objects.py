"""Messages of large objects, in sessions of which both sides have them."""

from random import Random

import msgspec
import pytest

from edgesync_transport import receiver as hub
from edgesync_transport import sender
from edgesync_transport.lanes.window import LanePositions
from edgesync_transport.link import Peer
from edgesync_transport.messages import (
    Feature,
    Hello,
    LaneFloor,
    ObjectListing,
    ObjectPart,
    ObjectPull,
    ObjectReport,
    Welcome,
)

pytestmark = pytest.mark.feature("S22")

PEER = Peer(b"1", "barn")
LISTING = ObjectListing(epoch=1, payload=b"listing")
PART = ObjectPart(epoch=1, sha256="0" * 64, offset=0, size=1, payload=b"x")
PULL = ObjectPull(epoch=1, sha256="0" * 64, offset=0, length=1)
REPORT = ObjectReport(epoch=1, listing="0" * 64)


@pytest.mark.parametrize(("holds", "hub_knows"), [(True, True), (True, False), (False, True)])
def test_both_sides_hear_of_objects_when_both_have_them(holds: bool, hub_knows: bool) -> None:
    nothing = LanePositions(tail=0, floor=0, safe=0, trimmed=0)
    edge = sender.Sender(
        (nothing, nothing, nothing), incarnation=bytes(16), chain_at=lambda _lane, _seq: 0,
        wall_ns=lambda: 0, random=Random(1), objects=holds,
    )  # fmt: skip
    (asked,) = edge.step(sender.LinkUp(), 0.0)
    assert isinstance(asked, sender.Transmit)
    hello = asked.message
    assert isinstance(hello, Hello)
    assert bool(hello.features & Feature.OBJECTS) == holds
    floor = LaneFloor(floor=0, chain=0, safe=0)
    welcome = Welcome(
        nonce=hello.nonce, protocol=1, epoch=1, generation=b"g" * 16, lanes=(floor,) * 3,
        clock_ns=0, features=hello.features if hub_knows else 0,
    )  # fmt: skip
    edge.step(sender.Received(welcome), 0.0)
    for message in (LISTING, PART):
        heard = [sender.ObjectsHeard(message)] if holds and hub_knows else []
        assert edge.step(sender.Received(message), 0.0) == heard
        late = msgspec.structs.replace(message, epoch=2)
        assert edge.step(sender.Received(late), 0.0) == []

    receiver = hub.Receiver("barn")
    (opening,) = receiver.step(hub.Received(PEER, hello), 0.0, 0)
    assert isinstance(opening, hub.Open)
    receiver.step(hub.Opened(opening.token, 1, b"g" * 16, hub.FLOORS_NONE), 0.0, 0)
    for answer in (PULL, REPORT):
        told = [hub.ObjectsHeard(answer)] if holds else []
        assert receiver.step(hub.Received(PEER, answer), 0.0, 0) == told
        elsewhere = hub.Received(Peer(b"other", "barn"), answer)
        assert receiver.step(elsewhere, 0.0, 0) == []
    assert receiver.step(hub.Received(PEER, PART), 0.0, 0) == []  # edges send none
