"""Merges points into few requests.   [sans-IO]

An item is what one reply must hold whole: a point, a point with its scale factor, an atomic set.
Items are sorted by table and address and merged while the gap between them and the length of the
request stay within the limits; an item is never split. When a device refuses the addresses of a
merged read, the planner parts it (first where registers lie unused between the items, then in
half) and remembers that, so the next poll is right by itself.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Final

from msgspec import Struct

from edgesync.model import Value
from edgesync.sources.modbus.layout import Layout
from edgesync.sources.modbus.points import Point, decode_bit, decode_point
from edgesync.sources.modbus.settings import Table


class Item(Struct, frozen=True):
    """Points that must come from one reply; `factors` are their scale factors, in order."""

    table: Table
    start: int
    end: int
    points: tuple[Point, ...]
    factors: tuple[Point | None, ...]


class Block(Struct, frozen=True):
    """One request: `count` registers (or bits) of `table` from `address` on."""

    table: Table
    address: int
    count: int
    items: tuple[Item, ...]

    @property
    def end(self) -> int:
        return self.address + self.count

    def decode(self, values: Sequence[int]) -> list[tuple[str, Value | None]]:
        """Return (series key, value or None) of every point; `values` are the whole reply."""
        assert len(values) == self.count, "the reply was checked before"
        found: list[tuple[str, Value | None]] = []
        if self.table in ("coil", "discrete"):
            bits = [bool(value) for value in values]
            for item in self.items:
                found.extend(decode_bit(point, bits, self.address) for point in item.points)
            return found
        data = b"".join([value.to_bytes(2, "big") for value in values])
        for item in self.items:
            for point, factor in zip(item.points, item.factors, strict=True):
                found.extend(decode_point(point, data, self.address, factor))
        return found


# A cut a merged read may need until every item stands alone; a bound, not a target.
BREAKS_MAX: Final = 65536


class Planner:
    """Plans the reads of one device and learns from what it refuses."""

    def __init__(self, layout: Layout) -> None:
        self._limits = layout.limits
        self._single = "single_reads" in layout.quirks
        self._items = tuple(sorted(_items(layout), key=_place))
        self._breaks: set[tuple[Table, int]] = set()
        self._refused: set[Item] = set()
        self._plans: dict[frozenset[str], tuple[Block, ...]] = {}

    def plan(self, groups: Collection[str]) -> tuple[Block, ...]:
        """Return the requests that read every point of `groups` the device has not refused."""
        key = frozenset(groups)
        if key not in self._plans:
            wanted = [i for i in self._items if i.points[0].group in key and i not in self._refused]
            self._plans[key] = tuple(self._merge(wanted))
        return self._plans[key]

    def probe(self) -> Block:
        """Return the cheapest read of the device: fewest registers, lowest address."""
        items = [item for item in self._items if item not in self._refused] or list(self._items)
        return _block([min(items, key=lambda item: (item.end - item.start, item.start))])

    def refuse(self, block: Block) -> bool:
        """Learn that the device has not all addresses of `block` (exception 2).

        Returns True if smaller requests are worth a try at once, False if `block` was down to
        one item, which is left out from now on.
        """
        self._plans.clear()
        cuts = _gaps(block) or _middle(block)
        if cuts and len(self._breaks) < BREAKS_MAX:
            self._breaks.update((block.table, cut) for cut in cuts)
            return True
        self._refused.update(block.items)
        return False

    def parts(self, block: Block) -> tuple[Block, ...]:
        """Return what to ask instead of a refused `block`."""
        return tuple(self._merge(item for item in block.items if item not in self._refused))

    def forgive(self) -> None:
        """Ask for everything again, as after the device was away: it may have been changed."""
        if self._refused:
            self._refused.clear()
            self._plans.clear()

    @property
    def refused_points(self) -> tuple[str, ...]:
        return tuple(sorted(p.name for item in self._refused for p in item.points))

    def _merge(self, items: Iterable[Item]) -> Iterable[Block]:
        run: list[Item] = []
        end = 0
        for item in items:
            if run and not self._joins(run[0], end, item):
                yield _block(run)
                run = []
            end = max(end, item.end) if run else item.end
            run.append(item)
        if run:
            yield _block(run)

    def _joins(self, first: Item, end: int, item: Item) -> bool:
        if item.table != first.table:
            return False
        bits = item.table in ("coil", "discrete")
        most = self._limits.max_bits if bits else self._limits.max_words
        if max(end, item.end) - first.start > most:
            return False
        if item.start < end:
            return True  # overlapping views of the same registers
        return (
            not self._single
            and item.start - end <= self._limits.max_gap
            and (item.table, item.start) not in self._breaks
        )


def _items(layout: Layout) -> Iterable[Item]:
    by_name = {point.name: point for point in layout.points}
    sets = {name: names for names in layout.atomic for name in names}
    done: set[str] = set()
    for point in layout.points:
        if point.name not in done:
            names = sets.get(point.name, frozenset({point.name}))
            done |= names
            yield _item([by_name[name] for name in sorted(names)], by_name)


def _item(points: list[Point], by_name: dict[str, Point]) -> Item:
    factors = [by_name[point.sf] if point.sf else None for point in points]
    held = [*points, *(factor for factor in factors if factor)]
    start, end = min(p.address for p in held), max(p.end for p in held)
    return Item(points[0].table, start, end, tuple(points), tuple(factors))


def _block(items: Sequence[Item]) -> Block:
    start, end = items[0].start, max(item.end for item in items)
    return Block(items[0].table, start, end - start, tuple(items))


def _place(item: Item) -> tuple[str, int, int]:
    return item.table, item.start, item.end


def _boundaries(block: Block) -> list[tuple[int, int]]:
    """Return (start, gap before it) of each item that overlaps none before it."""
    found: list[tuple[int, int]] = []
    end = block.items[0].end
    for item in block.items[1:]:
        if item.start >= end:
            found.append((item.start, item.start - end))
        end = max(end, item.end)
    return found


def _gaps(block: Block) -> list[int]:
    return [start for start, gap in _boundaries(block) if gap]


def _middle(block: Block) -> list[int]:
    starts = [start for start, _ in _boundaries(block)]
    return [starts[len(starts) // 2]] if starts else []
