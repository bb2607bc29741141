"""Pieces keep every bit of every point, raw and sealed."""

import array
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesync.errors import RecordError
from edgesync.model import Value, ValueType
from hubd.state import pieces
from hubd.state.pieces import Piece

I64 = st.integers(-(1 << 63), (1 << 63) - 1)
VALUES: dict[ValueType, st.SearchStrategy[Value]] = {
    ValueType.F64: st.floats(allow_nan=True),
    ValueType.I64: I64,
    ValueType.BOOL: st.sampled_from([0, 1]),
    ValueType.TEXT: st.text("ab\0é€\U0001f33e", max_size=20),
}


@st.composite
def some_pieces(draw: st.DrawFn) -> Piece:
    kind = draw(st.sampled_from(ValueType))
    points = draw(st.lists(st.tuples(I64, VALUES[kind]), min_size=1, max_size=100))
    piece = pieces.new_piece(kind)
    piece.times.extend(time for time, _ in points)
    piece.values.extend(value for _, value in points)  # type: ignore[misc]  # of one kind
    return piece


def bits(piece: Piece) -> list[object]:
    """Comparable contents: a NaN equals only itself, -0.0 is not 0.0."""
    if piece.vtype == ValueType.F64:
        return [struct.pack("<d", value) for value in piece.values]
    return list(piece.values)


@given(some_pieces())
def test_raw_and_sealed_give_back_what_they_got(piece: Piece) -> None:
    raw = pieces.from_raw(piece.vtype, len(piece.times), pieces.to_raw(piece))
    sealed = pieces.from_block(pieces.to_block(77, piece))
    for found in (raw, sealed):
        assert found.vtype == piece.vtype
        assert found.times == piece.times
        assert bits(found) == bits(piece)


@given(some_pieces(), st.integers(1, 50))
def test_cut_pieces_join_to_the_whole(piece: Piece, size: int) -> None:
    whole = pieces.new_piece(piece.vtype)
    parts = pieces.cut(piece, size)
    for part in parts:
        assert 1 <= len(part.times) <= size
        whole.join(part)
    assert whole.times == piece.times
    assert bits(whole) == bits(piece)
    assert len(parts) == -(-len(piece.times) // size)


@given(st.sampled_from(ValueType).flatmap(lambda k: st.tuples(st.just(k), VALUES[k])))
def test_a_value_survives_its_columns(given_value: tuple[ValueType, Value]) -> None:
    kind, value = given_value
    found = pieces.from_bits(kind, *pieces.to_bits(kind, value))
    if isinstance(value, float) and isinstance(found, float):
        assert struct.pack("<d", found) == struct.pack("<d", value)
    else:
        assert found == value


@pytest.mark.parametrize("data", [b"", b"1234567", bytes(24), bytes(40)])
def test_a_raw_piece_of_the_wrong_length_is_refused(data: bytes) -> None:
    with pytest.raises((RecordError, ValueError)):
        pieces.from_raw(ValueType.F64, 2, data)


def test_joining_leaves_the_other_piece_alone() -> None:
    one = Piece(ValueType.I64, array.array("q", [1]), array.array("q", [10]))
    other = Piece(ValueType.I64, array.array("q", [2]), array.array("q", [20]))
    one.join(other)
    one.join(other)
    assert list(one.times) == [1, 2, 2]
    assert list(other.times) == [2]
