"""An edge and the hub that hold entities, in memory, and what passes between them."""

from collections.abc import Callable, Sequence
from random import Random
from typing import TYPE_CHECKING, Generic, TypeVar

from edgesync._native.edgekeys import EdgeKeys
from edgesync._native.hubkeys import HubKeys
from edgesync.cells.commands import Call, carry_out
from edgesync.entities.keys import policies
from edgesync.entities.view import Command, SpaceView
from tests.cells.memory import MemoryView

if TYPE_CHECKING:
    from edgesync._native.cells import Entry

NOW_MS = 1_767_225_600_000


Keys = TypeVar("Keys", EdgeKeys, HubKeys)


class Side(Generic[Keys]):
    """The keys of one side, and the clock it goes by."""

    def __init__(self, space: Keys, *, behind_ms: int = 0) -> None:
        self.space: Keys = space
        self.space.choose(policies([]))
        self.behind_ms = behind_ms
        self._call = Call(space, Random(1))
        self.view = SpaceView(space, self.now_ms)
        self.at_ms = NOW_MS

    def now_ms(self) -> int:
        return self.at_ms - self.behind_ms

    def do(self, commands: Sequence[Command]) -> None:
        self.space.now_ms = self.now_ms()
        for command in commands:
            carry_out(self._call, list(command))


class Pair:
    """An edge and its hub, out of touch until `meet`."""

    def __init__(self, *, behind_ms: int = 0) -> None:
        self.edge = Side(EdgeKeys(MemoryView()), behind_ms=behind_ms)
        self.hub = Side(HubKeys(MemoryView()))
        self.edge.space.rejoin(7)
        self.hub.space.call_yourself((1 << 30) + 1)
        self._base = 0

    def wait(self, ms: int) -> None:
        self.edge.at_ms += ms
        self.hub.at_ms += ms

    def meet(self) -> None:
        """Let both have everything."""
        self.tell()
        self.hear()

    def tell(self) -> None:
        space, hub = self.edge.space, self.hub.space
        hub.now_ms = self.hub.now_ms()
        for op in space.take(100_000, 1 << 30):
            hub.hear(7, op)

    def hear(self) -> None:
        done = self.edge.space.sent
        entries: list[Entry] = []
        position, is_all = self._base, False
        while not is_all:
            found, position, is_all = self.hub.space.page(self._base, position, 500, 1 << 20, [])
            entries += found
        self._base = position
        self.edge.space.now_ms = self.edge.now_ms()
        self.edge.space.deliver(entries, done)


def both(pair: Pair, look: Callable[[SpaceView], object]) -> object:
    """Return what both sides see, which is the same."""
    at_edge, at_hub = look(pair.edge.view), look(pair.hub.view)
    assert at_edge == at_hub
    return at_edge
