"""The laws of a single cell."""

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesync._native import cells
from edgesync._native.cells import Dot, Op
from edgesync.errors import RecordError
from edgesync.model import Strategy

pytestmark = pytest.mark.feature("L3", "L4")

VALUE, AMOUNT, TOMB = 0, 1, 2
REPLICAS = st.integers(0, 4)


@st.composite
def dots(draw: st.DrawFn) -> list[Dot]:
    """A cell as the hub has it: dots named once each, in order."""
    names = draw(st.sets(st.tuples(REPLICAS, st.integers(1, 9)), max_size=6))
    made = []
    for seq, (r, n) in enumerate(sorted(names), 1):
        kind = draw(st.sampled_from((VALUE, AMOUNT, TOMB)))
        payload = b"" if kind == TOMB else b"%d" % draw(st.integers(-(10**6), 10**6))
        hlc = draw(st.integers(1, 5))
        made.append(Dot(r, n, hlc, kind, payload, seq=seq))
    return made


@st.composite
def concurrent(draw: st.DrawFn) -> list[Dot]:
    """Operations of different replicas that had seen nothing of each other."""
    made = []
    for r in draw(st.sets(st.integers(0, 9), max_size=5)):
        kind = draw(st.sampled_from((VALUE, AMOUNT, TOMB)))
        payload = b"" if kind == TOMB else b"%d" % draw(st.integers(-99, 99))
        made.append(Dot(r, 1, draw(st.integers(1, 4)), kind, payload, seq=r + 1))
    return made


@given(dots())
def test_a_cell_is_the_same_after_its_bytes(cell: list[Dot]) -> None:
    raw = cells.encode(cell)
    assert cells.decode(raw) == cell
    assert cells.encode(cells.decode(raw)) == raw


@given(st.binary(max_size=80))
def test_any_bytes_are_a_cell_or_an_error(raw: bytes) -> None:
    try:
        cell = cells.decode(raw)
    except RecordError:
        return
    assert cells.decode(cells.encode(cell)) == cell


@given(dots(), st.integers(0, 200), st.integers(0, 255))
def test_a_changed_byte_is_never_more_than_an_error(cell: list[Dot], at: int, new: int) -> None:
    raw = bytearray(cells.encode(cell))
    raw[at % len(raw)] = new
    try:
        cells.decode(bytes(raw))
    except RecordError:
        return


@given(concurrent())
def test_any_order_of_concurrent_operations_gives_equal_bytes(ops: list[Dot]) -> None:
    results = set()
    for order in list(permutations(ops))[:24]:
        cell: list[Dot] = []
        for op in order:
            cell = cells.apply(cell, op, 0)
        results.add(cells.encode(cell))
    assert len(results) == 1


@given(dots(), REPLICAS, st.integers(1, 12), st.sampled_from((VALUE, AMOUNT, TOMB)), st.data())
def test_an_operation_that_comes_again_changes_nothing(
    cell: list[Dot], r: int, n: int, kind: int, data: st.DataObject
) -> None:
    q = data.draw(st.integers(0, 8))
    op = Dot(r, n, 9, kind, b"1" if kind == AMOUNT else b"", seq=99)
    once = cells.apply(cell, op, q)
    assert cells.apply(once, op, q) == once


@given(dots(), st.integers(0, 8))
def test_a_replacement_leaves_what_it_had_not_seen(cell: list[Dot], q: int) -> None:
    op = Dot(7, 1, 9, VALUE, b"new", seq=99)
    left = cells.apply(cell, op, q)
    assert left == [dot for dot in cell if dot.seq > q] + [op]


@pytest.mark.slow
@given(dots(), st.integers(0, 8))
def test_an_amount_takes_away_nothing_but_removals(cell: list[Dot], q: int) -> None:
    op = Dot(7, 1, 9, AMOUNT, b"3", seq=99)
    left = cells.apply(cell, op, q)
    assert left == [dot for dot in cell if dot.kind != TOMB or dot.seq > q] + [op]


@given(dots(), st.sampled_from(list(Strategy)))
def test_ranking_is_a_function_of_the_set(cell: list[Dot], strategy: Strategy) -> None:
    best = cells.winner(cell, strategy)
    assert best == cells.winner(cell[::-1], strategy)
    if best is None:
        assert cells.read(cell, strategy) is None
    else:
        assert best.kind != TOMB
        assert cells.read(cell, strategy) is not None


@given(concurrent())
def test_with_merging_no_increment_is_lost(ops: list[Dot]) -> None:
    cell: list[Dot] = []
    for op in ops:
        cell = cells.apply(cell, op, 0)
    amounts = [int(op.payload) for op in ops if op.kind == AMOUNT]
    bases = [op for op in ops if op.kind == VALUE]
    best = max(bases, key=lambda op: (op.hlc, op.r), default=None)
    if amounts or bases:
        meant = sum(amounts) + (int(best.payload) if best else 0)
        assert cells.read(cell, Strategy.CRDT_MERGE) == b"%d" % meant
    else:
        assert cells.read(cell, Strategy.CRDT_MERGE) is None


def test_strategies_say_whose_write_counts() -> None:
    hub, edge = Dot(0, 1, 1, VALUE, b"hub"), Dot(1, 1, 2, VALUE, b"edge")
    late_tomb = Dot(2, 1, 3, TOMB)
    assert cells.read([hub, edge], Strategy.LAST_WRITE_WINS) == b"edge"
    assert cells.read([hub, edge], Strategy.CLOUD_WINS) == b"hub"
    assert cells.read([hub, edge], Strategy.EDGE_WINS) == b"edge"
    assert cells.read([hub, edge, late_tomb], Strategy.CRDT_MERGE) == b"edge"
    assert cells.read([hub, edge, late_tomb], Strategy.LAST_WRITE_WINS) is None
    assert cells.read([hub, edge, late_tomb], Strategy.CLOUD_WINS) == b"hub"


@pytest.mark.parametrize(
    ("base", "amounts", "sum_"),
    [
        (b"0.1", [b"0.2"], b"0.3"),
        (b"10.50", [b"0.1"], b"10.6"),
        (b"5.0e3", [b"200"], b"5200"),
        (b"3", [b"1.5", b"-4.5"], b"0"),
        (b"9007199254740993", [b"1"], b"9007199254740994"),
        (b"text", [b"5"], b"text"),
        (b"inf", [b"5"], b"inf"),
        (b"-5", [b"2"], b"-3"),
    ],
)
def test_sums_are_exact(base: bytes, amounts: list[bytes], sum_: bytes) -> None:
    assert cells.add_up(base, amounts) == sum_
    assert cells.add_up(base, amounts[::-1]) == sum_


@pytest.mark.parametrize("score", [b"value", b"", b"nan", b"1e5x"])
def test_a_score_that_is_no_number_is_refused_wherever_it_comes_from(score: bytes) -> None:
    """A hub that took one could place its member nowhere, and stopped hearing its edges."""
    good, bad = Op(1, 1, 0, VALUE, b"k", b"zm", b"-inf"), Op(2, 1, 0, VALUE, b"k", b"zm", score)
    assert len(cells.decode_ops(cells.encode_ops(1, [good]))[1]) == 1
    with pytest.raises(RecordError, match="a score that is no number"):
        cells.decode_ops(cells.encode_ops(1, [good, bad]))
    pages = [
        [cells.Entry(b"k", 1, True, [], [(b"zm", [Dot(1, 1, 1, VALUE, one, seq=1)])])]
        for one in (b"2.5", score)
    ]
    cells.decode_entries(cells.encode_entries(pages[0]))
    with pytest.raises(RecordError, match="a score that is no number"):
        cells.decode_entries(cells.encode_entries(pages[1]))


def test_damaged_cells_are_refused() -> None:
    good = cells.encode([Dot(1, 1, 1, VALUE, b"x"), Dot(2, 1, 1, AMOUNT, b"5")])
    for size in range(len(good)):
        with pytest.raises(RecordError):
            cells.decode(good[:size])
    with pytest.raises(RecordError, match="follow"):
        cells.decode(good + b"\0")
    with pytest.raises(RecordError, match="no number"):
        cells.decode(good.replace(b"5", b"z"))
    with pytest.raises(ValueError, match="kind"):
        Dot(1, 1, 1, 3)
