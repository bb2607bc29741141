"""How the model looks at keys: what it costs."""

from typing import TYPE_CHECKING, cast

from edgesync.entities.view import SpaceView

if TYPE_CHECKING:
    from edgesync._native.keyspace import Keyspace

LIMIT = 2000


class Names:
    """A keyspace of one prefix that counts how many names it was asked for."""

    def __init__(self) -> None:
        self.there = self.looked_at = 0

    def names(self, _after: bytes | None, _prefix: bytes, limit: int) -> list[bytes]:
        found = [b"%d" % n for n in range(min(self.there, limit))]
        self.looked_at += len(found)
        return found


def test_to_add_many_one_by_one_is_not_to_count_them_all_each_time() -> None:
    """And the limit holds to the key: the nearer it is, the sooner they are counted anew."""
    space = Names()
    view = SpaceView(cast("Keyspace", space), lambda: 0)
    while view.count(b"@/alarm/", LIMIT) < LIMIT:
        space.there += 1
    assert space.there == LIMIT
    assert space.looked_at < LIMIT * LIMIT / 20


def test_what_was_removed_makes_room() -> None:
    space = Names()
    view = SpaceView(cast("Keyspace", space), lambda: 0)
    space.there = LIMIT
    assert view.count(b"@/alarm/", LIMIT) == LIMIT
    space.there = LIMIT // 2
    assert view.count(b"@/alarm/", LIMIT) == LIMIT // 2
