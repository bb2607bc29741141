"""What a device is worth telling: each change, but bounded in number and in size."""

from edgesync.sources.base import SourceState
from edgesync.sources.modbus.notices import EVERY_S, NAMES_MAX, Notices

NOTHING: dict[str, str] = {}


def test_a_device_that_comes_and_goes_is_one_event_a_minute_with_its_changes() -> None:
    notices = Notices()
    notices.change(SourceState.ONLINE, 1)
    assert notices.take_state(0.0, NOTHING) == ({"state": "online"}, 1)
    notices.change(SourceState.OFFLINE, 2, "no answer")
    found = notices.take_state(1.0, NOTHING)
    assert found == ({"state": "offline", "reason": "no answer"}, 2)
    for at_ns in range(3, 8):
        notices.change(SourceState.OFFLINE if at_ns % 2 == 0 else SourceState.ONLINE, at_ns)
        assert notices.take_state(2.0, NOTHING) is None
    assert notices.next_s == 1.0 + EVERY_S
    assert notices.take_state(1.0 + EVERY_S, NOTHING) == ({"state": "online", "changes": 5}, 7)
    assert notices.next_s is None


def test_points_that_come_and_go_are_one_event_a_minute() -> None:
    notices = Notices()
    first = notices.take_points({"A": "refused"}, 0.0)
    assert first is not None
    assert (first["invalid"], first["reasons"]) == (["A"], {"A": "refused"})
    assert notices.take_points(NOTHING, EVERY_S - 1) is None
    assert notices.take_points({"A": "refused"}, EVERY_S) is None  # as it was told
    assert notices.take_points(NOTHING, EVERY_S) is not None


def test_what_the_store_had_no_room_for_is_told_a_minute_later_with_all_since() -> None:
    notices = Notices()
    notices.change(SourceState.ONLINE, 1)
    assert notices.take_state(0.0, {"A": "refused"}) is not None
    notices.put_back(0.0)
    assert notices.take_state(EVERY_S - 1, NOTHING) is None
    assert notices.take_points({"A": "refused"}, EVERY_S - 1) is None
    assert notices.take_state(EVERY_S, NOTHING) == ({"state": "online"}, 1)  # A is read by now
    notices.put_back(EVERY_S)
    notices.change(SourceState.OFFLINE, 2, "no answer")
    notices.change(SourceState.ONLINE, 3)
    assert notices.next_s == 2 * EVERY_S
    assert notices.take_state(2 * EVERY_S, NOTHING) == ({"state": "online", "changes": 3}, 3)
    assert notices.take_points({"B": "refused"}, 2 * EVERY_S) is not None
    notices.put_back(2 * EVERY_S)
    assert notices.next_s is None
    assert notices.take_points(NOTHING, 3 * EVERY_S) is None  # nobody was told of B
    assert notices.take_points({"B": "refused"}, 3 * EVERY_S) is not None


def test_an_event_names_so_many_points_and_counts_the_rest() -> None:
    unread = {f"P{n:04}": "refused" for n in range(NAMES_MAX + 3)}
    found = Notices().take_points(unread, 0.0)
    assert found is not None
    assert found["invalid"] == sorted(unread)[:NAMES_MAX]
    assert found["more"] == 3
