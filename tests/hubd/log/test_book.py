"""Which event ids the book knows, against a plain set of them."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesync_transport.messages import LaneFloor
from hubd.log import book
from hubd.log.book import BLOCK_BITS, NUMBERS, WHOLE, Book, Changes, IdKey, LaneKey, blocks_of
from hubd.log.lmdb import BLOCK_BYTES, packed_bits, unpacked_bits

pytestmark = pytest.mark.feature("S5", "F6")

Range = tuple[int, int, int]

# Near each other and at the borders of blocks, of blocks of blocks, and of what a number may be.
PLACES = [0, 1024, 5 * 1024, 1 << 20, (1 << 64) - 70_000]
RANGES = st.builds(
    lambda origin, first, count: (origin, max(0, first), max(0, first) + count - 1),
    st.sampled_from([7, (1 << 64) - 1]),
    st.builds(int.__add__, st.sampled_from(PLACES), st.integers(-2100, 2100)),
    st.one_of(st.integers(1, 3), st.integers(1000, 2100)),
)


class Shelf:
    """What is durable. As the log's, it has no row of a block that is whole."""

    def __init__(self) -> None:
        self.rows: dict[IdKey, bytes] = {}
        self.lookups = 0

    def epoch(self, edge: str) -> int:
        return 0

    def lane(self, key: LaneKey) -> LaneFloor | None:
        return None

    def ids(self, key: IdKey) -> int:
        self.lookups += 1
        return unpacked_bits(self.rows.get(key, b""))

    def store(self, kept: Book, changes: Changes) -> None:
        for key in changes.ids:
            self.rows[key] = packed_bits(kept.ids[key])
            assert len(self.rows[key]) <= BLOCK_BYTES
            if key[2] == NUMBERS and kept.ids[key] == WHOLE:
                del self.rows[key]


def intervals_of(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Return the plain list: sorted ranges, none of which touch."""
    found: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if found and found[-1][1] + 1 == number:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found


@given(st.lists(st.tuples(st.lists(RANGES, max_size=4), st.sampled_from("kfl")), max_size=8))
def test_what_is_known_is_what_was_noted(steps: list[tuple[list[Range], str]]) -> None:
    """`k`: is kept on disk, `f`: and then forgotten in memory, `l`: the commit is lost."""
    shelf = Shelf()
    kept = Book(shelf)
    known: set[tuple[int, int]] = set()
    for ranges, end in steps:
        for origin, first, last in ranges:
            expected = any((origin, number) in known for number in range(first, last + 1))
            assert kept._is_known("barn", (origin, first, last)) == expected
            for number in (first, last, last + 1, max(0, first - 1)):
                is_known = kept._is_known("barn", (origin, number, number))
                assert is_known == ((origin, number) in known)
        changes = Changes()
        kept._add_ids("barn", ranges, changes)
        if end == "l":
            kept.forget()
            continue
        known |= {(origin, n) for origin, first, last in ranges for n in range(first, last + 1)}
        shelf.store(kept, changes)
        if end == "f":
            kept.forget()
    # An older log's row of the same numbers makes the same rows.
    made: dict[IdKey, bytes] = {}
    for origin in {origin for origin, _ in known}:
        intervals = intervals_of(number for mine, number in known if mine == origin)
        for (level, block), bits in blocks_of(intervals).items():
            made["barn", origin, level, block] = packed_bits(bits)
    assert made == shelf.rows
    assert not kept._is_known("shed", (7, 0, 1 << 12))


@given(st.integers(0, WHOLE), st.sets(st.integers(0, BLOCK_BITS - 1), max_size=70))
def test_a_row_is_the_bits_of_its_block(many: int, few: set[int]) -> None:
    for bits in (many, sum(1 << bit for bit in few), WHOLE - sum(1 << bit for bit in few)):
        packed = packed_bits(bits)
        assert unpacked_bits(packed) == bits
        assert len(packed) <= BLOCK_BYTES


def test_a_batch_looks_up_what_is_near_its_own_numbers() -> None:
    """However many numbers far from each other are known of the origin."""
    shelf = Shelf()
    kept = Book(shelf)
    changes = Changes()
    kept._add_ids("barn", [(7, n * 5000, n * 5000) for n in range(10_000)], changes)
    shelf.store(kept, changes)
    kept.forget()
    shelf.lookups, changes = 0, Changes()
    kept._add_ids("barn", [(7, 2_000_000 + 2 * n, 2_000_000 + 2 * n) for n in range(500)], changes)
    assert shelf.lookups <= 3
    assert len(changes.ids) <= 2


def test_numbers_far_from_each_other_stay_within_the_bound_and_are_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(book, "CACHED_MAX", 1000)
    shelf = Shelf()
    kept = Book(shelf)
    for first in range(0, 5000, 500):
        changes = Changes()
        numbers = [(7, n << 20, n << 20) for n in range(first, first + 500)]
        kept._add_ids("barn", numbers, changes)
        shelf.store(kept, changes)
        kept.bound()
        assert len(kept.ids) <= 1000
    assert all(kept._is_known("barn", (7, n << 20, n << 20)) for n in range(5000))
