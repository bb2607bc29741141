"""Elements put between others: in the place that was meant, however often, at every site."""

from random import Random

import pytest

from edgesync._native.edgekeys import EdgeKeys
from edgesync.cells.commands import Call, carry_out
from tests.cells.memory import MemoryView

pytestmark = pytest.mark.feature("L4")


class Site:
    def __init__(self) -> None:
        self.space = EdgeKeys(MemoryView())
        self.space.now_ms = 1_700_000_000_000
        self.call = Call(self.space, Random(1))

    def do(self, *request: bytes) -> object:
        return carry_out(self.call, list(request))


@pytest.mark.parametrize("seed", range(3))
def test_inserted_elements_stand_where_a_list_has_them(seed: int) -> None:
    random, site, model = Random(seed), Site(), [b"first"]
    site.do(b"rpush", b"l", b"first")
    for number in range(300):
        side, pivot, new = (
            random.choice((b"before", b"after")),
            random.choice(model),
            b"%d" % number,
        )
        assert site.do(b"linsert", b"l", side, pivot, new) == len(model) + 1
        model.insert(model.index(pivot) + (side == b"after"), new)
        if number % 7 == 0:
            site.do(b"lrem", b"l", b"1", gone := random.choice(model))
            model.remove(gone)
    assert site.do(b"lrange", b"l", b"0", b"-1") == model


@pytest.mark.parametrize("side", [b"before", b"after"])
def test_beside_the_newest_there_is_always_room(side: bytes) -> None:
    """Each goes between the last two: the longest names there can be, and then anew."""
    site, model = Site(), [b"a", b"z"]
    site.do(b"rpush", b"l", b"a", b"z")
    low, high = b"a", b"z"
    for number in range(200):
        new = b"%d" % number
        site.do(b"linsert", b"l", b"after", low, new)
        model.insert(model.index(low) + 1, new)
        low, high = (new, high) if (number % 2 == 0) == (side == b"after") else (low, new)
    assert site.do(b"lrange", b"l", b"0", b"-1") == model
