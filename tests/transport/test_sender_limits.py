"""What the receiver's limits bound, and what its late or odd answers mean."""

import msgspec

from edgesync_transport import sender as core
from edgesync_transport.lanes.window import SenderSettings
from edgesync_transport.messages import (
    Ack,
    Codec,
    Lane,
    LaneFloor,
    Limits,
    NackCode,
    Welcome,
)
from edgesync_transport.sender import Load, Loaded, Mark, Received, Sender, Tick
from tests.transport.test_sender import (
    GENERATION,
    INCARNATION,
    ack,
    chain,
    greet,
    load,
    make,
    nack,
    ranges,
    sent,
    streaming,
)

NOTHING = LaneFloor(floor=0, chain=0, safe=0)
TENS = SenderSettings(linger_s=(0.0, 0.0, 0.0), batch_records_max=10, batch_records_min=10)


def welcomed(
    *, limits: Limits | None = None, floor: int = 0, safe: int = 0
) -> tuple[Sender, list[core.Effect]]:
    sender = make(tail=100, floor=floor, settings=TENS)
    bulk = LaneFloor(floor=floor, chain=chain(floor), safe=safe)
    granted = Welcome(
        nonce=greet(sender), protocol=1, epoch=1, generation=GENERATION, clock_ns=10**18,
        lanes=(NOTHING, NOTHING, bulk), limits=limits or Limits(),
    )  # fmt: skip
    return sender, sender.step(Received(granted), 0.1)


def test_no_more_is_under_way_than_the_receiver_takes() -> None:
    for limits in (Limits(window_batches=1), Limits(window_bytes=1)):
        sender, effects = welcomed(limits=limits)
        assert ranges(load(sender, effects)) == [(1, 10)]
        assert ranges(load(sender, sender.step(ack(10), 0.2))) == [(11, 20)]


def test_a_batch_that_the_receiver_would_not_take_is_made_smaller_before_it_is_sent() -> None:
    sender, effects = welcomed(limits=Limits(batch_bytes=5))
    (asked,) = [one for one in effects if isinstance(one, Load)]

    def loaded(last: int) -> list[core.Effect]:
        answer = Loaded(Lane.BULK, 1, last, 0, chain(last), Codec.ROWS, b"x" * 6)
        return sender.step(answer, 0.2)

    while asked.limit_records > 1:
        (smaller,) = loaded(asked.limit_records)
        assert isinstance(smaller, Load)
        assert smaller.limit_records < asked.limit_records
        asked = smaller
    assert ranges(loaded(1)) == [(1, 1)]  # the receiver says what becomes of it


def test_a_refusal_of_what_is_not_under_way_any_more_means_nothing() -> None:
    sender, _ = streaming(tail=40)
    again = ranges(load(sender, sender.step(nack(1, 10, NackCode.POISON), 0.3)))
    assert again == [(1, 5)]
    assert sender.step(nack(11, 20, NackCode.POISON), 0.3) == []
    assert ranges(load(sender, sender.step(ack(5), 0.4))) == [(6, 7)]


def test_what_was_asked_for_to_be_sent_again_is_forgotten_when_its_ack_comes() -> None:
    sender, _ = streaming(tail=40)
    effects = sender.step(Tick(), TENS.ack_timeout_s + 1)
    assert [one.first for one in effects if isinstance(one, Load)] == [1]
    effects = sender.step(ack(40), TENS.ack_timeout_s + 1)
    assert [one for one in effects if isinstance(one, Load)] == []
    effects = sender.step(core.Grown(Lane.BULK, 45), TENS.ack_timeout_s + 1)
    assert [one.first for one in effects if isinstance(one, Load)] == [41]
    late = Loaded(Lane.BULK, 1, 10, 0, chain(10), Codec.ROWS, b"x")
    assert sent(sender.step(late, TENS.ack_timeout_s + 1)) == []
    assert ranges(load(sender, effects)) == [(41, 45)]


def test_nothing_is_safe_that_is_not_durable_and_what_was_safe_stays_so() -> None:
    """I3: what is safe leaves the journal."""
    sender, effects = welcomed(floor=4, safe=9)
    assert Mark(Lane.BULK, 4, 4) in effects
    load(sender, effects)
    answer = Ack(epoch=1, incarnation=INCARNATION, lane=Lane.BULK, floor=14, safe=99)
    assert Mark(Lane.BULK, 14, 14) in sender.step(Received(answer), 0.3)
    answer = msgspec.structs.replace(answer, floor=24, safe=3)
    assert Mark(Lane.BULK, 24, 14) in sender.step(Received(answer), 0.3)
