"""Pages of runs give back every bit of every point, and say when they are damaged."""

import array
import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesync._native import block
from edgesync.errors import RecordError
from edgesync.model import ValueType
from hubd.state import StateDamaged, pages
from hubd.state.pages import Builder, Page, Run
from hubd.state.pieces import Piece
from tests.hubd.state.test_pieces import bits, some_pieces

REFS = st.integers(1, 1 << 62)
PLACES = st.integers(0, (1 << 40))


def page_of(runs: list[Run]) -> Page:
    builder = Builder()
    for run in runs:
        assert builder.takes(run.ref)
        builder.add(run)
    return builder.page()


@pytest.mark.slow
@given(st.lists(st.tuples(st.integers(0, 50), PLACES, some_pieces()), min_size=1), REFS)
def test_each_series_finds_its_runs(given_runs: list[tuple[int, int, object]], base: int) -> None:
    given_runs.sort(key=lambda one: one[0])
    runs = [Run(base + ref, n, piece) for ref, n, piece in given_runs]  # type: ignore[arg-type]
    page = page_of(runs)
    times = [time for run in runs for time in run.piece.times]
    assert (page.t_min, page.t_max, page.points) == (min(times), max(times), len(times))
    assert (page.ref_first, page.ref_last) == (runs[0].ref, runs[-1].ref)
    for ref in (base - 1, *range(base, base + 52)):
        found = pages.find(page.data, ref)
        wanted = [run for run in runs if run.ref == ref]
        assert [(run.n, list(run.piece.times), bits(run.piece)) for run in found] == [
            (run.n, list(run.piece.times), bits(run.piece)) for run in wanted
        ]


@given(some_pieces(), st.integers(-(1 << 63), (1 << 63) - 1))
def test_a_run_keeps_every_bit(piece: Piece, base: int) -> None:
    run = block.encode_run(piece.vtype, piece.times, piece.values, base)
    vtype, times, values = block.decode_run(run, base)
    assert (vtype, times) == (piece.vtype, piece.times)
    assert bits(Piece(vtype, times, values)) == bits(piece)


@given(some_pieces(), st.data())
def test_a_run_of_any_bytes_ends_in_points_or_an_error(piece: Piece, data: st.DataObject) -> None:
    run = bytearray(block.encode_run(piece.vtype, piece.times, piece.values, 0))
    for _ in range(data.draw(st.integers(1, 4))):
        run[data.draw(st.integers(0, len(run) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(run[: data.draw(st.integers(0, len(run)))])
    for some in (bytes(run), cut):
        try:
            _, times, values = block.decode_run(some, 0)
        except RecordError:
            continue
        assert len(times) == len(values)


def test_a_damaged_page_says_so() -> None:
    chance = random.Random(1)
    piece = Piece(ValueType.F64, struct_times(60), struct_values(60))
    data = page_of([Run(ref, 0, piece) for ref in range(1, 20)]).data
    for _ in range(200):
        at = chance.randrange(len(data))
        bad = data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]
        with pytest.raises(StateDamaged):
            pages.find(bad, 7)
    for bad in (b"", data[:20], data[:-1], data + b"\0"):
        with pytest.raises(StateDamaged):
            pages.find(bad, 7)


def struct_times(count: int) -> "array.array[int]":
    return array.array("q", range(count))


def struct_values(count: int) -> "array.array[float]":
    return array.array("d", [n / 7 for n in range(count)])


def test_a_minutes_series_takes_few_bytes_in_a_page() -> None:
    """An hour of a point a minute, jitter of 50 ms, one decimal: what a page is for."""
    chance = random.Random(2)
    runs = []
    for ref in range(1, 101):
        times = [n * 60 * 10**9 + chance.randrange(50) * 10**6 for n in range(60)]
        level, values = 100.0, []
        for _ in times:
            level += chance.gauss(0, 0.5)
            values.append(round(level, 1))
        piece = Piece(ValueType.F64, array.array("q", times), array.array("d", values))
        runs.append(Run(ref, 0, piece))
    data = page_of(runs).data
    assert len(data) / 6000 < 3.0
    assert struct.unpack_from("<4s", data) == (b"ESP1",)
