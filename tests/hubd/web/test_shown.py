"""What a stream compares is all that its page shows: equal data, equal markup."""

import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
import trio
from markupsafe import escape

from hubd.api import Context
from hubd.api.context import EdgeView, LaneView
from hubd.state import tables
from hubd.state.views import Totals
from hubd.web.events import EventsQuery
from hubd.web.fleet import FleetQuery
from hubd.web.pages import Pages
from hubd.web.shown import PAGES_MAX, Board, Shown, escaped
from tests.hubd.still import StillHub, an_edge

pytestmark = pytest.mark.feature("S12")

# A cell holds no other element of its own kind, so that the first end tag is its own.
CELL = re.compile(r'(<(\w+)\b[^>]*?\bdata-cell="([^"]+)"[^>]*>)(.*?)(?=</\2>)', re.S)


def cells_in(html: str) -> dict[str, str]:
    return {found[3]: found[4] for found in CELL.finditer(html)}


def around(html: str) -> str:
    return CELL.sub(r"\1", html)


async def all_shown(context: Context) -> dict[str, Shown]:
    pages = Pages(context)
    return {
        "fleet": await pages.fleet_shown(FleetQuery()),
        "edge": await pages.edge_shown("barn"),
        "away": await pages.edge_shown("shop"),
        "events": await pages.events_shown(EventsQuery()),
        "conflicts": await pages.conflicts_shown(may_write=True),
    }


async def test_the_cells_are_those_of_the_markup(context: Context) -> None:
    for shown in (await all_shown(context)).values():
        texts = {name: str(text) for name, text in shown.cells.items()}
        texts.pop("conflicts-open")  # in the navigation
        assert cells_in(shown.html) == texts


OTHER: dict[str, Any] = {
    "state": "processing", "since_ns": 5, "known_at_ns": 7, "address": "10.0.0.9", "tenant": "t9",
    "software": "edgesync 9", "incarnation": "ff", "epoch": 99, "connected_at_ns": 3,
    "seen_at_ns": 4, "rtt_s": 9.0, "clock_offset_s": -77.0, "lag_records": 123_456, "lag_s": 99.0,
    "two_hubs": True, "has_clone": True, "slowed": "slow down", "prefixes": ("a/", "b/"),
    "lanes": (LaneView(lane="bulk", tail=9, floor=8, safe=7),),
}  # fmt: skip


def variations() -> Iterator[EdgeView]:
    """An edge, connected and not, with each of its fields another."""
    for is_connected in (True, False):
        plain = an_edge("barn", is_connected=is_connected)
        for name, value in OTHER.items():
            if name == "state" and not is_connected:
                value = "lost"
            yield msgspec.structs.replace(plain, **{name: value})
        yield plain


async def test_what_has_an_equal_frame_has_the_same_markup_around_its_cells(
    context: Context,
) -> None:
    seen: dict[str, list[Shown]] = {}
    for view in variations():
        hub = StillHub([view, an_edge("shop", is_connected=False)], [])
        for page, shown in (await all_shown(msgspec.structs.replace(context, hub=hub))).items():
            for other in seen.setdefault(page, []):
                if shown.changed_since(other) is not None:
                    assert around(shown.html) == around(other.html), (page, view)
            seen[page].append(shown)
    assert any(one.changed_since(seen["fleet"][0]) for one in seen["fleet"][1:])


async def test_totals_are_part_of_what_is_shown(context: Context) -> None:
    """Every count of an edge is in a cell or in the frame, or nowhere on the page."""
    plain = await all_shown(context)
    for name in Totals.__struct_fields__:
        if name != "edge":
            column = tables.edge_totals.c[name]
            grown = sa.update(tables.edge_totals).values({name: column + 5})
            context.state.write_now(lambda c, grown=grown: c.execute(grown))  # type: ignore[misc]
            now = await all_shown(context)
            for page, shown in now.items():
                told = shown.changed_since(plain[page])
                if told is not None:
                    assert around(shown.html) == around(plain[page].html), (name, page)
                    markup = {**cells_in(plain[page].html), **told}
                    markup.pop("conflicts-open", None)
                    assert markup == cells_in(shown.html)
            plain = now


async def test_a_second_in_which_nothing_changes_renders_nothing() -> None:
    rendered = 0

    def render() -> str:
        nonlocal rendered
        rendered += 1
        return "markup"

    first = Shown(("a", 1), escaped({"x": "<1>", "y": "2"}), render)
    assert first.cells["x"] == escape("<1>")
    second = Shown(("a", 1), escaped({"x": "<1>", "y": "3"}), render)
    assert second.changed_since(first) == {"y": "3"}
    assert Shown(("a", 1), second.cells, render).changed_since(second) == {}
    assert rendered == 0
    assert Shown(("a", 2), second.cells, render).changed_since(second) is None
    assert Shown(("a", 1), escaped({"x": "1"}), render).changed_since(second) is None
    assert second.changed_since(None) is None
    assert second.html == second.html == "markup"
    assert rendered == 1


async def test_many_listeners_share_what_is_made() -> None:
    board, made = Board(), 0

    async def make() -> Shown:
        nonlocal made
        made += 1
        await trio.lowlevel.checkpoint()
        return Shown(made, {}, str)

    one = await board.get("key", make)
    assert await board.get("key", make) is one
    assert await board.get("other", make) is not one
    assert made == 2


def test_pages_that_never_listen_are_forgotten() -> None:
    board = Board()
    names = [board.hand_out(Shown(n, {}, str)) for n in range(PAGES_MAX + 1)]
    assert board.take(names[0]) is None
    found = board.take(names[1])
    assert found is not None
    assert found.frame == 1
    assert board.take(names[1]) is None
    assert board.take("nonsense") is None
