"""Merges points into few requests, and learns what a device does not answer.   [sans-IO]

An item is what one reply must hold whole: a point, a point with its scale factor, an atomic set.
Items are sorted by table and address and merged while the gap between them and the length of the
request stay within the limits; an item is never split. A scale factor that does not fit beside its
point, or that the device does not give together with it, is read by another request of the same
poll.

A read that is refused, or that stays silent while others are answered, is parted (first where
registers lie unused between the items, then in half), so the next poll is right by itself. What
cannot be parted is withheld with its reason and tried again alone, at growing intervals of at most
five minutes. Times are monotonic seconds.
"""

import bisect
import heapq
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from msgspec import Struct

from edgesync.model import Value
from edgesync.sources.modbus.decode import BlockReader
from edgesync.sources.modbus.layout import Layout
from edgesync.sources.modbus.points import (
    Point,
    is_beside,
    missing_reason,
)
from edgesync.sources.modbus.settings import Table

# A point that is not read is tried again after this long, then twice as long …
RETRY_FIRST_S: Final = 10.0
RETRY_MOST_S: Final = 300.0
# … this many in one poll: a thousand refused points must not make a poll of a thousand requests.
RETRIES_PER_POLL: Final = 4
# A block is taken for silent when that many polls in a row brought nothing of it, but of others.
STRIKES: Final = 2
# Probes of a silent device take turns among this many reads.
PROBES_MAX: Final = 8
# A cut a merged read may need until every item stands alone; a bound, not a target.
BREAKS_MAX: Final = 65536

Place = tuple[Table, int]


class Item(Struct, frozen=True, eq=False):
    """Points that must come from one reply; `factors` are their scale factors, in order.

    Without points it is a scale factor that another request's points need.
    """

    table: Table
    start: int
    end: int
    points: tuple[Point, ...]
    factors: tuple[Point | None, ...]

    @property
    def far(self) -> tuple[Point, ...]:
        """The scale factors that come from another request."""
        return tuple(f for f in self.factors if f and not is_beside(f, self))


class Block(Struct, frozen=True):
    """One request: `count` registers (or bits) of `table` from `address` on.

    period_s   that of the fastest group in it
    far        scale factors its points need from other requests of the poll
    supplies   scale factors in it that other requests need
    """

    table: Table
    address: int
    count: int
    items: tuple[Item, ...]
    period_s: float = 0.0
    far: tuple[Point, ...] = ()
    supplies: tuple[Point, ...] = ()
    reader: BlockReader = BlockReader(0, 0, ())

    @property
    def end(self) -> int:
        return self.address + self.count

    @property
    def key(self) -> tuple[Table, int, int]:
        return self.table, self.address, self.count

    def points(self) -> Iterable[Point]:
        return (point for item in self.items for point in item.points)

    def factors(self, data: bytes) -> dict[str, bytes]:
        """Return the registers of the factors it supplies to others."""
        return {
            point.name: data[(point.address - self.address) * 2 :][: point.words * 2]
            for point in self.supplies
        }

    def reason(self, key: str, data: bytes, far: Mapping[str, bytes]) -> str:
        """Say why the series `key` has no value in a reply that `decode` was given."""
        for item in self.items:
            for point, factor in zip(item.points, item.factors, strict=True):
                if key in point.series():
                    raw = far.get(factor.name) if factor is not None else None
                    return missing_reason(point, data, self.address, factor, raw)
        raise KeyError(key)

    def decode(
        self, data: bytes, far: Mapping[str, bytes] | None = None
    ) -> list[tuple[str, Value | None]]:
        """Return (series key, value or None) of every point; as `reader`."""
        return list(zip(self.reader.keys, self.reader.read(data, far or {}), strict=True))


class _Pause(Struct, frozen=True):
    """When something is tried again, and how long it was left alone this time."""

    reason: str
    until_s: float
    wait_s: float
    is_silent: bool = False

    @classmethod
    def of(cls, before: "_Pause | None", reason: str, now_s: float, *, is_silent: bool) -> "_Pause":
        """Return a pause twice as long as the one before."""
        wait_s = RETRY_FIRST_S if before is None else min(2 * before.wait_s, RETRY_MOST_S)
        return cls(reason, now_s + wait_s, wait_s, is_silent)


class Planner:
    """Plans the reads of one device and learns from what it does not answer."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._limits = layout.limits
        self._single = "single_reads" in layout.quirks
        self._periods = dict(layout.periods)
        self._loose: set[str] = set()  # points whose scale factor may come from another request
        self._items: tuple[Item, ...] = ()
        self._items = self._made_items()
        self._breaks: dict[Place, _Pause | None] = {}  # None: for good
        self._alone: set[Item] = set()  # overlap others, and are asked apart from them
        self._withheld: dict[Item, _Pause] = {}
        self._holes: list[tuple[str, int, int]] = []
        self._strikes: dict[tuple[Table, int, int], int] = {}
        self._probes = 0
        self._plans: dict[frozenset[str], tuple[Block, ...]] = {}

    def plan(self, groups: Collection[str]) -> tuple[Block, ...]:
        """Return the requests that read every point of `groups` that is not withheld.

        Fast groups first, then by address; what was silent last time, and what gives others
        their scale factor, goes last.
        """
        key = frozenset(groups)
        if key not in self._plans:
            wanted = [item for item in self._items if item.points[0].group in key]
            self._plans[key] = self._blocks(self._readable(wanted))
        return self._plans[key]

    def retries(self, groups: Collection[str], now_s: float) -> tuple[Block, ...]:
        """Return the withheld reads of `groups` whose time has come: the longest waiting first."""
        if not self._withheld:
            return ()
        due = [
            item
            for item, pause in self._withheld.items()
            if pause.until_s <= now_s and item.points[0].group in groups
        ]
        due.sort(key=lambda item: (self._withheld[item].until_s, _place(item)))
        found = []
        for item in due[:RETRIES_PER_POLL]:
            needed = [item, *self._factor_items([item])]
            found += [self._block([one], _needed(needed)) for one in needed]
        return tuple(found)

    def expire(self, now_s: float) -> None:
        """Merge anew what was parted for a while."""
        for place, pause in self._breaks.items():
            if pause is not None and 0 < pause.until_s <= now_s:
                # Remembered, so that the next time lasts longer.
                self._breaks[place] = _Pause(pause.reason, 0.0, pause.wait_s)
                self._plans.clear()

    def probe(self) -> Block:
        """Return a cheap read: few registers, low address, another one each time it failed."""
        items = [item for item in self._items if item not in self._withheld] or list(self._items)
        proven = [i for i in items if not any(_covers(key, i) for key in self._strikes)] or items
        item = heapq.nsmallest(1 + self._probes % len(proven), proven, key=_cost)[-1]
        return self._block([item], _needed([item]))

    def other_than(self, block: Block) -> Block | None:
        """Return a cheap read of something outside `block`, or else of a part of it, if any."""
        free = [item for item in self._items if item not in self._withheld]
        others = [item for item in free if not _covers(block.key, item)]
        parts = free if len(block.items) > 1 else []
        item = min(others or parts, key=_cost, default=None)
        return None if item is None else self._block([item], _needed([item]))

    def any_read(self) -> Block | None:
        """Return the cheapest read that is not withheld; None if all are."""
        free = (item for item in self._items if item not in self._withheld)
        item = min(free, key=_cost, default=None)
        return None if item is None else self._block([item], _needed([item]))

    def probed_in_vain(self) -> None:
        """Let the next probe be of something else."""
        self._probes = (self._probes + 1) % PROBES_MAX

    def answered(self, block: Block) -> None:
        """Note that `block` was answered with data."""
        if self._strikes.pop(block.key, 0):
            self._plans.clear()
        for cut in _cuts(block) if self._breaks else ():
            if self._breaks.get(cut) is not None:  # it is answered whole after all
                del self._breaks[cut]
                self._plans.clear()
        if self._withheld and any(item in self._withheld for item in block.items):
            was_silent = all(
                self._withheld[item].is_silent for item in block.items if item in self._withheld
            )
            for item in block.items:
                self._withheld.pop(item, None)
            if not was_silent:
                # A device that begins to give what it refused has mostly been restarted.
                self._withheld = {i: p for i, p in self._withheld.items() if p.is_silent}
            self._plans.clear()

    def silent(self, block: Block, reason: str, now_s: float) -> None:
        """Note that `block` brought nothing while others were answered."""
        self._plans.clear()
        strikes = self._strikes.pop(block.key, 0) + 1
        is_withheld = any(item in self._withheld for item in block.items)
        known = any(cut in self._breaks for cut in _cuts(block))
        if strikes < STRIKES and not is_withheld and not known:
            self._strikes[block.key] = strikes
            return
        for part in self._part(block, reason, now_s, for_good=False, is_silent=True):
            self._strikes[part.key] = STRIKES - 1

    def refuse(
        self, block: Block, reason: str, now_s: float, *, for_good: bool = True
    ) -> tuple[Block, ...]:
        """Learn that the device answers `block` with an exception.

        Returns smaller requests that are worth a try at once; without them the points of `block`
        are withheld.

        for_good   its addresses or its length are the reason, which does not change
        """
        self._plans.clear()
        self._strikes.pop(block.key, None)
        return self._part(block, reason, now_s, for_good=for_good, is_silent=False)

    def forgive(self) -> None:
        """Ask for everything again, as after the device was away: it may have been changed."""
        self._withheld.clear()
        self._breaks = {place: pause for place, pause in self._breaks.items() if pause is None}
        self._plans.clear()

    def learnt(self) -> "Learnt":
        """Return what has been learnt, for `unlearn`."""
        return Learnt(
            dict(self._breaks), frozenset(self._alone), dict(self._withheld),
            frozenset(self._loose), self._items,
        )  # fmt: skip

    def unlearn(self, learnt: "Learnt") -> None:
        """Go back to what was known: a device that refuses everything teaches nothing."""
        self._breaks, self._withheld = dict(learnt.breaks), dict(learnt.withheld)
        self._alone, self._loose = set(learnt.alone), set(learnt.loose)
        # The very objects: what is withheld is known by them.
        self._items = learnt.items
        self._plans.clear()

    @property
    def withheld(self) -> dict[str, str]:
        """Names of points that are not asked for in every poll, and why."""
        if not self._withheld:
            return {}
        found = {p.name: one.reason for i, one in self._withheld.items() for p in i.points}
        for item in self._items:
            for factor in item.far:
                if factor.name in found:
                    reason = f"its scale factor {factor.name}: {found[factor.name]}"
                    found |= {p.name: reason for p in item.points if p.name not in found}
        return found

    # -- how ------------------------------------------------------------------------------------

    def _part(
        self, block: Block, reason: str, now_s: float, *, for_good: bool, is_silent: bool
    ) -> tuple[Block, ...]:
        """Cut `block`, or withhold it; returns the parts."""
        cuts = _cuts(block)
        if cuts and len(self._breaks) < BREAKS_MAX:
            for cut in cuts:
                self._break(cut, reason, now_s, for_good=for_good)
            return self._blocks(block.items)
        if len(block.items) > 1:
            self._alone.update(block.items)
            return self._blocks(block.items)
        [item] = block.items
        if apart := self._parted_from_factors(item):
            return self._blocks([*apart, *self._factor_items(apart)])
        # A scale factor read for others is withheld as the point that it is.
        for one in [item] if item.points else self._of_factor(item):
            before = self._withheld.get(one)
            self._withheld[one] = _Pause.of(before, reason, now_s, is_silent=is_silent)
        return ()

    def _parted_from_factors(self, item: Item) -> list[Item]:
        """Read points and their factors by requests of their own; [] if they are already.

        The registers between a value and its factor may be what the device has not.
        """
        names = {point.name for point in item.points}
        together = {
            point.name
            for point, factor in zip(item.points, item.factors, strict=True)
            if factor is not None and is_beside(factor, item)
        }
        if together <= self._loose:
            return []
        self._loose |= together
        self._items = self._made_items()
        return [one for one in self._items if any(p.name in names for p in one.points)]

    def _of_factor(self, item: Item) -> list[Item]:
        return [one for one in self._items if any(is_beside(p, item) for p in one.points)]

    def _break(self, cut: Place, reason: str, now_s: float, *, for_good: bool) -> None:
        before = self._breaks.get(cut)
        if for_good:
            self._breaks[cut] = None
        elif before is not None or cut not in self._breaks:
            self._breaks[cut] = _Pause.of(before, reason, now_s, is_silent=True)

    def _readable(self, wanted: Sequence[Item]) -> list[Item]:
        """Return those of `wanted` that can be read, with the scale factors they need."""
        withheld = {point.name for item in self._withheld for point in item.points}
        items = [
            item
            for item in wanted
            if item not in self._withheld and not any(f.name in withheld for f in item.far)
        ]
        return sorted([*items, *self._factor_items(items)], key=_place)

    def _factor_items(self, items: Sequence[Item]) -> list[Item]:
        """Return an item for each far scale factor that none of `items` holds."""
        needed = {factor.name: factor for item in items for factor in item.far}
        return [
            Item(factor.table, factor.address, factor.end, (), ())
            for factor in needed.values()
            if not any(is_beside(factor, item) for item in items)
        ]

    def _blocks(self, items: Iterable[Item]) -> tuple[Block, ...]:
        items = sorted(items, key=_place)
        self._holes = sorted(_place(item) for item in self._withheld)
        needed = _needed(items)
        blocks = [self._block(run, needed) for run in self._runs(items)]
        return tuple(sorted(blocks, key=self._order))

    def _order(self, block: Block) -> tuple[bool, float, bool, Table, int]:
        is_suspect, supplies = self.is_suspect(block), bool(block.supplies)
        return is_suspect, block.period_s, supplies, block.table, block.address

    def is_suspect(self, block: Block) -> bool:
        """Tell whether `block` was silent when it was asked last, or had to be parted before."""
        if self._strikes.get(block.key, 0) > 0:
            return True
        return bool(self._breaks) and any(self._breaks.get(cut) for cut in _cuts(block))

    def _block(self, run: Sequence[Item], needed: Collection[Point]) -> Block:
        start, end = run[0].start, max(item.end for item in run)
        periods = [self._periods[item.points[0].group] for item in run if item.points]
        holds = Item(run[0].table, start, end, (), ())
        supplies = tuple(f for f in needed if is_beside(f, holds))
        if supplies or not periods:
            periods = list(self._periods.values())  # as early as whoever needs it
        return Block(
            table=run[0].table, address=start, count=end - start, items=tuple(run),
            period_s=min(periods), supplies=supplies,
            reader=BlockReader(start, end - start, (
                pair for item in run for pair in zip(item.points, item.factors, strict=True)
            )),
            far=tuple({f.name: f for item in run for f in item.far}.values()),
        )  # fmt: skip

    def _runs(self, items: Iterable[Item]) -> Iterable[list[Item]]:
        run: list[Item] = []
        end = 0
        for item in items:
            if run and not self._joins(run, end, item):
                yield run
                run = []
            end = max(end, item.end) if run else item.end
            run.append(item)
        if run:
            yield run

    def _joins(self, run: Sequence[Item], end: int, item: Item) -> bool:
        first = run[0]
        if item.table != first.table or item in self._alone or run[-1] in self._alone:
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
            and not self._is_broken((item.table, item.start))
            and not self._is_hole(item.table, end, item.start)
        )

    def _is_hole(self, table: Table, start: int, end: int) -> bool:
        """Tell whether a withheld item lies there: a read across it would fail as it does."""
        before = bisect.bisect_left(self._holes, (table, end, 0)) - 1
        if before < 0:
            return False
        hole_table, _, hole_end = self._holes[before]
        return hole_table == table and hole_end > start

    def _is_broken(self, place: Place) -> bool:
        if place not in self._breaks:
            return False
        pause = self._breaks[place]
        return pause is None or pause.until_s > 0

    def _made_items(self) -> tuple[Item, ...]:
        by_name = {point.name: point for point in self._layout.points}
        sets = {name: names for names in self._layout.atomic for name in names}
        known = {(i.start, i.end, *(p.name for p in i.points)): i for i in self._items}
        done: set[str] = set()
        made = []
        for point in self._layout.points:
            if point.name not in done:
                names = sets.get(point.name, frozenset({point.name}))
                done |= names
                item = self._item([by_name[name] for name in sorted(names)], by_name)
                # The same object as before: what is known of it is kept by identity.
                key = (item.start, item.end, *(p.name for p in item.points))
                made.append(known.get(key, item))
        return tuple(sorted(made, key=_place))

    def _item(self, points: list[Point], by_name: dict[str, Point]) -> Item:
        factors = tuple(by_name[point.sf] if point.sf else None for point in points)
        held = list(points)
        for point, factor in zip(points, factors, strict=True):
            if factor is not None and point.name not in self._loose:
                held.append(factor)
        start, end = min(p.address for p in held), max(p.end for p in held)
        is_one_reply = len({p.table for p in held}) == 1 and end - start <= self._limits.max_words
        if len(held) > len(points) and not is_one_reply:
            self._loose.update(point.name for point in points)
            return self._item(points, by_name)
        return Item(points[0].table, start, end, tuple(points), factors)


class Learnt(Struct, frozen=True):
    """What a planner knows of its device beyond the layout."""

    breaks: dict[Place, _Pause | None]
    alone: frozenset[Item]
    withheld: dict[Item, _Pause]
    loose: frozenset[str]
    items: tuple[Item, ...]


def _needed(items: Iterable[Item]) -> Collection[Point]:
    """Return the scale factors that points of `items` need from other requests."""
    return {factor.name: factor for item in items for factor in item.far}.values()


def _place(item: Item) -> tuple[str, int, int]:
    return item.table, item.start, item.end


def _cost(item: Item) -> tuple[int, int]:
    return item.end - item.start, item.start


def _covers(key: tuple[Table, int, int], item: Item) -> bool:
    """Tell whether the read `key` holds the registers of `item`."""
    table, address, count = key
    return table == item.table and address <= item.start and item.end <= address + count


def _boundaries(block: Block) -> list[tuple[int, int]]:
    """Return (start, gap before it) of each item that overlaps none before it."""
    found: list[tuple[int, int]] = []
    end = block.items[0].end
    for item in block.items[1:]:
        if item.start >= end:
            found.append((item.start, item.start - end))
        end = max(end, item.end)
    return found


def _cuts(block: Block) -> list[Place]:
    """Return where to part `block`: at its gaps, or else in the middle; [] where it cannot be."""
    boundaries = _boundaries(block)
    gaps = [start for start, gap in boundaries if gap]
    middle = [boundaries[len(boundaries) // 2][0]] if boundaries else []
    return [(block.table, start) for start in gaps or middle]
