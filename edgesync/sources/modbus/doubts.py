"""What settings may say and will hardly work, as `edgesync check` tells it.   [sans-IO]"""

from collections.abc import Iterator, Sequence
from typing import Final

from edgesync.sources.modbus.layout import Layout
from edgesync.sources.modbus.planner import Planner

# A request and its answer take at least this long, even on a fast network.
REQUEST_S: Final = 0.002
# Where manuals in Modicon's notation put the first register of a table.
MODICON: Final = {"holding": 40001, "input": 30001, "discrete": 10001}
MODICON_SPAN: Final = 9999


def doubts(layouts: Sequence[Layout]) -> Iterator[str]:
    """Yield what is doubtful about the devices of one connection."""
    for layout in layouts:
        yield from _addresses(layout)
        yield from _timeouts(layout, is_shared=len(layouts) > 1)
    yield from _load(layouts)


def _addresses(layout: Layout) -> Iterator[str]:
    for point in layout.points:
        first = MODICON.get(point.table)
        # Resolved addresses count from 0, the notation from 1: both 40000 and 40001 are met.
        if first is not None and first - 1 <= point.address < first + MODICON_SPAN:
            written = point.address + layout.address_base
            register = point.address - (first - 1)
            yield (
                f"device {layout.name!r}: point {point.name} is at address {written}: if the "
                f"manual writes {first} for the first {point.table} register, that is register "
                f"{register} counted from 0 (write {register + layout.address_base} here)"
            )
            return  # the others are written the same way


def _timeouts(layout: Layout, *, is_shared: bool) -> Iterator[str]:
    limits = layout.limits
    shortest_s = min(every for _, every in layout.periods)
    if limits.timeout > shortest_s and (is_shared or limits.timeout >= 2 * shortest_s):
        turns = int(limits.timeout * (1 + limits.retries) / shortest_s)
        yield (
            f"device {layout.name!r}: one silence takes {limits.timeout:g} s x "
            f"{1 + limits.retries} and leaves out {turns} turns of its group of {shortest_s:g} s"
            + (", and its neighbours' on the connection" if is_shared else "")
        )


def _load(layouts: Sequence[Layout]) -> Iterator[str]:
    """Compare what the pauses alone take with the time there is."""
    share = sum(_share(layout, is_shared=len(layouts) > 1) for layout in layouts)
    if share > 1:
        names = ", ".join(layout.name for layout in layouts)
        yield (
            f"devices {names}: their requests and pauses (min_gap, unit_switch) need "
            f"{share:.2g} s of each second: poll less often, or merge more (max_gap, max_words)"
        )


def _share(layout: Layout, *, is_shared: bool) -> float:
    planner, limits = Planner(layout), layout.limits
    share = 0.0
    for group, every_s in layout.periods:
        requests = len(planner.plan([group]))
        wait_s = requests * (limits.min_gap + REQUEST_S)
        share += (wait_s + (limits.unit_switch if is_shared else 0.0)) / every_s
    return share
