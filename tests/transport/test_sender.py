"""What the sending half does, read like its contract."""

from collections import Counter
from random import Random

import pytest

from edgesync_transport import sender as core
from edgesync_transport.lanes.sender import GIVEN_WAY
from edgesync_transport.lanes.window import LanePositions, SenderSettings
from edgesync_transport.messages import (
    Ack,
    Batch,
    Codec,
    Hello,
    Lane,
    LaneFloor,
    Message,
    Nack,
    NackCode,
    Ping,
    Pong,
    RefuseCode,
    Refused,
    Welcome,
)
from edgesync_transport.sender import (
    Dead,
    Fork,
    Forked,
    Grown,
    Hangup,
    LinkDown,
    LinkStatus,
    LinkUp,
    Load,
    Loaded,
    Lost,
    Mark,
    Received,
    Report,
    Rewind,
    Sender,
    Stop,
    Tick,
    Transmit,
)

NONE = LanePositions(tail=0, floor=0, safe=0, trimmed=0)
INCARNATION = b"i" * 16
GENERATION = b"g" * 16


def chain(seq: int) -> int:
    return seq * 1000 + 7 if seq else 0


def make(
    *, tail: int = 0, floor: int = 0, trimmed: int = 0, settings: SenderSettings | None = None
) -> Sender:
    bulk = LanePositions(tail=tail, floor=floor, safe=floor, trimmed=trimmed)
    return Sender(
        (NONE, NONE, bulk),
        incarnation=INCARNATION,
        chain_at=lambda _lane, seq: chain(seq) if trimmed <= seq <= tail else None,
        wall_ns=lambda: 10**18,
        random=Random(1),
        settings=settings or SenderSettings(linger_s=(0.0, 0.0, 0.0)),
    )


def sent(effects: list[core.Effect]) -> list[Message]:
    return [effect.message for effect in effects if isinstance(effect, Transmit)]


def without_reports(effects: list[core.Effect]) -> list[core.Effect]:
    return [effect for effect in effects if not isinstance(effect, Report)]


def greet(sender: Sender, now: float = 0.0) -> int:
    (hello,) = sent(sender.step(LinkUp(), now))
    assert isinstance(hello, Hello)
    return hello.nonce


def welcome(
    sender: Sender, nonce: int, *, floor: int = 0, at: int | None = None, epoch: int = 1
) -> list[core.Effect]:
    nothing = LaneFloor(floor=0, chain=0, safe=0)
    bulk = LaneFloor(floor=floor, chain=chain(floor) if at is None else at, safe=floor)
    granted = Welcome(
        nonce=nonce,
        protocol=1,
        epoch=epoch,
        generation=GENERATION,
        lanes=(nothing, nothing, bulk),
        clock_ns=10**18,
    )
    return sender.step(Received(granted), 0.1)


def load(sender: Sender, effects: list[core.Effect], now: float = 0.2) -> list[core.Effect]:
    """Answer every Load in `effects`, and those that follow; returns what was transmitted."""
    done: list[core.Effect] = []
    waiting = list(effects)
    while waiting:
        effect = waiting.pop(0)
        if not isinstance(effect, Load):
            done.append(effect)
            continue
        last = min(effect.last_max, effect.first + effect.limit_records - 1)
        answer = Loaded(
            effect.lane, effect.first, last, chain(effect.first - 1), chain(last), Codec.ROWS, b"x"
        )
        waiting += sender.step(answer, now)
    return done


def ranges(effects: list[core.Effect]) -> list[tuple[int, int]]:
    return [(one.first, one.last) for one in sent(effects) if isinstance(one, Batch)]


def streaming(*, tail: int, floor: int = 0, **more: int) -> tuple[Sender, list[core.Effect]]:
    settings = SenderSettings(linger_s=(0.0, 0.0, 0.0), batch_records_max=10, batch_records_min=10)
    sender = make(tail=tail, floor=floor, settings=settings, **more)
    return sender, load(sender, welcome(sender, greet(sender), floor=floor))


def ack(
    floor: int, *, epoch: int = 1, incarnation: bytes = INCARNATION, pause_s: float = 0.0,
    reason: str = "",
) -> Received:  # fmt: skip
    return Received(
        Ack(
            epoch=epoch, incarnation=incarnation, lane=Lane.BULK, floor=floor, safe=floor,
            pause_s=pause_s, reason=reason,
        )
    )  # fmt: skip


def nack(first: int, last: int, code: NackCode, floor: int = 0) -> Received:
    return Received(
        Nack(
            epoch=1,
            incarnation=INCARNATION,
            lane=Lane.BULK,
            first=first,
            last=last,
            floor=floor,
            code=code,
            reason="because",
        )
    )


@pytest.mark.feature("S4")
def test_a_session_resumes_at_the_receivers_floor_not_ours() -> None:
    _, effects = streaming(tail=30, floor=4)
    assert ranges(effects) == [(5, 14), (15, 24), (25, 30)]


@pytest.mark.feature("S5")
def test_an_ack_is_cumulative_and_stored_once() -> None:
    sender, _ = streaming(tail=30)
    assert sender.step(ack(20), 0.3) == [Mark(Lane.BULK, 20, 20)]
    assert sender.step(ack(10), 0.4) == []
    assert sender.step(ack(20), 0.4) == []
    assert sender.step(ack(30), 0.5) == [Mark(Lane.BULK, 30, 30)]
    assert sender.status() is LinkStatus.CONNECTED


def test_an_ack_of_another_session_or_incarnation_means_nothing() -> None:
    sender, _ = streaming(tail=30)
    assert sender.step(ack(10, epoch=2), 0.3) == []
    assert sender.step(ack(10, incarnation=b"j" * 16), 0.3) == []


def test_an_ack_beyond_what_was_sent_means_nothing() -> None:
    sender, _ = streaming(tail=30)
    assert sender.step(ack(31), 0.3) == []


def test_a_late_ack_counts_after_a_resend_has_begun() -> None:
    sender, _ = streaming(tail=30)
    resent = [effect for effect in sender.step(Tick(), 10.3) if isinstance(effect, Load)]
    assert [effect.first for effect in resent] == [1]
    assert Mark(Lane.BULK, 20, 20) in sender.step(ack(20), 10.4)
    assert sender.lanes[Lane.BULK].sent == 20


@pytest.mark.feature("S26")
def test_a_welcome_counts_once_and_only_for_its_greeting() -> None:
    sender = make(tail=3)
    old = greet(sender)
    sender.step(LinkDown(), 0.0)
    assert welcome(sender, old) == []
    new = greet(sender)
    assert welcome(sender, old) == []
    assert without_reports(welcome(sender, new))
    assert welcome(sender, new) == []


@pytest.mark.feature("S32")
def test_a_receiver_that_fell_back_is_sent_the_rest_again() -> None:
    sender = make(tail=30, floor=20)
    effects = without_reports(welcome(sender, greet(sender), floor=10))
    bulk = [e for e in effects if isinstance(e, Rewind | Mark) and e.lane is Lane.BULK]
    assert bulk == [Rewind(Lane.BULK, 10), Mark(Lane.BULK, 10, 10)]
    assert ranges(load(sender, effects))[0][0] == 11


@pytest.mark.feature("S32")
def test_what_neither_side_has_is_declared() -> None:
    sender = make(tail=30, floor=20, trimmed=15)
    effects = without_reports(welcome(sender, greet(sender), floor=10))
    assert any(isinstance(e, Lost) and (e.first, e.last) == (11, 15) for e in effects)
    gap, *_ = (one for one in sent(effects) if isinstance(one, Batch))
    assert (gap.first, gap.last, gap.codec, gap.last_chain) == (11, 15, Codec.GAP, chain(15))


def gaps(effects: list[core.Effect]) -> list[Batch]:
    return [one for one in sent(effects) if isinstance(one, Batch) and one.codec is Codec.GAP]


@pytest.mark.feature("L1")
def test_what_a_policy_took_is_a_gap_and_told_as_lost_by_nobody_else() -> None:
    sender = make(tail=30, floor=5, trimmed=15)
    effects = without_reports(welcome(sender, greet(sender), floor=7))
    assert not [one for one in effects if isinstance(one, Lost)]
    assert Mark(Lane.BULK, 7, 7) in effects
    (gap,) = gaps(effects)
    assert (gap.first, gap.last, gap.reason) == (8, 15, GIVEN_WAY)
    assert (gap.prev_chain, gap.last_chain) == (chain(7), chain(15))


@pytest.mark.feature("L1")
def test_a_gap_follows_on_what_is_under_way() -> None:
    sender, effects = streaming(tail=100)
    assert ranges(effects)[-1] == (71, 80)
    assert sender.step(core.Trimmed(Lane.BULK, 90), 0.3) == []  # the window is full
    effects = load(sender, sender.step(ack(10), 0.4))
    (gap,) = gaps(effects)
    assert (gap.first, gap.last, gap.prev_chain) == (81, 90, chain(80))
    effects = load(sender, sender.step(ack(90), 0.5))
    assert ranges(effects) == [(91, 100)]
    assert sender.step(core.Trimmed(Lane.BULK, 95), 0.6) == []


@pytest.mark.feature("L1")
def test_records_gone_while_they_were_asked_for_become_a_gap() -> None:
    sender = make(tail=10)
    asked = [e for e in welcome(sender, greet(sender)) if isinstance(e, Load)]
    assert asked[0].first == 1
    assert sender.step(core.Trimmed(Lane.BULK, 4), 0.2) == []
    effects = sender.step(core.LoadedNothing(Lane.BULK, 1), 0.3)
    assert [(one.first, one.last, one.prev_chain) for one in gaps(effects)] == [(1, 4, 0)]
    assert [e.first for e in sender.step(ack(4), 0.4) if isinstance(e, Load)] == [5]


@pytest.mark.feature("S32")
@pytest.mark.parametrize(("floor", "at"), [(10, 1), (31, 5)])
def test_another_history_leads_to_a_fork_before_anything_is_sent(floor: int, at: int) -> None:
    sender = make(tail=30)
    effects = without_reports(welcome(sender, greet(sender), floor=floor, at=at))
    assert isinstance(effects[0], Fork)
    assert isinstance(effects[1], Hangup)
    sender.step(LinkDown(), 0.2)
    assert sender.step(LinkUp(), 0.3) == []
    new = LanePositions(tail=30, floor=0, safe=0, trimmed=0)
    sender.step(Forked(b"j" * 16, (NONE, NONE, new)), 0.4)
    (hello,) = sent(sender.step(LinkUp(), 0.5))
    assert isinstance(hello, Hello)
    assert hello.incarnation == b"j" * 16


@pytest.mark.feature("S14")
@pytest.mark.parametrize("bad", [1, 2, 7, 10])
def test_a_poison_record_is_found_by_halving_and_becomes_a_dead_letter(bad: int) -> None:
    sender, effects = streaming(tail=10)
    dead: list[int] = []
    stored = 0
    asked = 0
    pending = list(effects)
    while pending:
        effect = pending.pop(0)
        if isinstance(effect, Dead):
            dead.append(effect.seq)
        if not (isinstance(effect, Transmit) and isinstance(effect.message, Batch)):
            continue
        batch, asked = effect.message, asked + 1
        if batch.first <= bad <= batch.last and batch.codec is not Codec.DEAD:
            answer = nack(batch.first, batch.last, NackCode.POISON, stored)
        else:
            stored = batch.last
            answer = ack(stored)
        pending += load(sender, sender.step(answer, 0.3), 0.3)
    assert dead == [bad]
    assert stored == 10
    assert asked <= 12


@pytest.mark.feature("S14")
@pytest.mark.parametrize("bad", [1, 2, 7, 10])
def test_a_poison_record_is_found_across_sessions_of_two_answers_each(bad: int) -> None:
    """Two gateways with one name, or a line that flaps, leave each session no time to bisect."""
    settings = SenderSettings(linger_s=(0.0, 0.0, 0.0), batch_records_max=10, batch_records_min=10)
    sender = make(tail=10, settings=settings)
    stored, dead = 0, list[int]()
    for _session in range(8):
        pending = load(sender, welcome(sender, greet(sender), floor=stored))
        for _answer in range(2):
            batch = next((one for one in sent(pending) if isinstance(one, Batch)), None)
            if batch is None:
                break
            if batch.first <= bad <= batch.last and batch.codec is not Codec.DEAD:
                answer = nack(batch.first, batch.last, NackCode.POISON, stored)
            else:
                stored = batch.last
                answer = ack(stored)
                dead += [batch.first] if batch.codec is Codec.DEAD else []
            pending = load(sender, sender.step(answer, 0.3), 0.3)
        sender.step(LinkDown(), 0.4)
    assert (stored, dead) == (10, [bad])


def test_a_record_refused_once_is_offered_again_before_it_is_a_dead_letter() -> None:
    sender, _ = streaming(tail=1)
    sender.step(nack(1, 1, NackCode.POISON), 0.3)
    sender.step(LinkDown(), 0.4)
    (batch,) = [
        one for one in sent(load(sender, welcome(sender, greet(sender)))) if isinstance(one, Batch)
    ]
    assert (batch.first, batch.codec) == (1, Codec.ROWS)


def test_a_receiver_that_lost_records_is_sent_whole_batches_of_them() -> None:
    sender, _ = streaming(tail=30, floor=20)
    sender.step(nack(21, 30, NackCode.POISON, 20), 0.3)
    sender.step(LinkDown(), 0.4)
    effects = load(sender, welcome(sender, greet(sender), floor=10))
    assert ranges(effects) == [(11, 20), (21, 30)]


def test_a_gap_sends_the_lane_back_to_the_named_floor() -> None:
    sender, _ = streaming(tail=30)
    effects = load(sender, sender.step(nack(11, 20, NackCode.GAP, 5), 0.3))
    assert ranges(effects)[0][0] == 6


def test_a_busy_receiver_is_given_time() -> None:
    sender, _ = streaming(tail=10)
    busy = nack(1, 10, NackCode.BUSY)
    assert not [e for e in sender.step(busy, 0.3) if isinstance(e, Load)]
    assert not [e for e in sender.step(Tick(), 0.35) if isinstance(e, Load)]
    assert [e for e in sender.step(Tick(), 0.9) if isinstance(e, Load)]


def test_a_receiver_that_says_to_slow_down_is_sent_nothing_on_that_lane_for_so_long() -> None:
    sender, _ = streaming(tail=10)
    said = ack(10, pause_s=3.0, reason="slow down: too much")
    effects = sender.step(said, 0.3)
    assert Mark(Lane.BULK, 10, 10) in effects  # what it has is taken in all the same
    assert [e.kind for e in effects if isinstance(e, Report)] == ["slowed"]
    assert not [e for e in sender.step(Grown(Lane.BULK, 20), 0.4) if isinstance(e, Load)]
    assert not [e for e in sender.step(Tick(), 3.2) if isinstance(e, Load)]
    assert sender.slowed(3.2) == "slow down: too much"
    (load_,) = [e for e in sender.step(Grown(Lane.NORMAL, 1), 3.2) if isinstance(e, Load)]
    assert load_.lane is Lane.NORMAL
    assert sender.due_at(3.2) == pytest.approx(3.3)
    assert [e for e in sender.step(Tick(), 3.31) if isinstance(e, Load)]
    assert not sender.slowed(9.0)


def test_a_pause_has_an_end_whatever_the_receiver_says() -> None:
    sender, _ = streaming(tail=10)
    sender.step(ack(10, pause_s=1e9), 0.3)
    sender.step(Grown(Lane.BULK, 20), 0.4)
    assert sender.lanes[Lane.BULK].hold_until == pytest.approx(0.3 + core.PAUSE_MAX_S)


def test_a_pause_ends_with_its_session() -> None:
    """The next one may be with a hub that knows nothing of it; this one would say it again."""
    sender, _ = streaming(tail=10)
    sender.step(ack(10, pause_s=30.0), 0.3)
    sender.step(Grown(Lane.BULK, 20), 0.4)
    sender.step(LinkDown(), 0.5)
    assert not sender.slowed(0.5)
    assert [e for e in welcome(sender, greet(sender, 0.6), floor=10) if isinstance(e, Load)]


def test_a_refused_history_ends_the_link() -> None:
    sender, _ = streaming(tail=10)
    (effect,) = sender.step(nack(1, 10, NackCode.CHAIN), 0.3)
    assert isinstance(effect, Hangup)


@pytest.mark.feature("S17")
def test_a_silent_receiver_is_given_up_after_three_heartbeats() -> None:
    sender, _ = streaming(tail=0)
    assert not [e for e in sender.step(Tick(), 14.0) if isinstance(e, Hangup)]
    assert [e for e in sender.step(Tick(), 15.2) if isinstance(e, Hangup)]


def test_a_greeting_nobody_answers_is_given_up() -> None:
    sender = make()
    greet(sender)
    assert sender.step(Tick(), 9.9) == []
    assert isinstance(sender.step(Tick(), 10.0)[0], Hangup)


@pytest.mark.feature("S25")
def test_a_wrong_clock_is_told_once_and_refuses_nothing() -> None:
    sender, effects = streaming(tail=0)
    (ping,) = (one for one in sent(effects) if isinstance(one, Ping))
    pong = Pong(epoch=1, token=ping.token, asked_at_ns=ping.at_ns, at_ns=10**18 + 10 * 10**9)
    (told,) = sender.step(Received(pong), 0.2)
    assert isinstance(told, Report)
    assert told.kind == "clock_skew"
    assert sender.clock_offset_s == pytest.approx(-10, abs=0.2)


def test_a_refusal_waits_as_long_as_its_kind_needs() -> None:
    sender = make()
    refused = Refused(
        nonce=greet(sender), epoch=0, code=RefuseCode.BAD_CREDENTIALS, reason="unknown"
    )
    hangup = sender.step(Received(refused), 0.1)[-1]
    assert isinstance(hangup, Hangup)
    assert hangup.retry_after_s >= 60
    assert not hangup.is_success


@pytest.mark.feature("S13")
def test_batches_grow_while_acks_are_quick_and_shrink_when_they_are_late() -> None:
    sender = make(tail=100_000)
    load(sender, welcome(sender, greet(sender)))
    lane = sender.lanes[Lane.BULK]
    before = lane.batch_records
    load(sender, sender.step(ack(lane.in_flight[0].last), 0.3), 0.3)
    grown = lane.batch_records
    assert grown > before
    load(sender, sender.step(ack(lane.in_flight[0].last), 5.0), 5.0)
    assert lane.batch_records < grown


@pytest.mark.feature("S13")
@pytest.mark.parametrize("round_trip_s", [0.05, 0.6, 1.0])
def test_a_long_way_makes_no_batches_small(round_trip_s: float) -> None:
    """By satellite each ack takes 0.6 s, whatever the size: 5,000 records a second all the same."""
    sender = make(tail=1_000_000)
    lane, now = sender.lanes[Lane.BULK], 0.0
    load(sender, welcome(sender, greet(sender)))
    for _ in range(24):
        now = lane.in_flight[0].at + round_trip_s
        load(sender, sender.step(ack(lane.in_flight[0].last), now), now)
    assert lane.batch_records * len(lane.in_flight) > 5_000 * round_trip_s


@pytest.mark.feature("S13")
def test_a_narrow_way_makes_batches_small_and_not_single_records() -> None:
    sender = make(tail=1_000_000)
    lane, now = sender.lanes[Lane.BULK], 0.0
    load(sender, welcome(sender, greet(sender)))
    for _ in range(12):
        now = lane.in_flight[0].at + lane.batch_records * 0.02
        load(sender, sender.step(ack(lane.in_flight[0].last), now), now)
    assert lane.batch_records * 0.02 < 2.0
    assert lane.batch_records >= sender.settings.batch_records_min


@pytest.mark.feature("S13")
def test_a_line_that_stood_still_for_a_moment_halves_the_size_once() -> None:
    """A lost packet delays all that is under way; what is sent after it says how narrow it is."""
    settings = SenderSettings(linger_s=(0.0, 0.0, 0.0), batch_records_max=256)
    sender = make(tail=100_000, settings=settings)
    lane, effects = sender.lanes[Lane.BULK], welcome(sender, greet(sender))
    load(sender, effects)
    assert len(lane.in_flight) == settings.window_batches[Lane.BULK]
    for nth in range(len(lane.in_flight)):
        now = 3.0 + nth / 100
        load(sender, sender.step(ack(lane.in_flight[0].last), now), now)
    assert lane.batch_records == 128
    # As at the beginning: few are under way until the size is found.
    assert len(lane.in_flight) == 2
    load(sender, sender.step(ack(lane.in_flight[0].last), 9.0), 9.0)
    assert lane.batch_records == 64


@pytest.mark.feature("S13")
def test_the_size_of_batches_is_found_before_many_are_sent() -> None:
    sender = make(tail=1_000_000)
    lane, most = sender.lanes[Lane.BULK], sender.settings.batch_records_max
    found = ranges(load(sender, welcome(sender, greet(sender))))
    now, seen = 0.2, list(found)
    while lane.batch_records < most:
        assert len(lane.in_flight) == 2
        now += 0.02
        seen += ranges(load(sender, sender.step(ack(lane.in_flight[0].last), now), now))
    assert sum(last + 1 - first for first, last in seen[: len(seen) - len(lane.in_flight)]) < most
    assert len(lane.in_flight) == sender.settings.window_batches[Lane.BULK]
    assert not lane.is_growing


@pytest.mark.feature("S13")
def test_batches_that_bytes_bound_fill_the_window() -> None:
    sender = make(tail=100_000)
    waiting = welcome(sender, greet(sender))
    loads = 0
    while waiting:
        effect = waiting.pop(0)
        if isinstance(effect, Load):
            loads += 1
            last = effect.first + 99  # of 256
            waiting += sender.step(
                Loaded(effect.lane, effect.first, last, chain(effect.first - 1), chain(last),
                       Codec.ROWS, b"x"), 0.2,
            )  # fmt: skip
    assert loads == sender.settings.window_batches[Lane.BULK]


def test_windows_bound_what_is_under_way() -> None:
    sender, effects = streaming(tail=10_000)
    assert len(ranges(effects)) == sender.settings.window_batches[Lane.BULK]
    assert sender.status() is LinkStatus.DRAINING


def test_a_full_window_is_not_due_for_anything() -> None:
    sender, _ = streaming(tail=10_000)
    sender.step(Grown(Lane.BULK, 10_001), 0.3)
    assert sender.due_at(0.4) > 0.4


@pytest.mark.feature("S1")
def test_a_critical_record_does_not_wait_for_the_bulk() -> None:
    sender, _ = streaming(tail=10_000)
    (effect,) = sender.step(Grown(Lane.CRITICAL, 1), 0.3)
    assert isinstance(effect, Load)
    assert effect.lane is Lane.CRITICAL


def endless(sender: Sender, rounds: int) -> Counter[Lane]:
    """Return whose batches arrived, one after the other, while no lane ever ran empty."""
    took, line = Counter[Lane](), list[Batch]()

    def carry(effects: list[core.Effect]) -> None:
        line.extend(one for one in sent(load(sender, effects)) if isinstance(one, Batch))

    carry(welcome(sender, greet(sender)))
    for lane in Lane:
        carry(sender.step(Grown(lane, 10**6), 0.3))
    for _ in range(rounds):
        batch = line.pop(0)
        took[batch.lane] += 1
        stored = Ack(
            epoch=1, incarnation=INCARNATION, lane=batch.lane, floor=batch.last, safe=batch.last
        )
        carry(sender.step(Received(stored), 0.4))
    return took


@pytest.mark.feature("S1")
def test_lanes_that_never_run_empty_share_a_line_as_their_windows_are() -> None:
    settings = SenderSettings(linger_s=(0.0, 0.0, 0.0), batch_records_max=10, batch_records_min=10)
    took = endless(make(settings=settings), 1000)
    shares = {lane: batches / settings.window_batches[lane] for lane, batches in took.items()}
    assert shares == pytest.approx(dict.fromkeys(Lane, 50), rel=0.05)


def test_what_nothing_is_under_way_before_waits_for_nothing_more() -> None:
    """Lingering saves bytes where acks are slow; where they are quick, they say when to go on."""
    sender = make(settings=SenderSettings(linger_s=(0.0, 0.0, 5.0)))
    welcome(sender, greet(sender))
    assert ranges(load(sender, sender.step(Grown(Lane.BULK, 1), 0.3))) == [(1, 1)]
    assert sender.step(Grown(Lane.BULK, 2), 0.4) == []
    assert sender.step(Grown(Lane.BULK, 3), 0.5) == []
    assert ranges(load(sender, sender.step(ack(1), 0.6))) == [(2, 3)]
    assert sender.step(Grown(Lane.BULK, 4), 0.7) == []
    assert sender.due_at(0.7) < 1.8  # that of a heartbeat, or of its time to linger
    assert ranges(load(sender, sender.step(Tick(), 5.7))) == [(4, 4)]


@pytest.mark.feature("S12")
def test_the_states_an_operator_sees() -> None:
    sender = make()
    assert sender.status() is LinkStatus.DISCONNECTED
    sender.step(Grown(Lane.BULK, 3), 0.0)
    assert sender.status() is LinkStatus.QUEUING
    effects = welcome(sender, greet(sender))
    assert sender.status() is LinkStatus.DRAINING
    load(sender, effects)
    assert sender.status() is LinkStatus.PROCESSING
    sender.step(ack(3), 0.3)
    assert sender.status() is LinkStatus.CONNECTED
    sender.step(LinkDown(), 0.4)
    sender.step(LinkUp(), 0.5)
    assert sender.status() is LinkStatus.RECONNECTING


def test_stopping_says_goodbye_and_nothing_more() -> None:
    sender, _ = streaming(tail=10)
    (bye,) = sent(sender.step(Stop(), 0.3))
    assert type(bye).__name__ == "Bye"
    assert sender.step(ack(10), 0.4) == []
    assert sender.step(LinkUp(), 0.5) == []


@pytest.mark.parametrize(("ours", "theirs"), [(5.0, 1.0), (1.0, 5.0)])
def test_the_shorter_of_two_heartbeats_counts(ours: float, theirs: float) -> None:
    sender = make(settings=SenderSettings(heartbeat_s=ours))
    granted = Welcome(
        nonce=greet(sender), protocol=1, epoch=1, generation=GENERATION,
        lanes=(LaneFloor(floor=0, chain=0, safe=0),) * 3, clock_ns=10**18, heartbeat_s=theirs,
    )  # fmt: skip
    sender.step(Received(granted), 0.0)
    assert not [one for one in sent(sender.step(Tick(), 0.9)) if isinstance(one, Ping)]
    assert [one for one in sent(sender.step(Tick(), 1.1)) if isinstance(one, Ping)]
    assert Hangup in {type(effect) for effect in sender.step(Tick(), 3.1)}


def test_windows_bound_the_bytes_under_way() -> None:
    settings = SenderSettings(
        linger_s=(0.0, 0.0, 0.0), window_bytes=(3, 3, 3), window_batches=(64, 64, 64),
        batch_records_min=1, batch_records_max=1,
    )  # fmt: skip
    sender = make(tail=100, settings=settings)
    effects = load(sender, welcome(sender, greet(sender)))
    assert len(ranges(effects)) == 3  # of one byte each
