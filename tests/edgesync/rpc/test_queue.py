"""Calls that wait for devices: order, one at a time, once acknowledged never again."""

from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from edgesync.rpc import queue as queue_module
from edgesync.rpc.model import State
from edgesync.rpc.queue import (
    EFFECTS_MAX,
    LATE_NS,
    Call,
    CallQueue,
    Effect,
    Forget,
    Keep,
    Mark,
    Note,
    Send,
    UnknownCall,
)

pytestmark = pytest.mark.feature("S24")

LATER = 10**15


def call(number: int, device: str = "pump", *, one_way: bool = False, expires: int = LATER) -> Call:
    return Call(
        number=number, id=f"id{number}", device=device, method="go", params=b"1", one_way=one_way,
        expires_ns=expires,
    )  # fmt: skip


def sends(effects: list[Effect]) -> list[int]:
    return [one.call.number for one in effects if isinstance(one, Send)]


def states(effects: list[Effect]) -> list[tuple[str, str]]:
    return [(one.report.id, one.report.state.value) for one in effects if isinstance(one, Note)]


def following(queue: CallQueue, effects: list[Effect], now_ns: int = 0) -> list[int]:
    """Store what is to be noted; returns the calls that are sent then."""
    return sends(queue.stored([one for one in effects if isinstance(one, Note | Mark)], now_ns))


def test_calls_of_a_device_go_in_order_one_without_acknowledgement_at_a_time() -> None:
    queue = CallQueue()
    assert sends(queue.add(call(1), 0)) == []
    queue.add(call(2), 0)
    assert sends(queue.reached("pump", (), 0)) == [1]
    effects = queue.sent("pump", 1, 0)
    assert (states(effects), following(queue, effects)) == ([("id1", "SENT")], [])
    assert queue.add(call(3), 0) == []
    effects = queue.delivered("pump", 1, 0)
    assert (states(effects), sends(effects)) == ([("id1", "DELIVERED")], [])
    assert following(queue, effects) == [2]


def test_a_call_does_not_go_before_it_is_on_disk_what_became_of_the_one_before_it() -> None:
    """Or a device would see the first again, after a kill, when it has seen the second."""
    queue = CallQueue([call(1), call(2), call(3, "fan")])
    assert sends(queue.reached("pump", (), 0)) == [1]
    waiting = queue.sent("pump", 1, 0) + queue.delivered("pump", 1, 0)
    assert sends(waiting + queue.reached("pump", (), 0)) == []
    assert queue.add(call(4), 0) == []
    assert sends(queue.reached("fan", (), 0)) == [3]
    assert following(queue, waiting[:1]) == []
    assert following(queue, waiting[1:]) == [2]


def test_calls_of_an_earlier_start_go_first_whatever_their_numbers() -> None:
    made = [(9, 0), (8, 0), (7, 1), (3, 2), (5, 3)]  # and before all, those that say no order
    queue = CallQueue([msgspec.structs.replace(call(n), order=order) for n, order in made])
    numbers = sends(queue.reached("pump", (), 0))
    while len(numbers) < len(made):
        effects = queue.sent("pump", numbers[-1], 0)
        numbers += following(queue, effects + queue.delivered("pump", numbers[-1], 0))
    assert numbers == [8, 9, 7, 3, 5]


def test_an_answer_stands_for_the_acknowledgement() -> None:
    queue = CallQueue([call(1), call(2)])
    queue.reached("pump", (), 0)
    sent = queue.sent("pump", 1, 0)
    effects = queue.answered("pump", 1, 5, Raw(b'"done"'))
    assert states(effects) == [("id1", "ANSWERED")]
    assert following(queue, sent + effects) == [2]
    assert queue.answered("pump", 1, 6, Raw(b'"again"')) == []
    assert queue.delivered("pump", 1, 7) == []


def test_a_device_that_left_is_sent_again_what_it_did_not_acknowledge() -> None:
    queue = CallQueue([call(1), call(2)])
    queue.reached("pump", (), 0)
    assert following(queue, queue.sent("pump", 1, 0)) == []
    queue.left("pump")
    assert queue.add(call(3), 0) == []
    assert sends(queue.reached("pump", (), 0)) == [1]
    queue.left("pump")
    assert sends(queue.reached("pump", {1}, 0)) == []  # its connection holds it
    assert following(queue, queue.delivered("pump", 1, 0)) == [2]


def test_what_nothing_acknowledges_is_sent_once_and_holds_up_nobody() -> None:
    queue = CallQueue([call(1), call(2)])
    assert sends(queue.reached("pump", (), 0)) == [1]
    effects = queue.unacknowledged(1)
    assert (states(effects), sends(effects)) == ([], [])
    assert following(queue, effects) == [1, 2]  # when it is on disk that it is on its way
    effects = queue.sent("pump", 1, 0)
    assert (states(effects), following(queue, effects)) == ([("id1", "SENT")], [])
    queue.left("pump")
    assert sends(queue.reached("pump", (), 0)) == [2]
    assert states(queue.answered("pump", 1, 1, Raw(b"1"))) == [("id1", "ANSWERED")]


def test_what_nothing_acknowledges_is_not_sent_when_its_time_has_passed_meanwhile() -> None:
    queue = CallQueue([call(1, expires=100), call(2)])
    queue.reached("pump", (), 0)
    marked = queue.unacknowledged(1)
    expired = queue.elapsed(100)
    assert states(expired) == [("id1", "EXPIRED")]
    assert following(queue, marked + expired, 100) == [2]
    assert queue.sent("pump", 1, 100) == []


def test_a_call_that_is_not_written_yet_expires_as_one_that_was_not_sent() -> None:
    queue = CallQueue([call(1, expires=100), call(2)])
    assert sends(queue.reached("pump", (), 0)) == [1]
    expired = queue.elapsed(100)
    assert states(expired) == [("id1", "EXPIRED")]
    assert queue.sent("pump", 1, 101) == []  # its connection takes it after all
    assert following(queue, expired, 101) == [2]


def test_a_call_whose_time_has_passed_is_given_up_once_and_the_next_goes() -> None:
    queue = CallQueue([call(1, expires=100), call(2)])
    queue.reached("pump", (), 0)
    following(queue, queue.sent("pump", 1, 0))
    assert queue.elapsed(99) == []
    effects = queue.elapsed(100)
    assert states(effects) == [("id1", "EXPIRED")]
    assert following(queue, effects, 100) == [2]
    assert queue.elapsed(101) == []


def test_an_expired_call_is_not_sent_and_a_late_answer_is_kept_with_it() -> None:
    queue = CallQueue([call(1, expires=100)])
    assert sends(queue.reached("pump", (), 100)) == []
    queue.elapsed(100)
    (note,) = queue.answered("pump", 1, 200, Raw(b"7"))
    assert isinstance(note, Note)
    assert (note.report.state, note.report.answer) == (State.EXPIRED, Raw(b"7"))
    assert queue.elapsed(100 + LATE_NS) == [Forget(1)]
    with pytest.raises(UnknownCall):
        queue.answered("pump", 1, 300, Raw(b"8"))


def test_devices_do_not_wait_for_each_other_nor_answer_for_another() -> None:
    queue = CallQueue([call(1), call(2, "fan")])
    assert sends(queue.reached("pump", (), 0)) == [1]
    assert sends(queue.reached("fan", (), 0)) == [2]
    with pytest.raises(UnknownCall, match="pump was sent no call 2"):
        queue.answered("pump", 2, 0, Raw(b"1"))
    assert queue.delivered("pump", 2, 0) == []


def test_one_way_ends_with_the_acknowledgement() -> None:
    queue = CallQueue([call(1, one_way=True, expires=50)])
    queue.reached("pump", (), 0)
    queue.sent("pump", 1, 0)
    assert states(queue.delivered("pump", 1, 0)) == [("id1", "DELIVERED")]
    assert queue.elapsed(50) == [Forget(1)]


def test_room_is_made_of_what_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_module, "ROWS_MAX", 2)
    queue = CallQueue([call(1, expires=10), call(2)])
    assert queue.room(5) is None
    queue.elapsed(10)
    assert queue.room(10) == [Forget(1)]
    assert not queue.knows("id1")
    assert queue.knows("id2")


@given(st.integers(0, 2**32))
def test_whatever_happens_a_device_sees_calls_in_order_and_only_the_last_again(seed: int) -> None:
    """The last one may be sent again; none whose end is on disk, and none before that one."""
    random = Random(seed)
    queue, over = CallQueue(), set[int]()
    order = list[int]()  # as the device saw them
    pending: list[Effect] = []
    notes: list[Note] = []  # not on disk
    rows: dict[int, Call] = {}
    for number in range(1, 80):
        now = number
        match random.randrange(8):
            case 0 | 1:
                one = call(number, expires=now + random.choice((3, 30, 1000)))
                rows[number] = one
                pending += queue.add(msgspec.structs.replace(one), now)
            case 2:
                pending += queue.reached("pump", (), now)
            case 3:
                queue.left("pump")
            case 4:
                pending += queue.elapsed(now)
            case 5:  # the edge is killed: what is on disk is what there is
                queue = CallQueue([msgspec.structs.replace(one) for one in rows.values()])
                pending, notes = [], []
            case 6 | 7:
                over |= {one.call.number for one in notes if one.call.state is not State.SENT}
                rows |= {one.call.number: one.call for one in notes}
                pending += queue.stored(notes, now)
                notes = []
        while pending:
            effect = pending.pop(0)
            if isinstance(effect, Note):
                notes.append(effect)
            elif isinstance(effect, Send) and queue.is_reached("pump"):
                sent = effect.call.number
                assert sent not in over
                assert not order or sent >= order[-1]
                pending += queue.sent("pump", sent, now)
                if random.random() < 0.8:
                    order.append(sent)
                    if random.random() < 0.8:
                        pending += queue.delivered("pump", sent, now)


def test_what_is_over_is_known_until_its_time_has_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a hub that was restored and tells it again would have it made twice."""
    monkeypatch.setattr(queue_module, "ROWS_MAX", 1)
    queue = CallQueue([call(1, one_way=True, expires=100)])
    queue.delivered("pump", 1, 0)
    assert queue.room(99) is None
    assert queue.knows("id1")
    assert queue.room(100) == [Forget(1)]


def test_bytes_make_a_queue_full_and_are_free_again(monkeypatch: pytest.MonkeyPatch) -> None:
    one = call(1, expires=100)
    monkeypatch.setattr(queue_module, "BYTES_MAX", one.nbytes)
    queue = CallQueue()
    assert queue.room(0) == []
    queue.add(one, 0)
    assert queue.room(0) is None
    queue.answered("pump", 1, 0, Raw(b"1"))
    queue.elapsed(100)
    assert (len(queue), queue.nbytes, queue.room(100)) == (0, 0, [])


def test_what_was_sent_where_nothing_is_acknowledged_is_not_sent_after_a_restart() -> None:
    one = call(1)
    queue = CallQueue([one])
    queue.reached("pump", (), 0)
    queue.unacknowledged(1)
    assert sends(CallQueue([one]).reached("pump", (), 0)) == []


def test_that_a_call_was_sent_is_told_once_and_not_of_one_that_has_gone_on() -> None:
    queue = CallQueue([call(1)])
    queue.reached("pump", (), 0)
    effects = queue.sent("pump", 1, 0)
    assert (states(effects), following(queue, effects)) == ([("id1", "SENT")], [])
    queue.left("pump")
    assert sends(queue.reached("pump", (), 1)) == [1]
    assert queue.sent("pump", 1, 1) == []
    queue.delivered("pump", 1, 2)
    assert queue.sent("pump", 1, 3) == []
    assert [one.state for one in queue.open_calls()] == [State.DELIVERED]


@pytest.mark.parametrize("by_ns", [-1000, 1000])
def test_a_clock_that_is_set_changes_no_time_that_is_left(by_ns: int) -> None:
    queue = CallQueue([call(1, expires=5000), call(2, "fan", expires=5100)])
    queue.elapsed(4000)
    now = 4000 + by_ns
    kept = queue.stepped(by_ns)
    assert [(one.call.number, one.call.expires_ns) for one in kept if isinstance(one, Keep)] == [
        (1, 5000 + by_ns), (2, 5100 + by_ns),
    ]  # fmt: skip
    assert queue.due_ns() == 5000 + by_ns
    assert queue.elapsed(now + 999) == []
    assert states(queue.elapsed(now + 1000)) == [("id1", "EXPIRED")]
    assert queue.elapsed(now + 1000 + LATE_NS - 1) != [Forget(1)]
    assert Forget(1) in queue.elapsed(now + 1000 + LATE_NS)


def test_of_calls_that_expire_together_so_many_are_given_up_at_a_time() -> None:
    count = 2 * EFFECTS_MAX + 1
    queue = CallQueue([call(n, f"pump{n}", expires=100) for n in range(1, count + 1)])
    for now in (100, 100 + LATE_NS):  # they are given up, and later forgotten
        parts = [queue.elapsed(now) for _ in range(4)]
        assert [len(part) for part in parts] == [EFFECTS_MAX, EFFECTS_MAX, 1, 0]
    assert len(queue) == 0
