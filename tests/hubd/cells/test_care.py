"""What the hub's keys are told by entries of their own: confirmations, collection, their place."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from hubd.cells import HubCells, store
from hubd.cells.proposals import Collect, Confirm, Name, Run
from hubd.cells.replicas import Confirmed
from tests.hubd.keys import begun, open_answers, proposed

pytestmark = pytest.mark.feature("S32")

HOUR_MS = 3_600_000


@pytest.fixture
def cells(tmp_path: Path) -> Iterator[HubCells]:
    with open_answers(tmp_path) as answers:
        cells = begun(answers.cells)
        for number in range(9):
            cells.run([b"SET", b"k%d" % number, b"v"])
        name = Name("barn", b"i" * 16, 0)
        cells.carry_out(name, proposed(name))
        yield cells


def test_what_is_confirmed_under_a_name_of_before_means_nothing(cells: HubCells) -> None:
    r = cells.replicas()["barn"].r
    for told, base in ((r + 1, 0), (r, 5)):
        confirm = Confirm((Confirmed("barn", told, 5, 1), Confirmed("nobody", told, 5, 1)))
        cells.carry_out(confirm, proposed(confirm))
        assert cells.names.logged("barn").base == base  # type: ignore[union-attr]
    assert list(cells.replicas()) == ["barn"]


def test_confirmations_are_in_the_log_at_first_and_then_once_in_a_while(cells: HubCells) -> None:
    now_ms = cells.now_ms()
    cells.names.confirm("barn", 5, now_ms)
    (first,) = cells.names.unlogged(now_ms - HOUR_MS)
    cells.names.take_confirmed([first])
    cells.names.confirm("barn", 9, now_ms + 2 * HOUR_MS)
    assert cells.names.unlogged(now_ms) == []
    (later,) = cells.names.unlogged(now_ms + HOUR_MS)
    assert (later.base, later.seen_ms) == (9, now_ms + 2 * HOUR_MS)
    cells.names.take_confirmed([later])
    assert cells.names.unlogged(now_ms + HOUR_MS) == []


def test_what_is_collected_stays_collected(cells: HubCells) -> None:
    for stable, collected in ((5, 5), (2, 5), (7, 7)):
        collect = Collect(stable)
        cells.carry_out(collect, proposed(collect))
        assert cells.mark.collected == collected


def test_the_place_is_stored_after_so_many_entries_of_others(
    cells: HubCells, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start reads no more than those once more."""
    monkeypatch.setattr(store, "PASSED_BY_MAX", 3)
    cells.commit()
    for position, stored in ((1, 0), (2, 0), (3, 3), (4, 3)):
        cells.pass_over(position)
        assert cells.mark.position == stored
        cells.commit()


def test_a_proposal_that_fails_has_done_nothing(
    cells: HubCells, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = cells.run

    def fail(request: list[bytes]) -> object:
        if request[0] == b"FAIL":
            raise MemoryError
        return run(request)

    monkeypatch.setattr(cells, "run", fail)
    entry = proposed(Run(((b"SET", b"k0", b"w"), (b"SET", b"new", b"w"), (b"FAIL",))), 1, 7)
    before = cells.space.seq
    with pytest.raises(MemoryError):
        list(cells.project(entry))
    assert [run([b"GET", key]) for key in (b"k0", b"new")] == [b"v", None]
    assert (cells.space.seq, cells.mark.position) == (before, 0)


def test_an_entry_without_a_time_has_one_all_the_same(cells: HubCells) -> None:
    """The clock of whoever reads it would be another one each time."""
    entry = proposed(Run(((b"SET", b"k0", b"w", b"PX", b"1000"),)), 1, 7)
    list(cells.project(msgspec.structs.replace(entry, stored_at_ns=0)))
    assert cells.space.deadline(b"k0") == 1001
