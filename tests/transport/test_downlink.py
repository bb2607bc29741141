"""The hub's half of lanes to an edge, step by step."""

import math

import msgspec
import pytest

from edgesync_transport import receiver as core
from edgesync_transport.lanes.window import LanePositions
from edgesync_transport.link import Peer
from edgesync_transport.messages import (
    Ack,
    Batch,
    Bye,
    Codec,
    Feature,
    Hello,
    Lane,
    LaneFloor,
    LaneOffer,
    Ping,
    Welcome,
)
from edgesync_transport.receiver import FLOORS_NONE, DownFloors, DownOffer, Receiver

pytestmark = pytest.mark.feature("S1", "S8")

PEER = Peer(route=b"r", edge="barn")
LIFE, OURS, JOURNAL = b"e" * 16, b"g" * 16, b"j" * 16
NONE = LaneFloor(floor=0, chain=0, safe=0)


def hello(**more: object) -> Hello:
    offer = LaneOffer(tail=0, trimmed=0)
    known = Hello(
        nonce=1, incarnation=LIFE, lanes=(offer, offer, offer), clock_ns=0,
        features=int(Feature.DOWNLINK), down_floors=FLOORS_NONE,
    )  # fmt: skip
    return msgspec.structs.replace(known, **more)


def opened(
    *, tail: int = 0, trimmed: int = 0, floor: int = 0, chain: int = 0, features: int = 1,
    knows: bytes = b"",
) -> tuple[Receiver, list[core.Effect]]:  # fmt: skip
    """Return a receiver whose edge has been welcomed, and what that led to."""
    receiver = Receiver("barn")
    floors = FLOORS_NONE if features else ()
    asked = hello(features=features, down_incarnation=knows, down_floors=floors)
    (one,) = receiver.step(core.Received(PEER, asked), 0.0, 0)
    assert isinstance(one, core.Open)
    assert one.down == (DownFloors(knows, FLOORS_NONE) if features else None)
    empty = LanePositions(tail=0, floor=0, safe=0, trimmed=0)
    critical = LanePositions(tail=tail, floor=trimmed, safe=trimmed, trimmed=trimmed)
    stands = LaneFloor(floor=floor, chain=chain, safe=floor)
    down = DownOffer(JOURNAL, (critical, empty, empty), (stands, NONE, NONE), (99, 0, 0))
    answer = core.Opened(one.token, 1, OURS, FLOORS_NONE, down=down if features else None)
    return receiver, receiver.step(answer, 0.0, 0)


def batch_of(effects: list[core.Effect]) -> Batch:
    (found,) = [
        one.message
        for one in effects
        if isinstance(one, core.Transmit) and isinstance(one.message, Batch)
    ]
    return found


def loads(effects: list[core.Effect]) -> list[tuple[int, int]]:
    return [(one.first, one.last_max) for one in effects if isinstance(one, core.Load)]


def ack(floor: int, incarnation: bytes = JOURNAL) -> core.Received:
    answer = Ack(epoch=1, incarnation=incarnation, lane=Lane.CRITICAL, floor=floor, safe=floor)
    return core.Received(PEER, answer)


def loaded(first: int, last: int) -> core.Loaded:
    return core.Loaded(Lane.CRITICAL, first, last, 5, 6, Codec.ROWS, b"rows")


def test_an_edge_of_before_is_offered_nothing_and_sent_nothing() -> None:
    receiver, effects = opened(tail=3, features=0)
    welcome = next(one.message for one in effects if isinstance(one, core.Transmit))
    assert isinstance(welcome, Welcome)
    assert (welcome.features, welcome.down_offers, loads(effects)) == (0, (), [])
    assert receiver.step(core.Grown(Lane.CRITICAL, 4), 1.0, 0) == []


def test_what_the_journal_has_is_loaded_sent_and_marked_when_it_is_acknowledged() -> None:
    receiver, effects = opened(tail=3)
    assert loads(effects) == [(1, 3)]
    sent = batch_of(receiver.step(loaded(1, 3), 0.1, 0))
    assert (sent.first, sent.last, sent.incarnation, sent.epoch) == (1, 3, JOURNAL, 1)
    assert receiver.step(ack(3, incarnation=LIFE), 0.2, 0) == []  # of the other direction
    assert receiver.step(ack(3), 0.2, 0) == [core.Mark(Lane.CRITICAL, 3, 3)]
    assert loads(receiver.step(core.Grown(Lane.CRITICAL, 4), 0.3, 0)) == [(4, 4)]


def test_nothing_is_due_while_a_load_is_under_way() -> None:
    """The hub's clock once span on a receiver that was due at all times until its edge was lost."""
    receiver, _ = opened(tail=3)
    assert receiver.due_at() > 1.0
    receiver.step(loaded(1, 3), 0.1, 0)
    assert 1.0 < receiver.due_at() < math.inf


def test_what_is_not_acknowledged_is_sent_again() -> None:
    receiver, _ = opened(tail=3)
    receiver.step(loaded(1, 3), 0.1, 0)
    receiver.heard_at = 10.0
    effects = receiver.step(core.Tick(), 10.2, 0)
    assert loads(effects) == [(1, 3)]


def test_what_an_edge_had_before_it_was_restored_is_a_gap_and_reported() -> None:
    receiver, effects = opened(tail=5, trimmed=4, floor=2, chain=77)
    gap = batch_of(effects)
    assert (gap.codec, gap.first, gap.last) == (Codec.GAP, 3, 4)
    assert (gap.prev_chain, gap.last_chain) == (77, 99)
    assert "before its store was restored" in gap.reason
    effects = receiver.step(ack(4), 0.1, 0)
    (lost,) = [one for one in effects if isinstance(one, core.Lost)]
    assert (lost.first, lost.last) == (3, 4)
    assert loads(effects) == [(5, 5)]


def test_what_an_old_greeting_says_of_floors_is_not_believed_until_the_edge_is_heard() -> None:
    """A Hello of a line that was given up may come after the one that followed it."""
    receiver, effects = opened(tail=5, trimmed=4, floor=2, chain=77)
    newer = Peer(route=b"n", edge="barn")
    assert not [one for one in effects if isinstance(one, core.Lost)]
    assert not [one for one in effects if isinstance(one, core.Report) and one.kind == "loss"]
    effects = receiver.step(core.Received(newer, hello(nonce=2)), 0.1, 0)
    effects += receiver.step(core.Received(PEER, Ping(epoch=1, token=1, at_ns=0)), 0.2, 0)
    assert not [one for one in effects if isinstance(one, core.Lost)]


def test_the_first_word_of_an_edge_in_its_session_says_that_its_greeting_was_new() -> None:
    receiver, _ = opened(tail=5, trimmed=4, floor=2, chain=77)
    ping = core.Received(PEER, Ping(epoch=1, token=1, at_ns=0))
    effects = receiver.step(ping, 0.1, 0)
    assert [one.kind for one in effects if isinstance(one, core.Report)] == ["rewind", "loss"]
    assert len([one for one in effects if isinstance(one, core.Lost)]) == 1
    assert len(receiver.step(ping, 0.2, 0)) == 1  # the answer alone


def test_of_an_edge_that_knows_another_journal_nobody_can_say_what_it_had() -> None:
    """A hub restored twice from one backup has lost the journal that its edge knows since then."""
    receiver, effects = opened(tail=5, trimmed=4, knows=b"k" * 16)
    gap = batch_of(effects)
    assert (gap.codec, gap.first, gap.last) == (Codec.GAP, 1, 4)
    effects = receiver.step(ack(4), 0.1, 0)
    assert not [one for one in effects if isinstance(one, core.Lost)]


def test_an_edge_is_asked_to_greet_anew() -> None:
    receiver, _ = opened()
    (bye,) = receiver.step(core.Regreet("more can be had"), 1.0, 0)
    assert isinstance(bye, core.Transmit)
    assert bye.message == Bye(epoch=1, reason="more can be had")
    assert receiver.session is None
