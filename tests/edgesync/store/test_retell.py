"""A hub that lost what it had is told all of it in steps of a bounded size, and nothing twice."""

from random import Random

import pytest

from edgesync._native.cells import decode_ops
from edgesync._native.edgekeys import EdgeKeys
from edgesync.cells.commands import Call, carry_out
from edgesync.cells.held import Piece, decode_piece
from edgesync.cells.parts import HELD, KEYSPACE_BYTES, ops_of
from edgesync.store.retell import STEP_KEYS, STEP_OPS, Teller
from tests.cells.memory import MemoryView

pytestmark = pytest.mark.feature("L4", "S32")

KEYS = 2 * STEP_KEYS + 1


def test_operations_come_first_and_then_all_keys_in_bounded_pieces() -> None:
    space = EdgeKeys(MemoryView())
    space.now_ms = 1_767_225_600_000
    call = Call(space, Random(1))
    for turn in range(3):
        for number in range(KEYS):
            carry_out(call, [b"SET", b"key:%04d" % number, b"%d" % turn])
    while space.take():
        pass
    sent = space.sent
    carry_out(call, [b"SET", b"later", b"1"])  # told as ever, when this is over
    teller = Teller(space, (), keyspace=bytes(KEYSPACE_BYTES), token=7, covers=True)
    numbers: list[int] = []
    pieces: list[Piece] = []
    while (step := teller.step()) is not None:
        data, upto = step
        if not data.startswith(HELD):
            assert not pieces
            ops = decode_ops(ops_of(data)[1])[1]
            assert len(ops) <= STEP_OPS
            numbers += [one.n for one in ops]
            assert upto == numbers[-1]
        else:
            pieces.append(decode_piece(data.removeprefix(HELD)))
            assert upto == sent
    assert teller.is_over
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == sent
    assert {piece.token for piece in pieces} == {7}
    assert [piece.opening is not None for piece in pieces] == [True] + [False] * (len(pieces) - 1)
    assert pieces[0].opening is not None
    assert (pieces[0].opening.sent, pieces[0].opening.covers) == (sent, True)
    assert [piece.after for piece in pieces] == [None, *(piece.until for piece in pieces[:-1])]
    last = [b"key:%04d" % (STEP_KEYS - 1), b"key:%04d" % (2 * STEP_KEYS - 1), None]
    assert [piece.until for piece in pieces] == last
    assert all(piece.entries == [] for piece in pieces), "what is under way was told before"
