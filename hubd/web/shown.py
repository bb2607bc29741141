"""What a page shows, as data: a frame, and cells in it whose text changes by itself.

Markup is made of it only where a page is asked for or its frame has changed. A stream compares the
data, so a second in which nothing changes costs no template, and an open page is told what changed
since it was made and not the whole of it again.
"""

import itertools
import math
from collections.abc import Awaitable, Callable, Hashable
from typing import Final

import trio
from markupsafe import Markup, escape

# What many watch is made once in so long.
SHARED_S: Final = 0.5
# Different streams whose last state is shared.
STREAMS_MAX: Final = 64
# Pages that were handed out and have not opened their stream yet.
PAGES_MAX: Final = 64


class Shown:
    """One state of a page.

    frame    all that is shown beside the cells: what has an equal one has the same markup around
    cells    name -> text, escaped
    """

    def __init__(self, frame: object, cells: dict[str, Markup], render: Callable[[], str]) -> None:
        self.frame = frame
        self.cells = cells
        self._render = render
        self._html: str | None = None

    @property
    def html(self) -> str:
        if self._html is None:
            self._html = self._render()
        return self._html

    def changed_since(self, before: "Shown | None") -> dict[str, str] | None:
        """Return the cells with another text than before; None when the frame is another."""
        if before is None or before.frame != self.frame or before.cells.keys() != self.cells.keys():
            return None
        known = before.cells
        return {name: str(text) for name, text in self.cells.items() if known[name] != text}


def escaped(texts: dict[str, str]) -> dict[str, Markup]:
    """Return the texts of cells as markup."""
    return {name: escape(text) for name, text in texts.items()}


Make = Callable[[], Awaitable[Shown]]


class Board:
    """What is on show: the newest state of each stream, and what pages were handed out with."""

    def __init__(self) -> None:
        self._made: dict[Hashable, tuple[float, Shown]] = {}
        self._handed: dict[str, Shown] = {}
        self._nth = itertools.count(1)

    async def get(self, key: Hashable, make: Make) -> Shown:
        """Return the state of the stream `key`, made anew about once in SHARED_S."""
        now = trio.current_time()
        at, shown = self._made.get(key, (-math.inf, None))
        if shown is not None and now - at < SHARED_S:
            return shown
        shown = await make()
        if len(self._made) >= STREAMS_MAX:
            self._made.clear()
        self._made[key] = (now, shown)
        return shown

    def hand_out(self, shown: Shown) -> str:
        """Return a name for what a page was made of, by which its stream goes on from there."""
        name = str(next(self._nth))
        self._handed[name] = shown
        while len(self._handed) > PAGES_MAX:
            del self._handed[next(iter(self._handed))]
        return name

    def take(self, name: str) -> Shown | None:
        """Return what a page was handed out with, once."""
        return self._handed.pop(name, None)
