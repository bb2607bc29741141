"""What a tunnel's two ends decide, without a link: nothing lost, nothing without bound."""

from collections import deque

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edgesync_transport import receiver as hub
from edgesync_transport import sender
from edgesync_transport.link import Peer
from edgesync_transport.messages import (
    Feature,
    Hello,
    LaneOffer,
    TunnelCode,
    TunnelData,
    TunnelOpen,
    TunnelOpened,
    Welcome,
)
from edgesync_transport.receiver import Receiver
from edgesync_transport.tunnel import stream as core
from edgesync_transport.tunnel.stream import (
    FRAME_BYTES,
    FRAMES_MAX,
    SHARE_LEAST,
    WINDOW_BYTES,
    Stream,
    StreamFault,
)
from edgesync_transport.tunnel.tunnel import End, Tunnel
from tests.transport.greeting import greeted

pytestmark = pytest.mark.feature("S33")

PEER = Peer(b"r", "barn")
SIDES = st.sampled_from([0, 1])


PATTERN = bytes(n * 7 % 251 for n in range(251)) * (2 + WINDOW_BYTES // 251)


def fill(first: int, count: int) -> bytes:
    """The bytes of a direction from offset `first` on."""
    return PATTERN[first % 251 :][:count]


class Connection(RuleBasedStateMachine):
    """One connection: both directions, a link that keeps order, and slow targets."""

    def __init__(self) -> None:
        super().__init__()
        self.ends = (Stream(1, 7, 1, 0.0), Stream(1, 7, 1, 0.0))
        self.links = (deque[TunnelData](), deque[TunnelData]())  # to the other end
        self.arrived = [0, 0]  # bytes that the target beside each end has got
        self.share = WINDOW_BYTES

    @rule(share=st.integers(SHARE_LEAST, WINDOW_BYTES))
    def others_come_and_go(self, share: int) -> None:
        self.share = share

    @rule(
        side=SIDES,
        count=st.one_of(st.integers(1, 20), st.just(FRAME_BYTES)),
        times=st.integers(1, FRAMES_MAX),
    )
    def send(self, side: int, count: int, times: int) -> None:
        end = self.ends[side]
        for _ in range(times):
            if room := end.room(self.share):
                self.links[side].append(end.send(fill(end.sent, min(room, count)), 0.0))
                assert end.sent - end.there <= self.share

    @rule(side=SIDES, times=st.integers(1, FRAMES_MAX))
    def deliver(self, side: int, times: int) -> None:
        for _ in range(min(times, len(self.links[side]))):
            self.ends[1 - side].receive(self.links[side].popleft(), 0.0)

    @rule(side=SIDES, count=st.integers(1, WINDOW_BYTES))
    def target_takes(self, side: int, count: int) -> None:
        end = self.ends[side]
        data = bytes(end.buffer[:count])
        assert data == fill(self.arrived[side], len(data))
        self.arrived[side] += len(data)
        if told := end.take(len(data), 0.0):
            self.links[side].append(told)

    @precondition(lambda self: not self.ends[0].is_sent or not self.ends[1].is_sent)
    @rule(side=SIDES)
    def half_close(self, side: int) -> None:
        if not self.ends[side].is_sent:
            self.links[side].append(self.ends[side].send(b"", 0.0))

    @invariant()
    def nothing_is_without_bound(self) -> None:
        for side, end in enumerate(self.ends):
            assert end.there <= end.sent <= end.there + WINDOW_BYTES
            assert len(end.buffer) <= WINDOW_BYTES
            under_way = [one for one in self.links[side] if one.payload]
            assert len(under_way) <= FRAMES_MAX

    @rule()
    def nobody_waits_for_ever(self) -> None:
        """Once all is delivered and taken, whoever has more to send may send it."""
        while any(self.links) or any(end.buffer for end in self.ends):
            for side in (0, 1):
                self.deliver(side, FRAMES_MAX)
                self.target_takes(side, WINDOW_BYTES)
        for side, end in enumerate(self.ends):
            assert self.arrived[1 - side] == end.sent
            assert end.is_sent or end.room(SHARE_LEAST) > 0


def test_what_came_before_a_half_close_and_was_not_taken_is_told_later() -> None:
    """Or the other end, with as many messages under way as may be, would wait for ever."""
    one, other = Stream(1, 1, 1, now=0.0), Stream(1, 1, 1, now=0.0)
    messages = [one.send(b"x", 0.0) for _ in range(FRAMES_MAX)]
    for message in messages[:5]:
        other.receive(message, 0.0)
    one.receive(other.send(b"", 0.0), 0.0)  # says that nothing is taken yet
    for message in messages[5:]:
        other.receive(message, 0.0)
    told = other.take(FRAMES_MAX, 0.0)
    assert told is not None
    one.receive(told, 0.0)
    assert one.room(SHARE_LEAST) > 0


TestConnection = pytest.mark.slow(Connection.TestCase)
TestConnection.settings = settings(max_examples=30, stateful_step_count=25)


def pair() -> tuple[Stream, Stream]:
    return Stream(1, 7, 1, 0.0), Stream(1, 7, 1, 0.0)


def test_a_message_that_the_link_lost_ends_the_connection() -> None:
    here, there = pair()
    here.send(b"lost", 0.0)
    for later in (here.send(b"more", 0.0), here.message(), here.send(b"", 0.0)):
        with pytest.raises(StreamFault, match="lost a part") as fault:
            there.receive(later, 0.0)
        assert fault.value.code is TunnelCode.LOST
    assert there.buffer == b""


def test_a_message_that_comes_twice_is_taken_once() -> None:
    here, there = pair()
    message = here.send(b"once", 0.0)
    there.receive(message, 0.0)
    there.receive(message, 0.0)
    assert there.buffer == b"once"


def said(**more: object) -> TunnelData:
    return TunnelData(**{"epoch": 1, "tunnel": 7, "stream": 1, "offset": 0, "taken": 0} | more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ([said(taken=1)], "takes what was not sent"),
        ([said(payload=bytes(WINDOW_BYTES)), said(offset=WINDOW_BYTES, payload=b"x")], "more than"),
        ([said(is_end=True), said(payload=b"x")], "after its end"),
        ([said(offset=n, payload=b"x") for n in range(FRAMES_MAX + 1)], "more than"),
    ],
)
def test_an_end_that_breaks_the_rules_loses_the_connection_alone(
    messages: list[TunnelData], problem: str
) -> None:
    stream = Stream(1, 7, 1, 0.0)
    *before, last = messages
    for message in before:
        stream.receive(message, 0.0)
    with pytest.raises(StreamFault, match=problem):
        stream.receive(last, 0.0)
    assert len(stream.buffer) <= WINDOW_BYTES


def test_a_connection_is_over_when_both_directions_are() -> None:
    here, there = pair()
    there.receive(here.send(b"", 0.0), 0.0)
    there.hand_on_end()
    assert not there.is_over  # it may still answer
    here.receive(there.send(b"answer", 0.0), 0.0)
    here.receive(there.send(b"", 0.0), 0.0)
    assert there.is_over
    here.take(6, 0.0)
    here.hand_on_end()
    assert here.is_over


def a_tunnel(*, for_s: float = 100.0, idle_s: float = 10.0, connections: int = 2) -> Tunnel:
    return Tunnel(1, 7, now=0.0, for_s=for_s, idle_s=idle_s, connections=connections)


def test_connections_share_what_may_be_under_way() -> None:
    tunnel = a_tunnel(connections=16)
    assert tunnel.share == WINDOW_BYTES
    for count in range(1, 17):
        tunnel.open(0.0)
        assert tunnel.share == max(SHARE_LEAST, WINDOW_BYTES // count)


def test_more_connections_than_may_be_are_refused_and_the_others_go_on() -> None:
    tunnel = a_tunnel()
    for number in (1, 2):
        assert tunnel.accept(said(stream=number), 0.0) is not None
    with pytest.raises(StreamFault) as fault:
        tunnel.accept(said(stream=3), 0.0)
    assert fault.value.code is TunnelCode.FULL
    assert tunnel.accept(said(stream=3), 0.0) is None  # its next message opens nothing
    assert tunnel.hear(said(stream=3, payload=b"x"), 0.0) is None
    tunnel.close(1, 0.0)
    assert tunnel.accept(said(stream=4), 0.0) is not None
    assert (sorted(tunnel.streams), tunnel.opened) == ([2, 4], 3)


def test_a_tunnel_ends_when_its_time_is_over_however_busy_it_is() -> None:
    tunnel = a_tunnel(for_s=30.0)
    stream = tunnel.open(0.0)
    for now in range(29):
        tunnel.send(stream, b"x", float(now))
        stream.receive(said(taken=stream.sent), float(now))
        assert tunnel.over(float(now)) is None
    assert tunnel.due_at() == 30.0
    assert tunnel.over(30.0) == End(TunnelCode.EXPIRED, "its 30 s are over")


def test_what_does_not_move_is_closed_first_the_connection_then_the_tunnel() -> None:
    tunnel = a_tunnel()
    first, second = tunnel.open(0.0), tunnel.open(0.0)
    tunnel.send(second, b"x", 5.0)
    assert tunnel.due_at() == 10.0
    assert tunnel.idle(9.0) == []
    assert tunnel.idle(10.0) == [first]
    tunnel.close(first.number, 10.0)
    assert (tunnel.due_at(), tunnel.over(14.0)) == (15.0, None)
    tunnel.close(second.number, 15.0)
    assert tunnel.over(24.0) is None
    ended = tunnel.over(25.0)
    assert ended is not None
    assert ended.code is TunnelCode.IDLE


def test_bytes_are_counted_beyond_the_end_of_a_connection() -> None:
    tunnel = a_tunnel()
    stream = tunnel.open(0.0)
    tunnel.send(stream, b"four", 0.0)
    tunnel.hear(said(payload=b"six666"), 0.0)
    tunnel.close(1, 0.0)
    tunnel.hear(said(payload=b"late"), 0.0)
    assert (tunnel.sent, tunnel.received) == (4, 6)


def test_single_characters_fill_a_window_of_messages_and_empty_it_again() -> None:
    here, there = pair()
    for nth in range(100):
        while here.room(WINDOW_BYTES):
            there.receive(here.send(b"k", 0.0), 0.0)
        assert here.sent - here.there <= FRAMES_MAX
        told = there.take(len(there.buffer), 0.0)
        assert told is not None, nth
        here.receive(told, 0.0)


def receiver(features: Feature) -> Receiver:
    """The hub's half of a session with an edge that has these."""
    found = Receiver("barn")
    offer = LaneOffer(tail=0, trimmed=0)
    hello = Hello(
        nonce=1, incarnation=bytes(16), lanes=(offer,) * 3, clock_ns=0, features=int(features)
    )
    (asked,) = found.step(hub.Received(PEER, hello), 0.0, 0)
    assert isinstance(asked, hub.Open)
    effects = found.step(hub.Opened(asked.token, 1, b"g" * 16, hub.FLOORS_NONE), 0.0, 0)
    (welcome,) = [one.message for one in effects if isinstance(one, hub.Transmit)]
    assert isinstance(welcome, Welcome)
    assert Feature(welcome.features) == features
    return found


def test_a_hub_hears_of_tunnels_from_edges_that_have_them_in_their_session() -> None:
    new, old = receiver(Feature.TUNNEL), receiver(Feature(0))
    for message in (TunnelOpened(epoch=1, tunnel=7, for_s=1.0, connections=1), said()):
        heard = hub.Received(PEER, message)
        assert new.step(heard, 0.0, 0) == [hub.Tunnelled(message)]
        assert old.step(heard, 0.0, 0) == []
    late = msgspec.structs.replace(said(), epoch=2)
    assert new.step(hub.Received(PEER, late), 0.0, 0) == []
    assert new.step(hub.Received(Peer(b"other", "barn"), said()), 0.0, 0) == []
    asked = TunnelOpen(epoch=1, tunnel=7, host="hub", port=22, for_s=1.0)
    assert new.step(hub.Received(PEER, asked), 0.0, 0) == []  # edges open none


@pytest.mark.parametrize(("allows", "hub_knows"), [(True, True), (True, False), (False, True)])
def test_an_edge_hears_of_tunnels_when_both_sides_have_them(allows: bool, hub_knows: bool) -> None:
    edge, hello = greeted(hub_knows=hub_knows, tunnels=allows)
    assert bool(hello.features & Feature.TUNNEL) == allows
    message = TunnelOpen(epoch=1, tunnel=7, host="plc", port=22, for_s=1.0)
    heard = [sender.Tunnelled(message)] if allows and hub_knows else []
    assert edge.step(sender.Received(message), 0.0) == heard
    late = msgspec.structs.replace(message, epoch=2)
    assert edge.step(sender.Received(late), 0.0) == []


def test_windows_fit_together() -> None:
    """What a receiver keeps to itself is less than what a sender may have under way."""
    assert core.TELL_BYTES < SHARE_LEAST
    assert core.TELL_FRAMES < FRAMES_MAX
    assert FRAME_BYTES * FRAMES_MAX >= WINDOW_BYTES
