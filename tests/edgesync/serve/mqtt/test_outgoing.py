"""What a client is sent, and what waits for it to take more."""

from edgesync.serve.mqtt.connection import Limits
from edgesync.serve.mqtt.packets import V311, Filter, Publish
from edgesync.serve.mqtt.steps import Deliver, Lost, Send
from tests.edgesync.serve.mqtt.test_connection import Client, sent, subscribed


def test_a_client_that_takes_any_number_is_sent_no_more_at_once_than_may_wait() -> None:
    client = subscribed(Client(V311, limits=Limits(outgoing_max=2)), Filter("a", 1))
    found = [packet for n in range(5) for packet in sent(client.step(Deliver("a", b"%d" % n)))]
    assert [one.payload for one in found if isinstance(one, Publish)] == [b"0", b"1"]
    assert not client.connection.has_room


def test_what_waited_behind_a_call_is_sent_when_the_client_is_back() -> None:
    """Who made the call sends it again; nobody else would send what came after it."""
    few = Limits(outgoing_max=1)
    client = subscribed(Client(V311, limits=few, clean_start=False), Filter("a", 1))
    (called,) = sent(client.step(Deliver("a", b"call", ticket=7)))
    assert client.step(Deliver("a", b"news")) == []
    client.step(Lost())
    after = Client(V311, limits=few, session=client.session, clean_start=False)
    assert isinstance(called, Publish)
    (news,) = [one.packet for one in after.again if isinstance(one, Send)]
    assert isinstance(news, Publish)
    assert (news.payload, news.qos) == (b"news", 1)
