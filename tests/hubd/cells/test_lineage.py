"""What a hub knows of its own past, also after it was started again."""

from random import Random

import pytest

from edgesync._native.hubkeys import HubKeys
from edgesync.cells.commands import Call, carry_out
from hubd.cells import lineage
from hubd.cells.lineage import HUB, Lineage
from tests.cells.memory import MemoryView

pytestmark = pytest.mark.feature("L4", "S32")


class Hub:
    """The rows of a hub; each call of `begin` is a start of it."""

    def __init__(self) -> None:
        self.rows = MemoryView()
        self.space = HubKeys(self.rows)
        self.space.now_ms = 1_767_225_600_000
        self._call = Call(self.space, Random(1))

    def begin(self, start: int) -> Lineage:
        made = Lineage(self.rows, self.space)
        made.load(start, HUB + start)
        return made

    def write(self) -> int:
        """Change a key; returns where the feed stands then."""
        carry_out(self._call, [b"INCR", b"n"])
        return self.space.seq


def test_what_was_told_is_of_this_past_up_to_where_a_start_ended() -> None:
    hub = Hub()
    first = hub.begin(11)
    at = hub.write()
    assert first.has_told(11, at)
    assert first.has_told(0, at)  # an edge that does not say
    assert not first.has_told(11, at + 1)  # of a life that is lost
    second = hub.begin(12)
    second.end(11)
    hub.write()
    for found in (second, hub.begin(13)):
        assert found.has_told(11, at)
        assert not found.has_told(11, at + 1)
        assert not found.has_told(99, 0)


def test_the_oldest_starts_are_forgotten_whatever_their_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lineage, "STARTS_MAX", 3)
    hub = Hub()
    for start in (9, 5, 7, 1, 8, 2):
        hub.begin(100).end(start)
    found = hub.begin(100)
    assert [start for start in range(10) if found.has_told(start, 0)] == [0, 1, 2, 8]
    assert len(hub.rows.scan(b"i", b"j", limit=99)) == 3


def test_edges_are_told_what_was_noted_since_they_asked_and_only_so_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hub = Hub()
    first = hub.begin(11)
    at = 0
    for r in (4, 3, 6, 5):
        first.note(r, 10 * r)
        at = hub.write()
    first.note(3, 31)
    first.note(6, 1)  # has come already
    again = hub.begin(12)
    assert again.r != first.r
    for found in (first, again):
        assert found.seen(6) == 60
        assert found.seen_since(at) == [(found.r, hub.space.n), (3, 31)]
        assert [r for r, _ in found.seen_since(0)] == [found.r, 3, 5, 6, 4]
        monkeypatch.setattr(lineage, "SEEN_MAX", 3)
        assert [r for r, _ in found.seen_since(0)] == [found.r, 3, 5]
        monkeypatch.undo()


def test_a_start_that_is_told_again_is_the_last_whoever_was_started_again_meanwhile() -> None:
    """Which is forgotten first goes by that, and what is stored says the same as what is known."""
    rows = []
    for is_again in (False, True):
        hub = Hub()
        known = hub.begin(11)
        for start in (11, 12, 11):
            known.end(start)
        if is_again:
            known = hub.begin(11)
        known.end(13)
        rows.append(hub.rows.rows())
    assert rows[0] == rows[1]
