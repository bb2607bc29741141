"""When edges are written out, and up to where the log is safe meanwhile."""

from edgesync._native.memtable import Memtable
from edgesync.model import ValueType
from hubd.project.schedule import AGE_NS, FULL_POINTS_MIN, POINT_BYTES, Schedule, due_at_ns
from hubd.state.fresh import EdgeFresh
from tests.native.tables import table as made

START_NS = 1_767_225_600 * 10**9


def fresh(points: int, position: int, since_ns: int = START_NS) -> EdgeFresh:
    """One series with so many points, all of an entry."""
    table = Memtable()
    table.add(1, 1, 0, -(1 << 63))
    table.append(made([(1, ValueType.I64, ((n, n) for n in range(points)))]))
    return EdgeFresh(table, points, 0, since_ns, position, since_ns, position)


def noted(*edges: tuple[str, EdgeFresh], memory_bytes: int = 1 << 30) -> Schedule:
    schedule = Schedule(memory_bytes)
    for edge, one in edges:
        schedule.note(edge, one)
    return schedule


def test_an_edge_is_due_when_its_own_hour_is_over() -> None:
    names = [f"edge{n}" for n in range(200)]
    schedule = noted(*((name, fresh(1, n + 1)) for n, name in enumerate(names)))
    due = {name: due_at_ns(name, START_NS) for name in names}
    assert all(START_NS < at <= START_NS + AGE_NS for at in due.values())
    # Spread over the hour: no tenth of it has more than a fifth of the edges.
    tenths = [(at - START_NS) * 10 // (AGE_NS + 1) for at in due.values()]
    assert max(tenths.count(tenth) for tenth in range(10)) < 40
    assert schedule.next_at_ns() == min(due.values())
    half_ns = START_NS + AGE_NS // 2
    assert set(schedule.due(half_ns)) == {name for name, at in due.items() if at <= half_ns}
    assert schedule.due(START_NS) == []
    assert set(schedule.due(START_NS + AGE_NS)) == set(names)


def test_what_is_not_stored_stays_due() -> None:
    schedule = noted(("barn", fresh(1, 1)))
    late_ns = START_NS + AGE_NS
    assert schedule.due(late_ns) == schedule.due(late_ns) == ["barn"]
    schedule.note("barn", EdgeFresh(Memtable()))
    assert schedule.due(late_ns) == []
    assert schedule.next_at_ns() is None


def test_an_edge_with_many_points_is_due_at_once() -> None:
    schedule = noted(("full", fresh(FULL_POINTS_MIN, 1)), ("other", fresh(10, 2)))
    assert schedule.due(START_NS) == ["full"]


def test_short_of_memory_the_largest_go_first_and_idle_ones_are_forgotten() -> None:
    edges = [(f"edge{n}", fresh(100 * n, n)) for n in range(1, 21)]
    total = sum(one.table.nbytes for _, one in edges)
    schedule = noted(*edges, memory_bytes=total - 1)
    due = schedule.due(START_NS)
    assert due[:2] == ["edge20", "edge19"]
    freed = sum(one.table.points for edge, one in edges if edge in due) * POINT_BYTES
    assert total - freed <= total * 3 // 4 < total - freed + 2000 * POINT_BYTES
    assert schedule.idle() == []
    for edge in due:
        schedule.note(edge, EdgeFresh(Memtable()))
    assert not schedule.is_short
    schedule.memory_bytes = 1
    assert set(schedule.idle()) == set(due)
    for edge in due:
        schedule.forget(edge)
    assert schedule.nbytes == sum(one.table.nbytes for edge, one in edges if edge not in due)


def test_the_log_is_safe_up_to_the_oldest_entry_in_memory_alone() -> None:
    schedule = noted(("a", fresh(1, 10)), ("b", fresh(1, 20)))
    schedule.note("a", fresh(2, 10))
    assert schedule.safe(30) == 9
    assert schedule.safe(30, {"a"}) == 19
    assert schedule.safe(30, {"a", "b"}) == 30
    schedule.note("a", EdgeFresh(Memtable()))
    schedule.note("a", fresh(1, 25))  # behind b now
    assert schedule.safe(30) == 19
