"""Places at a door, by who holds them: when all are taken, one gives way.

Nobody keeps all others out by holding every place (I8).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import trio

# A connection that does nothing for so long may end, one in the midst of something for so long.
IDLE_S: Final = 1.0
BUSY_S: Final = 5.0


class Place:
    """One connection's; made by `Places.hold`.

    is_idle   nothing is lost if the connection ends; `since`: it has been so, or not, since then
    """

    def __init__(self, places: "Places", holder: str) -> None:
        self._places = places
        self.holder = holder
        self.scope = trio.CancelScope()
        self.is_idle = False
        self.since = trio.current_time()

    @contextmanager
    def idle(self) -> Iterator[None]:
        """Be idle for as long as the block takes."""
        self.is_idle, self.since = True, trio.current_time()
        try:
            yield
        finally:
            self.is_idle, self.since = False, trio.current_time()

    def hand_over(self, holder: str) -> None:
        """Note whose place it is, once that is known better."""
        if holder != self.holder and self._places.drop(self):
            self.holder = holder
            self._places.put(self)


class Places:
    """See the module."""

    def __init__(self) -> None:
        self._held: dict[str, dict[Place, None]] = {}

    @contextmanager
    def hold(self, holder: str) -> Iterator[Place]:
        """Hold a place for as long as the block takes; it is cancelled when it is to give way."""
        place = Place(self, holder)
        self.put(place)
        try:
            with place.scope:
                yield place
        finally:
            self.drop(place)

    def make_room(self) -> bool:
        """End a connection that is idle, or one of whoever has several; False if there is none.

        Of those it is one of whoever has most, and there the one that has been so for longest.
        """
        now = trio.current_time()
        found = [(held, one) for held in self._held.values() for one in held]
        idle = [pair for pair in found if pair[1].is_idle and now - pair[1].since >= IDLE_S]
        busy = [pair for pair in found if len(pair[0]) > 1 and now - pair[1].since >= BUSY_S]
        if not (idle or busy):
            return False
        _, place = max(idle or busy, key=lambda pair: (len(pair[0]), -pair[1].since))
        self.drop(place)  # at once: it is not to be ended twice
        place.scope.cancel()
        return True

    def put(self, place: Place) -> None:
        self._held.setdefault(place.holder, {})[place] = None

    def drop(self, place: Place) -> bool:
        """Forget a place; returns whether it was held."""
        held = self._held.get(place.holder, {})
        if place not in held:
            return False
        del held[place]
        if not held:
            del self._held[place.holder]
        return True
