"""Lanes of records: positions, ranges, hashes, and that nothing damaged is ever delivered."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgesync._native.batch import Record, records
from edgesync._native.journal import DamagedRecord, Journal
from edgesync._native.store import Store, Write
from edgesync.errors import StoreError

pytestmark = pytest.mark.feature("K1")

BULK = 2
HEADER = 32


def opened(path: Path) -> Store:
    return Store(str(path), databases=("lanes",), map_bytes=1 << 20, map_bytes_max=64 << 20)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with opened(tmp_path / "store") as store:
        yield store


def append(store: Store, *bodies: bytes, lane: int = BULK) -> None:
    write = Write()
    write.append_many(lane, 1, bodies)
    store.apply(write)


def append_each(store: Store, *bodies: bytes) -> None:
    """Append each in a transaction, and so in a row, of its own."""
    for body in bodies:
        append(store, body)


def contents(journal: Journal, lane: int, first: int = 1) -> list[bytes]:
    return [one.body for one in records(journal.read(lane, first).data)]


def mark(store: Store, floor: int, safe: int, trim: int = 0) -> None:
    write = Write()
    write.mark(BULK, floor, safe)
    if trim:
        write.trim(BULK, trim)
    store.apply(write)


def positions(journal: Journal) -> tuple[int, int, int, int]:
    state = journal.state(BULK)
    return state.trimmed, state.safe, state.floor, state.tail


def test_records_come_back_in_order_with_their_hashes(store: Store) -> None:
    append(store, b"a", b"b")
    append(store, b"c")
    journal = Journal(store)
    rows = journal.read(BULK, 1)
    assert (rows.first, rows.last, len(rows), rows.prev_chain) == (1, 3, 3, 0)
    assert contents(journal, BULK) == [b"a", b"b", b"c"]
    found: list[Record] = records(rows.data)
    assert [one.number for one in found] == [1, 2, 3]
    assert {one.origin for one in found} == {journal.origin}
    assert [one.chain for one in found] == [journal.chain_at(BULK, seq) for seq in (1, 2, 3)]
    assert rows.last_chain == journal.state(BULK).tail_chain
    later = journal.read(BULK, 3)
    assert later.prev_chain == found[1].chain


@pytest.mark.feature("S4")
def test_lanes_have_sequences_of_their_own(store: Store) -> None:
    for lane in (0, 2, 2, 1):
        append(store, b"%d" % lane, lane=lane)
    journal = Journal(store)
    assert [journal.state(lane).tail for lane in range(3)] == [1, 1, 2]
    assert contents(journal, 0) == [b"0"]


def test_limits_hold_and_one_record_always_comes(store: Store) -> None:
    append(store, *(bytes([n]) * 100 for n in range(50)))
    journal = Journal(store)
    one = 4 + HEADER + 100
    assert len(journal.read(BULK, 1, limit_records=7)) == 7
    assert len(journal.read(BULK, 1, limit_bytes=3 * one)) == 3
    assert len(journal.read(BULK, 1, limit_bytes=3 * one - 1)) == 2
    assert len(journal.read(BULK, 1, limit_bytes=1)) == 1
    assert len(journal.read(BULK, 1)) == 50
    assert len(journal.read(BULK, 51)) == 0
    assert len(journal.read(0, 1)) == 0
    with pytest.raises(ValueError, match="begin at 1"):
        journal.read(BULK, 0)


def test_a_record_larger_than_every_guess(store: Store) -> None:
    append(store, b"small", bytes(3 << 20))
    assert contents(Journal(store), BULK, 2) == [bytes(3 << 20)]


def test_marks_grow_and_keep_their_order(store: Store) -> None:
    append(store, *[b"x"] * 10)
    journal = Journal(store)
    mark(store, 6, 4)
    assert positions(journal) == (0, 4, 6, 10)
    mark(store, 3, 2)  # late news
    assert positions(journal) == (0, 4, 6, 10)
    mark(store, 7, 9)  # safe is never above floor
    assert positions(journal) == (0, 7, 7, 10)
    mark(store, 8, 7, trim=100)  # nothing above safe goes
    assert positions(journal) == (7, 7, 8, 10)
    assert len(journal.read(BULK, 7)) == 0
    assert journal.read(BULK, 8).prev_chain == journal.chain_at(BULK, 7)
    assert journal.chain_at(BULK, 6) is None
    assert journal.chain_at(BULK, 11) is None


@pytest.mark.feature("S32")
def test_a_rewind_goes_back_as_far_as_records_are_kept(store: Store) -> None:
    append(store, *[b"x"] * 10)
    mark(store, 8, 8, trim=4)
    write = Write()
    write.rewind(BULK, 2)
    store.apply(write)
    assert positions(Journal(store)) == (4, 4, 4, 10)


def test_everything_is_there_after_opening_again(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as store:
        append(store, b"a", b"b", b"c")
        mark(store, 2, 1, trim=1)
        chain = Journal(store).state(BULK).tail_chain
    with opened(tmp_path / "s") as store:
        journal = Journal(store)
        assert positions(journal) == (1, 1, 2, 3)
        assert journal.state(BULK).tail_chain == chain
        append(store, b"d")
        assert contents(journal, BULK, 2) == [b"b", b"c", b"d"]
        last = records(journal.read(BULK, 4).data)[0]
        assert (last.origin, last.number) == (journal.origin, 1)


def test_event_ids_of_a_failed_write_are_given_again(store: Store) -> None:
    write = Write()
    write.append(BULK, 1, b"never")
    write.mark(BULK, 9, 9)
    with pytest.raises(ValueError, match="tail"):
        store.apply(write)
    append(store, b"first")
    assert records(Journal(store).read(BULK, 1).data)[0].number == 1


def test_a_record_keeps_the_id_it_is_given(store: Store) -> None:
    write = Write()
    write.append(BULK, 1, b"of another life", 77, 5)
    write.append(BULK, 1, b"ours")
    store.apply(write)
    found = records(Journal(store).read(BULK, 1).data)
    assert [(one.origin, one.number) for one in found] == [(77, 5), (Journal(store).origin, 1)]


def test_a_store_without_lanes_has_no_journal(tmp_path: Path) -> None:
    with Store(str(tmp_path / "s"), databases=("things",)) as store:
        with pytest.raises(ValueError, match="no lanes"):
            Journal(store)
        write = Write()
        write.append(BULK, 1, b"x")
        with pytest.raises(ValueError, match="no lanes"):
            store.apply(write)


# Runs: small records of a transaction in one row


def keys(store: Store) -> list[int]:
    return [int.from_bytes(key, "little") for key, _ in store.scan("journal.2")]


def test_small_records_of_a_transaction_are_rows_of_many(store: Store) -> None:
    bodies = [b"%d" % n * (n % 40) for n in range(300)]
    append(store, *bodies)
    append(store, b"alone")
    append(store, b"x", bytes(481), b"y", b"z")
    write = Write()
    write.append(BULK, 1, b"event")
    write.append(BULK, 2, b"of another kind")
    write.append(BULK, 2, b"and the next")
    write.append(BULK, 2, b"with an id of its own", 77, 5)
    write.append(BULK, 2, b"and one that follows", 77, 6)
    store.apply(write)
    found = records(Journal(store).read(BULK, 1).data)
    assert [one.body for one in found[:300]] == bodies
    assert [one.number for one in found] == [*range(1, 309), 5, 6]
    assert [one.kind for one in found[305:]] == [1, 2, 2, 2, 2]
    rows = keys(store)
    assert 5 < rows.index(300) < 15
    assert rows[rows.index(300) + 1 :] == [301, 302, 303, 305, 306, 308, 310]


def test_a_run_is_read_from_any_record_and_to_any(store: Store) -> None:
    bodies = [b"%d" % n for n in range(1, 10)]
    append(store, *bodies)
    journal = Journal(store)
    chains = [0, *(one.chain for one in records(journal.read(BULK, 1).data))]
    for first in range(1, 10):
        for count in range(1, 11 - first):
            rows = journal.read(BULK, first, limit_records=count)
            found = records(rows.data)
            assert [one.body for one in found] == bodies[first - 1 : first - 1 + count]
            assert rows.prev_chain == chains[first - 1] == journal.chain_at(BULK, first - 1)
            assert rows.last_chain == chains[first - 1 + count]
    assert len(journal.read(BULK, 3, limit_bytes=2 * 37)) == 2


def test_a_run_goes_when_all_of_it_may(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as store:
        append(store, *(b"%d" % n for n in range(6)))
        append(store, b"a", b"b")
        chain = Journal(store).chain_at(BULK, 4)
        mark(store, 7, 7, trim=4)
        assert keys(store) == [6, 8]
    with opened(tmp_path / "s") as store:
        journal = Journal(store)
        assert contents(journal, BULK, 5) == [b"4", b"5", b"a", b"b"]
        assert journal.read(BULK, 5).prev_chain == journal.chain_at(BULK, 4) == chain
        assert journal.chain_at(BULK, 3) is None
        assert journal.state(BULK).stored_bytes == 4 * 33
        mark(store, 7, 7, trim=7)
        assert keys(store) == [8]
        assert contents(journal, BULK, 8) == [b"b"]
        mark(store, 8, 8, trim=8)
        assert keys(store) == []
        assert journal.state(BULK).stored_bytes == 0


@pytest.mark.parametrize("first", [1, 3, 5, 6, 8])
def test_of_a_damaged_run_each_record_is_replaced(store: Store, first: int) -> None:
    append(store, b"a", b"b")
    append(store, *(b"%d" % n for n in range(5)))  # 3 to 7
    append(store, b"y", b"z")
    damage(store, 7, 50)
    journal = Journal(store)
    replaced = set()
    while True:
        try:
            found = records(journal.read(BULK, first).data)
        except DamagedRecord as damaged:
            replaced.add(damaged.seq)
            write = Write()
            write.replace(BULK, damaged.seq, 1, b"lost")
            store.apply(write)
            continue
        first += len(found)
        if not found:
            break
    assert 7 in replaced
    assert replaced <= {3, 4, 5, 6, 7}
    assert contents(journal, BULK, 8) == [b"y", b"z"]
    whole = records(journal.read(BULK, 8).data)
    assert whole[-1].chain == journal.state(BULK).tail_chain


def test_a_record_inside_a_run_can_be_replaced(store: Store) -> None:
    append(store, *(b"%d" % n for n in range(5)))
    append(store, b"a", b"b")
    write = Write()
    write.replace(BULK, 2, 1, b"lost")
    store.apply(write)
    journal = Journal(store)
    assert contents(journal, BULK) == [b"0", b"lost", b"2", b"3", b"4", b"a", b"b"]
    assert journal.state(BULK).stored_bytes == 7 * 32 + 6 + 4
    assert journal.read(BULK, 1).last_chain == journal.state(BULK).tail_chain


def test_a_store_of_the_format_before_is_opened_and_takes_runs(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as store:
        append_each(store, b"a", b"b", b"c")
        write = Write()
        write.put("meta", b"format", (1).to_bytes(4, "little"))
        store.apply(write)
    with opened(tmp_path / "s") as store:
        assert store.get("meta", b"format") == (2).to_bytes(4, "little")
        append(store, b"d", b"e")
        assert contents(Journal(store), BULK) == [b"a", b"b", b"c", b"d", b"e"]


# Damage


def damage(store: Store, seq: int, at: int) -> None:
    """Flip a bit of a stored record behind the journal's back."""
    key = seq.to_bytes(8, "little")
    raw = bytearray(store.get("journal.2", key) or b"")
    raw[at] ^= 0x10
    write = Write()
    write.put("journal.2", key, bytes(raw))
    store.apply(write)


@pytest.mark.parametrize("at", [0, 4, 5, 8, 16, 24, HEADER, HEADER + 4])
def test_a_flipped_bit_is_found_and_not_delivered(store: Store, at: int) -> None:
    append_each(store, *[b"value"] * 5)
    damage(store, 3, at)
    journal = Journal(store)
    assert len(journal.read(BULK, 1)) == 2
    with pytest.raises(DamagedRecord) as caught:
        journal.read(BULK, 3)
    assert (caught.value.lane, caught.value.seq) == (BULK, 3)
    with pytest.raises(DamagedRecord) as caught:
        journal.read(BULK, 4)  # the hash before it cannot be trusted
    assert caught.value.seq == 3


def test_a_record_under_another_seq_or_lane_is_damaged(store: Store) -> None:
    append_each(store, *[b"value"] * 5)
    append(store, b"value", lane=0)
    write = Write()
    raw = store.get("journal.2", (4).to_bytes(8, "little"))
    assert raw is not None
    write.put("journal.2", (2).to_bytes(8, "little"), raw)
    write.put("journal.0", (1).to_bytes(8, "little"), raw)
    store.apply(write)
    journal = Journal(store)
    for lane, seq in ((BULK, 2), (0, 1)):
        with pytest.raises(DamagedRecord):
            journal.read(lane, seq)


def test_a_replaced_record_lets_the_lane_go_on(store: Store) -> None:
    append_each(store, *[b"value%d" % n for n in range(5)])
    before = records(Journal(store).read(BULK, 1).data)
    damage(store, 3, HEADER)
    write = Write()
    write.replace(BULK, 3, 1, b"lost")
    store.apply(write)
    journal = Journal(store)
    found = records(journal.read(BULK, 1).data)
    assert [one.body for one in found] == [b"value0", b"value1", b"lost", b"value3", b"value4"]
    assert [one.number for one in found] == [1, 2, 6, 4, 5]
    assert [one.chain for one in found[:2]] == [one.chain for one in before[:2]]
    assert found[3].chain != before[3].chain
    assert found[4].chain == journal.state(BULK).tail_chain


def test_a_missing_record_is_found_and_replaced(store: Store) -> None:
    append_each(store, *[b"value"] * 4)
    write = Write()
    write.delete("journal.2", (2).to_bytes(8, "little"))
    store.apply(write)
    journal = Journal(store)
    with pytest.raises(DamagedRecord):
        journal.read(BULK, 2)
    fix = Write()
    fix.replace(BULK, 2, 1, b"lost")
    store.apply(fix)
    assert contents(journal, BULK) == [b"value", b"lost", b"value", b"value"]


def test_a_stray_key_beyond_the_tail_does_not_stop_the_lane(store: Store) -> None:
    append(store, b"a", b"b")
    write = Write()
    write.put("journal.2", (1 << 40).to_bytes(8, "little"), b"stray")
    store.apply(write)
    append(store, b"c", b"d")
    assert contents(Journal(store), BULK) == [b"a", b"b", b"c", b"d"]


def test_damaged_positions_are_derived_from_the_records(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as store:
        append_each(store, *(b"%d" % n for n in range(10)))
        mark(store, 6, 4, trim=4)
        before = Journal(store).state(BULK)
        raw = bytearray(store.get("lanes", bytes([BULK])) or b"")
        raw[10] ^= 4
        write = Write()
        write.put("lanes", bytes([BULK]), bytes(raw))
        store.apply(write)
    with opened(tmp_path / "s") as store:
        assert store.mended_lanes == (BULK,)
        journal = Journal(store)
        assert positions(journal) == (4, 4, 4, 10)
        after = journal.state(BULK)
        assert (after.tail_chain, after.stored_bytes) == (before.tail_chain, before.stored_bytes)
        append(store, b"on")
        assert contents(journal, BULK, 5)[-1] == b"on"
    with opened(tmp_path / "s") as store:
        assert store.mended_lanes == ()


@pytest.mark.slow
def test_bits_flipped_in_the_file_never_change_a_value(tmp_path: Path) -> None:
    """F10: any value that comes out is the one that went in; all else is an error."""
    path = tmp_path / "store"
    bodies = [b"%06d" % n * 8 for n in range(400)]
    with opened(path) as store:
        append(store, *bodies)
        for n in range(5):
            append(store, *bodies[n * 50 : n * 50 + 50], lane=1)
        begin = 2 * store.page_bytes  # behind the two pages that say where all begins
    data = path / "data.mdb"
    whole = data.read_bytes()
    held = [at for at in range(begin, len(whole)) if whole[at]]
    chance = random.Random(9)
    refused = 0
    for _ in range(300):
        flipped = bytearray(whole)
        for _ in range(chance.choice((1, 1, 8))):
            flipped[chance.choice(held)] ^= 1 << chance.randrange(8)
        data.write_bytes(flipped)
        refused += not read_all(path, bodies)
    assert refused > 100


def read_all(path: Path, bodies: list[bytes]) -> bool:
    """Read every record there is; False when some were refused."""
    complete = True
    try:
        with opened(path) as store:
            journal = Journal(store)
            seq = 1
            while seq <= len(bodies):
                try:
                    rows = journal.read(BULK, seq)
                except DamagedRecord:
                    complete = False
                    seq += 1
                    continue
                if not len(rows):
                    return False
                for offset, one in enumerate(records(rows.data)):
                    assert one.body == bodies[rows.first - 1 + offset]
                seq = rows.last + 1
    except StoreError:
        return False
    return complete
