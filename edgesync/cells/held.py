"""What an edge tells a hub that has lost what it had: the state of its keys, piece by piece.

A piece goes through the keys in order, from behind one up to another; what it does not list in
between, the edge does not have. The first says what the edge has *seen*, by which the hub tells
what is new to it from what was removed (native/hubkeys.pyx).
"""

import msgspec

from edgesync._native.cells import Entry, decode_entries, encode_entries
from edgesync.errors import RecordError

Scope = tuple[tuple[bytes, bool], ...]


class Opening(msgspec.Struct, frozen=True, array_like=True):
    """What the first piece says for all of them.

    r        as which the edge writes
    sent     its operations up to this number have been told before this state, or are in it
    covers   what is not in the state, though it was seen, is gone; else the state only adds
    scope    which keys the edge asks for: of others it knows only its own cells
    """

    r: int
    sent: int
    covers: bool
    scope: Scope
    seen: dict[int, int]


class Piece(msgspec.Struct, frozen=True, array_like=True):
    """Keys behind `after`, None for the first, up to `until`, None for the last.

    token   the same for all pieces of a state, and never again
    """

    token: int
    opening: Opening | None
    after: bytes | None
    until: bytes | None
    packed: bytes

    @property
    def entries(self) -> list[Entry]:
        """Return the keys; raises RecordError."""
        return decode_entries(self.packed, may_be_evicted=True)


def encode_piece(
    token: int,
    opening: Opening | None,
    after: bytes | None,
    until: bytes | None,
    entries: list[Entry],
) -> bytes:
    return msgspec.msgpack.encode(Piece(token, opening, after, until, encode_entries(entries)))


def decode_piece(data: bytes) -> Piece:
    """Undo `encode_piece`; raises RecordError."""
    try:
        return msgspec.msgpack.decode(data, type=Piece)
    except (msgspec.DecodeError, ValueError) as error:
        raise RecordError(f"what an edge holds cannot be read: {error}") from error
