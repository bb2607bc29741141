"""Telling a hub all that is here, because it has lost what it had: see docs/keys.md.

First the operations that were told and have not come back, then the state of all keys with what
other sites wrote, in steps of a bounded size. Nothing of it is removed here meanwhile: the hub says
when it has carried out the last piece, and before that nothing is taken from it (I15).
"""

from collections.abc import Iterator
from typing import Final

from edgesync._native import cells as codec
from edgesync._native.edgekeys import EdgeKeys
from edgesync.cells.held import Opening, Scope, encode_piece
from edgesync.cells.parts import HELD, KEYSPACE_BYTES, Tag

STEP_OPS: Final = 2000
STEP_KEYS: Final = 500
STEP_BYTES: Final = 256 * 1024


class Teller:
    """See the module.

    token     names this telling; the hub says it when it is over
    is_over   all has been given
    """

    def __init__(
        self, space: EdgeKeys, scope: Scope, *, keyspace: bytes, token: int, covers: bool
    ) -> None:
        self.token = token
        self.is_over = False
        self._space = space
        self._scope = scope
        self._keyspace = keyspace
        self._covers = covers
        self._sent = space.sent
        self._steps = self._all()

    def step(self) -> tuple[bytes, int] | None:
        """Return the next bytes to be told, and up to which operation all has been with them."""
        return next(self._steps, None)

    def _all(self) -> Iterator[tuple[bytes, int]]:
        after = 0
        while ops := self._space.take(STEP_OPS, STEP_BYTES, again=after):
            after = ops[-1].n
            if after > self._sent:
                break
            data = codec.encode_ops(self._space.taken_as, ops)
            yield tagged(self._space, self._keyspace, data), after
        behind: bytes | None = None
        opening: Opening | None = Opening(
            self._space.r, self._sent, self._covers, self._scope, self._space.seen()
        )
        while not self.is_over:
            entries, until = self._space.held(behind, STEP_KEYS, STEP_BYTES, self._scope)
            self.is_over = until is None
            yield HELD + encode_piece(self.token, opening, behind, until, entries), self._sent
            behind, opening = until, None


def tagged(space: EdgeKeys, keyspace: bytes, ops: bytes) -> bytes:
    """Return operations just taken from `space`, with the keyspace their writer knew."""
    tag = Tag(keyspace[:KEYSPACE_BYTES], space.taken_in, space.r)
    return tag.encode() + ops
