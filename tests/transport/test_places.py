"""Who gives way when all places at a door are taken."""

from contextlib import ExitStack

import pytest
import trio
import trio.testing

from edgesync_transport.places import BUSY_S, IDLE_S, Place, Places

pytestmark = pytest.mark.feature("S29")


class Holders:
    """Places held by name, `-` after it for one that is idle, a second apart."""

    def __init__(self, stack: ExitStack) -> None:
        self.places = Places()
        self.all: list[Place] = []
        self._stack = stack

    async def take(self, *names: str) -> None:
        for name in names:
            place = self._stack.enter_context(self.places.hold(name.rstrip("-")))
            if name.endswith("-"):
                self._stack.enter_context(place.idle())
            self.all.append(place)
            await trio.sleep(1.0)

    def gone(self) -> list[int]:
        """Return which gave way, by when they were taken."""
        return [at for at, one in enumerate(self.all) if one.scope.cancel_called]


@pytest.mark.parametrize(
    ("names", "gone"),
    [
        (["a-", "b-", "c-"], [0]),  # the one that has been idle for longest
        (["a-", "b-", "b-"], [1]),  # … of whoever has most
        (["a", "a", "a", "b-"], [3]),  # nothing is lost if it ends
        (["a", "b", "c"], []),  # each has one, and uses it
        (["a", "b", "b", "c"], [1]),
        (["b-", "a", "a"], [0]),
    ],
)
async def test_who_gives_way(
    autojump_clock: trio.testing.MockClock, names: list[str], gone: list[int]
) -> None:
    with ExitStack() as stack:
        holders = Holders(stack)
        await holders.take(*names)
        await trio.sleep(BUSY_S)
        assert holders.places.make_room() is bool(gone)
        assert holders.gone() == gone


async def test_each_has_some_time_and_ends_once(autojump_clock: trio.testing.MockClock) -> None:
    with ExitStack() as stack:
        holders = Holders(stack)
        first = stack.enter_context(holders.places.hold("a"))
        stack.enter_context(first.idle())
        holders.all.append(first)
        await trio.sleep(IDLE_S / 2)
        assert not holders.places.make_room()
        await trio.sleep(IDLE_S)
        assert holders.places.make_room()
        assert not holders.places.make_room()


async def test_a_place_is_handed_over(autojump_clock: trio.testing.MockClock) -> None:
    with ExitStack() as stack:
        holders = Holders(stack)
        await holders.take("address", "address", "b")
        holders.all[1].hand_over("b")
        await trio.sleep(BUSY_S)
        assert holders.places.make_room()
        assert holders.gone() == [1]
