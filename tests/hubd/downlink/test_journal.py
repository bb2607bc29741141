"""The contract of the hub's journal for an edge, over both databases."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from edgesync._native import batch
from edgesync._native import event as event_codec
from edgesync.model import EventType
from edgesync_transport.lanes.events import DownFloors, Load, Loaded, LoadedNothing
from edgesync_transport.messages import Lane, LaneFloor
from hubd.downlink import journal as journal_module
from hubd.downlink.journal import DownlinkFull, Journal
from hubd.errors import EdgeUnknown
from hubd.owned.dump import load_dump, write_dump
from hubd.registry import Registry, open_registry
from tests.native.rowsmith import Draft, make_rows

pytestmark = pytest.mark.feature("S1", "S6")

NONE = LaneFloor(floor=0, chain=0, safe=0)
STRANGER = DownFloors(b"", (NONE, NONE, NONE))


def event(text: str) -> bytes:
    return event_codec.encode(EventType.RPC_REQUEST, 13, 2, "pump", text.encode(), 1, 2, 0)


@pytest.fixture
def registry(tmp_path: Path, owned_url: sa.URL | None) -> Iterator[Registry]:
    with closing(open_registry(tmp_path, owned_url)) as found:
        found.enrolments.invite("barn", valid_s=900)
        found.enrolments.invite("mill", valid_s=900)
        yield found


@pytest.fixture
def journal(registry: Registry) -> Journal:
    return Journal(registry.owned, clock_ns=lambda: 10**18)


def append(journal: Journal, *texts: str, lane: Lane = Lane.CRITICAL, edge: str = "barn") -> int:
    with journal._owned.change() as connection:
        return journal.append(connection, edge, lane, [event(text) for text in texts])


def load(journal: Journal, first: int, last: int = 1000, **limits: int) -> Loaded:
    asked = Load(
        Lane.CRITICAL, first, last, **{"limit_records": 100, "limit_bytes": 1 << 20, **limits}
    )
    found = journal.load("barn", asked)
    assert isinstance(found, Loaded)
    return found


def bodies(loaded: Loaded) -> list[str]:
    _, records = batch.columns(loaded.codec, loaded.payload)
    return [event_codec.decode(one.body)[4].decode() for _, one in records]


def at(floor: Loaded, incarnation: bytes) -> DownFloors:
    """Return what an edge tells that has all that was loaded."""
    return DownFloors(
        incarnation,
        (LaneFloor(floor=floor.last, chain=floor.last_chain, safe=floor.last), NONE, NONE),
    )


def test_what_is_appended_is_loaded_in_order_and_whole(journal: Journal) -> None:
    assert append(journal, "a", "b") == 2
    assert append(journal, "c") == 3
    found = load(journal, 1)
    assert (found.first, found.last, bodies(found)) == (1, 3, ["a", "b", "c"])
    assert batch.last_chain(found.codec, found.payload, 0) == found.last_chain
    rest = load(journal, 3)
    assert (bodies(rest), rest.prev_chain) == (["c"], load(journal, 1, 2).last_chain)
    assert rest.last_chain == found.last_chain


def test_the_payload_is_what_an_edge_would_pack(journal: Journal) -> None:
    append(journal, "a", "b")
    found = load(journal, 1)
    origin = batch.ids(found.codec, found.payload)[0][0]
    drafts = [Draft(1, event(text), origin, seq) for seq, text in enumerate("ab", 1)]
    rows = make_rows(drafts, lane=0)
    assert batch.unpack(found.codec, found.payload, 0, 1, 0) == rows


def test_limits_cut_a_load_and_the_rest_follows(journal: Journal) -> None:
    append(journal, *"abcdef")
    assert bodies(load(journal, 1, limit_records=2)) == ["a", "b"]
    assert bodies(load(journal, 2, 3)) == ["b", "c"]
    assert bodies(load(journal, 1, limit_bytes=1)) == ["a"]
    asked = Load(Lane.CRITICAL, 7, 100, 10, 1000)
    assert journal.load("barn", asked) == LoadedNothing(Lane.CRITICAL, 7)


def test_edges_and_lanes_have_journals_of_their_own(journal: Journal) -> None:
    append(journal, "a")
    append(journal, "x", edge="mill")
    append(journal, "n", lane=Lane.NORMAL)
    assert bodies(load(journal, 1)) == ["a"]
    assert [lane.tail for lane in journal.view("barn").lanes] == [1, 1, 0]


def test_a_cause_that_fails_leaves_no_record(journal: Journal) -> None:
    def fail_after_append() -> None:
        with journal._owned.change() as connection:
            journal.append(connection, "barn", Lane.CRITICAL, [event("a")])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_after_append()
    assert journal.view("barn").records == 0


def test_what_the_edge_has_is_forgotten_and_the_chain_goes_on(journal: Journal) -> None:
    append(journal, "a", "b")
    before = load(journal, 1)
    journal.mark("barn", {Lane.CRITICAL: 2})
    view = journal.view("barn")
    assert (view.records, view.nbytes, view.oldest_ns) == (0, 0, None)
    assert (view.lanes[0].floor, view.lanes[0].trimmed, view.lanes[0].tail) == (2, 2, 2)
    append(journal, "c")
    assert load(journal, 3).prev_chain == before.last_chain
    journal.mark("barn", {Lane.CRITICAL: 1})  # a late one changes nothing
    assert journal.view("barn").lanes[0].floor == 2
    journal.mark("barn", {Lane.CRITICAL: 9})  # nor does it have what there is not
    assert journal.view("barn").lanes[0].floor == 3


def test_an_edge_goes_on_where_it_stands_also_if_its_answer_was_lost(journal: Journal) -> None:
    append(journal, "a", "b", "c")
    offer, forked = journal.begin("barn", STRANGER)
    assert (offer.lanes[0].tail, offer.floors[0], forked) == (3, NONE, "")
    told = at(load(journal, 1, 2), offer.incarnation)
    again, forked = journal.begin("barn", told)
    assert (again.floors[0], forked) == (told.lanes[0], "")
    assert (again.lanes[0].floor, again.lanes[0].trimmed) == (2, 2)


def test_an_edge_with_an_older_store_is_offered_what_is_gone_as_a_gap(journal: Journal) -> None:
    append(journal, "a", "b", "c")
    offer, _ = journal.begin("barn", STRANGER)
    older = at(load(journal, 1, 1), offer.incarnation)
    journal.mark("barn", {Lane.CRITICAL: 2})
    again, forked = journal.begin("barn", older)
    assert (again.incarnation, forked) == (offer.incarnation, "")
    assert (again.floors[0].floor, again.lanes[0].trimmed, again.lanes[0].tail) == (1, 2, 3)


@pytest.mark.parametrize("lost", ["floor", "history"])
def test_a_journal_that_lost_what_the_edge_has_forks_and_keeps_its_seqs(
    journal: Journal, tmp_path: Path, lost: str
) -> None:
    append(journal, "a", "b")
    journal.mark("barn", {Lane.CRITICAL: 1})
    offer, _ = journal.begin("barn", STRANGER)
    if lost == "floor":  # the edge has 4, of which this journal knows nothing
        chain = LaneFloor(floor=4, chain=77, safe=4)
    else:  # another second record than this one
        chain = LaneFloor(floor=2, chain=77, safe=2)
    again, reason = journal.begin("barn", DownFloors(offer.incarnation, (chain, NONE, NONE)))
    assert again.incarnation != offer.incarnation
    assert "another history" in reason or "only" in reason
    assert (again.lanes[0].start, again.floors[0].floor, again.lanes[0].tail) == (1, 1, 2)
    assert again.floors[0].chain == load(journal, 2).prev_chain
    assert journal.view("barn").forks == 1
    append(journal, "c")
    assert bodies(load(journal, 2)) == ["b", "c"]


def test_a_full_journal_refuses_by_name_and_counts_it(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "RECORDS_MAX", 2)
    append(journal, "a", "b")
    with pytest.raises(DownlinkFull, match=r"2 records of \d+ bytes wait for the edge barn"):
        append(journal, "c")
    journal.count_refused("barn")
    assert (journal.view("barn").records, journal.view("barn").refused) == (2, 1)
    append(journal, "x", edge="mill")  # a neighbour has room of its own
    journal.mark("barn", {Lane.CRITICAL: 1})
    assert append(journal, "c") == 3


def test_bytes_fill_a_journal_too_and_are_free_again_once_they_have_arrived(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "BYTES_MAX", 1000)
    append(journal, "a" * 600)
    with pytest.raises(DownlinkFull):
        append(journal, "b" * 600, lane=Lane.BULK)
    append(journal, "m" * 600, edge="mill")
    journal.mark("barn", {Lane.CRITICAL: 1})
    assert append(journal, "b" * 600) == 2


def test_who_is_revoked_or_unknown_is_told_nothing(journal: Journal, registry: Registry) -> None:
    registry.edges.revoke("barn")
    for edge in ("barn", "nobody"):
        with pytest.raises(EdgeUnknown):
            journal.send(edge, Lane.NORMAL, [event("a")])
    assert journal.send("mill", Lane.NORMAL, [event("a")]) == 1
    assert journal.view("barn").records == 0


def test_what_is_given_up_is_told_of_once_and_had_up_to_where_it_arrived(
    journal: Journal,
) -> None:
    append(journal, "a", "b", "c")
    assert journal.give_up_before("barn", 10**18 + 1) == [(Lane.CRITICAL, 1, 3)]
    append(journal, "d")
    assert journal.give_up_before("barn", 10**18) == []
    assert journal.give_up_before("barn", 10**18 + 1) == [(Lane.CRITICAL, 4, 4)]
    journal.mark("barn", {Lane.CRITICAL: 2})  # it was on its way when it was given up
    lane = journal.view("barn").lanes[0]
    assert (lane.floor, lane.trimmed) == (2, 4)


def test_an_edge_that_has_just_what_was_given_up_goes_on(journal: Journal) -> None:
    append(journal, "a", "b")
    offer, _ = journal.begin("barn", STRANGER)
    told = at(load(journal, 1), offer.incarnation)
    assert journal.clear("barn") == [(Lane.CRITICAL, 1, 2)]
    again, reason = journal.begin("barn", told)
    assert (again.incarnation, reason) == (offer.incarnation, "")
    assert (again.floors[0], again.lanes[0].floor) == (told.lanes[0], 2)


def test_what_has_waited_for_too_long_goes_and_the_edge_is_told_of_a_gap(
    registry: Registry,
) -> None:
    now = [10**18]
    journal = Journal(registry.owned, clock_ns=lambda: now[0])
    append(journal, "a", "b")
    now[0] += 100
    append(journal, "c")
    assert journal.give_up_old(max_age_ns=100) == {}
    now[0] += 1
    assert journal.give_up_old(max_age_ns=100) == {"barn": 2}
    offer, _ = journal.begin("barn", STRANGER)
    assert (offer.lanes[0].trimmed, offer.lanes[0].floor, offer.floors[0].floor) == (2, 0, 0)
    assert offer.trimmed_chains[0] == load(journal, 3).prev_chain
    # A fork begins before what is gone: the edge has not been told of it yet.
    foreign = LaneFloor(floor=9, chain=77, safe=9)
    forked, reason = journal.begin("barn", DownFloors(offer.incarnation, (foreign, NONE, NONE)))
    assert reason
    assert (forked.lanes[0].start, forked.lanes[0].floor, forked.floors[0]) == (0, 0, NONE)
    assert journal.clear("barn") == [(Lane.CRITICAL, 3, 3)]
    assert journal.clear("barn") == []
    assert journal.view("barn").records == 0


@pytest.mark.parametrize("edge_has", [2, 3])
def test_what_a_restored_hub_has_given_up_the_edge_is_told_of(
    journal: Journal, edge_has: int
) -> None:
    """What the edge has is as high as what is gone here; nobody knows whether it is the same."""
    append(journal, "a")
    journal.mark("barn", {Lane.CRITICAL: 1})
    offer, _ = journal.begin("barn", STRANGER)
    append(journal, "x", "y", "z")
    assert journal.clear("barn") == [(Lane.CRITICAL, 2, 4)]
    had = LaneFloor(floor=edge_has, chain=77, safe=edge_has)
    again, reason = journal.begin("barn", DownFloors(offer.incarnation, (had, NONE, NONE)))
    assert "given up" in reason
    assert again.incarnation != offer.incarnation
    assert (again.floors[0].floor, again.lanes[0].trimmed, again.lanes[0].tail) == (1, 4, 4)
    # It takes the gap: what it is told of its start is what the gap follows on.
    assert again.floors[0].chain == again.lanes[0].start_chain
    known = DownFloors(again.incarnation, again.floors)
    assert journal.begin("barn", known) == (again, "")


@pytest.mark.feature("C1")
def test_a_backup_has_the_journal_and_what_follows_fits(
    journal: Journal, registry: Registry, tmp_path: Path
) -> None:
    append(journal, "a", "é\x00", "c")
    journal.mark("barn", {Lane.CRITICAL: 1})
    whole = load(journal, 2)
    write_dump(registry.owned, tmp_path / "dump")
    (tmp_path / "other").mkdir()
    with closing(open_registry(tmp_path / "other")) as other:
        load_dump(other.owned, tmp_path / "dump")
        restored = Journal(other.owned)
        assert load(restored, 2) == whole
        assert restored.view("barn").lanes == journal.view("barn").lanes
        assert append(restored, "d") == 4


def test_what_waits_is_listed_by_edge_lane_and_seq(journal: Journal) -> None:
    append(journal, "a", "b", "c")
    append(journal, "later", lane=Lane.BULK)
    append(journal, "mill", edge="mill")

    def listed(
        edges: list[str], after: tuple[str, int, int] = ("", 0, 0), limit: int = 9
    ) -> list[tuple[str, Lane, int, str]]:
        return [
            (one.edge, one.lane, one.seq, event_codec.decode(one.body)[4].decode())
            for one in journal.waiting(edges, after, limit)
        ]

    everything = listed(["mill", "barn"])
    assert everything == [
        ("barn", Lane.CRITICAL, 1, "a"), ("barn", Lane.CRITICAL, 2, "b"),
        ("barn", Lane.CRITICAL, 3, "c"), ("barn", Lane.BULK, 1, "later"),
        ("mill", Lane.CRITICAL, 1, "mill"),
    ]  # fmt: skip
    for nth, (edge, lane, seq, _) in enumerate(everything):
        assert listed(["barn", "mill"], (edge, int(lane), seq), 1) == everything[nth + 1 : nth + 2]
    assert listed(["mill"]) == everything[-1:]
    assert listed([]) == []
    journal.mark("barn", {Lane.CRITICAL: 2})
    assert listed(["barn"]) == everything[2:4]
    assert journal.clear("barn") == [(Lane.CRITICAL, 3, 3), (Lane.BULK, 1, 1)]
    assert listed(["barn"]) == []
