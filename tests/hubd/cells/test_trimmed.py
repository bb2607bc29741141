"""Keys over a log that has dropped its oldest entries."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesync._native.cells import Op
from edgesync._native.edgekeys import NAMED_FROM
from hubd.cells import HubCells
from hubd.cells.replicas import HOLES_MAX, Replica
from tests.hubd.keys import Till, begun

pytestmark = pytest.mark.feature("S32")

LOG = b"g" * 16


def opened(path: Path, head: int, oldest: int = 1, *, is_again: bool = False) -> HubCells:
    cells = HubCells(path, LOG, head, random=Random(1), oldest=oldest, is_again=is_again)
    return begun(cells)


def carry_out(cells: HubCells, till: Till, position: int) -> None:
    for _ in cells.project(till.entry(position)):
        cells.note_changes()


def a_till(name: str) -> Till:
    """An edge that has a name already: its operations are known by their numbers."""
    till = Till(name)
    till.space.call_yourself(NAMED_FROM + 7)
    return till


def written(till: Till, key: str) -> Till:
    till.do("SET", key, "1")
    return till


def test_keys_that_are_behind_the_log_begin_another_keyspace(tmp_path: Path) -> None:
    """Else edges would take for known what was in the entries that nobody reads any more (I15)."""
    till = a_till("barn")
    with closing(opened(tmp_path, 3)) as cells:
        carry_out(cells, written(till, "a"), 3)
        keyspace, r = cells.mark.keyspace, cells.replicas()["barn"].r
    written(till, "b").entry(4)  # is dropped
    with closing(opened(tmp_path, 9, oldest=5)) as cells:
        assert cells.mark.keyspace != keyspace
        assert (cells.mark.lacks, cells.position) == (4, 3)
        carry_out(cells, written(till, "c"), 5)
        replica = cells.replicas()["barn"]
        assert replica.r == r
        # What was dropped is known to be missing, and is told when the edge tells all it holds.
        assert [replica.has(n) for n in (1, 2, 3)] == [True, None, True]
        assert [cells.ask("EXISTS", [key]) for key in "abc"] == [1, 0, 1]
    with closing(opened(tmp_path, 9, oldest=5)) as cells:
        assert cells.mark.lacks == 4


def test_keys_that_are_made_again_know_what_they_missed(tmp_path: Path) -> None:
    till = a_till("barn")
    written(till, "a").entry(1)
    with closing(opened(tmp_path, 9, oldest=2, is_again=True)) as cells:
        assert (cells.mark.lacks, cells.position) == (1, 0)
        carry_out(cells, written(till, "b"), 2)
        assert [cells.replicas()["barn"].has(n) for n in (1, 2)] == [None, True]


def test_keys_of_a_new_tenant_lack_nothing(tmp_path: Path) -> None:
    """No edge of it has written before."""
    with closing(opened(tmp_path, 9, oldest=5)) as cells:
        assert cells.mark.lacks == 0
        carry_out(cells, written(a_till("barn"), "a"), 10)
        assert cells.replicas()["barn"].has(1) is True


def test_keys_that_have_all_up_to_the_oldest_entry_stay_as_they_are(tmp_path: Path) -> None:
    with closing(opened(tmp_path, 4)) as cells:
        carry_out(cells, written(a_till("barn"), "a"), 4)
        keyspace = cells.mark.keyspace
    with closing(opened(tmp_path, 9, oldest=5)) as cells:
        assert (cells.mark.keyspace, cells.mark.lacks) == (keyspace, 0)


def test_a_place_in_the_log_counts_as_stored_when_it_is_on_disk(tmp_path: Path) -> None:
    with closing(opened(tmp_path, 0)) as cells:
        assert cells.stored_position == 0
        carry_out(cells, written(a_till("barn"), "a"), 7)
        assert (cells.position, cells.stored_position) == (7, 0)
        cells.commit()
        assert cells.stored_position == 7
        cells.pass_over(8)
        cells.commit()
        assert cells.stored_position == 7  # nothing had changed with it
        cells.save_position()
        cells.commit()
        assert cells.stored_position == 8


@pytest.mark.parametrize(("head", "oldest"), [(2, 1), (20, 10)], ids=["cut short", "trimmed"])
def test_keys_of_another_log_are_so_until_a_start_has_said_it(
    tmp_path: Path, head: int, oldest: int
) -> None:
    """Whoever opens them first may be killed before, or only look: `hubd keys GET`."""

    def open_them(seed: int) -> HubCells:
        return HubCells(tmp_path, LOG, head, random=Random(seed), oldest=oldest)

    with closing(HubCells(tmp_path, LOG, 9, random=Random(1))) as cells:
        begun(cells)
        keyspace = cells.mark.keyspace
        cells.pass_over(5)
    for seed in (2, 3):
        with closing(open_them(seed)) as cells:
            start = cells.start_proposal()
            assert (start.is_lost, start.lacks) == (True, oldest - 1)
            cells.pass_over(oldest)  # of what there is, some is carried out
    with closing(open_them(4)) as cells:
        begun(cells)
        assert cells.mark.keyspace != keyspace
    with closing(open_them(5)) as cells:
        assert not cells.start_proposal().is_lost


class Compared(int):
    """Counts how often it is compared."""

    count = 0

    def __lt__(self, other: int) -> bool:
        Compared.count += 1
        return int(self) < other

    def __le__(self, other: int) -> bool:
        Compared.count += 1
        return int(self) <= other

    def __gt__(self, other: int) -> bool:
        Compared.count += 1
        return int(self) > other

    def __ge__(self, other: int) -> bool:
        Compared.count += 1
        return int(self) >= other


def operations(numbers: Sequence[int]) -> list[Op]:
    return [Op(n, 1, 0, 0, b"k", b"s", b"1") for n in numbers]


@pytest.mark.parametrize(
    "numbers", [range(3000, 3256), range(1, 512, 2)], ids=["new", "missed before"]
)
def test_operations_are_not_compared_with_every_hole(numbers: range) -> None:
    holes = tuple((Compared(n), Compared(n)) for n in range(2, 2 * HOLES_MAX + 1, 2))
    one = Replica(1, b"i" * 16, acked=2 * HOLES_MAX + 1, holes=holes)
    Compared.count = 0
    assert one.after(operations(numbers), is_gapped=False).holes == holes
    assert [one.has(n) for n in numbers] == [n <= one.acked for n in numbers]
    assert Compared.count <= 2 * len(numbers) * 16


@given(st.lists(st.sets(st.integers(1, 40), min_size=1, max_size=5), max_size=8))
def test_holes_are_what_has_not_come(parts: list[set[int]]) -> None:
    one, missing = Replica(1, b"i" * 16), set[int]()
    for part in parts:
        missing |= set(range(one.acked + 1, min(part)))
        missing -= part
        one = one.after(operations(sorted(part)), is_gapped=True)
        wanted = [None if n in missing else True for n in range(1, one.acked + 1)]
        assert [one.has(n) for n in range(1, one.acked + 1)] == wanted
        assert one.whole == min(missing, default=one.acked + 1) - 1
