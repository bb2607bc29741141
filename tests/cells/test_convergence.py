"""Edges and hub agree with the full history, whatever was lost, late, doubled, retired or reset.

`make converge` runs 50,000 schedules; a seed that diverges replays with `run(World(seed))`.
"""

from collections.abc import Callable
from itertools import product

import pytest

from edgesync._native import cells
from edgesync._native.cells import Dot, Entry
from edgesync._native.edgekeys import EdgeKeys
from edgesync._native.hubkeys import HubKeys
from edgesync._native.keyspace import HASH, LIST, NEVER, SET, ZSET
from edgesync.model import Strategy
from tests.cells.memory import MemoryView
from tests.cells.mutants import MUTANTS
from tests.cells.oracle import VALUE
from tests.cells.world import World, run

pytestmark = pytest.mark.feature("L2", "L3", "L4", "S19")


@pytest.mark.parametrize("first", range(0, 400, 50))
def test_every_cell_is_what_the_full_history_says(first: int) -> None:
    for seed in range(first, first + 50):
        world = World(seed)
        run(world)
        world.check_counts()


@pytest.mark.parametrize("first", range(0, 200, 50))
def test_a_hub_that_was_lost_gets_everything_back(first: int) -> None:
    """Empty or older, before or after records were trimmed: nothing is lost, counted twice, or
    back though it had been removed.
    """
    for seed in range(first, first + 50):
        world = World(seed, losing=True)
        run(world)
        world.check_counts()


def test_a_seed_replays_identically() -> None:
    for seed in (3, 17):
        worlds = [World(seed), World(seed)]
        for world in worlds:
            run(world)
        assert worlds[0].view.rows() == worlds[1].view.rows()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_store_with_one_wrong_rule_is_found_out(mutant: Callable[[int], World]) -> None:
    for seed in range(450):
        try:
            run(mutant(seed))
        except AssertionError:  # most are Diverged; some a rule of the store itself refuses
            return
    pytest.fail("it lives")


# -- two edges and a hub by hand ----------------------------------------------------------------


class Site:
    """Edges and a hub that meet when a test says so."""

    def __init__(self, edges: int = 2, *, strategy: Strategy = Strategy.CRDT_MERGE) -> None:
        rules = [(b"", strategy)]
        self.view = MemoryView()
        self.hub = HubKeys(self.view, strategies=rules)
        self.edges = [EdgeKeys(MemoryView(), strategies=rules) for _ in range(edges)]
        self.bases = [0] * edges
        for number, edge in enumerate(self.edges, 1):
            edge.rejoin(number)
        self.at(1_700_000_000_000)

    def hub_rows(self) -> dict[bytes, bytes]:
        return self.view.rows()

    def at(self, now_ms: int) -> None:
        for one in (self.hub, *self.edges):
            one.now_ms = now_ms

    def later(self, ms: int = 1000) -> None:
        self.at(self.hub.now_ms + ms)

    def sync(self, *numbers: int) -> None:
        """Two rounds of each edge: the second brings what the others gave in the first."""
        for _ in range(2):
            for number in numbers or range(len(self.edges)):
                edge = self.edges[number]
                while ops := edge.take():
                    for op in ops:
                        self.hub.hear(number + 1, op)
                entries, position, is_all = self.hub.page(self.bases[number], self.bases[number])
                assert is_all
                edge.deliver(entries, edge.n)
                self.bases[number] = position

    def everywhere(self, key: bytes, name: bytes = b"s") -> bytes | None:
        values = [space.get(key, name) for space in (self.hub, *self.edges)]
        assert len(set(values)) == 1, values
        return values[0]

    def members(self, key: bytes, kind: int = SET) -> list[bytes]:
        found = [[name for name, _ in one.cells(key, kind)] for one in (self.hub, *self.edges)]
        assert all(one == found[0] for one in found), found
        return found[0]


def test_what_all_sites_count_adds_up() -> None:
    site = Site()
    one, two = site.edges
    one.add(b"visits", b"s", b"7")
    two.add(b"visits", b"s", b"3")
    site.sync()
    assert site.everywhere(b"visits") == b"10"
    two.add(b"visits", b"s", b"3")
    site.sync()
    assert site.everywhere(b"visits") == b"13"


def test_a_value_beside_an_amount_keeps_the_amount() -> None:
    site = Site()
    site.edges[0].put(b"n", b"s", b"100")
    site.edges[1].add(b"n", b"s", b"5")
    site.sync()
    assert site.everywhere(b"n") == b"105"


def test_deleting_beside_an_increment_leaves_the_increment() -> None:
    site = Site()
    site.edges[0].add(b"n", b"s", b"7")
    site.sync()
    site.edges[0].delete(b"n")
    site.edges[1].add(b"n", b"s", b"5")
    site.sync()
    assert site.everywhere(b"n") == b"5"


def test_deleting_twice_beside_each_other_is_deleting_once() -> None:
    site = Site()
    site.edges[0].add(b"n", b"s", b"7")
    site.sync()
    site.edges[0].delete(b"n")
    site.edges[1].delete(b"n")
    site.sync()
    assert site.everywhere(b"n") is None


def test_a_member_added_beside_its_removal_stays() -> None:
    site = Site()
    site.edges[0].put(b"set", b"ea", b"")
    site.sync()
    site.edges[0].remove(b"set", b"ea")
    site.edges[1].put(b"set", b"ea", b"")
    site.sync()
    assert site.members(b"set") == [b"a"]


def test_a_removal_takes_only_what_it_has_seen() -> None:
    site = Site()
    site.edges[0].put(b"set", b"ea", b"")
    site.edges[0].put(b"set", b"eb", b"")
    site.sync()
    site.edges[0].delete(b"set")
    site.edges[1].put(b"set", b"ec", b"")
    site.sync()
    assert site.members(b"set") == [b"c"]


def test_a_sorted_set_keeps_what_was_added_beside_a_removal() -> None:
    site = Site()
    site.edges[0].put(b"z", b"zx", b"4.1")
    site.sync()
    site.edges[0].remove(b"z", b"zx")
    site.edges[1].add(b"z", b"zx", b"2.0")
    site.sync()
    assert float(site.everywhere(b"z", b"zx") or b"nan") == 2.0
    assert [list(one.by_score(b"z")) for one in site.edges] == [[(2.0, b"x")]] * 2


def test_list_elements_of_all_sites_stand_in_the_order_of_time() -> None:
    site = Site()
    for turn in range(4):
        site.later()
        site.edges[turn % 2].push(b"log", 1, [b"%d" % turn])
    site.later()
    site.edges[0].push(b"log", 0, [b"first"])
    site.sync()
    found = [[value for _, value in one.cells(b"log", LIST)] for one in (site.hub, *site.edges)]
    assert found == [[b"first", b"0", b"1", b"2", b"3"]] * 3


def test_deleting_a_list_keeps_what_was_pushed_beside_it() -> None:
    site = Site()
    site.edges[0].push(b"log", 1, [b"x"])
    site.sync()
    site.edges[0].delete(b"log")
    site.edges[1].push(b"log", 1, [b"y"])
    site.sync()
    assert [value for _, value in site.hub.cells(b"log", LIST)] == [b"y"]
    assert len(site.members(b"log", LIST)) == 1


@pytest.mark.parametrize(
    ("one", "two", "kept"), [(10, 50, 50), (10, NEVER, NEVER), (NEVER, 10, NEVER)]
)
def test_of_two_deadlines_the_longer_wins_and_none_beats_any(one: int, two: int, kept: int) -> None:
    site = Site()
    site.edges[0].put(b"k", b"s", b"v")
    site.sync()
    now = site.hub.now_ms
    deadlines = [one if one == NEVER else now + one * 1000 for one in (one, two, kept)]
    site.edges[0].expire(b"k", deadlines[0])
    site.edges[1].expire(b"k", deadlines[1])
    site.sync()
    assert [space.deadline(b"k") for space in (site.hub, *site.edges)] == [deadlines[2]] * 3


def test_a_key_past_its_deadline_is_absent_and_begins_anew() -> None:
    site = Site(1)
    edge = site.edges[0]
    edge.put(b"k", b"hf", b"v")
    edge.expire(b"k", edge.now_ms + 1000)
    assert edge.type_of(b"k") == HASH
    site.later()
    assert edge.type_of(b"k") == 0
    assert edge.get(b"k", b"hf") is None
    assert edge.expired() == [b"k"]
    edge.put(b"k", b"hg", b"w")
    assert [name for name, _ in edge.cells(b"k", HASH)] == [b"g"]
    assert edge.expired() == []


def test_a_million_overwrites_of_a_thousand_keys_leave_a_thousand_pending() -> None:
    edge = EdgeKeys(MemoryView())
    for turn in range(20):
        for number in range(1000):
            edge.put(b"key%d" % number, b"s", b"%d" % turn)
    assert edge.pending == 1000
    assert len(edge.take(limit=10_000)) == 1000


def test_elements_that_come_and_go_between_two_rounds_are_never_sent() -> None:
    edge = EdgeKeys(MemoryView())
    for _ in range(100):
        edge.push(b"queue", 1, [b"job"])
        ((name, _),) = edge.cells(b"queue", LIST)
        edge.remove(b"queue", b"l" + name)
    assert edge.pending == 0
    assert edge.type_of(b"queue") == 0


@pytest.mark.parametrize("strategy", list(Strategy))
def test_a_strategy_is_a_matter_of_reading(strategy: Strategy) -> None:
    site = Site(strategy=strategy)
    site.hub.put(b"k", b"s", b"hub")
    site.later()
    site.edges[0].put(b"k", b"s", b"edge")
    site.edges[0].put(b"k", b"hgone", b"1")
    site.sync()
    meant = {Strategy.CLOUD_WINS: b"hub"}.get(strategy, b"edge")
    assert site.everywhere(b"k") == meant
    before = site.hub_rows()
    for other in Strategy:
        site.hub.choose([(b"", other)])
    site.hub.choose([(b"", strategy)])
    assert site.everywhere(b"k") == meant
    assert site.hub_rows() == before


@pytest.mark.parametrize("made", [[b"s"], [b"hf"], [b"s", b"hf"], [b"em", b"zm"]])
def test_who_looked_at_a_key_under_which_strategy_leaves_no_trace(made: list[bytes]) -> None:
    """Keys are counted, and rows are, as if somebody had looked after each change; or nobody."""
    for strategies in product(Strategy, repeat=3):
        sites = [Site(3), Site(3)]
        for site, looks in zip(sites, (True, False), strict=True):
            one, two, three = site.edges
            site.hub.put_many(b"k", [(name, b"1") for name in made])
            site.sync()
            two.put_many(b"k", [(name, b"2") for name in made])
            site.later()
            one.delete(b"k")
            three.put(b"k", made[0], b"3")  # none of them has heard of another
            site.sync(0, 1)
            for strategy in strategies:
                for space in (site.hub, *site.edges):
                    space.choose([(b"", strategy)])
                    if looks:
                        space.type_of(b"k")
            site.sync()
            for space in (site.hub, *site.edges):
                present = [space.type_of(name) != 0 for name in space.names()]
                assert space.keys == sum(present), (strategies, looks)
        assert sites[0].hub_rows() == sites[1].hub_rows(), strategies
        assert sites[0].hub.keys == sites[1].hub.keys


def test_a_later_write_beats_any_strategy() -> None:
    for strategy in Strategy:
        site = Site(strategy=strategy)
        site.hub.put(b"k", b"s", b"hub")
        site.sync()
        site.edges[0].put(b"k", b"s", b"edge")
        site.sync()
        site.hub.put(b"k", b"s", b"hub again")
        site.sync()
        assert site.everywhere(b"k") == b"hub again"
        site.edges[0].put(b"k", b"s", b"edge again")
        site.sync()
        assert site.everywhere(b"k") == b"edge again"


def test_a_key_made_as_two_types_is_the_one_written_last() -> None:
    site = Site()
    site.edges[0].put(b"k", b"s", b"text")
    site.later()
    site.edges[1].put(b"k", b"em", b"")
    site.sync()
    assert [space.type_of(b"k") for space in (site.hub, *site.edges)] == [SET] * 3
    site.hub.delete(b"k")
    site.sync()
    assert [space.type_of(b"k") for space in (site.hub, *site.edges)] == [0] * 3


def test_a_clock_a_day_ahead_does_not_win_for_a_day() -> None:
    site = Site(strategy=Strategy.LAST_WRITE_WINS)
    fast, right = site.edges
    fast.now_ms += 86_400_000
    fast.put(b"k", b"s", b"from tomorrow")
    site.sync(0)
    assert site.hub.clamped == 1
    site.later(6000)
    right.put(b"k", b"s", b"from now")
    site.sync(1)
    site.sync()
    assert site.everywhere(b"k") == b"from now"


def test_what_an_edge_removes_before_any_hub_is_forgotten_at_once() -> None:
    site = Site()
    alone, other = site.edges
    view = alone.view
    assert isinstance(view, MemoryView)
    for kind in (b"h", b"e", b"z", b"l"):
        alone.put(kind, kind + b"keep", b"1")
    before = set(view.rows())
    for kind in (b"h", b"e", b"z", b"l"):
        for number in range(50):
            alone.put(kind, kind + b"%d" % number, b"1")
            alone.add(kind, kind + b"n%d" % number, b"1")
            alone.remove(kind, kind + b"%d" % number)
            alone.remove(kind, kind + b"n%d" % number)
    alone.put(b"gone", b"em", b"")
    alone.expire(b"gone", NEVER - 1)
    alone.remove(b"gone", b"em")
    assert set(view.rows()) == before
    assert alone.pending == 4
    # What others have under the same names is theirs, and stays.
    other.put(b"h", b"h7", b"theirs")
    other.put(b"gone", b"em", b"")
    site.sync()
    for keys in (site.hub, alone, other):
        assert dict(keys.cells(b"h", HASH)) == {b"keep": b"1", b"7": b"theirs"}
        assert keys.type_of(b"gone") == SET
    # From now on somebody has seen it: the removal is an operation.
    alone.remove(b"h", b"hkeep")
    site.sync()
    assert dict(other.cells(b"h", HASH)) == {b"7": b"theirs"}


def test_a_removal_is_not_undone_by_an_edge_that_was_away_for_a_year() -> None:
    site = Site()
    site.edges[0].put(b"k", b"s", b"v")
    site.edges[0].put(b"set", b"em", b"")
    site.sync()
    site.hub.delete(b"k")
    site.hub.remove(b"set", b"em")
    site.sync(0)
    # Edge 2 is given up: what only it would need is dropped; it comes back with writes of its own.
    assert site.hub.collect(0, site.bases[0]) == site.bases[0]
    assert site.hub.type_of(b"k") == 0
    away = site.edges[1]
    away.put(b"set", b"en", b"")
    away.rejoin(3)
    for op in away.take():
        site.hub.hear(3, op, is_known=False)
    entries, _, is_all = site.hub.page(0, 0)
    assert is_all
    away.deliver(entries, away.n)
    away.forget_unlisted(away.n)
    assert away.type_of(b"k") == 0
    assert [name for name, _ in away.cells(b"set", SET)] == [b"n"]
    assert [name for name, _ in site.hub.cells(b"set", SET)] == [b"n"]


def test_an_operation_under_an_older_name_is_done_when_the_hub_has_it() -> None:
    """It stayed pending without its record in a cell that the hub did not list, and the key could
    be delivered no more.
    """
    edge = EdgeKeys(MemoryView())
    edge.now_ms = 1000
    edge.rejoin(1)
    edge.put(b"k", b"s", b"ours")
    edge.take()
    edge.rejoin(2)
    edge.put(b"k", b"ha", b"1")
    edge.take()
    edge.deliver([Entry(b"k", 40, True, [], [])], 0)
    theirs = Dot(9, 1, 1 << 60, VALUE, b"theirs", seq=50)
    for position in (50, 51):
        edge.deliver([Entry(b"k", position, False, [], [(b"hb", [theirs])])], 2)
        assert not any(dot.pending for dot in edge.siblings(b"k", b"s"))
    assert (edge.get(b"k", b"s"), edge.oldest_pending()) == (b"ours", 0)


def test_sorted_sets_are_in_order_of_score_in_both_directions() -> None:
    edge = EdgeKeys(MemoryView())
    scores = [1.5, -2.0, 0.0, float("inf"), float("-inf"), 1e-300, -1e300, 7]
    for number, score in enumerate(scores):
        edge.put(b"z", b"zm%d" % number, repr(score).encode())
    assert [score for score, _ in edge.by_score(b"z")] == sorted(scores)
    assert [score for score, _ in edge.by_score(b"z", reverse=True)] == sorted(scores)[::-1]
    assert edge.count(b"z", ZSET) == len(scores)


def test_a_string_costs_at_most_24_bytes_more_than_its_value() -> None:
    """However many edges there are: four bytes name any of them."""
    view = MemoryView()
    edge = EdgeKeys(view)
    edge.rejoin(10_000)
    edge.now_ms = 1_700_000_000_000
    for number in range(20_000):
        edge.put(b"key%d" % number, b"s", b"x" * 40)
    largest = max(len(raw) for row, raw in view.rows().items() if row.startswith(b"k"))
    assert largest - 40 <= 24
    hub = HubKeys(MemoryView())
    hub.now_ms = edge.now_ms
    for op in edge.take(limit=20_000):
        hub.hear(10_000, op)
    entries, _, _ = hub.page(0, 0, limit=20_000, limit_bytes=1 << 30)
    edge.deliver(entries, edge.n)
    rows = view.rows()
    assert max(len(raw) for row, raw in rows.items() if row.startswith(b"k")) - 40 <= 24
    assert not [row for row in rows if row.startswith(b"d")]


def test_values_that_compress_are_kept_compressed() -> None:
    edge = EdgeKeys(MemoryView())
    for text in (b"x" * 63, b"x" * 64, bytes(range(256)) * 4):
        edge.put(b"k", b"s", text)
        (dot,) = edge.siblings(b"k", b"s")
        assert edge.get(b"k", b"s") == dot.payload == text
        assert dot.packed == (len(text) >= 64)
        assert cells.decode(cells.encode([dot])) == [dot]


@pytest.mark.feature("L4")
@pytest.mark.parametrize("seed", [1008965, 2026210, 2031854, 6029124])
def test_schedules_that_once_went_wrong(seed: int) -> None:
    run(World(seed))
