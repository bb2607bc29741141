"""What the receiving half does, read like its contract."""

import os

import msgspec
import pytest

from edgesync_transport import receiver as core
from edgesync_transport.lanes.receiver import RETRY_S
from edgesync_transport.link import Peer
from edgesync_transport.messages import (
    Ack,
    Batch,
    Bye,
    Codec,
    Hello,
    Lane,
    LaneFloor,
    LaneOffer,
    Limits,
    Message,
    Nack,
    NackCode,
    Ping,
    Pong,
    RefuseCode,
    Refused,
    Welcome,
)
from edgesync_transport.receiver import (
    Open,
    Opened,
    OpenFailed,
    Received,
    Receiver,
    ReceiverSettings,
    Report,
    Revoked,
    Stopping,
    Store,
    Stored,
    Tick,
    Transmit,
)

HERE, THERE = Peer(b"1", "barn"), Peer(b"2", "barn")
OFFER = LaneOffer(tail=0, trimmed=0)
ZERO = LaneFloor(floor=0, chain=0, safe=0)
GENERATION = b"g" * 16


def hello(nonce: int = 5, incarnation: bytes = b"i" * 16) -> Hello:
    return Hello(nonce=nonce, incarnation=incarnation, lanes=(OFFER, OFFER, OFFER), clock_ns=0)


def messages(effects: list[core.Effect], peer: Peer = HERE) -> list[Message]:
    return [e.message for e in effects if isinstance(e, Transmit) and e.peer == peer]


def step(receiver: Receiver, event: core.Event, now: float = 0.0) -> list[core.Effect]:
    return receiver.step(event, now, 10**18)


def greet(
    receiver: Receiver, peer: Peer = HERE, *, epoch: int = 1, now: float = 0.0, floor: int = 0,
    incarnation: bytes = b"i" * 16,
) -> list[core.Effect]:  # fmt: skip
    asked = step(receiver, Received(peer, hello(epoch, incarnation)), now)
    opens = [effect for effect in asked if isinstance(effect, Open)]
    if not opens:
        return asked
    floors = (ZERO, ZERO, LaneFloor(floor=floor, chain=9, safe=floor))
    return asked + step(receiver, Opened(opens[0].token, epoch, GENERATION, floors), now)


def test_a_pause_travels_with_the_ack_that_answers_for_all() -> None:
    receiver = live()
    first, second = store(receiver, 1, 5), store(receiver, 6, 9)
    assert step(receiver, Stored(first, 5, 5, reason="slow down", pause_s=1.0)) == []
    (answer,) = messages(step(receiver, Stored(second, 9, 9, reason="slow down", pause_s=2.0)))
    assert isinstance(answer, Ack)
    assert (answer.floor, answer.pause_s, answer.reason) == (9, 2.0, "slow down")


def test_a_refusal_says_for_how_long() -> None:
    receiver = live()
    busy = Stored(store(receiver, 1, 5), 0, 0, code=NackCode.BUSY, reason="slow down", pause_s=7.0)
    (answer,) = messages(step(receiver, busy))
    assert isinstance(answer, Nack)
    assert (answer.code, answer.retry_after_s) == (NackCode.BUSY, 7.0)


def test_an_edge_that_was_with_another_hub_in_between_is_reported_once() -> None:
    """A restarted or restored hub has granted it no session before."""
    receiver = Receiver("barn", ReceiverSettings(start=7))

    def come(epoch: int, last_start: int) -> list[str]:
        asked = msgspec.structs.replace(hello(epoch), last_start=last_start)
        (opened,) = [e for e in step(receiver, Received(HERE, asked)) if isinstance(e, Open)]
        answer = Opened(opened.token, epoch, GENERATION, (ZERO, ZERO, ZERO))
        effects = step(receiver, answer)
        assert [m.start for m in messages(effects) if isinstance(m, Welcome)] == [7]
        return [effect.kind for effect in effects if isinstance(effect, Report)]

    assert come(1, 6) == ["connected"]  # of an earlier start, or before it was restored
    assert come(2, 7) == ["connected"]
    assert not receiver.two_hubs
    assert come(3, 9) == ["connected", "two_hubs"]
    assert come(4, 9) == ["connected"]
    assert receiver.two_hubs


def batch(first: int, last: int, *, epoch: int = 1, payload: bytes = b"x") -> Batch:
    return Batch(
        epoch=epoch, incarnation=b"i" * 16, lane=Lane.BULK, first=first, last=last,
        prev_chain=first - 1, last_chain=last, codec=Codec.ROWS, payload=payload,
    )  # fmt: skip


def live(*, floor: int = 0, settings: ReceiverSettings | None = None) -> Receiver:
    receiver = Receiver("barn", settings)
    greet(receiver, floor=floor)
    return receiver


def store(receiver: Receiver, first: int, last: int) -> int:
    (effect,) = step(receiver, Received(HERE, batch(first, last)))
    assert isinstance(effect, Store)
    return effect.token


def test_a_welcome_follows_the_durable_epoch_and_echoes_the_nonce() -> None:
    receiver = Receiver("barn")
    (asked,) = step(receiver, Received(HERE, hello(77)))
    assert isinstance(asked, Open)
    granted = step(receiver, Opened(asked.token, 4, GENERATION, (ZERO, ZERO, ZERO)))
    (answer,) = messages(granted)
    assert isinstance(answer, Welcome)
    assert (answer.nonce, answer.epoch) == (77, 4)


@pytest.mark.feature("S5")
def test_nothing_is_acknowledged_before_it_is_stored() -> None:
    receiver = live()
    effects = step(receiver, Received(HERE, batch(1, 5)))
    assert messages(effects) == []
    (asked,) = effects
    assert isinstance(asked, Store)
    (answer,) = messages(step(receiver, Stored(asked.token, 5, 5)))
    assert isinstance(answer, Ack)
    assert answer.floor == 5


def test_one_ack_answers_for_all_that_is_in_the_pipe() -> None:
    receiver = live()
    first, second = store(receiver, 1, 5), store(receiver, 6, 9)
    assert step(receiver, Stored(first, 5, 5)) == []
    (answer,) = messages(step(receiver, Stored(second, 9, 9)))
    assert isinstance(answer, Ack)
    assert answer.floor == 9


@pytest.mark.feature("S4")
def test_a_resend_is_acknowledged_and_changes_nothing() -> None:
    receiver = live(floor=9)
    (answer,) = messages(step(receiver, Received(HERE, batch(3, 9))))
    assert isinstance(answer, Ack)
    assert answer.floor == 9


def test_a_gap_is_refused_by_naming_the_floor() -> None:
    receiver = live(floor=9)
    (answer,) = messages(step(receiver, Received(HERE, batch(11, 12))))
    assert isinstance(answer, Nack)
    assert (answer.code, answer.floor) == (NackCode.GAP, 9)


def test_after_a_refusal_the_pipe_begins_again_at_the_floor() -> None:
    receiver = live()
    first, second = store(receiver, 1, 5), store(receiver, 6, 9)
    (refusal,) = messages(step(receiver, Stored(first, 0, 0, code=NackCode.POISON, reason="bad")))
    assert isinstance(refusal, Nack)
    assert refusal.floor == 0
    step(receiver, Stored(second, 0, 0, code=NackCode.GAP, reason="expected 1"))
    (refusal,) = messages(step(receiver, Received(HERE, batch(10, 12))))  # was in the pipe, too
    assert isinstance(refusal, Nack)
    assert (refusal.code, refusal.reason) == (NackCode.GAP, "expected 1")
    assert store(receiver, 1, 2)


def test_a_refusal_names_the_floor_as_it_is_known_by_then() -> None:
    receiver = live()
    first = store(receiver, 1, 5)
    refused = Stored(first, 3, 3, code=NackCode.GAP, reason="expected 4")
    (refusal,) = messages(step(receiver, refused))
    assert isinstance(refusal, Nack)
    assert (refusal.floor, refusal.retry_after_s) == (3, RETRY_S)


def test_a_refusal_does_not_hide_what_is_stored_after_it() -> None:
    receiver = live()
    first, second = store(receiver, 1, 5), store(receiver, 6, 9)
    step(receiver, Stored(first, 5, 5))
    third = store(receiver, 10, 12)
    step(receiver, Stored(third, 0, 0, code=NackCode.BUSY, reason="full"))
    step(receiver, Stored(second, 9, 9))
    assert store(receiver, 10, 12)


@pytest.mark.feature("S26")
def test_a_newer_greeting_ends_the_older_session() -> None:
    receiver = live()
    effects = greet(receiver, THERE, epoch=2)
    (told,) = messages(effects, HERE)
    assert isinstance(told, Refused)
    assert told.code is RefuseCode.SUPERSEDED
    late = step(receiver, Received(HERE, batch(1, 5, epoch=1)))
    (answer,) = messages(late)
    assert isinstance(answer, Refused)
    assert not [effect for effect in late if isinstance(effect, Store)]
    assert receiver.fenced == 1


def test_what_an_older_session_stored_is_not_acknowledged_in_the_new_one() -> None:
    receiver = live()
    token = store(receiver, 1, 5)
    greet(receiver, THERE, epoch=2)
    assert step(receiver, Stored(token, 5, 5)) == []


@pytest.mark.feature("S32")
def test_two_gateways_with_one_key_are_noticed_and_held_off() -> None:
    receiver = Receiver("barn", ReceiverSettings(takeovers_max=3, holdoff_s=10))
    told, reasons = list[str](), list[str]()
    for turn in range(6):
        peer, other = (HERE, THERE)[turn % 2], (THERE, HERE)[turn % 2]
        incarnation = (b"a", b"b")[turn % 2] * 16
        effects = greet(receiver, peer, epoch=turn + 1, now=float(turn), incarnation=incarnation)
        told += [effect.kind for effect in effects if isinstance(effect, Report)]
        refused = [one for one in messages(effects, other) if isinstance(one, Refused)]
        reasons += [one.reason for one in refused if one.code is RefuseCode.SUPERSEDED]
    assert "duplicate_identity" in told
    assert "copied folder" in reasons[-1]
    (answer,) = messages(greet(receiver, HERE, epoch=9, now=6.0), HERE)
    assert isinstance(answer, Refused)
    assert answer.code is RefuseCode.RATE_LIMITED


def test_a_store_that_is_replaced_now_and_then_is_no_other_gateway() -> None:
    settings = ReceiverSettings(takeovers_max=3, takeovers_window_s=60, holdoff_s=10)
    receiver, now = Receiver("barn", settings), 0.0

    def come(seconds: float) -> list[str]:
        nonlocal now
        now += seconds
        effects = greet(receiver, epoch=round(now) + 1, now=now, incarnation=os.urandom(16))
        return [effect.kind for effect in effects if isinstance(effect, Report)]

    for _ in range(9):
        assert come(21.0) == ["connected"]  # three in any minute
    assert come(1.0) == ["duplicate_identity", "connected"]
    assert come(1.0) == ["refused"]
    for _ in range(3):  # counted anew from here on
        assert come(10.0) == ["connected"]


def test_another_protocol_version_is_refused_in_words() -> None:
    receiver = Receiver("barn")
    newer = msgspec.structs.replace(hello(), protocol_oldest=7, protocol_newest=9)
    effects = step(receiver, Received(HERE, newer))
    (answer,) = messages(effects)
    assert isinstance(answer, Refused)
    assert answer.code is RefuseCode.UNSUPPORTED_VERSION
    assert "upgrade" in answer.reason


def test_a_doubled_greeting_opens_one_session() -> None:
    receiver = Receiver("barn")
    step(receiver, Received(HERE, hello(3)))
    assert step(receiver, Received(HERE, hello(3))) == []


def test_a_hub_that_cannot_store_says_unavailable() -> None:
    receiver = Receiver("barn")
    (asked,) = step(receiver, Received(HERE, hello()))
    assert isinstance(asked, Open)
    (answer,) = messages(step(receiver, OpenFailed(asked.token, "disk full")))
    assert isinstance(answer, Refused)
    assert answer.code is RefuseCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (batch(1, 5, payload=bytes(11)), NackCode.TOO_LARGE),
        (
            Batch(
                epoch=1, incarnation=b"j" * 16, lane=Lane.BULK, first=1, last=5, prev_chain=0,
                last_chain=5, codec=Codec.ROWS, payload=b"x",
            ),
            NackCode.CHAIN,
        ),
    ],
)  # fmt: skip
def test_a_batch_that_does_not_fit_is_refused_before_it_is_stored(
    asked: Batch, code: NackCode
) -> None:
    receiver = live(settings=ReceiverSettings(limits=Limits(batch_bytes=10)))
    (answer,) = messages(step(receiver, Received(HERE, asked)))
    assert isinstance(answer, Nack)
    assert answer.code is code


def test_more_than_the_window_is_refused_for_now() -> None:
    receiver = live(settings=ReceiverSettings(limits=Limits(window_batches=1)))
    for first in (1, 2, 3):
        store(receiver, first, first)
    (answer,) = messages(step(receiver, Received(HERE, batch(4, 4))))
    assert isinstance(answer, Nack)
    assert answer.code is NackCode.BUSY


@pytest.mark.feature("S17")
def test_a_silent_edge_is_lost_after_three_heartbeats() -> None:
    receiver = live()
    kinds = [e.kind for e in step(receiver, Tick(), 15.0) if isinstance(e, Report)]
    assert kinds == ["lost"]
    assert receiver.session is None


@pytest.mark.feature("S25")
def test_heartbeats_measure_round_trip_and_clock() -> None:
    receiver = live()
    (ping,) = messages(step(receiver, Tick(), 5.0))
    assert isinstance(ping, Ping)
    pong = Pong(epoch=1, token=ping.token, asked_at_ns=ping.at_ns, at_ns=10**18 - 3600 * 10**9)
    told = step(receiver, Received(HERE, pong), 5.25)
    assert [effect.kind for effect in told if isinstance(effect, Report)] == ["clock_skew"]
    assert receiver.rtt_s == 0.25
    assert receiver.clock_offset_s == pytest.approx(-3600, abs=1)


@pytest.mark.feature("S17")
def test_an_edge_that_pings_by_itself_is_pinged_every_fourth_beat() -> None:
    """Once measured, and heard at each beat: what both ends ask at each beat is asked twice."""
    receiver = live()
    pinged_at: list[float] = []
    for second in range(1, 61):
        now = float(second)
        if second % 5 == 4:
            step(receiver, Received(HERE, Ping(epoch=1, token=second, at_ns=0)), now)
        due = receiver.due_at() <= now
        pings = [one for one in messages(step(receiver, Tick(), now)) if isinstance(one, Ping)]
        assert due or not pings
        for ping in pings:
            pinged_at.append(now)
            pong = Pong(epoch=1, token=ping.token, asked_at_ns=ping.at_ns, at_ns=0)
            step(receiver, Received(HERE, pong), now)
    assert pinged_at == [5.0, 25.0, 45.0]
    silent = [
        now for now in range(61, 90)
        if any(isinstance(one, Ping) for one in messages(step(receiver, Tick(), float(now))))
    ]  # fmt: skip
    assert silent == [64, 69]  # 59 was the last that was heard; lost at 74
    assert receiver.session is None


def test_a_revoked_key_ends_the_session() -> None:
    receiver = live()
    (answer,) = messages(step(receiver, Revoked()))
    assert isinstance(answer, Refused)
    assert answer.code is RefuseCode.BAD_CREDENTIALS
    assert receiver.session is None


@pytest.mark.parametrize("is_live", [False, True])
def test_a_key_revoked_while_a_session_is_opened_gets_none(is_live: bool) -> None:
    receiver = live() if is_live else Receiver("barn")
    asked = step(receiver, Received(THERE, hello(7)))
    (opens,) = [effect for effect in asked if isinstance(effect, Open)]
    step(receiver, Revoked())
    assert step(receiver, Opened(opens.token, 2, GENERATION, (ZERO, ZERO, ZERO))) == []
    assert receiver.session is None


def test_the_shorter_heartbeat_of_both_sides_counts() -> None:
    for theirs, ours in ((3600.0, 5.0), (5.0, 3600.0)):
        receiver = Receiver("barn", ReceiverSettings(heartbeat_s=ours))
        asked = msgspec.structs.replace(hello(1), heartbeat_s=theirs)
        (opens,) = [one for one in step(receiver, Received(HERE, asked)) if isinstance(one, Open)]
        step(receiver, Opened(opens.token, 1, GENERATION, (ZERO, ZERO, ZERO)))
        assert receiver.due_at() <= 5.0
        step(receiver, Tick(), 15.0)
        assert receiver.session is None


def test_an_edge_that_answers_no_ping_costs_no_memory() -> None:
    receiver = live()
    for now in range(0, 1000, 4):
        step(receiver, Received(HERE, Ping(epoch=1, token=1, at_ns=0)), float(now))
        step(receiver, Tick(), float(now))
    assert receiver.session is not None
    assert len(receiver._pings) <= 6


def test_a_goodbye_ends_the_session_at_once() -> None:
    receiver = live()
    step(receiver, Received(HERE, Bye(epoch=1, reason="stopping")))
    assert receiver.session is None


def test_a_hub_that_stops_says_goodbye_to_those_who_are_there() -> None:
    receiver = live()
    (answer,) = messages(step(receiver, Stopping(3.5)))
    assert answer == Bye(epoch=1, reason="the hub stops", spread_s=3.5)
    assert receiver.session is None
    assert not step(receiver, Stopping(3.5))


def test_a_welcome_says_how_to_come_back() -> None:
    receiver = Receiver("barn")
    (asked,) = step(receiver, Received(HERE, hello(77)))
    assert isinstance(asked, Open)
    (answer,) = messages(step(receiver, Opened(asked.token, 4, GENERATION, (ZERO,) * 3, 7.0)))
    assert isinstance(answer, Welcome)
    assert answer.spread_s == 7.0
