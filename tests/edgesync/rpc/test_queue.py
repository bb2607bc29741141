"""Calls that wait for devices: order, one at a time, once acknowledged never again."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from edgesync.rpc import queue as queue_module
from edgesync.rpc.model import State
from edgesync.rpc.queue import LATE_NS, Call, CallQueue, Effect, Forget, Note, Send, UnknownCall

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


def test_calls_of_a_device_go_in_order_one_without_acknowledgement_at_a_time() -> None:
    queue = CallQueue()
    assert sends(queue.add(call(1), 0)) == []
    queue.add(call(2), 0)
    assert sends(queue.reached("pump", (), 0)) == [1]
    assert states(queue.sent(1, 0, is_acknowledged=True)) == [("id1", "SENT")]
    assert queue.add(call(3), 0) == []
    effects = queue.delivered("pump", 1, 0)
    assert (states(effects), sends(effects)) == ([("id1", "DELIVERED")], [2])


def test_an_answer_stands_for_the_acknowledgement() -> None:
    queue = CallQueue([call(1), call(2)])
    queue.reached("pump", (), 0)
    queue.sent(1, 0, is_acknowledged=True)
    effects = queue.answered("pump", 1, 5, Raw(b'"done"'))
    assert (states(effects), sends(effects)) == ([("id1", "ANSWERED")], [2])
    assert queue.answered("pump", 1, 6, Raw(b'"again"')) == []
    assert queue.delivered("pump", 1, 7) == []


def test_a_device_that_left_is_sent_again_what_it_did_not_acknowledge() -> None:
    queue = CallQueue([call(1), call(2)])
    queue.reached("pump", (), 0)
    queue.sent(1, 0, is_acknowledged=True)
    queue.left("pump")
    assert queue.add(call(3), 0) == []
    assert sends(queue.reached("pump", (), 0)) == [1]
    queue.left("pump")
    assert sends(queue.reached("pump", {1}, 0)) == []  # its connection holds it
    assert sends(queue.delivered("pump", 1, 0)) == [2]


def test_what_nothing_acknowledges_is_sent_once_and_holds_up_nobody() -> None:
    queue = CallQueue([call(1), call(2)])
    queue.reached("pump", (), 0)
    assert sends(queue.sent(1, 0, is_acknowledged=False)) == [2]
    queue.left("pump")
    assert sends(queue.reached("pump", (), 0)) == [2]
    assert states(queue.answered("pump", 1, 1, Raw(b"1"))) == [("id1", "ANSWERED")]


def test_a_call_whose_time_has_passed_is_given_up_once_and_the_next_goes() -> None:
    queue = CallQueue([call(1, expires=100), call(2)])
    queue.reached("pump", (), 0)
    queue.sent(1, 0, is_acknowledged=True)
    assert queue.elapsed(99) == []
    effects = queue.elapsed(100)
    assert (states(effects), sends(effects)) == ([("id1", "EXPIRED")], [2])
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
    queue.sent(1, 0, is_acknowledged=True)
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
def test_whatever_happens_each_call_is_acknowledged_once_in_order_or_expires(seed: int) -> None:
    """Sends may repeat; what was acknowledged, answered or given up is not sent again."""
    random = Random(seed)
    queue, over, order = CallQueue(), set[int](), list[int]()
    pending: list[Effect] = []
    rows: dict[int, Call] = {}
    for number in range(1, 60):
        now = number
        match random.randrange(7):
            case 0 | 1:
                one = call(number, expires=now + random.choice((3, 30, 1000)))
                rows[number] = one
                pending += queue.add(one, now)
            case 2:
                pending += queue.reached("pump", (), now)
            case 3:
                queue.left("pump")
            case 4:
                pending += queue.elapsed(now)
            case 5:  # the edge is killed: what was noted is what there is
                queue = CallQueue(list(rows.values()))
                pending = []
            case _:
                pass
        while pending:
            effect = pending.pop(0)
            if isinstance(effect, Note):
                rows[effect.call.number] = effect.call
                if effect.report.state in (State.EXPIRED, State.DELIVERED):
                    over.add(effect.call.number)
            elif isinstance(effect, Send) and queue.is_reached("pump"):
                sent = effect.call.number
                assert sent not in over
                assert not order or sent >= order[-1]
                pending += queue.sent(sent, now, is_acknowledged=True)
                if random.random() < 0.6 and queue.is_reached("pump"):
                    order.append(sent)
                    pending += queue.delivered("pump", sent, now)
    assert len(set(order)) == len(order)
