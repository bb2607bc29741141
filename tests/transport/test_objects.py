"""Messages of large objects, in sessions of which both sides have them."""

import msgspec
import pytest

from edgesync_transport import receiver as hub
from edgesync_transport import sender
from edgesync_transport.link import Peer
from edgesync_transport.messages import (
    Feature,
    ObjectListing,
    ObjectPart,
    ObjectPull,
    ObjectReport,
)
from tests.transport.greeting import greeted

pytestmark = pytest.mark.feature("S22")

PEER = Peer(b"1", "barn")
LISTING = ObjectListing(epoch=1, payload=b"listing")
PART = ObjectPart(epoch=1, sha256="0" * 64, offset=0, size=1, payload=b"x")
PULL = ObjectPull(epoch=1, sha256="0" * 64, offset=0, length=1)
REPORT = ObjectReport(epoch=1, listing="0" * 64)


@pytest.mark.parametrize(("holds", "hub_knows"), [(True, True), (True, False), (False, True)])
def test_both_sides_hear_of_objects_when_both_have_them(holds: bool, hub_knows: bool) -> None:
    edge, hello = greeted(hub_knows=hub_knows, objects=holds)
    assert bool(hello.features & Feature.OBJECTS) == holds
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
